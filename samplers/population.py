"""N weighted particles side by side. Immutable: every step makes a new one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


def log_mean_exp(log_values: np.ndarray) -> float:
    """log of the mean of exp(log_values); -inf when all are.

    log_values  float64 [N], no NaN
    """
    largest = float(log_values.max())
    if largest == -math.inf:
        return -math.inf
    return largest + math.log(float(np.exp(log_values - largest).mean()))


def log_sum_exp(log_values: np.ndarray) -> float:
    """log of the sum of exp(log_values), float64 [N] without NaN; -inf when all are, or there are none."""
    return log_mean_exp(log_values) + math.log(len(log_values)) if len(log_values) else -math.inf


def normalise(log_weights: np.ndarray) -> np.ndarray:
    """Weights that sum to 1; all zero when every particle is dead.

    log_weights  float64 [N], no NaN
    returns      float64 [N]
    """
    largest = float(log_weights.max())
    if largest == -math.inf:
        return np.zeros(len(log_weights))
    weights = np.exp(log_weights - largest)
    return weights / weights.sum()


def effective_sample_size(log_weights: np.ndarray) -> float:
    """(sum w)^2 / sum w^2: N for equal weights, 1 when one particle has it all, 0 when all are dead.

    log_weights  float64 [N], no NaN
    """
    weights = normalise(log_weights)
    squares = float((weights**2).sum())
    return 1.0 / squares if squares > 0.0 else 0.0


@dataclass(frozen=True, eq=False)
class Population:
    """Properly weighted particles, after `step` steps.

    log_weights  float64 [N]  the proper weights, twists not included; -inf is a dead particle
    log_twists   float64 [N]  log of the guess phi(prefix) at the potential to come: it only steers resampling
    """

    log_weights: np.ndarray
    log_twists: np.ndarray
    step: int = 0

    @property
    def num_particles(self) -> int:
        return len(self.log_weights)

    @property
    def weights(self) -> np.ndarray:
        """float64 [N], sum to 1 (or all 0): what answers are weighted with."""
        return normalise(self.log_weights)

    @property
    def twisted(self) -> np.ndarray:
        """float64 [N]: log of w * phi, what resampling goes by."""
        return self.log_weights + self.log_twists

    @property
    def ess(self) -> float:
        """Effective sample size of the proper weights, 0 (all dead) to N."""
        return effective_sample_size(self.log_weights)

    @property
    def log_z(self) -> float:
        """Log of the unbiased estimate of the target's normaliser: the mean weight."""
        return log_mean_exp(self.log_weights)

    @property
    def dead(self) -> np.ndarray:
        """bool [N]"""
        return self.log_weights == -math.inf

    def resample(self, ancestors: np.ndarray, log_masses: np.ndarray | None = None) -> Population:
        """The population of the ancestors' copies, properly weighted.

        Ancestors are drawn in proportion to w * phi. A copy then stands for mean(w * phi) of twisted mass, and the
        twist is taken out of it again: its proper weight is mean(w * phi) / phi(ancestor). Without twists all weights
        become their mean.

        ancestors   int64   [N], of positive w * phi
        log_masses  float64 [N]: what each copy stands for, where that is not the mean: those that stand for some of the
                    particles share the mass of these
        """
        log_twists = self.log_twists[ancestors]
        mass = log_mean_exp(self.twisted) if log_masses is None else log_masses
        return Population(mass - log_twists, log_twists, self.step)
