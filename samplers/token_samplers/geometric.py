"""Geometric AWRS: simulate rejection sampling with replacement, and count what it would have rejected."""

from __future__ import annotations

import math
from dataclasses import dataclass

from grammars.constraint import ConstraintState
from samplers.candidates import Candidates
from samplers.token_sampler import Draw, dead, exact_draw
from samplers.token_samplers.options import check_count
from samplers.trials import Trials


@dataclass(frozen=True)
class GeometricSampler:
    """k rounds of rejection sampling, each until it accepts, with r rejects in all; x is the first accept.

        weight = (k - 1) / (k + r - 1)              times Z_1 in a row that was masked to the mass Z_1 before

    the unbiased estimate of Z from inverse (negative binomial) sampling: Haldane (1945). x is independent of r, so
    every token gets its share. No token is tested twice: rejected ones are struck, and before each draw from the rest
    a Geometric(1-R) - 1 number of phantom rejects is added, what drawing with replacement would have spent on them;
    an accepted one is drawn again untested.

    With nothing allowed the row dies, as it does when `max_checks` tests did not complete the rounds: this biases the
    estimate where it happens. The weight's squared coefficient of variation is ln(1/Z)/(1-Z) - 1 for k = 2:
    unbounded, but slowly. Phantoms are counted in logs: before a token of mass 1e-300 they are more than a float can
    hold.

    rounds  k, at least 2
    Source: arXiv 2504.05410.
    """

    rounds: int = 2
    max_checks: int | None = None

    def __post_init__(self) -> None:
        check_count("rounds", self.rounds, least=2)
        check_count("max_checks", self.max_checks, least=1, optional=True)

    @property
    def wants_mask(self) -> bool:
        return False

    def draw(self, row: Candidates, state: ConstraintState, masked: bool) -> Draw:
        masks = int(masked)
        if masked and state.mask_is_exact:
            return exact_draw(row, 0, masks)
        log_row = row.log_remaining  # 0, or log Z of a mask that is too wide: rejection is simulated inside it
        trials = Trials(row, state, masked)
        log_accepted = -math.inf  # mass of the distinct accepted tokens
        log_phantoms = -math.inf
        accepts = rejects = i = 0
        first = -1
        while accepts < self.rounds:
            untested = trials.exists(i)
            # All but what was rejected, 1 - R: accepted tokens may come again.
            log_open = _log_add(log_accepted, trials.log_before[i] if untested else -math.inf)
            if log_open == -math.inf:
                return dead(trials.checks, masks)
            if rejects:
                log_phantoms = _log_add(log_phantoms, _log_phantoms(1.0 - row.random(), log_open - log_row))
            if not untested or (accepts and _again(1.0 - row.random(), log_accepted - log_open)):
                accepts += 1
                continue
            if i == self.max_checks:
                return dead(trials.checks, masks)
            trials.draw_ahead(i, self.max_checks)
            if trials.accepted(i):
                accepts += 1
                log_accepted = _log_add(log_accepted, trials.log_probs[i])
                first = i if first < 0 else first
            else:
                rejects += 1
            i += 1
        log_trials = _log_add(math.log(self.rounds + rejects - 1), log_phantoms)
        log_weight = log_row + math.log(self.rounds - 1) - log_trials
        return Draw(trials.tokens[first], log_weight, trials.log_probs[first], trials.checks, masks)


def _again(uniform: float, log_share: float) -> bool:
    """Whether the next draw is an accepted token again, of which this is the share. uniform: in (0, 1]."""
    return math.log(uniform) <= log_share


def _log_phantoms(uniform: float, log_success: float) -> float:
    """log of a Geometric(s) - 1 variate floor(ln u / ln(1-s)), by inversion of a uniform in (0, 1]."""
    if uniform >= 1.0 or log_success >= 0.0:
        return -math.inf
    if log_success > -30.0:
        phantoms = math.floor(math.log(uniform) / math.log1p(-math.exp(log_success)))
        return math.log(phantoms) if phantoms > 0 else -math.inf
    # 1e13 phantoms and more: the floor is beyond the digits, and ln(1-s) is -s.
    return math.log(-math.log(uniform)) - log_success


def _log_add(a: float, b: float) -> float:
    """log(exp(a) + exp(b)), for numbers below +inf."""
    if a < b:
        a, b = b, a
    return a if b == -math.inf else a + math.log1p(math.exp(b - a))
