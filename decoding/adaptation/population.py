"""Groups named alike by the texts of a population, not by each token: fairness is a property of the distribution.

The target is then the law nearest to p·1[C]·ψ^β under which every group of an axis is the first named by equally many texts, an
I-projection again: log weights change by a number for each group, found from the weights themselves. With one axis that is
exact; several are balanced in turn until none moves (iterative proportional fitting).
Source: Csiszár (1975), "I-divergence geometry of probability distributions and minimization problems".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from decoding.adaptation.served import equalising
from samplers.population import normalise

# Axis -> for each text the group that it names first, or None: [N].
Named = Mapping[str, Sequence[str | None]]
SWEEPS = 200
# Of log mass: below it nothing moves any more.
STILL = 1e-9


def group_shares(
    named: Named, log_weights: np.ndarray, groups: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float]]:
    """Of the weight of the texts that name somebody, the share of each group named first; all 0 where none does.

    log_weights  float64 [N], unnormalised
    groups       axis -> names
    returns      axis -> group -> share
    """
    weights = normalise(log_weights)
    told = {}
    for axis, labels in named.items():
        held = _held(labels, weights)
        total = sum(held.values())
        told[axis] = {group: held.get(group, 0.0) / total if total else 0.0 for group in groups[axis]}
    return told


def balanced(named: Named, log_weights: np.ndarray) -> np.ndarray:
    """Log weights under which the groups of every axis that are there have equal weight; the mean weight is as before.

    A group that no text names gets none. Estimated from the population, so that what is read off them is off by O(1/N).

    log_weights  float64 [N], unnormalised, -inf for the dead
    returns      float64 [N]
    """
    moved = log_weights
    for _ in range(SWEEPS):
        largest = 0.0
        for labels in named.values():
            held = {group: mass for group, mass in _held(labels, normalise(moved)).items() if mass > 0}
            if len(held) < 2:
                continue
            boosts = dict(zip(held, equalising(list(held.values())).tolist(), strict=True))
            largest = max(largest, *map(abs, boosts.values()))
            moved = moved + np.array([0.0 if label is None else boosts.get(label, 0.0) for label in labels])
        if largest < STILL:
            break
    if moved is log_weights:
        return log_weights
    return moved + (np.logaddexp.reduce(log_weights) - np.logaddexp.reduce(moved))


def _held(labels: Sequence[str | None], weights: np.ndarray) -> dict[str, float]:
    """The weight of each group that is named."""
    held: dict[str, float] = {}
    for label, weight in zip(labels, weights.tolist(), strict=True):
        if label is not None:
            held[label] = held.get(label, 0.0) + weight
    return held
