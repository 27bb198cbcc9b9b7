"""Adaptive weighted rejection sampling: test tokens as they are drawn, estimate the allowed mass from a few more."""

from __future__ import annotations

import math
from dataclasses import dataclass

from grammars.constraint import ConstraintState
from samplers.candidates import Candidates
from samplers.token_sampler import Draw, dead, exact_draw
from samplers.token_samplers.options import check_count, check_share
from samplers.trials import SINGLES, Trials


@dataclass(frozen=True)
class LookAheadSampler:
    """Draw without replacement until a token x is accepted, then test the next m draws of the same order in one batch.

        weight = a + U * 1[extra m is allowed]      a  allowed mass among x and extras 1 .. m-1
                                                    U  mass untested before extra m

    extra         m, at most. 1 is recursive AWRS: weight 1-R or p(x), R being the mass rejected before x. All of
                  them: the masked sampler.
    negligible    stop adding extras once U <= negligible * (mass untested before x): the last extra then decides
                  about little
    switch_after  after so many rejects take the constraint's bitmask, where it has one; None never does
    max_checks    give up after so many tests without an accept: the row dies. This biases the estimate, downwards and
                  only where it happens; None (the default) searches the whole row, which the forced token that p
                  gives 1e-7 needs

    Why it is unbiased. Let h be the rejects so far. All of A is untested still, so an accept in this state is x with
    probability p(x)/Z, whatever h is: x ~ p * 1_A / Z independently of h. It is left to see that E[w | h, x] = Z.
    Given the verdicts up to extra m-1, extra m is drawn from the untested mass U in proportion to p, so U *
    1[allowed] is the allowed part of U on average, and a is the rest of Z. This holds for every m that is decided on
    before extra m is drawn, hence for `negligible`. And it holds when the mask replaces the search after some
    rejects: the mass that remains inside an exact mask *is* Z, since no allowed token has been drawn, so x ~ p * 1_A
    / Z with w = Z. If the mask is a superset the search goes on inside it, with the tokens outside as further rejects
    of h. If the row ends before extra m, everything has been tested and w = a = Z.

    Sources: arXiv 2504.05410 (recursive AWRS); Raj (1956) for the ordered estimator that look-ahead is.
    """

    extra: int = 1
    negligible: float = 0.0
    switch_after: int | None = SINGLES
    max_checks: int | None = None

    def __post_init__(self) -> None:
        check_count("extra", self.extra, least=1)
        check_share("negligible", self.negligible)
        check_count("switch_after", self.switch_after, least=0, optional=True)
        check_count("max_checks", self.max_checks, least=1, optional=True)

    @property
    def wants_mask(self) -> bool:
        return False

    def draw(self, row: Candidates, state: ConstraintState, masked: bool) -> Draw:
        masks = int(masked)
        if masked and state.mask_is_exact:
            return exact_draw(row, 0, masks)
        trials = Trials(row, state, masked)
        if (masked or self.switch_after is None or self.switch_after > 1) and self.max_checks != 1:
            # Whatever the first verdict is, a second token is tested: both go in one call.
            trials.exists(1)
        i = 0
        while True:
            if i == self.switch_after and not masked:
                bitmask = state.bitmask()
                if bitmask is not None:
                    trials.keep(bitmask)
                    masked, masks = True, 1
                    if state.mask_is_exact:
                        return exact_draw(row, trials.checks, masks)
            if i == self.max_checks or not trials.exists(i):
                return dead(trials.checks, masks)
            # Nothing may be drawn ahead over the point of the switch.
            if masked or self.switch_after is None or i >= self.switch_after:
                trials.draw_ahead(i, self.max_checks)
            if trials.accepted(i):
                break
            i += 1
        log_weight = self._log_weight(trials, i)
        return Draw(trials.tokens[i], log_weight, trials.log_probs[i], trials.checks, masks)

    def _log_weight(self, trials: Trials, i: int) -> float:
        """log of a + U * 1[extra m is allowed], for the first accept at trial i."""
        j = i + 1
        if not trials.exists(j):
            return trials.log_probs[i]
        few = trials.log_before[i] + (math.log(self.negligible) if self.negligible else -math.inf)
        while j - i < self.extra and trials.log_before[j] > few and trials.exists(j + 1):
            j += 1
        # If the row ended with extra j, then U is p of that extra, and the formula gives the exact sum.
        masses = [trials.log_probs[i]]
        if trials.accepted(j):
            masses.append(trials.log_before[j])
        masses += [trials.log_probs[e] for e in range(i + 1, j) if trials.accepted(e)]
        return _log_sum(masses)


def _log_sum(log_values: list[float]) -> float:
    """log of the sum of exp, for a few finite numbers."""
    if len(log_values) == 1:
        return log_values[0]
    largest = max(log_values)
    return largest + math.log(math.fsum(math.exp(value - largest) for value in log_values))
