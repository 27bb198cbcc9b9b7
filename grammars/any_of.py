"""Disjunction: what some part accepts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar

import numpy as np

from grammars.constraint import Constraint, ConstraintState, Language
from grammars.errors import GrammarError, Unsatisfiable
from grammars.registry import Example, grammar, language_from_spec
from grammars.vocabulary import Vocabulary


@grammar("any")
@dataclass(frozen=True)
class AnyOf(Language):
    """Texts that at least one part accepts: `A | B | C`, parts of parts taken out.

    The mask is the union of the masks of the parts that still fit, exact where theirs are; while one without a mask still
    fits there is none. A part that refused a token is out for good: what goes on is judged by the others.
    """

    parts: tuple[Language, ...]

    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            {"any": [{"regex": "[0-9]+"}, {"choice": ["none", "no", "1a"]}]},
            ("12", "no", "none", "1a"),
            ("", "n", "1b"),
        ),
        Example(
            {"any": [{"predicate": "example: palindrome"}, {"regex": "ab+"}, {"choice": ["éa"]}]},
            ("", "abb", "aba", "éa"),
            ("éab", "abé"),
        ),
        Example(
            {"all": [{"any": [{"regex": "a*"}, {"any": [{"regex": "b*"}, {"regex": "(ab)*"}]}]}, {"regex": ".{2,5}"}]},
            ("aa", "bbb", "abab"),
            ("a", "aab", "ababab", ""),
        ),
    )

    def __post_init__(self) -> None:
        flat: list[Language] = []
        for part in self.parts:
            if not isinstance(part, Language):
                raise GrammarError(
                    f"only languages combine with |, not a {type(part).__name__}: wrap it, as in Predicate(f)"
                )
            flat += part.parts if isinstance(part, AnyOf) else [part]
        if not flat:
            raise GrammarError("a disjunction of no parts accepts nothing: give at least one part")
        object.__setattr__(self, "parts", tuple(flat))

    @classmethod
    def from_spec(cls, parts: Iterable[Mapping[str, Any]]) -> AnyOf:
        if isinstance(parts, Mapping | str) or not isinstance(parts, Iterable):
            raise GrammarError('"any" takes a list of constraints: {"any": [{"regex": "a+"}, {"choice": ["b", "c"]}]}')
        return cls(tuple(language_from_spec(part) for part in parts))

    @property
    def spec(self) -> dict[str, Any]:
        return {"any": [part.spec for part in self.parts]}

    def compile(self, vocabulary: Vocabulary) -> AnyConstraint:
        parts: list[Constraint] = []
        reasons: list[str] = []
        for part in self.parts:
            try:
                parts.append(part.compile(vocabulary))
            except Unsatisfiable as error:
                reasons.append(str(error))
        if not parts:
            raise _unsatisfiable(reasons)
        return AnyConstraint(tuple(parts))

    def parse(self, text: str) -> Any:
        """As the first part does that accepts the text; ValueError where none does."""
        from grammars.membership import contains

        for part in self.parts:
            if contains(part, text):
                return part.parse(text)
        raise ValueError("no part of the constraint accepts it")


class AnyConstraint:
    def __init__(self, parts: tuple[Constraint, ...]) -> None:
        self.parts = parts

    @property
    def can_mask(self) -> bool:
        return all(part.can_mask for part in self.parts)

    def start(self) -> ConstraintState:
        states: list[ConstraintState] = []
        reasons: list[str] = []
        for part in self.parts:
            try:
                states.append(part.start())
            except Unsatisfiable as error:
                reasons.append(str(error))
        if not states:
            raise _unsatisfiable(reasons)
        return _one_of(states)


def _unsatisfiable(reasons: list[str]) -> Unsatisfiable:
    return Unsatisfiable(f"no part of the constraint accepts any text: {'; '.join(reasons)}")


def _one_of(states: list[ConstraintState]) -> ConstraintState:
    return states[0] if len(states) == 1 else AnyState(tuple(states))


class AnyState:
    """The states of the parts that still fit, two or more."""

    __slots__ = ("_asked", "_mask", "_parts")

    def __init__(self, parts: tuple[ConstraintState, ...]) -> None:
        self._parts = parts
        self._mask: np.ndarray | None = None
        self._asked = False

    @property
    def is_complete(self) -> bool:
        return any(part.is_complete for part in self._parts)

    @property
    def mask_is_exact(self) -> bool:
        return all(part.mask_is_exact for part in self._parts)

    def bitmask(self) -> np.ndarray | None:
        if not self._asked:
            masks: list[np.ndarray] = []
            for part in self._parts:
                mask = part.bitmask()
                if mask is None:
                    break
                masks.append(mask)
            else:
                self._mask = reduce(np.bitwise_or, masks)
                self._mask.flags.writeable = False
            self._asked = True
        return self._mask

    def accepts(self, tokens: np.ndarray, masked: bool = False) -> np.ndarray:
        if masked and self.mask_is_exact:
            return np.ones(len(tokens), dtype=bool)
        # That a token lies in the union says of no part that it lies in its mask.
        verdicts = np.zeros(len(tokens), dtype=bool)
        open_ones = np.arange(len(tokens))
        for part in self._parts:
            if len(open_ones) == 0:
                break
            passed = part.accepts(tokens[open_ones])
            verdicts[open_ones[passed]] = True
            open_ones = open_ones[~passed]
        return verdicts

    def advance(self, token: int) -> ConstraintState:
        asked = np.array([token])
        # Of EOS, which adds no text, parts that are not complete say no, and those that are stay as they are.
        going_on = [part.advance(token) for part in self._parts if part.accepts(asked)[0]]
        assert going_on, f"token {token} is not accepted here"
        return _one_of(going_on)
