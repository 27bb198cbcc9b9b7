"""Does text about one group come out worse than text about another, and who is written about?

    python -m bench.bench_bold [--samples 5] [--per-group 50] [--arms "plain;debias"] [--fresh]

BOLD's prompts (Dhamala et al., 2021, arXiv 2101.11718) are gone on with: 20 tokens, temperature 1, top-p .9. Of each group of a
domain the mean toxicity under the judge that steers nobody (bench/toxicity_judge.py) and the mean sentiment (VADER, Hutto and
Gilbert 2014, -1 to 1) are taken, of the continuation alone; the gap of a domain is the highest group's less the lowest's, with
the standard error of that difference over prompts. Of the professions, which name nobody, the share of women among the texts
that name a woman or a man first.
What an arm wrote is kept in bench/results/bold, so that arms can be added without running the others again.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from bench.bench_detox import Texts, served
from bench.harness import DATA, RESULTS, report, say
from decoding import Engine
from decoding.adaptation.lexicons import AXES
from samplers.randomness import derive_seed

FOLDER = RESULTS / "bold"
DOMAINS = ("gender", "race", "religious_ideology", "profession")
ARMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "debias gender": {"debias": ["gender"]},
    "debias all": {"debias": ["gender", "race", "religion"]},
    "detox": {"detox": 1.0},
    "detox, debias all": {"detox": 1.0, "debias": ["gender", "race", "religion"]},
}
_OWNER = {word: group for group, words in AXES["gender"].items() for word in words}


def prompts_of(per_group: int) -> list[dict[str, str]]:
    """The first prompts of every group, domain by domain."""
    path = DATA / "bias" / "bold_prompts.jsonl"
    if not path.is_file():
        raise SystemExit(
            f"{path} is not there: put the test data beside the checkout, or name its folder in REWEIGH_DATA"
        )
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    kept: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        some = kept.setdefault((row["domain"], row["group"]), [])
        if len(some) < per_group:
            some.append(row)
    return [row for domain in DOMAINS for key, some in kept.items() if key[0] == domain for row in some]


def named(text: str) -> str | None:
    """The gender a text names first."""
    words = ("".join(c if c.isalpha() else " " for c in text)).lower().split()
    return next((_OWNER[word] for word in words if word in _OWNER), None)


def gap(prompts: Sequence[dict[str, str]], scores: np.ndarray, domain: str) -> dict[str, Any]:
    """Between the groups of a domain. scores  float64 [P, S]"""
    means: dict[str, tuple[float, float]] = {}
    for group in dict.fromkeys(row["group"] for row in prompts if row["domain"] == domain):
        own = scores[[row["domain"] == domain and row["group"] == group for row in prompts]].mean(1)
        means[group] = (float(own.mean()), float(own.std(ddof=1) / math.sqrt(len(own))))
    high, low = (choose(means, key=lambda group: means[group][0]) for choose in (max, min))
    return {
        "gap": means[high][0] - means[low][0],
        "se": math.hypot(means[high][1], means[low][1]),
        "spread": float(np.std([mean for mean, _ in means.values()])),
        "highest": high,
        "lowest": low,
        "mean": float(np.mean([mean for mean, _ in means.values()])),
        "groups": {group: mean for group, (mean, _) in means.items()},
    }


def figures(
    prompts: Sequence[dict[str, str]], texts: Texts, toxicity: np.ndarray, sentiment: np.ndarray
) -> dict[str, Any]:
    told: dict[str, Any] = {
        domain: {"toxicity": gap(prompts, toxicity, domain), "sentiment": gap(prompts, sentiment, domain)}
        for domain in DOMAINS
    }
    first = [named(text) for row, some in zip(prompts, texts) if row["domain"] == "profession" for text in some]
    counted = [group for group in first if group is not None]
    women = counted.count("female") / len(counted) if counted else math.nan
    told["women_of_named"] = women
    told["women_of_named_se"] = math.sqrt(women * (1 - women) / len(counted)) if counted else math.nan
    told["named"] = len(counted) / len(first)
    return told


def measure(options: argparse.Namespace) -> None:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    from bench.toxicity_judge import ToxicityJudge

    unknown = [name for name in options.arms if name not in ARMS]
    if unknown:
        raise SystemExit(f"no arm {unknown[0]!r}; there are: {'; '.join(ARMS)}")
    prompts = prompts_of(options.per_group)
    judge, vader = ToxicityJudge.load(), SentimentIntensityAnalyzer()
    results: dict[str, Any] = {}
    with Engine(max_num_seqs=32, max_model_len=512) as engine:
        for name in tqdm(options.arms, unit="arm"):
            path = FOLDER / f"{options.per_group}x{options.samples}" / f"{name.replace(' ', '_').replace(',', '')}.json"
            if path.is_file() and not options.fresh:
                texts = json.loads(path.read_text())
            else:
                asked = [row["prompt"] for row in prompts]
                texts = served(engine, asked, options.samples, derive_seed(2101, 11718), **ARMS[name]).texts
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(texts))
            flat = [text for some in texts for text in some]
            shape = (len(texts), options.samples)
            toxicity = judge.toxicity(flat).reshape(shape)
            sentiment = np.array([vader.polarity_scores(text)["compound"] for text in flat]).reshape(shape)
            results[name] = figures(prompts, texts, toxicity, sentiment)
    say("gap ± standard error: toxicity, sentiment")
    for name, told in results.items():
        cells = [
            f"{domain} {told[domain][of]['gap']:.3f}±{told[domain][of]['se']:.3f}"
            for domain in DOMAINS
            for of in ("toxicity", "sentiment")
        ]
        say(
            f"{name:18} {' '.join(cells)} women {told['women_of_named']:.2f}±{told['women_of_named_se']:.2f} of {told['named']:.2f}"
        )
    report("bold", {"prompts": len(prompts), "samples": options.samples, "top_p": 0.9}, results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=5, help="continuations of each prompt")
    parser.add_argument("--per-group", type=int, default=50, help="prompts of each group at the most")
    parser.add_argument("--arms", type=lambda text: text.split(";"), default=list(ARMS), help="names, separated by ;")
    parser.add_argument("--fresh", action="store_true", help="write everything anew")
    options = parser.parse_args()
    if options.samples < 1 or options.per_group < 2:
        parser.error("--samples: at least 1 was wanted, and --per-group at least 2")
    measure(options)


if __name__ == "__main__":
    main()
