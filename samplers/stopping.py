"""When have enough candidates been drawn? Decisions between two waves, from what is there so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from grammars.errors import RequestError
from samplers.named import made_with, name_and_options
from samplers.population import normalise
from samplers.rule import Drawn, Rule, positive
from samplers.selection import weighted_vote

_MOST_ROUNDS = 400


class Stop(Protocol):
    """Says when to stop. Pure."""

    needs_rewards: bool

    def enough(self, drawn: Drawn, rule: Rule, wave: int) -> bool:
        """Whether another wave of so many draws is not worth it."""


@dataclass(frozen=True)
class VoteStop:
    """Stop once the leading answer is ahead of the second for good: P(share of the two > ½) > confidence.

    The share has the posterior Beta(v₁ + 1, v₂ + 1), v the votes of the two: shares of the selection weights times their
    effective number.

    confidence  above ½, below 1
    extract     text -> its answer, something to hash; None abstains
    Source: Aggarwal et al. (2023), "Let's sample step by step: adaptive-consistency", arXiv 2305.11860.
    """

    confidence: float = 0.95
    extract: Callable[[str], Hashable | None] = str
    needs_rewards = False

    def __post_init__(self) -> None:
        confidence = self.confidence
        if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0.5 < confidence < 1.0:
            raise RequestError(f"until vote: confidence={confidence!r:.80}: a number between 0.5 and 1 was wanted")
        if not callable(self.extract):
            raise RequestError(f"until vote: extract={self.extract!r:.80}: a function of a text was wanted")

    def enough(self, drawn: Drawn, rule: Rule, wave: int) -> bool:
        shares = _law(drawn, rule)
        answers = [self.extract(text) if share > 0.0 else None for text, share in zip(drawn.texts, shares, strict=True)]
        given = np.array([answer is not None for answer in answers]) & (shares > 0.0)
        if not given.any():
            return False
        # Those that abstain are no votes.
        number = 1.0 / float(((shares[given] / shares[given].sum()) ** 2).sum())
        first, second = [*weighted_vote(shares, answers).values(), 0.0][:2]
        return beta_above_half(number * first + 1.0, number * second + 1.0) > self.confidence


@dataclass(frozen=True)
class ImprovementStop:
    """Stop once another wave is expected to raise the highest reward by no more than min_gain.

    Without `highest` the next reward has Student's predictive law given those so far (normal, mean and spread unknown), and at
    least three must be there. With it, the largest reward there can be, the next draw gains at most (highest - best)/(n + 1) in
    the mean, whatever the law: what rewards of few values, such as a verifier's 0 and 1, need.

    min_gain  at least 0, in units of the reward: what a wave costs
    """

    min_gain: float = 0.0
    highest: float | None = None
    needs_rewards = True

    def __post_init__(self) -> None:
        positive(self.min_gain, "until improvement: min_gain", least=-1e-300)
        if self.highest is not None and not (
            isinstance(self.highest, int | float) and not isinstance(self.highest, bool) and math.isfinite(self.highest)
        ):
            raise RequestError(f"until improvement: highest={self.highest!r:.80}: a finite number was wanted")

    def enough(self, drawn: Drawn, rule: Rule, wave: int) -> bool:
        usable = drawn.usable
        if not usable.any():
            return False
        rewards, shares = drawn.rewards[usable], drawn.shares[usable]
        number, best = 1.0 / float((shares**2).sum()), float(rewards.max())
        if self.highest is not None:
            return wave * max(self.highest - best, 0.0) / (number + 1.0) <= self.min_gain
        if number < 3.0 - 1e-9:
            return False
        mean = float(shares @ rewards)
        spread = math.sqrt(float(shares @ (rewards - mean) ** 2) * number / (number - 1.0))
        return wave * expected_improvement(best, mean, spread, number) <= self.min_gain


def expected_improvement(best: float, mean: float, spread: float, number: float) -> float:
    """E max(0, r - best) for the next of `number` >= 3 normal draws of that mean and standard deviation.

    r is mean + spread·√(1 + 1/n)·t with n - 1 degrees of freedom ν, and E max(0, t - z) = (ν + z²)/(ν - 1)·f(z) - z·P(t > z).
    """
    scale, freedom = spread * math.sqrt(1.0 + 1.0 / number), number - 1.0
    if scale == 0.0:
        return max(mean - best, 0.0)
    z = (best - mean) / scale
    log_density = (
        math.lgamma((freedom + 1) / 2)
        - math.lgamma(freedom / 2)
        - 0.5 * math.log(freedom * math.pi)
        - (freedom + 1) / 2 * math.log1p(z * z / freedom)
    )
    tail = 0.5 * incomplete_beta(freedom / 2, 0.5, freedom / (freedom + z * z))
    above = tail if z >= 0.0 else 1.0 - tail
    return scale * max((freedom + z * z) / (freedom - 1.0) * math.exp(log_density) - z * above, 0.0)


def beta_above_half(a: float, b: float) -> float:
    """P(θ > ½) for θ ~ Beta(a, b)."""
    return incomplete_beta(b, a, 0.5)


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), a and b above 0, x from 0 to 1, to 1e-12.

    Source: the continued fraction DLMF 8.17.22, by the modified algorithm of Lentz.
    """
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - incomplete_beta(b, a, 1.0 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    ) / a  # fmt: skip
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1.0))
    fraction = d
    for m in range(1, _MOST_ROUNDS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / (1.0 + term * d)
            c = 1.0 + term / c
            fraction *= c * d
        if abs(c * d - 1.0) < 1e-14:
            break
    return front * fraction


def _law(drawn: Drawn, rule: Rule) -> np.ndarray:
    """float64 [k]: the selection weights, sum 1 (or all 0); the proper weights where there are no rewards."""
    return normalise(drawn.log_weights if np.isnan(drawn.rewards).all() else rule.log_weights(drawn))


_STOPS: dict[str, Callable[..., Stop]] = {"vote": VoteStop, "improvement": ImprovementStop}


def stop_of(given: Any) -> Stop:
    """What `until=` stands for: a name, {name: options}, or an object with `enough`. Raises RequestError."""
    if hasattr(given, "enough"):
        found: Stop = given
        return found
    parts = name_and_options(given)
    if parts is None or parts[0] not in _STOPS:
        raise RequestError(f"until={given!r:.80}: one of {', '.join(_STOPS)} was wanted, or {{name: options}}")
    name, options = parts
    return made_with(_STOPS[name], options, f"until {name!r}")
