"""From a tuned and an original law to the one that tokens are drawn from."""

from __future__ import annotations

import numpy as np


def geometric_mean(tuned: np.ndarray, original: np.ndarray, weight: float) -> np.ndarray:
    """log of q^weight · p^(1 - weight), which sums to 1 or less.

    tuned, original  float64 [B, V], log q and log p
    returns          float64 [B, V]; what a law of some weight excludes is excluded
    """
    if weight in (0.0, 1.0):
        return tuned if weight else original
    return weight * tuned + (1 - weight) * original


def fused(tuned: np.ndarray, original: np.ndarray, weight: float) -> np.ndarray:
    """The same, normalised."""
    return _normalised(geometric_mean(tuned, original, weight))


def nucleus(logprobs: np.ndarray, top_p: float, of: np.ndarray | None = None) -> np.ndarray:
    """The law on its likeliest tokens: as few as have mass top_p together, of equal ones the lower id first.

    logprobs  float64 [B, V], normalised
    of        log masses that are counted, where these are not the law's own; float64 [B, V], the same but for a factor a row
    returns   float64 [B, V], normalised, -inf where a token was left out
    """
    if top_p == 1:
        return logprobs
    kept = np.full_like(logprobs, -np.inf)
    for row, own in enumerate(logprobs if of is None else of):
        masses = np.exp(own)
        # Those below this have less than what may be left out, all of them together: they need not be sorted.
        least = max(masses.sum() - top_p, 0.0) / len(masses)
        likely = np.flatnonzero(masses >= least)
        likely = likely[np.argsort(-masses[likely], kind="stable")]
        before = np.cumsum(masses[likely]) - masses[likely]
        # The token that reaches top_p stays: left out is what lies wholly beyond.
        likely = likely[(before <= top_p) | (np.arange(len(likely)) == 0)]
        kept[row, likely] = logprobs[row, likely]
    return _normalised(kept)


def draw(logprobs: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """One token a row, by inverse CDF in the order of ids.

    logprobs  float64 [B, V]; a token of -inf is never drawn
    uniforms  float64 [B] in [0, 1)
    returns   int64 [B]
    """
    edges = np.exp(logprobs).cumsum(axis=-1)
    # Rounding can lift the point to the end of the CDF, past the last token that has mass.
    points = np.minimum(uniforms * edges[:, -1], np.nextafter(edges[:, -1], 0.0))
    return (edges <= points[:, None]).sum(axis=-1)


def divergence(logprobs: np.ndarray, base: np.ndarray) -> np.ndarray:
    """KL(q ‖ p), float64 [B], nats. logprobs, base: float64 [B, V], log q and log p."""
    held = logprobs > -np.inf
    return np.where(held, np.exp(logprobs) * (np.where(held, logprobs, 0.0) - np.where(held, base, 0.0)), 0.0).sum(
        axis=-1
    )


def _normalised(logits: np.ndarray) -> np.ndarray:
    largest = logits.max(axis=-1, keepdims=True)
    return logits - (largest + np.log(np.exp(logits - largest).sum(axis=-1, keepdims=True)))
