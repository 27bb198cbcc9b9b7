"""Best-of-Poisson: the best of a random number of draws, close to the optimal tilt for its KL with one number to choose."""

from __future__ import annotations

import numpy as np

from samplers.rule import Drawn, positive, rule


@rule("best_of_poisson")
class BestOfPoisson:
    """The highest reward of n = 1 + Poisson(mean) draws from the candidates' empirical law, averaged over n exactly.

    With F the share of draws that are no better, the best of n is no better with chance F^n, and E F^n = F·exp(mean·(F - 1)).
    Candidates of equal reward share what falls to them by their weights.

    mean  above 0: of the draws beside the first; near 0 leaves the draws as they are
    Source: Khalaf et al. (2025), "Inference-time reward hacking in large language models", arXiv 2506.19248, section 3.
    """

    takes_temperature = False

    def __init__(self, mean: float) -> None:
        self._mean = positive(mean, "rule best_of_poisson: mean")

    def log_weights(self, drawn: Drawn) -> np.ndarray:
        shares, usable = drawn.shares, drawn.usable
        weights = np.zeros(len(shares))
        if usable.any():
            _, group = np.unique(drawn.rewards[usable], return_inverse=True)
            masses = np.bincount(group, weights=shares[usable])
            no_better = np.minimum(masses.cumsum(), 1.0)
            no_better[-1] = 1.0
            chances = np.diff(no_better * np.exp(self._mean * (no_better - 1.0)), prepend=0.0)
            weights[usable] = shares[usable] * (chances / masses)[group]
        with np.errstate(divide="ignore"):
            return np.log(weights)
