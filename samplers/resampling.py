"""Which particles live on: ancestors from normalised weights. Every scheme draws ancestor m of M N * w_m times on average.

Source: Douc, Cappé & Moulines (2005), "Comparison of resampling schemes for particle filtering".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from grammars.errors import RequestError

_BELOW_ONE = float(np.nextafter(1.0, 0.0))


def systematic(weights: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Draw N ancestors with a single uniform number.

    Ancestor m is drawn floor(N*w_m) or ceil(N*w_m) times; weight zero is never drawn.

    weights   float64 [M]  sum to 1
    uniforms  float64 [N]  in [0, 1); only the first is used
    returns   int64   [N]  indices into the old population, ascending
    """
    return _at((uniforms[:1] + np.arange(len(uniforms))) / len(uniforms), weights)


def stratified(weights: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Draw one ancestor in each of N equal strata; weight zero is never drawn.

    weights   float64 [M]  sum to 1
    uniforms  float64 [N]  in [0, 1)
    returns   int64   [N]  ascending
    """
    return _at((uniforms + np.arange(len(uniforms))) / len(uniforms), weights)


def multinomial(weights: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Draw N ancestors independently; weight zero is never drawn.

    weights   float64 [M]  sum to 1
    uniforms  float64 [N]  in [0, 1)
    returns   int64   [N]  ascending
    """
    return _at(np.sort(uniforms), weights)


def residual(weights: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Draw ancestor m floor(N*w_m) times for certain, and the rest independently from the fractions left.

    weights   float64 [M]  sum to 1
    uniforms  float64 [N]  in [0, 1); as many are used as ancestors are left to chance
    returns   int64   [N]  ascending
    """
    expected = len(uniforms) * weights
    # Rounding can put N*w_m just below a whole number: then a copy that is certain would be left to chance, with the
    # same mean.
    certain = np.floor(expected)
    left = len(uniforms) - int(certain.sum())
    ancestors = np.repeat(np.arange(len(weights)), certain.astype(np.int64))
    if left <= 0:
        return ancestors[: len(uniforms)]
    by_chance = _at(uniforms[:left], expected - certain)
    return np.sort(np.concatenate([ancestors, by_chance]))


SCHEMES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "systematic": systematic,
    "stratified": stratified,
    "residual": residual,
    "multinomial": multinomial,
}


def scheme(name: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The scheme of that name; RequestError names those there are."""
    if name not in SCHEMES:
        raise RequestError(f"resampling={name!r} is not a scheme; use one of {', '.join(SCHEMES)}.")
    return SCHEMES[name]


def keep_in_place(ancestors: np.ndarray) -> np.ndarray:
    """The same ancestors, arranged so that every survivor keeps its own slot: result[i] == i whenever i is among them.

    Only the slots of particles that died have to be overwritten, each with a further copy of a survivor.

    ancestors  int64 [N]
    returns    int64 [N]
    """
    counts = np.bincount(ancestors, minlength=len(ancestors))
    slots = np.arange(len(ancestors))
    survives = counts > 0
    arranged = slots.copy()
    arranged[~survives] = np.repeat(slots, np.maximum(counts - 1, 0))
    return arranged


def rounded(value: float, uniform: float) -> int:
    """A whole number next to a value >= 0, the value on average. uniform: in [0, 1)."""
    return int(value) + int(uniform < value % 1.0)


def _at(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The particle each point in [0, 1) falls on, when particles lie side by side with their weights as widths."""
    edges = np.cumsum(weights)
    # Rounding can lift the last point to 1.0, past every particle: keep it just below.
    points = np.minimum(points, _BELOW_ONE)
    return np.searchsorted(edges / edges[-1], points, side="right").astype(np.int64)
