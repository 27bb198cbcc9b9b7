"""From a judge's number to a weight: the soft factor exp(r / T) of the target."""

from __future__ import annotations

import math

import numpy as np


def charge(log_weights: np.ndarray, rewards: np.ndarray, temperature: float) -> np.ndarray:
    """Weights for p(x)·1[x in C]·exp(r(x) / T), from proper weights for p(x)·1[x in C].

    Drawing one of k by these weights is reward-weighted best-of-k. At T = 0, its limit, only the particles of the highest
    reward keep their weight.

    log_weights  float64 [N], -inf for a dead particle
    rewards      float64 [N], higher is better; NaN for one that could not be judged: its weight is zero, as for the dead
    temperature  T >= 0, in units of the reward
    returns      float64 [N]; all -inf where none that lives was judged
    Source: arXiv 2512.19905, section 2.
    """
    usable = np.isfinite(rewards) & (log_weights > -math.inf)
    if not usable.any():
        return np.full(len(log_weights), -math.inf)
    with np.errstate(over="ignore", invalid="ignore"):
        above = np.where(usable, rewards, -math.inf) - rewards[usable].max()
        tilt = (
            np.where(above == 0.0, 0.0, above / temperature)
            if temperature > 0.0
            else np.where(above == 0.0, 0.0, -math.inf)
        )
    return np.where(usable, log_weights + tilt, -math.inf)
