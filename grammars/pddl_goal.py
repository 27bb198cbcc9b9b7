"""One sequence's place in a conjunction of facts: which facts it has, and which may still be added to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grammars.errors import Unsatisfiable
from grammars.pddl_reachability import Reachability
from grammars.vocabulary import Vocabulary

# What a text may open beside facts; the mask has seen to where.
_HEADERS = ("(:goal", "(and")


class ConsistentGoalConstraint:
    """Facts that may all be true at once, none of them twice. The syntax is the mask's."""

    can_mask = False

    def __init__(self, reachable: Reachability, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.together = reachable.together
        self.number = {f"({' '.join(fact)})": k for k, fact in enumerate(reachable.facts)}
        self.beginning: dict[str, int] = {}
        for text, k in self.number.items():
            for end in range(1, len(text) + 1):
                self.beginning[text[:end]] = self.beginning.get(text[:end], 0) | 1 << k

    def start(self) -> ConsistentGoalState:
        if not self.number:
            raise Unsatisfiable("PDDL: no fact can ever be true, so no goal can be reached; look at (:init ...)")
        return ConsistentGoalState(self, _Place((1 << len(self.number)) - 1, "", 0, False))


@dataclass(frozen=True, slots=True)
class _Place:
    """allowed: the facts that may be added, as bits; begun: the expression being written, its gaps one space each."""

    allowed: int
    begun: str
    depth: int
    has_facts: bool


class ConsistentGoalState:
    __slots__ = ("_constraint", "_place")

    mask_is_exact = False

    def __init__(self, constraint: ConsistentGoalConstraint, place: _Place) -> None:
        self._constraint = constraint
        self._place = place

    @property
    def is_complete(self) -> bool:
        return self._place.has_facts and self._place.depth == 0

    def bitmask(self) -> None:
        return None

    def accepts(self, tokens: np.ndarray, masked: bool = False) -> np.ndarray:
        vocabulary = self._constraint.vocabulary
        verdicts = []
        for t in tokens.tolist():
            written = vocabulary.bytes_of(t)
            verdicts.append(self._after(written) is not None if written else t == vocabulary.eos and self.is_complete)
        return np.array(verdicts, dtype=bool)

    def _after(self, written: bytes) -> _Place | None:
        if not written.isascii():
            return None
        place: _Place | None = self._place
        for char in written.decode():
            if place is not None:
                place = self._further(place, char)
        return place

    def _further(self, place: _Place, char: str) -> _Place | None:
        begun, depth = place.begun, place.depth
        if char == "(":
            if begun.strip() and begun.strip() not in _HEADERS:
                return None
            begun, depth = "(", depth + 1
        elif char == ")":
            return self._closed(place)
        elif char.isspace():
            return (
                place
                if not begun or begun.endswith(" ")
                else _Place(place.allowed, begun + " ", depth, place.has_facts)
            )
        else:
            begun += char
        if (
            any(header.startswith(begun) for header in _HEADERS)
            or self._constraint.beginning.get(begun, 0) & place.allowed
        ):
            return _Place(place.allowed, begun, depth, place.has_facts)
        return None

    def _closed(self, place: _Place) -> _Place | None:
        if place.depth == 0:
            return None
        if not place.begun:
            return _Place(place.allowed, "", place.depth - 1, place.has_facts)
        fact = self._constraint.number.get(place.begun + ")")
        if fact is None or not place.allowed >> fact & 1:
            return None
        allowed = place.allowed & self._constraint.together[fact] & ~(1 << fact)
        return _Place(allowed, "", place.depth - 1, True)

    def advance(self, token: int) -> ConsistentGoalState:
        if token == self._constraint.vocabulary.eos:
            return self
        place = self._after(self._constraint.vocabulary.bytes_of(token))
        assert place is not None, f"token {token} is not accepted here"
        return ConsistentGoalState(self._constraint, place)
