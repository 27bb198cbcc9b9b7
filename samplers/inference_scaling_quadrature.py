"""Moments of the selected draw by quadrature: exact at every k and T, T = 0 among them.

With w = exp(-e²/T), e = y - y_R ~ N(Δ_R, s²), and 1/Σw written as an integral over u,

    E Σ_i p_i g(e_i) = k ∫₀^∞ du E[g w e^{-uw}] (E e^{-uw})^{k-1}

In log u = v and c = e²/T it reads: candidate i arrives at v_i = c_i + log(an exponential), and the first to arrive is
selected. So it is the hard rule with noise of width 1 in v, and the grids follow that noise:
    over v  panels of width 2 where the noise matters, growing in proportion to |e| beyond
    over e  for each v only the band in which e^{-uw} is neither 0 nor 1; the mass on either side is known in closed form
All weights are relative to the largest possible one, w = 1 at e = 0.
Source: arXiv 2512.19905, appendix; the arrival times are the Gumbel trick of Yellott (1977).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)
_INNER, _INNER_WEIGHTS = np.polynomial.legendre.leggauss(64)
# exp(-e^{v-c}) is 0 up to c = v - _EARLY and 1 from c = v + _LATE, both far below float64's last digit.
_EARLY, _MIDDLE, _LATE = 4.0, 6.0, 45.0
_TAIL = 13.0  # standard deviations: mass beyond is 1e-38
_erf = np.vectorize(math.erf, otypes=[np.float64])


def selected_moments(
    delta_r: float, s: float, ks: Sequence[int] | np.ndarray, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """E e and E e² of the selected e = y - y_R, y ~ N(y_R + Δ_R, s²), p_i ∝ exp(-e_i²/T).

    Relative error some 1e-16·(|Δ_R|/s + 13)²·s²/T, at most 1e-9 for T > 1e-3 s² and |Δ_R| < 30 s; 1e-12 at T = 0.

    ks       int [K], each at least 1
    returns  float64 [K] and float64 [K]
    """
    ks = np.asarray(ks)
    assert ks.ndim == 1 and (ks >= 1).all() and s > 0 and 0 <= temperature < math.inf
    ratio, scaled = delta_r / s, temperature / s**2
    first, second = _cold(ratio, ks) if temperature == 0.0 else _warm(ratio, ks, scaled)
    return s * first, s * s * second


def _cold(delta: float, ks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At T = 0 the nearest to y_R is selected: k ∫ g(e) φ(e) P(|e'| > |e|)^{k-1} de, in units of s."""
    far, near = abs(delta) + _TAIL, max(0.0, abs(delta) - _TAIL)
    # The selected |e| is near the (1/k)-quantile of |e|, however small: panels grow in proportion to it.
    edges = _growing(near, far, start=near + min(1e-9, far / (1e3 * float(ks.max()))), widest=0.25)
    e, weights = _panels(edges)
    below = _mass_within(e, delta)
    with np.errstate(divide="ignore"):
        log_survival = np.log1p(-np.minimum(below, 1.0))
    plus, minus = _density(e - delta), _density(e + delta)
    density = ks[:, None] * np.exp(_times(ks - 1, log_survival)) * weights
    return density @ (e * (plus - minus)), density @ (e**2 * (plus + minus))


def _warm(delta: float, ks: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """At T > 0, in units of s and s²."""
    far, near = abs(delta) + _TAIL, max(0.0, abs(delta) - _TAIL)
    root = math.sqrt(temperature)
    last = far**2 / temperature + _EARLY
    first = near**2 / temperature - _LATE - math.log(float(ks.max()))
    fine = min(last, max(first, 0.0) + 64.0)
    edges = np.linspace(first, fine, max(2, math.ceil((fine - first) / 2) + 1))
    if last > fine:
        # Beyond the noise what matters is |e| = sqrt(T v).
        beyond = _growing(root * math.sqrt(fine), far * 1.0001 + root * 2, root * math.sqrt(fine) * 1.15, widest=0.25)
        edges = np.concatenate([edges, np.maximum(beyond[1:] ** 2 / temperature, edges[-1])])
    v, weights = _panels(edges)

    def at(c: np.ndarray) -> np.ndarray:
        return np.clip(root * np.sqrt(np.maximum(c, 0.0)), near, far)

    low, middle, high = at(v - _EARLY), at(v + _MIDDLE), at(v + _LATE)
    arrived = _mass_within(low, delta)  # P(arrival <= v)
    rate_first, rate_second = np.zeros_like(v), np.zeros_like(v)
    for start, end in ((low, middle), (middle, high)):
        half = (end - start)[:, None] / 2
        e = start[:, None] + half * (1 + _INNER)
        lateness = np.minimum(v[:, None] - e**2 / temperature, _EARLY + 1.0)
        hazard = np.exp(lateness)
        plus, minus = _density(e - delta), _density(e + delta)
        arrived = arrived - ((plus + minus) * np.expm1(-hazard) * half) @ _INNER_WEIGHTS
        now = hazard * np.exp(-hazard) * half
        rate_first += (e * (plus - minus) * now) @ _INNER_WEIGHTS
        rate_second += (e**2 * (plus + minus) * now) @ _INNER_WEIGHTS
    with np.errstate(divide="ignore"):
        log_waiting = np.log1p(-np.clip(arrived, 0.0, 1.0))
    density = ks[:, None] * np.exp(_times(ks - 1, log_waiting)) * weights
    return density @ rate_first, density @ rate_second


def _times(counts: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """float64 [K, U]: count times log, 0 times -inf being 0."""
    finite = np.maximum(logs, -1e300)
    return counts[:, None] * finite


def _mass_within(e: np.ndarray, delta: float) -> np.ndarray:
    """P(|N(delta, 1)| <= e)"""
    return (_erf((e - delta) / math.sqrt(2)) + _erf((e + delta) / math.sqrt(2))) / 2


def _density(x: np.ndarray) -> np.ndarray:
    return np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def _growing(low: float, high: float, start: float, widest: float) -> np.ndarray:
    """Edges of panels from low to high whose widths grow by a quarter from start - low to `widest`."""
    edges, width = [low, min(start, high)], start - low
    while edges[-1] < high:
        width = min(1.25 * width, widest)
        edges.append(min(edges[-1] + width, high))
    return np.array(edges)


def _panels(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss-Legendre quadrature on every panel.

    returns  float64 [12·panels] twice
    """
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (1 + _NODES)).ravel(), (half * _WEIGHTS).ravel()
