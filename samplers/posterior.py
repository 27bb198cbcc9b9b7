"""From weighted texts to answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from samplers.population import normalise
from samplers.randomness import Purpose, Stream


def posterior(texts: Sequence[str], log_weights: np.ndarray) -> dict[str, float]:
    """Text -> its share of the weight, likeliest first.

    Equal texts are one, dead particles are none; empty if all are dead. Ties go to the particle that comes first.

    log_weights  float64 [N]
    """
    shares: dict[str, float] = {}
    for text, weight in zip(texts, normalise(np.asarray(log_weights, dtype=np.float64)).tolist(), strict=True):
        if weight > 0.0:
            shares[text] = shares.get(text, 0.0) + weight
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def n_best(texts: Sequence[str], log_weights: np.ndarray, n: int) -> list[tuple[str, float]]:
    """The n likeliest texts with their shares; fewer if there are fewer. Ties go to the particle that comes first.

    log_weights  float64 [N]
    """
    return list(posterior(texts, log_weights).items())[:n]


def draw_one(log_weights: np.ndarray, seed: int) -> int | None:
    """A particle drawn in proportion to its weight, by one uniform of the seed's own; None where all are dead.

    Given N properly weighted draws, its text follows the target up to a bias of order 1 / N.

    log_weights  float64 [N]
    """
    weights = normalise(np.asarray(log_weights, dtype=np.float64))
    edges = weights.cumsum()
    if not edges[-1] > 0.0:
        return None
    point = Stream(seed, 0, 0, purpose=Purpose.SELECT).random() * edges[-1]
    return int(np.minimum(edges.searchsorted(point, side="right"), np.flatnonzero(weights)[-1]))
