"""How far does a model lean to a group, before and after its law is balanced, and what does that cost?

    python -m bench.bench_debias [--limit N]      tables, and a plot of bias against KL

Laws are taken from the base model in torch and balanced by the same code that serves (decoding/adaptation/steering.py), position
by position, so that every figure is exact and none is a sample:
    WinoBias      the log odds of the male against the female form of the pronoun where it stands, given the sentence before it:
                  mean and mean absolute, and the gap between occupations that are stereotyped male and female; and the same
                  of all male forms against all female ones, since one "her" stands beside "him" and "his"
    CrowS-Pairs   the share of pairs whose more stereotyped sentence is the likelier (50 % leans nowhere)
    cost          KL(q ‖ p) at the pronoun; and on BOLD's prompts, nats a token, with the share of tokens that were touched
Beside it what others do, as laws of the same model: an instruction before the text, and Self-Debias (Schick et al. 2021, arXiv
2103.00453) with a diagnosis of the axis.
Only CrowS-Pairs about gender, race and religion are looked at, each under its own axis. A law is balanced while its text has
named nobody of the axis: "she" after "the woman" is left alone, which is why the pairs move little.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from bench.detox_baselines import self_debiased
from bench.detox_metrics import BaseModel
from bench.harness import DATA, RESULTS, report, say
from decoding.adaptation.settings import adaptation_of, settle
from decoding.adaptation.steering import Course, Steered, Steering
from decoding.rows import fold_eos
from grammars.vocabulary import Vocabulary, vocabulary_from_tokenizer

ARMS: dict[str, dict[str, Any]] = {
    "debias, quarter": {"adaptation": {"debias_strength": 0.25}},
    "debias, half": {"adaptation": {"debias_strength": 0.5}},
    "debias": {},
    "debias, gate 0.05": {"adaptation": {"balance_gate": 0.05}},
    "detox and debias": {"detox": 1.0, "adaptation": {"method": "tilt"}},
}
# What is read before the text: no request, which the model might answer.
INSTRUCTION = "The following text treats people of every {axis} alike and has no stereotypes:\n"
DIAGNOSIS = "The following text has stereotypes about {axis}:\n"
DECAYS = (10.0, 50.0, 200.0)
NAMES = ("plain", *ARMS, "instruction", *(f"self-debias {decay:g}" for decay in DECAYS))
AXIS_OF = {"gender": "gender", "race-color": "race", "religion": "religion"}


@dataclass(frozen=True)
class Laws:
    """The base model with a vocabulary, and what steers it."""

    model: BaseModel
    vocabulary: Vocabulary
    steering: Steering

    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """float32 [T, V]: of the token after each prefix."""
        with torch.inference_mode():
            logits: torch.Tensor = self.model.model(input_ids=torch.tensor([list(tokens)])).logits[0].float()
        fold_eos(logits, self.vocabulary.eos_ids)
        return logits

    def others(self, tokens: Sequence[int], logits: torch.Tensor, axis: str) -> dict[str, torch.Tensor]:
        """Laws of what others do after each prefix: float32 [T, V] of logits. logits: the plain ones"""
        told = {}
        for name, template in (("instruction", INSTRUCTION), ("diagnosis", DIAGNOSIS)):
            before = self.model.encode(template.format(axis=axis))
            told[name] = self.logits([*before, *tokens])[len(before) :]
        diagnosed = told.pop("diagnosis")
        for decay in DECAYS:
            told[f"self-debias {decay:g}"] = self_debiased(decay, logits, diagnosed)
        return told

    def steered(self, logits: torch.Tensor, course: Course) -> Steered:
        """One row's law changed in place. logits  float32 [1, V]"""
        masses = torch.softmax(logits, 1)
        (outcome,) = self.steering.steer(logits, masses, [0], [course], np.ones(1), [0.0])
        assert isinstance(outcome, Steered), outcome
        return outcome

    def adapt(self, options: dict[str, Any], axis: str, prompt: str) -> dict[str, Any]:
        asked = adaptation_of({**options, "debias": [axis]})
        assert asked is not None
        return settle(*asked, prompt.encode(), self.vocabulary)


def kl(law: torch.Tensor, plain: torch.Tensor) -> float:
    """KL(law ‖ plain), nats. logits, float32 [V] each"""
    log_q, log_p = (torch.log_softmax(logits.double(), 0) for logits in (law, plain))
    return float((log_q.exp() * (log_q - log_p)).sum())


FORMS = {"male": (" he", " him", " his"), "female": (" she", " her", " hers")}


def winobias(laws: Laws, rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    found: dict[str, list[tuple[bool, float, float, float]]] = {arm: [] for arm in NAMES}
    forms = [[token for form in some for token in laws.model.encode(form)] for some in FORMS.values()]
    assert all(len(some) == 3 for some in forms), "each form is one token of this model"
    for row in tqdm(rows, unit="sentence", desc="WinoBias"):
        pronoun = re.findall(r"\[([^\]]+)\]", row["pro"])[-1]
        before = row["pro"].rsplit("[", 1)[0].replace("[", "").replace("]", "").rstrip()
        pro = pronoun.lower()
        # "her" is "him" or "his": its counterpart in the other sentence says which.
        other = re.findall(r"\[([^\]]+)\]", row["anti"])[-1].lower()
        male, female = (pro, other) if pro in ("he", "him", "his") else (other, pro)
        ids = [laws.model.encode(f" {form}") for form in (male, female)]
        if any(len(one) != 1 for one in ids) or not before:
            continue
        tokens = laws.model.encode(before)
        logits = laws.logits(tokens)
        here = {"plain": logits[-1]} | {arm: law[-1] for arm, law in laws.others(tokens, logits, "gender").items()}
        for arm, options in ARMS.items():
            law = logits[-1:].clone()
            laws.steered(law, laws.steering.begin(laws.adapt(options, "gender", before), []))
            here[arm] = law[0]
        for arm, law in here.items():
            odds = float(law[ids[0][0]] - law[ids[1][0]])
            of_groups = float(law[forms[0]].logsumexp(0) - law[forms[1]].logsumexp(0))
            found[arm].append((pro == male, odds, kl(law, logits[-1]), of_groups))
    told = {}
    for arm, some in found.items():
        stereotyped_male = np.array([one[0] for one in some])
        odds, spent, of_groups = (np.array([one[k] for one in some]) for k in (1, 2, 3))
        told[arm] = {
            "sentences": len(some),
            "mean_abs_log_odds": float(np.abs(odds).mean()),
            "mean_log_odds": float(odds.mean()),
            "occupation_gap": float(odds[stereotyped_male].mean() - odds[~stereotyped_male].mean()),
            "groups_mean_abs_log_odds": float(np.abs(of_groups).mean()),
            "groups_occupation_gap": float(of_groups[stereotyped_male].mean() - of_groups[~stereotyped_male].mean()),
            "stereotype_preferred": float((np.where(stereotyped_male, odds, -odds) > 0).mean()),
            "kl_at_pronoun": float(spent.mean()),
        }
    return told


def crows(laws: Laws, rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    rows = [row for row in rows if row["bias_type"] in AXIS_OF]
    found: dict[str, list[tuple[str, bool]]] = {arm: [] for arm in NAMES}
    for row in tqdm(rows, unit="pair", desc="CrowS-Pairs"):
        axis = AXIS_OF[row["bias_type"]]
        scores = {side: sentence_scores(laws, row[side], axis) for side in ("sent_more", "sent_less")}
        for arm in NAMES:
            found[arm].append((axis, scores["sent_more"][arm] > scores["sent_less"][arm]))
    told = {}
    for arm, some in found.items():
        told[arm] = {"pairs": len(some), "stereotype_preferred": float(np.mean([hit for _, hit in some]))}
        told[arm] |= {axis: float(np.mean([hit for name, hit in some if name == axis])) for axis in AXIS_OF.values()}
    return told


def sentence_scores(laws: Laws, text: str, axis: str) -> dict[str, float]:
    """log q(text | its first token) of every arm."""
    tokens = laws.model.encode(text)
    logits = laws.logits(tokens)
    following = torch.tensor(tokens[1:])[:, None]
    scores = {
        arm: float(torch.log_softmax(law[:-1].double(), 1).gather(1, following).sum())
        for arm, law in ({"plain": logits} | laws.others(tokens, logits, axis)).items()
    }
    for arm, options in ARMS.items():
        course = laws.steering.begin(laws.adapt(options, axis, laws.vocabulary.decode(tokens[:1]).decode()), [])
        scores[arm] = 0.0
        for place in range(len(tokens) - 1):
            law = logits[place : place + 1].clone()
            laws.steered(law, course)
            course.advance([tokens[place + 1]])
            scores[arm] += float(torch.log_softmax(law[0].double(), 0)[tokens[place + 1]])
    return scores


def cost(laws: Laws, rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """KL along texts that nobody chose for this: BOLD's prompts as they were written."""
    spent: dict[str, list[float]] = {arm: [] for arm in NAMES if arm != "plain"}
    for row in tqdm(rows, unit="prompt", desc="BOLD"):
        tokens = laws.model.encode(row["prompt"])
        logits = laws.logits(tokens)
        for arm, law in laws.others(tokens, logits, "gender").items():
            spent[arm] += [kl(law[place], logits[place]) for place in range(len(tokens) - 1)]
        for arm, options in ARMS.items():
            course = laws.steering.begin(laws.adapt(options, "gender", laws.vocabulary.decode(tokens[:1]).decode()), [])
            for place in range(len(tokens) - 1):
                spent[arm].append(laws.steered(logits[place : place + 1].clone(), course).kl)
                course.advance([tokens[place + 1]])
    return {
        arm: {"tokens": len(nats), "kl_per_token": float(np.mean(nats)), "touched": float((np.array(nats) > 0).mean())}
        for arm, nats in spent.items()
    }


def rows_of(name: str, limit: int | None) -> list[dict[str, Any]]:
    path = DATA / "bias" / name
    if not path.is_file():
        raise SystemExit(
            f"{path} is not there: put the test data beside the checkout, or name its folder in REWEIGH_DATA"
        )
    return [json.loads(line) for line in path.read_text().splitlines()][:limit]


def plot(results: dict[str, Any]) -> None:
    """Bias against cost, PNG and SVG: left and down is better."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13, 5.5))
    for axis, (title, costs) in zip(
        axes,
        (
            ("at the pronoun", {arm: told["kl_at_pronoun"] for arm, told in results["winobias"].items()}),
            (
                "a token of BOLD's texts",
                {"plain": 0.0} | {arm: told["kl_per_token"] for arm, told in results["cost"].items()},
            ),
        ),
    ):
        for arm, nats in costs.items():
            bias = results["winobias"][arm]["mean_abs_log_odds"]
            axis.plot(nats, bias, "o", color="tab:blue" if arm in ARMS else "tab:gray")
            axis.annotate(arm, (nats, bias), fontsize=7, xytext=(4, 3), textcoords="offset points")
        axis.set(xlabel=f"KL from the model, nats {title}", ylabel="WinoBias, mean |log odds|")
        axis.set_xscale("symlog", linthresh=1e-3)
    figure.tight_layout()
    RESULTS.mkdir(exist_ok=True)
    for kind in ("png", "svg"):
        figure.savefig(RESULTS / f"debias.{kind}", dpi=150)
    plt.close(figure)
    say(f"plots: {RESULTS / 'debias.png'} and .svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, help="rows of each file; all without it")
    options = parser.parse_args()
    model = BaseModel.load()
    vocabulary = vocabulary_from_tokenizer(model.tokenizer, model.model.config.vocab_size)
    laws = Laws(model, vocabulary, Steering(vocabulary))
    results = {
        "winobias": winobias(laws, rows_of("winobias.jsonl", options.limit)),
        "crows_pairs": crows(laws, rows_of("crows_pairs.jsonl", options.limit)),
        "cost": cost(laws, rows_of("bold_prompts.jsonl", options.limit)),
    }
    for name, arms in results.items():
        say(f"\n{name}")
        for arm, told in arms.items():
            say(f"  {arm:20}" + "  ".join(f"{field} {value:.3g}" for field, value in told.items()))
    report("debias", {"limit": options.limit}, results)
    plot(results)


if __name__ == "__main__":
    main()
