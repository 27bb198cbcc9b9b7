"""The tokens of a row in the order of successive sampling, each tested when it is asked for."""

from __future__ import annotations

import math

import numpy as np

from grammars.constraint import ConstraintState
from samplers.candidates import Candidates
from samplers.randomness import Purpose, uniforms

SINGLES = 16
"""So many candidates are tested one by one; after them, in growing batches."""
_LONGEST_RUN = 512
"""So many are drawn one by one; the rest of the row is then put in order at once."""


class Trials:
    """Draws of a row without replacement, in order, with what the constraint says of each.

    Which token comes i-th, and whether it is accepted, depends on the row's uniforms only: drawing and testing in
    batches saves calls and never changes the law, because a sampler looks at the trials in their order.

    tokens, log_probs  of every draw so far
    log_before         log of the mass untested just before that draw
    """

    __slots__ = ("_masked", "_rest", "_row", "_state", "_verdicts", "log_before", "log_probs", "tokens")

    def __init__(self, row: Candidates, state: ConstraintState, masked: bool) -> None:
        self._row, self._state, self._masked = row, state, masked
        self._verdicts: list[bool] = []
        self._rest: tuple[list[int], list[float], list[float]] | None = None
        self.tokens: list[int] = []
        self.log_probs: list[float] = []
        self.log_before: list[float] = []

    @property
    def checks(self) -> int:
        return len(self._verdicts)

    def exists(self, i: int) -> bool:
        """Whether there is an i-th draw: False when the row was used up before it."""
        while len(self.tokens) <= i:
            if not self._draw():
                return False
        return True

    def accepted(self, i: int) -> bool:
        """Whether the i-th draw, which must exist, is accepted; all that is drawn and untested goes in one call."""
        if i >= len(self._verdicts):
            new = np.array(self.tokens[len(self._verdicts) :], dtype=np.int64)
            self._verdicts += self._state.accepts(new, masked=self._masked).tolist()
        return self._verdicts[i]

    def draw_ahead(self, i: int, limit: int | None) -> None:
        """Before the i-th test of a long search: draw the batch to test with it, 32, 64, 128, ... trials.

        limit  no more trials than this in all; None is no limit
        """
        if i < SINGLES or i < len(self._verdicts):
            return
        upto = 2 * i + SINGLES
        self.exists((upto if limit is None else min(upto, limit)) - 1)

    def keep(self, bitmask: np.ndarray) -> None:
        """From here on draw only inside the bitmask. Only while every draw has been tested and rejected."""
        assert len(self._verdicts) == len(self.tokens) and self._rest is None
        self._row.keep(bitmask)
        self._masked = True

    def _draw(self) -> bool:
        if self._rest is None:
            log_before = self._row.log_remaining
            if log_before == -math.inf:
                return False
            if len(self.tokens) < _LONGEST_RUN:
                token, log_prob = self._row.draw()
                self.tokens.append(token)
                self.log_probs.append(log_prob)
                self.log_before.append(log_before)
                return True
            self._rest = _in_order(self._row)
        tokens, log_probs, log_before_each = self._rest
        at = len(self.tokens) - _LONGEST_RUN
        if at >= len(tokens):
            return False
        self.tokens.append(tokens[at])
        self.log_probs.append(log_probs[at])
        self.log_before.append(log_before_each[at])
        return True


def _in_order(row: Candidates) -> tuple[list[int], list[float], list[float]]:
    """All that remains of a row in the order of successive sampling: tokens, log p, log of the mass from each one on.

    A race: token t arrives at an exponential time of rate p(t). Its uniforms are a stream of their own, keyed by the
    row's next one.
    """
    tokens, log_probs = row.remaining()
    if not len(tokens):
        return [], [], []
    key = np.array([int(row.random() * 2.0**53)], dtype=np.uint64)
    zero = np.zeros(1, dtype=np.int64)
    drawn = 1.0 - uniforms(key, zero, zero, 0, len(tokens), Purpose.RACE)[0]  # (0, 1]
    # Times of u = 1 are 0 and come first, which is right; in logs nothing underflows.
    with np.errstate(divide="ignore"):
        log_times = np.log(-np.log(drawn)) - log_probs
    order = np.argsort(log_times, kind="stable")
    log_probs = log_probs[order]
    log_before = np.logaddexp.accumulate(log_probs[::-1])[::-1]
    return tokens[order].tolist(), log_probs.tolist(), log_before.tolist()
