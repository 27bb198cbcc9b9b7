"""What a token sampler is: one token for a row, with the weight that makes it properly weighted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from grammars.constraint import ConstraintState
from samplers.candidates import Candidates


@dataclass(frozen=True, slots=True)
class Draw:
    """One token and what it cost.

    token       the id; with log_weight = -inf a *rejected* token (never EOS), or -1 if the row had none
    log_weight  log of w, where E[w * 1{token = x}] = p(x) * 1[x allowed] for every x
    logprob     log p(token)
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
