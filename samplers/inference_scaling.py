"""Reward-weighted best-of-k on one question of a solvable model: how does the error fall with k, and at what temperature?

    y ~ N(m, s²)       a draw of the model: the posterior predictive of Bayesian linear regression
    r = -(y - y_R)²    its reward;   (y - y_T)²  its error, y_T the noiseless teacher
    p_i ∝ exp(r_i / T) selects one of k draws;   δ(k, T) = E Σ p_i (y_i - y_T)²
Only Δ_T = m - y_T, Δ_R = m - y_R, s and t = T / (2s²) matter; D = Δ_T - Δ_R = y_R - y_T. The selected e = y - y_R does not
hear of the teacher, so that δ = D² + 2D·E e + E e²: two moments say it all.
Source: arXiv 2512.19905, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from samplers.inference_scaling_quadrature import selected_moments


@dataclass(frozen=True)
class Question:
    """One test point: how far the model's mean is from the teacher and from the reward's target, and its spread."""

    delta_t: float
    delta_r: float
    s: float = 1.0

    def __post_init__(self) -> None:
        assert all(map(math.isfinite, (self.delta_t, self.delta_r, self.s))) and self.s > 0.0, self

    @property
    def d(self) -> float:
        """D = y_R - y_T, how far the reward's target is from the teacher."""
        return self.delta_t - self.delta_r

    def t(self, temperature: float) -> float:
        """The dimensionless temperature T / (2s²)."""
        return temperature / (2 * self.s**2)


def exact_error(question: Question, ks: Sequence[int] | np.ndarray, temperature: float) -> np.ndarray:
    """δ(k, T) for every k, T >= 0: no expansion; `selected_moments` says how precise.

    ks       int [K], each at least 1
    returns  float64 [K]
    """
    first, second = selected_moments(question.delta_r, question.s, ks, temperature)
    return question.d**2 + 2 * question.d * first + second


def limit_error(question: Question, temperature: float) -> float:
    """δ(∞, T) = (Δ_T - Δ_R/(1+t))² + s²·t/(1+t); at T = ∞ the error of a plain draw, Δ_T² + s²."""
    if temperature == math.inf:
        return question.delta_t**2 + question.s**2
    t = question.t(temperature)
    return (question.delta_t - question.delta_r / (1 + t)) ** 2 + question.s**2 * t / (1 + t)


def hot_error(question: Question, ks: Sequence[int] | np.ndarray, temperature: float) -> np.ndarray:
    """δ(k, T) up to O(t⁻³), for T well above 2s².

    ks       int [K]
    returns  float64 [K]
    """
    k, t = np.asarray(ks, dtype=np.float64), question.t(temperature)
    s2, d_t, d_r = question.s**2, question.delta_t, question.delta_r
    first = (1 - 1 / k) * (s2 + 2 * d_t * d_r)
    second = (1 - 1 / k) * (1 - 2 / k) * (s2 + d_r * (2 * d_t + d_r))
    return d_t**2 + s2 - first / t + second / t**2


def cold_error(question: Question, ks: Sequence[int] | np.ndarray) -> np.ndarray:
    """δ(k, 0) up to O(k⁻⁴): D² + π e^{Δ_R²/s²}(s² + 2Δ_R D) / [(k+1)(k+2)].

    ks       int [K]
    returns  float64 [K]
    """
    k = np.asarray(ks, dtype=np.float64)
    return question.d**2 + cold_coefficient(question) / ((k + 1) * (k + 2))


def cold_coefficient(question: Question) -> float:
    """π e^{Δ_R²/s²}(s² + 2Δ_R D), what k² times the hard rule's excess error goes to; π s² e^{Δ_T²/s²} where y_R = y_T."""
    s2 = question.s**2
    return math.pi * math.exp(question.delta_r**2 / s2) * (s2 + 2 * question.delta_r * question.d)


def rho(question: Question, temperature: float) -> float:
    """E w² / (E w)² >= 1 of w = exp(r / T), T > 0: how many draws are worth one of the target. Overflows to inf as T → 0."""
    t = question.t(temperature)
    tilt = (question.delta_r / question.s) ** 2 / ((1 + t) * (2 + t))
    return (1 + t) / math.sqrt(t * (2 + t)) * math.exp(tilt) if tilt < 700 else math.inf


def one_over_k_error(question: Question, ks: Sequence[int] | np.ndarray, temperature: float) -> np.ndarray:
    """δ_∞(T) + (ρ/k)[δ_∞(T) - δ_∞(T/2)], up to O(k⁻²): good once k is some 10ρ. T > 0.

    ks       int [K]
    returns  float64 [K]
    """
    here, halved = limit_error(question, temperature), limit_error(question, temperature / 2)
    return here + rho(question, temperature) / np.asarray(ks, dtype=np.float64) * (here - halved)


def best_limit_temperature(question: Question) -> float:
    """The T that minimises δ(∞, T), from 0 to ∞.

    In q = 1/(1+t) the error is a parabola, (Δ_T - Δ_R q)² + s²(1 - q), whose vertex is q* = (s² + 2Δ_TΔ_R) / (2Δ_R²).
    """
    s2, lift = question.s**2, question.s**2 + 2 * question.delta_t * question.delta_r
    if lift <= 0.0:
        return math.inf
    q = lift / (2 * question.delta_r**2) if question.delta_r != 0.0 else math.inf
    return 0.0 if q >= 1.0 else 2 * s2 * (1 / q - 1)


def best_temperature(question: Question, k: int, relative: float = 1e-4) -> float:
    """The T that minimises δ(k, T), from 0 to ∞; T = ∞, a plain draw, where no selection helps.

    relative  precision of T
    """
    assert k >= 1
    plain = limit_error(question, math.inf)
    if k == 1:
        return math.inf

    def error(log_t: float) -> float:
        return float(exact_error(question, [k], 2 * question.s**2 * math.exp(log_t))[0])

    # δ is smooth in log t and flat at both ends: a coarse grid finds the valley, golden section its floor.
    grid = np.linspace(-12.0, 12.0, 25)
    errors = np.array([error(x) for x in grid])
    at = int(errors.argmin())
    cold = float(exact_error(question, [k], 0.0)[0])
    if at == 0:
        return 0.0 if cold <= errors[0] else 2 * question.s**2 * math.exp(float(grid[0]))
    if at == len(grid) - 1:
        return math.inf
    low, high = float(grid[at - 1]), float(grid[at + 1])
    ratio = (math.sqrt(5) - 1) / 2
    while high - low > relative:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if error(left) < error(right):
            high = right
        else:
            low = left
    middle = (low + high) / 2
    floor = min(error(middle), cold, plain)
    return 0.0 if floor == cold else math.inf if floor == plain else 2 * question.s**2 * math.exp(middle)


def best_k(question: Question, temperature: float, k_max: int) -> int:
    """The k from 1 to k_max that minimises δ(k, T); the smallest of those that do, up to 1e-9 of the error."""
    errors = exact_error(question, np.arange(1, k_max + 1), temperature)
    return int(np.flatnonzero(errors <= errors.min() + 1e-9 * errors[0])[0]) + 1
