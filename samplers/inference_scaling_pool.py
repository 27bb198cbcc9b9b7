"""Best-of-k curves from a stored pool: n judged candidates a prompt say what selection among any k <= n of them gives.

No model call, no assumption on model or reward. Every curve is the exact mean over all k-subsets of the pool, which is an
unbiased estimate of selection among k fresh draws.
    hard   rewards ascending, Σ_i C(i-1, k-1)/C(n, k)·f_(i); tied candidates share their values, as a tie settled by the order
           of the draws does
    soft   the mean over subsets of Σ p_i f_i, with 1/Σw written as ∫du e^{-uΣw}: the mean over subsets is then one of products,
           which a recursion over the candidates gives for all k at once
    pass@k 1 - C(n-c, k)/C(n, k), what a perfect judge would reach
Source: arXiv 2512.19905, section 6; pass@k: Chen et al. (2021), "Evaluating large language models trained on code".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# exp(-e^x) is 0 for x > _EARLY; e^x is 0 beside 1 for x < -_LATE. Trapezoids of this width in log u err by e^(-π²/width).
_EARLY, _LATE, _WIDTH = 4.0, 28.0, 0.5
# Rewards this many temperatures apart leave nothing for chance to do, and the grid no room between floating-point numbers.
_HARD = 1e12
_ROWS = 256  # of a batch: its arrays stay in the processor's cache


@dataclass(frozen=True, eq=False)
class Judged:
    """The candidates of one prompt.

    rewards  float64 [n], n >= 2, finite, as the judge gave them
    values   float64 [n], what a candidate is worth: 1 where it is correct and 0 where not, or any number
    tokens   float64 [n], what each cost; None where that is not known
    """

    prompt: str
    rewards: np.ndarray
    values: np.ndarray
    tokens: np.ndarray | None = None

    @property
    def spread(self) -> float:
        """Standard deviation of the rewards (divisor n); exactly 0 where all are equal."""
        return 0.0 if self.rewards.min() == self.rewards.max() else float(self.rewards.std())

    @property
    def normalised(self) -> np.ndarray:
        """float64 [n]: rewards of mean 0 and standard deviation 1; all 0 where all are equal: selection is then uniform."""
        spread = self.spread
        return np.zeros(len(self.rewards)) if spread == 0.0 else (self.rewards - self.rewards.mean()) / spread


def pass_at_k(values: np.ndarray, ks: np.ndarray) -> np.ndarray:
    """The chance that one of k is correct.

    values   float64 [n], 0 or 1
    ks       int [K], 1 to n
    returns  float64 [K]
    """
    n, wrong = len(values), int((values == 0.0).sum())
    logs = _log_factorials(n)
    possible = ks <= wrong
    k = np.where(possible, ks, 0)
    none = np.exp(logs[wrong] - logs[wrong - k] - logs[n] + logs[n - k])
    return 1.0 - np.where(possible, none, 0.0)


def hard_curve(rewards: np.ndarray, values: np.ndarray, ks: np.ndarray) -> np.ndarray:
    """Mean value of the best of k by reward.

    rewards, values  float64 [n]
    ks               int [K], 1 to n
    returns          float64 [K]
    """
    n = len(rewards)
    _, group = np.unique(rewards, return_inverse=True)
    shared = (np.bincount(group, weights=values) / np.bincount(group))[group]
    ascending = shared[np.argsort(rewards, kind="stable")]
    logs = _log_factorials(n)
    below = np.arange(n)[None, :]  # how many rank lower
    k = np.asarray(ks)[:, None]
    can = below >= k - 1
    low = np.where(can, below, k - 1)
    chance = np.exp(logs[low] - logs[k - 1] - logs[low - k + 1] - logs[n] + logs[k] + logs[n - k])
    return np.where(can, chance, 0.0) @ ascending


def soft_curves(rewards: np.ndarray, values: np.ndarray, ks: np.ndarray, temperatures: Sequence[float]) -> np.ndarray:
    """Mean value of the selected of k, p_i ∝ exp(r_i / T), exact to 1e-7 of the values' range.

    rewards, values  float64 [n]
    ks               int [K], 1 to n
    temperatures     each above 0
    returns          float64 [temperatures, K]
    """
    curves = np.empty((len(temperatures), len(ks)))
    hard = np.array([rewards.max() - rewards.min() > _HARD * temperature for temperature in temperatures], dtype=bool)
    if hard.any():
        curves[hard] = hard_curve(rewards, values, ks)
        if not hard.all():
            curves[~hard] = soft_curves(rewards, values, ks, np.array(temperatures)[~hard].tolist())
        return curves
    lateness = [(rewards.max() - rewards) / temperature for temperature in temperatures]
    grids = [_grid(late) for late in lateness]
    for start, stop in _batches([len(grid) for grid in grids]):
        exponents = [grids[t] - lateness[t][:, None] for t in range(start, stop)]
        arrivals = np.minimum(np.concatenate(exponents, axis=1), _EARLY + 1.0)
        hazard = np.exp(arrivals)
        waiting = np.exp(-hazard)
        selected = _subset_means(waiting, hazard * waiting * values[:, None], int(max(ks)))[ks]
        at = 0
        for t in range(start, stop):
            curves[t] = _WIDTH * selected[:, at : at + len(grids[t])].sum(1)
            at += len(grids[t])
    return curves


def _grid(late: np.ndarray) -> np.ndarray:
    """The multiples of the width at which something can arrive: a window around every candidate's lateness."""
    window = np.arange(-_LATE, _EARLY, _WIDTH)
    steps = np.round(np.unique(np.round(late / _WIDTH))[:, None] + window / _WIDTH)
    return _WIDTH * np.unique(steps)


def _batches(sizes: list[int]) -> Iterator[tuple[int, int]]:
    """Ranges of neighbours of some _ROWS rows together, each at least one."""
    start = 0
    while start < len(sizes):
        stop, rows = start + 1, sizes[start]
        while stop < len(sizes) and rows + sizes[stop] <= _ROWS:
            rows += sizes[stop]
            stop += 1
        yield start, stop
        start = stop


def _subset_means(factors: np.ndarray, picked: np.ndarray, largest: int) -> np.ndarray:
    """Means over all j-subsets S of the n rows of Σ_{i in S} picked_i Π_{l in S, l ≠ i} factors_l.

    factors  float64 [n, U], 0 to 1
    picked   float64 [n, U]
    returns  float64 [largest + 1, U], j from 0
    """
    n, points = factors.shape
    products = np.zeros((largest + 1, points))  # means over subsets of Π factors
    sums = np.zeros((largest + 1, points))
    products[0] = 1.0
    for m in range(n):
        # A j-subset of the first m + 1 has the last of them with chance j / (m + 1).
        top = min(m + 1, largest)
        has = (np.arange(1, top + 1) / (m + 1))[:, None]
        sums[1 : top + 1] = (1 - has) * sums[1 : top + 1] + has * (factors[m] * sums[:top] + picked[m] * products[:top])
        products[1 : top + 1] = (1 - has) * products[1 : top + 1] + has * factors[m] * products[:top]
    return sums


@dataclass(frozen=True)
class Law:
    """What the 1/k law says of one prompt at one temperature, all of it from w = exp(r / T) over the whole pool.

    limit    Σ w f / Σ w, the value for k → ∞
    halved   the same at T/2
    rho      n Σ w² / (Σ w)², from 1 to n: good once k is some 10 of it
    slope    ρ·(limit - halved): value(k) = value(n) + slope·(1/k - 1/n)·n/(n-1) + O(k⁻²)
    """

    limit: float
    halved: float
    rho: float

    @property
    def slope(self) -> float:
        return self.rho * (self.limit - self.halved)


def law(rewards: np.ndarray, values: np.ndarray, temperature: float) -> Law:
    """The 1/k law of a pool: k of n without replacement, hence 1/k - 1/n in place of 1/k.

    rewards, values  float64 [n]
    temperature      above 0
    """
    weights = np.exp((rewards - rewards.max()) / temperature)
    squares = weights**2
    total, total_squares = float(weights.sum()), float(squares.sum())
    return Law(
        float(weights @ values) / total,
        float(squares @ values) / total_squares,
        len(rewards) * total_squares / total**2,
    )


def _log_factorials(n: int) -> np.ndarray:
    """float64 [n + 1]"""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])


def sizes(n: int, most: int | None = None) -> np.ndarray:
    """The k of a curve over n candidates: every one up to 16, then some 8 an octave, n (or `most`) the last.

    returns  int [K], ascending
    """
    last = n if most is None else min(n, most)
    steps = np.round(2.0 ** np.arange(4, math.log2(max(last, 16)) + 1e-9, 0.125)).astype(int)
    ks = np.unique(np.concatenate([np.arange(1, min(last, 16) + 1), steps, [last]]))
    return ks[ks <= last]
