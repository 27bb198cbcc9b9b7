"""What a rule of selection is, and rules by name: weights by which one of the judged candidates is drawn, or taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from grammars.errors import RequestError
from samplers.named import Named


@dataclass(frozen=True, eq=False)
class Drawn:
    """Candidates with what is known of them.

    texts        [k]
    rewards      float64 [k]; NaN for one that could not be judged, or is dead: no rule selects it
    log_weights  float64 [k], proper weights for p(x)·1[x in C]; -inf for a dead one
    temperature  T >= 0, in units of the reward
    """

    texts: Sequence[str]
    rewards: np.ndarray
    log_weights: np.ndarray
    temperature: float

    @property
    def usable(self) -> np.ndarray:
        """bool [k]: judged and alive."""
        return np.isfinite(self.rewards) & (self.log_weights > -np.inf)

    @property
    def shares(self) -> np.ndarray:
        """float64 [k]: the proper weights of the usable, sum 1 (or all 0); the empirical law of one draw."""
        usable = self.usable
        if not usable.any():
            return np.zeros(len(self.texts))
        weights = np.where(usable, np.exp(self.log_weights - self.log_weights[usable].max()), 0.0)
        return weights / weights.sum()


class Rule(Protocol):
    """Turns rewards into selection weights. Pure."""

    takes_temperature: bool

    def log_weights(self, drawn: Drawn) -> np.ndarray:
        """float64 [k], unnormalised log of the chance that each is selected; -inf for what is not usable."""


_RULES: Named[Rule] = Named("rule", "samplers.rules")
rule = _RULES.register


def rule_names() -> list[str]:
    return _RULES.names()


def rule_of(given: Any) -> Rule:
    """The rule of a name, of {name: options}, or an object with `log_weights`; raises RequestError naming what is wrong."""
    if hasattr(given, "log_weights"):
        found: Rule = given
        return found
    return _RULES.made(given)


def positive(value: Any, what: str, least: float = 0.0) -> float:
    """A finite number above `least`; RequestError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not least < value < float("inf"):
        raise RequestError(f"{what}={value!r:.80}: a finite number above {least:g} was wanted")
    return float(value)
