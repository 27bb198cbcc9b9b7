"""What a token sampler is: one token for a row, with the weight that makes it properly weighted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from grammars.constraint import ConstraintState
from samplers.candidates import Candidates, locate


@dataclass(frozen=True, slots=True)
class Draw:
    """One token and what it cost.

    token       the id; -1 exactly when log_weight is -inf: a dead row has no token, so none can be taken for an EOS
    log_weight  log of w, where E[w * 1{token = x}] = p(x) * 1[x allowed] for every x
    logprob     log p(token); -inf for a dead row
    checks      candidates tested with `accepts`; masks: 1 if a bitmask was computed
    """

    token: int
    log_weight: float
    logprob: float
    checks: int
    masks: int


class TokenSampler(Protocol):
    """Draws one token from a row under a constraint. Stateless: shared by all rows."""

    @property
    def wants_mask(self) -> bool:
        """Whether the row should be masked by `state.bitmask()` before `draw`, where the constraint has one.

        The engine does so for all rows at once; `draw` is then told `masked=True`.
        """

    def draw(self, row: Candidates, state: ConstraintState, masked: bool) -> Draw:
        """Draw one token.

        row     the candidates; already restricted to `state.bitmask()` when masked
        """


def dead(checks: int, masks: int) -> Draw:
    """The draw of a row with no allowed token, or whose check budget has ended."""
    return Draw(-1, -math.inf, -math.inf, checks, masks)


def exact_draw(row: Candidates, checks: int, masks: int) -> Draw:
    """One token of a row in which only allowed tokens remain: x ~ p * 1_A / Z with the weight Z itself."""
    log_z = row.log_remaining
    if log_z == -math.inf:
        return dead(checks, masks)
    token, logprob = row.draw()
    return Draw(token, log_z, logprob, checks, masks)


def choose(row: Candidates, tokens: np.ndarray, log_masses: np.ndarray) -> tuple[int, float]:
    """One of some tokens in proportion to their masses, by one uniform of the row, and the log of the masses' sum.

    tokens, log_masses  [n], n > 0, some mass positive
    returns             index into tokens, log sum
    """
    largest = float(log_masses.max())
    cdf = np.exp(log_masses - largest).cumsum()
    return locate(cdf, row.random() * float(cdf[-1])), largest + math.log(float(cdf[-1]))
