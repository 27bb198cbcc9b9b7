"""The solvable model averaged over questions: Θ(1/k²) for easy tasks, a slower power for hard ones.

Over x the pair (Δ_T, Δ_R) is Gaussian with mean zero, s² the same for all. Where the reward is the teacher and
a² = E_g/s², the hard rule's excess error is π s²/√(1-2a²)/k² for a² < ½. Above ½ the mean of e^{Δ²/s²} is infinite: questions
with |Δ| > s√(2 log k) are still as wrong as without selection, and they are k^(-1/a²) of all.
Source: arXiv 2512.19905, section 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from samplers.inference_scaling_quadrature import selected_moments

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)
_TAIL, _PANEL = 9.0, 1.5


@dataclass(frozen=True)
class Field:
    """Many questions of one spread.

    s2       s², the variance of the posterior predictive
    var_t    E Δ_T² = E_g
    var_d    E D², D = Δ_T - Δ_R: 0 where the reward is the teacher
    cov_td   E Δ_T·D
    """

    s2: float
    var_t: float
    var_d: float = 0.0
    cov_td: float = 0.0

    @property
    def var_r(self) -> float:
        """E Δ_R²"""
        return self.var_t + self.var_d - 2 * self.cov_td

    @property
    def a2(self) -> float:
        """a² = E Δ_R²/s², the difficulty: below ½ more samples help as 1/k²."""
        return self.var_r / self.s2


def averaged_error(field: Field, ks: Sequence[int] | np.ndarray, temperature: float) -> np.ndarray:
    """E over questions of δ(k, T), exact up to quadrature.

    Given Δ_R, D is Gaussian and enters δ = D² + 2D·E e + E e² as a polynomial: one integral over Δ_R is left.

    ks       int [K]
    returns  float64 [K]
    """
    s, spread = math.sqrt(field.s2), math.sqrt(field.var_r)
    if spread == 0.0:
        first, second = selected_moments(0.0, s, ks, temperature)
        return field.var_d + second
    slope = (field.cov_td - field.var_d) / field.var_r  # E[D | Δ_R] = slope·Δ_R
    edges = np.arange(0.0, _TAIL + _PANEL / 2, _PANEL)
    z = (edges[:-1, None] + _PANEL / 2 * (1 + _NODES)).ravel()
    mass = 2 * np.tile(_PANEL / 2 * _WEIGHTS, len(edges) - 1) * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    total = np.zeros(len(ks))
    for point, weight in zip(z, mass):  # even in Δ_R: half the line will do
        first, second = selected_moments(spread * float(point), s, ks, temperature)
        total += weight * (2 * slope * spread * point * first + second)
    return field.var_d + total


def cold_average_coefficient(field: Field) -> float:
    """What k²·(E δ(k, 0) - E D²) goes to: π(s² + 2E[Δ_R D]/(1-2a²))/√(1-2a²), π s²/√(1-2a²) with the teacher as reward.

    Infinite at a² >= ½: the decay is slower than 1/k² there.
    """
    left = 1 - 2 * field.a2
    if left <= 0.0:
        return math.inf
    return math.pi * (field.s2 + 2 * (field.cov_td - field.var_d) / left) / math.sqrt(left)


def cold_exponent(field: Field) -> float:
    """The power of k by which the excess error of the hard rule falls: 2 up to a² = ½, then 1/a², logarithms aside."""
    return 2.0 if field.a2 <= 0.5 else 1 / field.a2
