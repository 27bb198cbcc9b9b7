"""Groups named alike by the texts of a population, not by each token: fairness is a property of the distribution.

The target is then the law nearest to p·1[C]·ψ^β under which every group of an axis is the first named by equally many texts, an
I-projection again: log weights change by a number for each group, found from the weights themselves. With one group each that
is exact; several axes are balanced in turn until none moves (iterative proportional fitting).
Source: Csiszár (1975), "I-divergence geometry of probability distributions and minimization problems".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from decoding.adaptation.served import equalising
from samplers.population import normalise

# An axis: its name, and the tokens that name each of its groups.
Axis = tuple[str, Mapping[str, Sequence[int]]]
SWEEPS = 200
# Of log mass: below it nothing moves any more.
STILL = 1e-9


def first_named(tokens: Sequence[int], groups: Mapping[str, Sequence[int]]) -> int | None:
    """Which of the groups a text names first; None where it names nobody."""
    owner = {token: place for place, ids in enumerate(groups.values()) for token in ids}
    return next((owner[token] for token in tokens if token in owner), None)


def group_shares(
    texts: Sequence[Sequence[int]], log_weights: np.ndarray, axes: Sequence[Axis]
) -> dict[str, dict[str, float]]:
    """Of the weight of the texts that name somebody, the share of each group named first; all 0 where none does.

    texts        [N] of token ids
    log_weights  float64 [N], unnormalised
    returns      axis -> group -> share
    """
    weights = normalise(log_weights)
    told = {}
    for name, groups in axes:
        held = _held([first_named(text, groups) for text in texts], weights, len(groups))
        told[name] = dict(zip(groups, (held / max(held.sum(), np.finfo(float).tiny)).tolist(), strict=True))
    return told


def balanced(texts: Sequence[Sequence[int]], log_weights: np.ndarray, axes: Sequence[Axis]) -> np.ndarray:
    """Log weights under which the groups of every axis that are there have equal weight; the mean weight is as before.

    A group that no text names gets none. Estimated from the population, so that what is read off them is off by O(1/N).

    texts        [N] of token ids
    log_weights  float64 [N], unnormalised, -inf for the dead
    returns      float64 [N]
    """
    named = [[first_named(text, groups) for text in texts] for _, groups in axes]
    moved = log_weights
    for _ in range(SWEEPS):
        largest = 0.0
        for (_, groups), labels in zip(axes, named, strict=True):
            held = _held(labels, normalise(moved), len(groups))
            present = np.flatnonzero(held)
            if len(present) < 2:
                continue
            boosts = np.zeros(len(groups))
            boosts[present] = equalising(held[present].tolist())
            largest = max(largest, float(np.abs(boosts).max()))
            moved = moved + np.array([0.0 if label is None else boosts[label] for label in labels])
        if largest < STILL:
            break
    if moved is log_weights:
        return log_weights
    return moved + (np.logaddexp.reduce(log_weights) - np.logaddexp.reduce(moved))


def _held(labels: Sequence[int | None], weights: np.ndarray, count: int) -> np.ndarray:
    """float64 [G]: the weight of each group."""
    held = np.zeros(count)
    for label, weight in zip(labels, weights, strict=True):
        if label is not None:
            held[label] += weight
    return held
