"""Bayesian linear regression, where the solvable model is exact: its deterministic equivalents, and the model itself.

    n lines y = w_T·x/√d + σε, x ~ N(0, 1_d);  prior w ~ N(0, γ² 1_d);  α = d/n;  R_h = dσ²/(nγ²)
    posterior predictive at a new x: N(m(x), s²(x)), of which k draws are taken
    the reward's teacher w_R may differ from w_T
For d, n → ∞ the spread s² does not depend on x any more, and (Δ_T, Δ_R) is Gaussian over x.
Source: arXiv 2512.19905, section 4; the ridge equivalents are those of Hastie et al. (2022), "Surprises in high-dimensional
ridgeless least squares interpolation".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from samplers.inference_scaling_average import Field


@dataclass(frozen=True)
class Regression:
    """d dimensions, n lines, noise σ, prior width γ; |w_T|²/d, |w_R - w_T|²/d and w_T·(w_R - w_T)/d."""

    d: int
    n: int
    sigma: float
    gamma: float = 1.0
    teacher: float = 1.0
    reward_gap: float = 0.0
    reward_overlap: float = 0.0

    @property
    def alpha(self) -> float:
        return self.d / self.n

    @property
    def ridge(self) -> float:
        """R_h, the ridge of the posterior mean."""
        return self.d * self.sigma**2 / (self.n * self.gamma**2)

    @property
    def effective_ridge(self) -> float:
        """R = ½[α + R_h - 1 + √((α + R_h - 1)² + 4R_h)]"""
        b = self.alpha + self.ridge - 1
        return (b + math.sqrt(b * b + 4 * self.ridge)) / 2

    @property
    def s2(self) -> float:
        """s² = σ² + γ²R/(1+R), the variance of the posterior predictive."""
        r = self.effective_ridge
        return self.sigma**2 + self.gamma**2 * r / (1 + r)

    @property
    def generalisation(self) -> float:
        """E_g, the mean of Δ_T²: [R²|w_T|²/d/(1+R)² + σ²df₂/n] / (1 - df₂/n), df₂/n = α/(1+R)²"""
        r = self.effective_ridge
        df2 = self.alpha / (1 + r) ** 2
        return ((r / (1 + r)) ** 2 * self.teacher + self.sigma**2 * df2) / (1 - df2)

    @property
    def field(self) -> Field:
        """The law of (Δ_T, Δ_R) over x. The mean of the posterior is shrunk: E m = y_T/(1+R), which D correlates with."""
        r = self.effective_ridge
        return Field(self.s2, self.generalisation, self.reward_gap, -r / (1 + r) * self.reward_overlap)


def simulated_errors(
    model: Regression,
    ks: Sequence[int],
    temperature: float,
    rng: np.random.Generator,
    *,
    data_sets: int,
    points: int,
) -> np.ndarray:
    """Monte Carlo of the regression itself: data are drawn, fitted, k answers drawn at each new x, one selected.

    points   new x for every data set
    returns  float64 [data_sets, K]: the mean selected error of each data set; data sets are independent
    """
    d, n, largest = model.d, model.n, max(ks)
    w_t = rng.standard_normal(d)
    w_t *= math.sqrt(d * model.teacher) / np.linalg.norm(w_t)
    w_r = w_t + _offset(model, w_t, rng)
    errors = np.empty((data_sets, len(ks)))
    for row in errors:
        x = rng.standard_normal((n, d)) / math.sqrt(d)
        y = x @ w_t + model.sigma * rng.standard_normal(n)
        precision = x.T @ x / model.sigma**2 + np.eye(d) / model.gamma**2
        new = rng.standard_normal((points, d)) / math.sqrt(d)
        solved = np.linalg.solve(precision, np.column_stack([x.T @ y / model.sigma**2, new.T]))
        mean, s2 = new @ solved[:, 0], model.sigma**2 + np.einsum("pd,dp->p", new, solved[:, 1:])
        draws = mean[:, None] + np.sqrt(s2)[:, None] * rng.standard_normal((points, largest))
        rewards, wrong = -((draws - (new @ w_r)[:, None]) ** 2), (draws - (new @ w_t)[:, None]) ** 2
        for j, k in enumerate(ks):
            row[j] = _selected(rewards[:, :k], wrong[:, :k], temperature).mean()
    return errors


def _offset(model: Regression, w_t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """w_R - w_T of the wanted length and overlap with w_T."""
    along = model.reward_overlap / model.teacher * w_t
    rest = model.d * model.reward_gap - along @ along
    assert rest >= -1e-9 * model.d, "reward_overlap² <= reward_gap·teacher"
    across = rng.standard_normal(model.d)
    across -= (across @ w_t) / (w_t @ w_t) * w_t
    return along + across * math.sqrt(max(float(rest), 0.0)) / np.linalg.norm(across)


def _selected(rewards: np.ndarray, errors: np.ndarray, temperature: float) -> np.ndarray:
    """Σ p_i f_i at every point: the mean over the selection, which needs no draw.

    rewards, errors  float64 [points, k]
    returns          float64 [points]
    """
    above = rewards - rewards.max(1, keepdims=True)
    weights = np.exp(above / temperature) if temperature > 0.0 else (above == 0.0).astype(np.float64)
    return (weights * errors).sum(1) / weights.sum(1)
