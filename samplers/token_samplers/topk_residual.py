"""Top-K with a residual: know the head exactly, and let one draw stand for the tail."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from grammars.constraint import ConstraintState
from samplers.candidates import Candidates
from samplers.token_sampler import Draw, choose, exact_draw
from samplers.token_samplers.awrs import LookAheadSampler
from samplers.token_samplers.options import check_count
from samplers.trials import SINGLES


@dataclass(frozen=True)
class TopKResidualSampler:
    """Test the K likeliest tokens and one draw y from the rest (mass U) as one batch; choose among the allowed ones
    of the head and, if allowed, y with the mass U, in proportion; weight = the sum of what was chosen from.

    A head token is chosen with p(x)/w and weight w, so it gets p(x); a tail token y = x comes with p(x)/U, and then
    gets U. If no token of the head is allowed the tail has it all, and y becomes the first trial of a recursive
    search through it: (x, w) with E[w * 1{x}] = p(x) * 1_A(x) over the tail. The head is a function of p alone, so
    going by its verdicts leaves all of this true.

    k             K, at least 1
    switch_after, max_checks  of the search through the tail: see LookAheadSampler
    """

    k: int = 8
    switch_after: int | None = SINGLES
    max_checks: int | None = None

    def __post_init__(self) -> None:
        check_count("k", self.k, least=1)
        check_count("switch_after", self.switch_after, least=0, optional=True)
        check_count("max_checks", self.max_checks, least=1, optional=True)

    @property
    def wants_mask(self) -> bool:
        return False

    def draw(self, row: Candidates, state: ConstraintState, masked: bool) -> Draw:
        masks = int(masked)
        if masked and state.mask_is_exact:
            return exact_draw(row, 0, masks)
        tokens, log_probs = row.top(self.k)
        if not len(tokens):
            return Draw(-1, -math.inf, -math.inf, 0, masks)
        checks = len(tokens)
        allowed = np.asarray(state.accepts(tokens, masked=masked))
        if not allowed.any():
            tail = LookAheadSampler(switch_after=self.switch_after, max_checks=self.max_checks).draw(row, state, masked)
            return Draw(tail.token, tail.log_weight, tail.logprob, checks + tail.checks, max(masks, tail.masks))
        tokens, log_probs = tokens[allowed], log_probs[allowed]
        log_masses = log_probs
        log_rest = row.log_remaining
        if log_rest > -math.inf:
            token, log_prob = row.draw()
            checks += 1
            if state.accepts(np.array([token], dtype=np.int64), masked=masked)[0]:
                tokens, log_probs = np.append(tokens, token), np.append(log_probs, log_prob)
                log_masses = np.append(log_masses, log_rest)
        index, log_weight = choose(row, tokens, log_masses)
        return Draw(int(tokens[index]), log_weight, float(log_probs[index]), checks, masks)
