"""Conjunction: what every part accepts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar

import numpy as np

from grammars.choice import ChoiceConstraint
from grammars.choice_trie import ByteTrie
from grammars.constraint import Constraint, ConstraintState, Language
from grammars.errors import GrammarError, Unsatisfiable
from grammars.membership import is_member
from grammars.registry import Example, grammar, language_from_spec
from grammars.vocabulary import Vocabulary

FILTERED_TEXTS = 256


@grammar("all")
@dataclass(frozen=True)
class All(Language):
    """Texts that every part accepts: `A & B & C`, parts of parts taken out.

    The mask is the intersection of the masks there are; parts without a mask are tested on what it leaves. Each token of
    the mask is allowed by every part, but parts may disagree later, and a particle that runs into such a dead end dies; a
    sampler's weights stay right. Two kinds of conjunction have no dead ends, because they are one constraint inside:
    regexes among themselves (/a+b/ & /a+c/ is unsatisfiable at once), and a choice of up to 256 texts with whatever
    gives a mask (the texts that the others refuse are left out beforehand). All others may have: a JSON Schema with a
    regex, a grammar with a grammar, anything with a predicate.
    """

    parts: tuple[Language, ...]

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"all": [{"regex": "[a-z]{3,}"}, {"regex": ".{0,4}"}]}, ("abc", "wxyz"), ("", "ab", "abcde", "AB")),
        Example(
            {
                "all": [
                    {"json_schema": {"enum": ["é", 1, 12]}},
                    {"all": [{"regex": '["0-9]+'}, {"choice": ["1", "12", "x"]}]},
                ]
            },
            ("1", "12"),
            ("x", '"é"', "2", ""),
        ),
    )

    def __post_init__(self) -> None:
        flat: list[Language] = []
        for part in self.parts:
            if not isinstance(part, Language):
                raise GrammarError(
                    f"only languages combine with &, not a {type(part).__name__}: wrap it, as in Predicate(f)"
                )
            flat += part.parts if isinstance(part, All) else [part]
        if not flat:
            raise GrammarError("a conjunction of no parts accepts everything: give at least one part")
        object.__setattr__(self, "parts", tuple(flat))

    @classmethod
    def from_spec(cls, parts: Iterable[Mapping[str, Any]]) -> All:
        if isinstance(parts, Mapping | str) or not isinstance(parts, Iterable):
            raise GrammarError('"all" takes a list of constraints: {"all": [{"regex": "a+"}, {"choice": ["a", "aa"]}]}')
        return cls(tuple(language_from_spec(part) for part in parts))

    @property
    def spec(self) -> dict[str, Any]:
        return {"all": [part.spec for part in self.parts]}

    def compile(self, vocabulary: Vocabulary) -> Constraint:
        parts = _fewest(self.parts, vocabulary)
        return parts[0] if len(parts) == 1 else AllConstraint(tuple(parts), vocabulary)

    def parse(self, text: str) -> Any:
        """As the first part does that knows more than the text."""
        for part in self.parts:
            if type(part).parse is not Language.parse:
                return part.parse(text)
        return text


def _fewest(languages: tuple[Language, ...], vocabulary: Vocabulary) -> list[Constraint]:
    """The parts compiled, those merged into one that can be."""
    parts = _compiled(languages, vocabulary)
    choice = next(
        (part for part in parts if isinstance(part, ChoiceConstraint) and len(part.trie) <= FILTERED_TEXTS), None
    )
    if choice is None:
        return parts
    masking = [part for part in parts if part.can_mask and part is not choice]
    kept = [text for text in choice.trie if all(is_member(part, text, vocabulary) for part in masking)]
    if not kept:
        raise Unsatisfiable(
            "no text satisfies all parts of the constraint: each text of the choice is refused by another part"
        )
    return [ChoiceConstraint(ByteTrie.of(kept), vocabulary), *(part for part in parts if not part.can_mask)]


def _compiled(languages: tuple[Language, ...], vocabulary: Vocabulary) -> list[Constraint]:
    """Each part compiled, all regular patterns as one; one by one where that one would be too costly to compile."""
    from grammars.llguidance_engine import compile_guided

    patterns = [_regular(part) for part in languages]
    regular = [f"/{pattern}/" for pattern in patterns if pattern is not None]
    if len(regular) > 1:
        try:
            both = compile_guided(f"start: BOTH\nBOTH: {' & '.join(regular)}", vocabulary, GrammarError)
        except GrammarError:
            pass
        else:
            others = [part for part, pattern in zip(languages, patterns) if pattern is None]
            return [both, *(part.compile(vocabulary) for part in others)]
    return [part.compile(vocabulary) for part in languages]


def _regular(part: Language) -> str | None:
    """A regex in llguidance's syntax; None for any other language, and for a pattern that is not regular."""
    from grammars.regex import Regex, to_rust

    if not isinstance(part, Regex):
        return None
    try:
        return to_rust(part.pattern)
    except GrammarError:
        return None


class AllConstraint:
    def __init__(self, parts: tuple[Constraint, ...], vocabulary: Vocabulary) -> None:
        # Parts that give a mask first: they are quick to test, and the slow ones then see fewer candidates.
        self.parts = tuple(sorted(parts, key=lambda part: not part.can_mask))
        self.vocabulary = vocabulary

    @property
    def can_mask(self) -> bool:
        return any(part.can_mask for part in self.parts)

    def start(self) -> AllState:
        start = AllState(tuple(part.start() for part in self.parts), self.vocabulary.eos)
        mask = start.bitmask()
        if mask is not None and not mask.any():
            raise Unsatisfiable(
                "no text satisfies all parts of the constraint: no first token suits them all; loosen one"
            )
        return start


class AllState:
    """One state a part, those with a mask first."""

    __slots__ = ("_eos", "_mask", "_parts")

    def __init__(self, parts: tuple[ConstraintState, ...], eos: int) -> None:
        self._parts = parts
        self._eos = eos
        self._mask: np.ndarray | None = None

    @property
    def is_complete(self) -> bool:
        return all(part.is_complete for part in self._parts)

    @property
    def mask_is_exact(self) -> bool:
        return all(part.mask_is_exact for part in self._parts)

    def bitmask(self) -> np.ndarray | None:
        if self._mask is None:
            masks = [mask for part in self._parts if (mask := part.bitmask()) is not None]
            if masks:
                mask = reduce(np.bitwise_and, masks)
                mask.flags.writeable = False
                self._mask = mask
        return self._mask

    def accepts(self, tokens: np.ndarray, masked: bool = False) -> np.ndarray:
        verdicts = np.ones(len(tokens), dtype=bool)
        open_ones = np.arange(len(tokens))
        for part in self._parts:
            if masked and part.mask_is_exact:
                continue
            if len(open_ones) == 0:
                break
            passed = part.accepts(tokens[open_ones], masked)
            verdicts[open_ones[~passed]] = False
            open_ones = open_ones[passed]
        return verdicts

    def advance(self, token: int) -> AllState:
        return self if token == self._eos else AllState(tuple(part.advance(token) for part in self._parts), self._eos)
