"""Locally constrained decoding: what everyone else does, kept as a baseline. NOT properly weighted."""

from __future__ import annotations

from dataclasses import dataclass, replace

from grammars.constraint import ConstraintState
from samplers.candidates import Candidates
from samplers.token_sampler import Draw
from samplers.token_samplers.awrs import LookAheadSampler
from samplers.token_samplers.options import check_count


@dataclass(frozen=True)
class LocalSampler:
    """x ~ p * 1_A / Z with weight 1: Z is forgotten, so texts come from the product of local laws, not from the target.

    Without a mask x is the first accept of a search. A row with nothing allowed is dead, as for every sampler.
    """

    max_checks: int | None = None

    def __post_init__(self) -> None:
        check_count("max_checks", self.max_checks, least=1, optional=True)

    @property
    def wants_mask(self) -> bool:
        return True

    def draw(self, row: Candidates, state: ConstraintState, masked: bool) -> Draw:
        found = LookAheadSampler(max_checks=self.max_checks).draw(row, state, masked)
        return found if found.token < 0 else replace(found, log_weight=0.0)
