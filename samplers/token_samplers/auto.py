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

    A mask that is exact: draw inside it, weight Z. No estimate is better than the sum itself.
    A mask that is too wide: mask first, then as below on what is left; rejection never does what a mask can.
    No mask: look ahead as far as it takes until 5 % of the mass is untested, by 1 token at least and 8 at most. What is
    left to chance then moves the weight by 5 % at most; a longer look would buy nothing, a shorter one leaves the
    weight to a single verdict. How far to look is read off the draws *before* the token that decides is seen, so the
    weight stays proper: see LookAheadSampler. Coefficient of variation of the weight, and checks, over 2,000 tokens:

        p                            allowed              recursive     auto        geometric 2    top 8 + rest
        .98 on one token             half, it too         .01   2.0     .01   2.0   .05   1.0      .00   9
        .98 on one token             half, not it         .56   3.4     .26  10.3   1.65  3.5      .18   9
        1/rank^1.5                   half, its head too   .54   2.4     .25   9.3   .43   2.4      .17   9
        1/rank^1.5                   half, not its head   1.04  3.3     .51  10.3   .82   4.0      .36   9
        flat                         half                 .99   3.0     .97  10.0   .61   3.9      .90   9
        flat                         5 %                  4.6    29     4.6    33   1.1    62      4.0   9

    Top-K is as good or better, but has to find the head of the row, where look-ahead takes the draws that are made
    anyway. On flat rows with little allowed, which a language model seldom gives, choose the geometric sampler by name.
    """

    max_checks: int | None = None

    def __post_init__(self) -> None:
        check_count("max_checks", self.max_checks, least=1, optional=True)

    @property
    def wants_mask(self) -> bool:
        return True

    def draw(self, row: Candidates, state: ConstraintState, masked: bool) -> Draw:
        return LookAheadSampler(extra=8, negligible=0.05, max_checks=self.max_checks).draw(row, state, masked)
