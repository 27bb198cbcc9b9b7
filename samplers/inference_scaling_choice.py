"""How many samples, at which temperature? A recommendation from the measured curves of a pool, with its uncertainty.

Prompts are the independent units: every interval is a bootstrap over prompts, and every comparison is of the same prompts at
two settings. The recommendation is the cheapest k whose value is behind the best cell's by no more than the standard error of that
difference, at the temperature that is best there: a larger k has to show that it pays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grammars.errors import RequestError
from samplers.inference_scaling_pool import Judged, Law, hard_curve, law, pass_at_k, soft_curves

RESAMPLES = 2000
COVERAGE = 0.95
# Of the largest value: what `soft_curves` may err by.
_CURVE_ERROR = 1e-6


@dataclass(frozen=True, eq=False)
class Curves:
    """One prompt. values float64 [T, K]; passes float64 [K], or None where values are not all 0 or 1; laws [T], None at T = 0."""

    values: np.ndarray
    passes: np.ndarray | None
    laws: list[Law | None]


def curves_of(one: Judged, ks: np.ndarray, temperatures: Sequence[float]) -> Curves:
    """The curves of one prompt, at its normalised rewards.

    ks            int [K], 1 to n
    temperatures  in standard deviations of the prompt's rewards; 0 is the hard rule
    """
    rewards, warm = one.normalised, [t for t in temperatures if t > 0]
    soft = iter(soft_curves(rewards, one.values, ks, warm)) if warm else iter(())
    values = np.stack([next(soft) if t > 0 else hard_curve(rewards, one.values, ks) for t in temperatures])
    binary = bool(np.isin(one.values, (0.0, 1.0)).all())
    return Curves(
        values,
        pass_at_k(one.values, ks) if binary else None,
        [law(rewards, one.values, t) if t > 0 else None for t in temperatures],
    )


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts with its bootstrap interval."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 where the interval is on one side of 0, otherwise 0."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


@dataclass(frozen=True)
class LawCheck:
    """The 1/k law at one temperature, means over prompts.

    rho        median of ρ, 1 to n, over the prompts whose rewards differ: where all are equal k changes nothing
    limit      value for k → ∞; halved: the same at T/2
    halving    halved - limit: of its sign is the change that more samples bring
    k          where prediction and measurement are compared: the first k >= 10ρ, or the middle of the curve where there is none
    reliable   whether k >= 10ρ
    """

    temperature: float
    rho: float
    limit: float
    halved: float
    halving: Estimate
    k: int
    reliable: bool
    predicted: float
    measured: float


@dataclass(frozen=True)
class Recommendation:
    """value, plain: at (k, T) and at k = 1; gain their difference; tokens: mean for a prompt, None where they are not known."""

    k: int
    temperature: float
    value: Estimate
    plain: float
    gain: Estimate
    tokens: float | None
    tokens_per_gain: float | None
    verdict: str


class Calibration:
    """Means, intervals and the choice over all prompts of a pool.

    ks            int [K], ascending from 1
    temperatures  [T], ascending
    prompts       [P], at least 2
    sizes         int [P], candidates of each
    tokens        float64 [P], mean tokens of a candidate; None where they are not known
    rng           for the bootstrap
    """

    def __init__(
        self,
        ks: np.ndarray,
        temperatures: Sequence[float],
        prompts: Sequence[Curves],
        sizes: np.ndarray,
        tokens: np.ndarray | None,
        rng: np.random.Generator,
    ) -> None:
        if len(prompts) < 2:
            raise RequestError(f"{len(prompts)} prompt: at least 2 were wanted, intervals are over prompts")
        self.ks, self.temperatures, self.sizes, self.tokens = ks, tuple(temperatures), sizes, tokens
        self._laws = [one.laws for one in prompts]
        self.values = np.stack([one.values for one in prompts])  # [P, T, K]
        self._error = _CURVE_ERROR * float(np.abs(self.values).max())
        passes = [one.passes for one in prompts]
        self.pass_at_k = None if any(one is None for one in passes) else np.mean(np.stack(passes), axis=0)  # type: ignore[arg-type]
        count = len(prompts)
        self._resampled = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count

    def mean(self, temperature: float) -> np.ndarray:
        """float64 [K]"""
        return self.values[:, self.temperatures.index(temperature)].mean(0)

    def band(self, temperature: float) -> tuple[np.ndarray, np.ndarray]:
        """float64 [K] twice: the interval at every k."""
        low, high = _interval(self._resampled @ self.values[:, self.temperatures.index(temperature)])
        return low, high

    def estimate(self, per_prompt: np.ndarray) -> Estimate:
        """per_prompt  float64 [P]; what is no more than the error of the curves counts as 0"""
        per_prompt = self._told(per_prompt)
        low, high = _interval(self._resampled @ per_prompt)
        return Estimate(float(per_prompt.mean()), float(low), float(high))

    def _told(self, differences: np.ndarray) -> np.ndarray:
        """Those that are more than the error of the curves; 0 for the others."""
        return np.where(np.abs(differences) <= self._error, 0.0, differences)

    def change(self, temperature: float, start: int, stop: int) -> Estimate:
        """How the value changes from k = start to k = stop, both of the curve."""
        row = self.values[:, self.temperatures.index(temperature)]
        return self.estimate(row[:, self._at(stop)] - row[:, self._at(start)])

    def _at(self, k: int) -> int:
        return int(np.flatnonzero(self.ks == k)[0])

    def predicted(self, temperature: float) -> np.ndarray:
        """float64 [K]: the 1/k law at T > 0, mean over prompts."""
        laws = self._laws_at(temperature)
        limits, slopes = np.array([one.limit for one in laws]), np.array([one.slope for one in laws])
        left = (1 / self.ks[:, None] - 1 / self.sizes) * self.sizes / (self.sizes - 1)
        return (limits + slopes * left).mean(1)

    def _laws_at(self, temperature: float) -> list[Law]:
        laws = [one[self.temperatures.index(temperature)] for one in self._laws]
        known = [one for one in laws if one is not None]
        assert len(known) == len(laws), "the hard rule has no such law"
        return known

    def law(self, temperature: float) -> LawCheck:
        """temperature  above 0"""
        laws = self._laws_at(temperature)
        limits, halves = np.array([one.limit for one in laws]), np.array([one.halved for one in laws])
        rho = float(np.median([one.rho for one in laws if one.rho > 1 + 1e-9] or [1.0]))
        enough = self.ks[self.ks >= 10 * rho]
        k = int(enough[0]) if len(enough) else int(self.ks[len(self.ks) // 2])
        at = self._at(k)
        return LawCheck(
            temperature,
            rho,
            float(limits.mean()),
            float(halves.mean()),
            self.estimate(halves - limits),
            k,
            bool(len(enough)),
            float(self.predicted(temperature)[at]),
            float(self.mean(temperature)[at]),
        )

    def recommend(self) -> Recommendation:
        means = self.values.mean(0)  # [T, K]
        top = divmod(int(means.argmax()), means.shape[1])
        best = self.values[:, top[0], top[1]]
        behind = self._told(best[:, None, None] - self.values)
        error = behind.std(0, ddof=1) / math.sqrt(len(behind))
        near = behind.mean(0) <= error + 1e-12
        column = int(np.flatnonzero(near.any(0))[0])
        # At k = 1 every temperature is the same.
        row = int(np.where(near[:, column], means[:, column], -np.inf).argmax()) if self.ks[column] > 1 else 0
        k, temperature = int(self.ks[column]), self.temperatures[row]
        gains = self.values[:, row, column] - self.values[:, row, 0]
        gain = self.estimate(gains)
        each = None if self.tokens is None else float(self.tokens.mean())
        price = None if each is None or k == 1 or gain.mean <= 0 else (k - 1) * each / gain.mean
        return Recommendation(
            k,
            temperature,
            self.estimate(self.values[:, row, column]),
            float(means[row, 0]),
            gain,
            None if each is None else k * each,
            price,
            self._verdict(k, temperature, gain),
        )

    def _verdict(self, k: int, temperature: float, gain: Estimate) -> str:
        """What the curves say, in words."""
        last = int(self.ks[-1])
        coldest = self.temperatures[0]
        peak = int(self.ks[int(self.mean(coldest).argmax())])
        rule = "the highest reward" if coldest == 0 else f"T={coldest:g}"
        if k == 1:
            loss = self.change(coldest, 1, last) if last > 1 else None
            if loss is not None and loss.sign < 0:
                why = "this judge prefers wrong answers" if peak == 1 else "this judge is being over-optimised"
                return f"stop at k=1: more samples hurt. Selection by {rule} among {last} loses {_span(loss)}: {why}."
            return (
                "stop at k=1: no selection by this judge gains more than its own standard error. A pool of more prompts may "
                "show a smaller gain; a better judge a larger one."
            )
        harm = self.change(coldest, peak, last) if peak < last else None
        harmed = harm is not None and harm.sign < 0
        after = self.change(temperature, k, last) if k < last else None
        before = self.change(temperature, int(self.ks[max(len(self.ks) // 2 - 1, 0)]), last)
        at = f"T={temperature:g}"
        if after is not None and after.sign < 0:
            text = f"stop at k={k}, {at}: this judge is being over-optimised, k={last} loses {_span(after)}."
        elif after is None or (before.sign > 0 and 2 * k > last):
            text = f"more samples help: at {at} the value still rises at k={last}, the last measured; it gains {_span(gain)}."
        else:
            text = f"k={k} at {at} is enough: it gains {_span(gain)}, and up to k={last} there is nothing more beyond the error."
        if harmed and temperature > coldest:
            text += f" The temperature matters: {rule} is best at k={peak} and loses {_span(harm)} by k={last}."
        if gain.sign <= 0:
            text += " The gain's interval includes 0: a pool of more prompts is wanted."
        return text


def _span(change: Estimate | None) -> str:
    """A change's size and interval, without its sign."""
    assert change is not None
    low, high = sorted((abs(change.low), abs(change.high))) if change.sign else (change.low, change.high)
    return f"{abs(change.mean):.3f} ({low:.3f} to {high:.3f})"


def _interval(resampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The central COVERAGE of bootstrap means, along the first axis."""
    tail = 100 * (1 - COVERAGE) / 2
    low, high = np.percentile(resampled, [tail, 100 - tail], axis=0)
    return low, high


def typical_spread(pool: Sequence[Judged]) -> float:
    """Median over prompts of the rewards' standard deviation, prompts of constant rewards left out; 0 if all are.

    What turns a temperature of the curves into one in units of the reward: draws yet to come have no standard deviation.
    """
    spreads = [one.spread for one in pool if one.spread > 0]
    return float(np.median(spreads)) if spreads else 0.0


def value_as_used(pool: Sequence[Judged], k: int, select_temperature: float) -> float:
    """Mean over prompts of selection among k at one temperature in units of the reward for all, as `generate` selects."""
    ks = np.array([k])
    if select_temperature == 0.0:
        return float(np.mean([hard_curve(one.rewards, one.values, ks)[0] for one in pool]))
    return float(np.mean([soft_curves(one.rewards, one.values, ks, [select_temperature])[0, 0] for one in pool]))
