"""How well does the embedded model judge, and what does reading its distribution save over parsing its text?

Pairs of answers with people's preference, LLMBar and PandaLM (ties left out), a random sample of each:
    pointwise    each answer alone: the expected score of 1 to 5 over the digit tokens, one forward pass
    pairwise     in one order, in both, and in both with the rule on length; all from the same two forward passes
    as text      the pointwise question, answered as text at temperature .1 and parsed: strictly (the whole text is a number, as
                 optillm wants it), or by the first digit of the scale in it
Accuracy counts a tie, or a pair with an answer that did not parse, as half. Bars are 95 % (Wilson). Order bias is the mean
preference for the answer shown first, -1 to 1, and how often it is preferred; of both orders together it is 0 by construction.

    python -m bench.bench_judges [--pairs 60] [--max-tokens 16]
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from bench.harness import DATA, RESULTS, report, say
from samplers.judge import read
from samplers.reward import Candidate
from samplers.rewards.judge import Judge
from samplers.rewards.pairwise_judge import PairwiseJudge

WORTH = (1.0, 0.5, 0.0, -0.5, -1.0)  # of the pairwise answers, to the one shown first
AT_ONCE = 10


@dataclass(frozen=True)
class Pair:
    """Two answers to a question; people prefer the first or the second."""

    question: str
    first: str
    second: str
    first_is_better: bool


def pairs_of(name: str, count: int) -> list[Pair]:
    """A random sample, the same for the same count; pairs with an empty answer are left out."""
    rows = [json.loads(line) for line in (DATA / "judge" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    if name == "llmbar":
        found = [Pair(row["instruction"], row["output_1"], row["output_2"], row["label"] == 1) for row in rows]
    else:
        found = [
            Pair(
                "\n".join(filter(None, (row["instruction"], row["input"]))),
                row["response1"],
                row["response2"],
                row["majority"] == 1,
            )
            for row in rows
            if row["majority"]
        ]
    found = [pair for pair in found if pair.first.strip() and pair.second.strip()]
    chosen = np.random.default_rng(0).permutation(len(found))[:count]
    return [found[k] for k in chosen]


@dataclass
class Seen:
    """What was measured of one pair; NaN where a question could not be asked or read.

    pointwise   expected scores of the two answers; outside their masses off the scale
    in_order    preference for the first answer when it is shown first; swapped: preference for the second when that is
    both        preference for the first from both orders, with the rule on length; pair_outside: masses off the scale
    texts       the judge's answers as text to the two pointwise questions
    """

    pair: Pair
    pointwise: tuple[float, float]
    outside: tuple[float, float]
    in_order: float
    swapped: float
    both: float
    pair_outside: tuple[float, float]
    texts: tuple[str, str]


def seen_of(engine: Any, pairs: Sequence[Pair], max_tokens: int) -> list[Seen]:
    from decoding.judging import chat_prompt

    alone, together = Judge(), PairwiseJudge()
    groups = [[Candidate(pair.question, pair.first), Candidate(pair.question, pair.second)] for pair in pairs]
    questions = [alone.questions(group) for group in groups], [together.questions(group) for group in groups]
    waiting = engine.asker.ask([one for kind in questions for group in kind for one in group])
    prompts = [chat_prompt(engine.tokenizer, one.text) for group in questions[0] for one in group]
    replies = iter(waiting(None))
    pointwise = [[next(replies) for _ in group] for group in questions[0]]
    compared = [[next(replies) for _ in group] for group in questions[1]]
    fitting = [prompt for prompt in prompts if len(prompt) + max_tokens <= engine.max_model_len]
    said = engine.generate(
        fitting, particles=1, temperature=0.1, max_tokens=max_tokens, truncate=True, seed=0, progress=False
    )
    written = iter([one.texts[0] if one.finish_reasons[0] == "stop" else one.texts[0] + " ..." for one in said])
    texts = [next(written) if len(prompt) + max_tokens <= engine.max_model_len else "" for prompt in prompts]
    found = []
    for k, (pair, group) in enumerate(zip(pairs, groups)):
        verdicts = alone.verdicts(group, pointwise[k])
        readings = [read(reply, WORTH, 0.001) for reply in compared[k]]
        found.append(
            Seen(
                pair,
                (verdicts[0].reward, verdicts[1].reward),
                (verdicts[0].outside, verdicts[1].outside),
                readings[0].mean,
                readings[1].mean,
                together.verdicts(group, compared[k])[0].reward,
                (readings[0].outside, readings[1].outside),
                (texts[2 * k], texts[2 * k + 1]),
            )
        )
    return found


def strict(text: str) -> float:
    """The number a text is, NaN where it is none."""
    try:
        return float(text.strip())
    except ValueError:
        return math.nan


def first_digit(text: str) -> float:
    found = re.search(r"(?<!\d)[1-5](?!\d)", text)
    return float(found[0]) if found else math.nan


def accuracy(preferences: Sequence[float], pairs: Sequence[Pair]) -> dict[str, float]:
    """Agreement with people. preferences: above 0 for the first answer; 0 and NaN count half."""
    points = [
        0.5 if math.isnan(one) or one == 0 else float((one > 0) == pair.first_is_better)
        for one, pair in zip(preferences, pairs)
    ]
    n, p, z = len(points), float(np.mean(points)), 1.96
    middle, half = (p + z * z / (2 * n)) / (1 + z * z / n), z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    return {
        "mean": p,
        "low": middle - half / (1 + z * z / n),
        "high": middle + half / (1 + z * z / n),
        "no preference": float(np.mean([one == 0 for one in preferences])),
        "failed": float(np.mean(np.isnan(preferences))),
    }


def summary(seen: Sequence[Seen]) -> dict[str, Any]:
    pairs = [one.pair for one in seen]
    first = np.array([one.in_order for one in seen]), np.array([one.swapped for one in seen])
    for_first = np.concatenate(first)
    for_first = for_first[~np.isnan(for_first)]
    # Antisymmetric in the order: preference for the first answer, whichever was shown first.
    averaged = (first[0] - first[1]) / 2
    outside = {
        "pointwise": [x for one in seen for x in one.outside],
        "pairwise": [x for one in seen for x in one.pair_outside],
    }
    texts = [text for one in seen for text in one.texts]
    return {
        "pairs": len(seen),
        "first is better": float(np.mean([pair.first_is_better for pair in pairs])),
        "accuracy": {
            "pointwise": accuracy([one.pointwise[0] - one.pointwise[1] for one in seen], pairs),
            "pairwise, one order": accuracy([one.in_order for one in seen], pairs),
            "pairwise, both orders": accuracy(averaged.tolist(), pairs),
            "pairwise, both orders, length rule": accuracy([one.both for one in seen], pairs),
            **{
                f"as text, {name}": accuracy([parse(one.texts[0]) - parse(one.texts[1]) for one in seen], pairs)
                for name, parse in (("strict", strict), ("first digit", first_digit))
            },
            "the longer answer": accuracy([len(pair.first) - len(pair.second) for pair in pairs], pairs),
        },
        "order bias": {
            "mean preference for the first shown": float(for_first.mean()),
            "first shown is preferred": float((for_first > 0).mean()),
            "same answer in both orders": float(np.mean([(a > 0) == (b < 0) for a, b in zip(*first)])),
        },
        "mass off the scale": {
            name: {"median": float(np.median(x)), "over .9": float(np.mean(np.array(x) > 0.9)), "max": max(x)}
            for name, x in outside.items()
        },
        "not judged": int(np.isnan([x for one in seen for x in one.pointwise]).sum()),
        "texts that do not parse": {
            "strict": float(np.mean([math.isnan(strict(text)) for text in texts])),
            "first digit": float(np.mean([math.isnan(first_digit(text)) for text in texts])),
        },
        "texts, for example": sorted(set(texts), key=texts.count, reverse=True)[:6],
    }  # fmt: skip


def picture(results: dict[str, Any], path: Any) -> None:
    """Accuracy of every way to ask, with its bar, for each set of pairs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(results), 3.6), layout="constrained", dpi=120)
    for place, (name, one) in zip(figure.subplots(1, len(results), squeeze=False, sharey=True)[0], results.items()):
        for row, found in enumerate(one["accuracy"].values()):
            bar = [[found["mean"] - found["low"]], [found["high"] - found["mean"]]]
            place.errorbar(found["mean"], row, xerr=bar, fmt="o", color="#26828e", capsize=3)
        place.set_yticks(range(len(one["accuracy"])), list(one["accuracy"]))
        place.axvline(0.5, color="#8a8a8a", ls="--", lw=1)
        place.set(title=f"{name}, {one['pairs']} pairs", xlabel="agreement with people", xlim=(0.2, 0.8))
        place.invert_yaxis()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60, help="of each set")
    parser.add_argument("--max-tokens", type=int, default=16, help="of a judge that answers in text")
    options = parser.parse_args()
    from decoding.engine import Engine

    RESULTS.mkdir(exist_ok=True)
    results: dict[str, Any] = {}
    with Engine(max_num_seqs=40, max_model_len=1024, dtype="float32") as engine:
        for name in ("llmbar", "pandalm"):
            pairs, seen = pairs_of(name, options.pairs), []
            with tqdm(total=len(pairs), unit="pair", desc=name) as bar:
                for at in range(0, len(pairs), AT_ONCE):
                    seen += seen_of(engine, pairs[at : at + AT_ONCE], options.max_tokens)
                    bar.update(len(pairs[at : at + AT_ONCE]))
            results[name] = summary(seen)
            for way, found in results[name]["accuracy"].items():
                say(f"{name:8s} {way:36s} {found['mean']:.3f} ({found['low']:.3f} to {found['high']:.3f})")
    picture(results, RESULTS / "judges.png")
    report("judges", {"pairs": options.pairs, "max_tokens": options.max_tokens}, results)


if __name__ == "__main__":
    main()
