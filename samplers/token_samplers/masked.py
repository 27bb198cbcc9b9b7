"""The exact sampler: look at every token, then draw among the allowed ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grammars.constraint import ConstraintState
from samplers.candidates import Candidates
from samplers.token_sampler import Draw, choose, dead, exact_draw


@dataclass(frozen=True)
class MaskedSampler:
    """x ~ p * 1_A / Z with weight Z: no variance at all in the weight.

    Where the constraint's bitmask is the whole truth this costs one bitmask. Where it is a superset, or there is
    none, every token that remains of the row is tested in one call of `accepts`: still exact, but slow (a test-only
    constraint tests the vocabulary).
    """

    @property
    def wants_mask(self) -> bool:
        return True

    def draw(self, row: Candidates, state: ConstraintState, masked: bool) -> Draw:
        masks = int(masked)
        if not masked:
            bitmask = state.bitmask()
            if bitmask is not None:
                row.keep(bitmask)
                masked, masks = True, 1
        if masked and state.mask_is_exact:
            return exact_draw(row, 0, masks)
        tokens, log_probs = row.remaining()
        if not len(tokens):
            return dead(0, masks)
        checks = len(tokens)
        accepted = np.asarray(state.accepts(tokens, masked=masked))
        tokens, log_probs = tokens[accepted], log_probs[accepted]
        if not len(tokens):
            return dead(checks, masks)
        index, log_z = choose(row, tokens, log_probs)
        return Draw(int(tokens[index]), log_z, float(log_probs[index]), checks, masks)
