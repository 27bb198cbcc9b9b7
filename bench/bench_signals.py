"""How well does each scorer know toxic text, and whom does it take for toxic without cause?

One JSON line for each: the signals that may steer, the same with identity terms kept, heads fitted by
decoding/adaptation/fit_signal.py (alone, and going on from `profanity`), the judge, and the two networks it is made of.

    auc           of toxicity >= .5 in the scored texts that nothing here was fitted on (every pair of lines stays together)
    identity      of neutral sentences that mention who somebody is, the share scored above .5: in all and by axis, and the
                  descriptors that are flagged most

    python -m bench.bench_signals [--scorers profanity judge]
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bench.harness import DATA, report, say
from bench.identity_mentions import Mention, identity_mentions
from bench.toxicity_judge import HELD_OUT, NETWORKS, SCORED_TEXTS, ToxicityJudge, figures, plain
from decoding.adaptation.fit_signal import fit_signal
from decoding.adaptation.linear_signal import LinearSignal
from decoding.adaptation.profanity import profanity
from decoding.adaptation.scored_texts import ScoredTexts, read_scored_texts
from decoding.adaptation.signal import Signal

Scorer = Callable[[Sequence[str]], np.ndarray]


def probability(signal: Signal) -> Scorer:
    return lambda texts: 1 / (1 + np.exp(-signal.log_odds(texts)))


def scorers(fitted_on: ScoredTexts) -> Mapping[str, Callable[[], Scorer]]:
    """Name -> what makes the scorer: texts -> float64 [N] in [0, 1]."""

    def head(start: LinearSignal | None, keep_identity: bool = False) -> Scorer:
        return probability(fit_signal(fitted_on, "fitted", start, keep_identity))

    def network(place: int) -> Scorer:
        one = ToxicityJudge.load().networks[place]
        return lambda texts: 1 / (1 + np.exp(-one.logits([plain(text) for text in texts])[:, 0].astype(np.float64)))

    return {
        "profanity": lambda: probability(profanity()),
        "profanity_with_identity": lambda: probability(profanity("kept")),
        "fitted": lambda: head(None),
        "fitted_with_identity": lambda: head(None, keep_identity=True),
        "fitted_from_profanity": lambda: head(profanity()),
        "fitted_from_profanity_with_identity": lambda: head(profanity("kept"), keep_identity=True),
        "judge": lambda: ToxicityJudge.load().toxicity,
        **{name: lambda place=place: network(place) for place, name in enumerate(NETWORKS)},  # type: ignore[misc]
    }


def flagged(scores: np.ndarray, mentions: Sequence[Mention], most: int = 8) -> dict[str, Any]:
    """Of sentences that nobody should mind, those scored above .5: shares, and the descriptors with the greatest mean score."""
    above = scores > 0.5
    axes = np.array([mention.axis for mention in mentions])
    sums: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for mention, score in zip(mentions, scores):
        sums[mention.descriptor] += float(score)
        counts[mention.descriptor] += 1
    worst = sorted(counts, key=lambda descriptor: -sums[descriptor] / counts[descriptor])[:most]
    return {
        "sentences": len(mentions),
        "share_flagged": float(above.mean()),
        "mean": float(scores.mean()),
        "share_by_axis": {axis: round(float(above[axes == axis].mean()), 4) for axis in dict.fromkeys(axes.tolist())},
        "highest": {descriptor: round(sums[descriptor] / counts[descriptor], 3) for descriptor in worst},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    fitted_on, held_out = read_scored_texts(SCORED_TEXTS).split(HELD_OUT)
    known = scorers(fitted_on)
    parser.add_argument("--scorers", nargs="+", choices=known, default=list(known))
    chosen = parser.parse_args().scorers
    mentions = identity_mentions(DATA / "bias" / "holistic_bias")
    sentences = [mention.text for mention in mentions]
    settings = {
        "fitted_on": len(fitted_on.texts),
        "held_out": len(held_out.texts),
        "identity_sentences": len(sentences),
    }
    for name in chosen:
        scorer = known[name]()
        scorer(held_out.texts[:10])
        start = time.perf_counter()
        scores = scorer(held_out.texts)
        texts_per_s = len(scores) / (time.perf_counter() - start)
        results = {
            **figures(scores, held_out),
            "texts_per_s": texts_per_s,
            "identity": flagged(scorer(sentences), mentions),
        }
        identity = results["identity"]
        say(
            f"{name}: AUC {results['auc']:.3f}, {identity['share_flagged']:.2%} of {len(sentences)} identity mentions flagged"
        )
        report("signals", {"scorer": name, **settings}, results)


if __name__ == "__main__":
    main()
