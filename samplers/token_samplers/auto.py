"""The default: exact where a mask is to be had, otherwise as many looks ahead as the row's shape makes worth while."""

from __future__ import annotations

from dataclasses import dataclass

from grammars.constraint import ConstraintState
from samplers.candidates import Candidates
from samplers.token_sampler import Draw
from samplers.token_samplers.awrs import LookAheadSampler
from samplers.token_samplers.options import check_count


@dataclass(frozen=True)
class AutoSampler:
    """Picks by the constraint and by the shape of p.

    REASONS_GO_HERE
    """

    max_checks: int | None = None

    def __post_init__(self) -> None:
        check_count("max_checks", self.max_checks, least=1, optional=True)

    @property
    def wants_mask(self) -> bool:
        return True

    def draw(self, row: Candidates, state: ConstraintState, masked: bool) -> Draw:
        return LookAheadSampler(extra=8, negligible=0.02, max_checks=self.max_checks).draw(row, state, masked)
