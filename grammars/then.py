"""Free text up to a marker, and a constraint on what follows: think first, then answer."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np

from grammars.choice_trie import packed
from grammars.constraint import Constraint, ConstraintState, Language
from grammars.errors import GrammarError
from grammars.membership import after
from grammars.registry import Example, grammar, language_from_spec
from grammars.vocabulary import Vocabulary

MAX_MARKER_BYTES = 256


@grammar("then")
@dataclass(frozen=True)
class Then(Language):
    """Any text, then the marker, then a text that satisfies the constraint: `Then(2000, "</think>", C)`.

    The marker is its first occurrence, however tokens cut it: a token may end it and write the first of what follows. What
    stands before it is free (`Then(...) & Regex(...)` bounds it in other ways), what follows it must satisfy the constraint
    from its very first character: put white space that the model writes after the marker into the marker, or allow it in
    the constraint. A special token writes no text and can be no part of a marker.

    max_free_characters  at most so many before the marker, then it has to come; None is no bound
    """

    max_free_characters: int | None
    marker: str
    constraint: Language

    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            {"then": {"marker": "abab你", "constraint": {"regex": "[0-9]+|b"}, "max_free_characters": 3}},
            ("ababab你1", "abab你20", "é\n你abab你b", "aabab你1"),
            ("", "12", "abab1", "abab你", "abab你x", "abab你b abab你1", "abab你1\n"),
        ),
        Example(
            {
                "then": {
                    "marker": "aa",
                    "max_free_characters": 3,
                    "constraint": {"predicate": "example: no vowel twice"},
                }
            },
            ("éébaayes", "aaxyz", "你aano"),
            ("aa", "你你你你aano", "aaaa", "xyza"),
        ),
        Example(
            {"then": {"marker": "]", "constraint": {"json_schema": {"enum": [1, "é"]}}}},
            ("]1", '[1]"é"', "é你]1"),
            ("1", "]", "]]1"),
        ),
    )

    def __post_init__(self) -> None:
        bound, marker = self.max_free_characters, self.marker
        if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int) or bound < 0):
            raise GrammarError(
                f"max_free_characters={bound!r}: how many characters may stand before the marker was wanted, or None; for other "
                "conditions combine the whole with &: Then(None, marker, C) & Regex(...)"
            )
        if not isinstance(marker, str) or not marker:
            raise GrammarError(f"marker={marker!r}: the text that ends the free part was wanted, such as '</think>'")
        try:
            size = len(marker.encode())
        except UnicodeEncodeError as error:
            raise GrammarError(f"marker={marker!r} is not text: {error.reason}") from error
        if size > MAX_MARKER_BYTES:
            raise GrammarError(f"marker has {size} bytes, more than {MAX_MARKER_BYTES}: give its beginning")
        if not isinstance(self.constraint, Language):
            raise GrammarError(
                f"what follows the marker must be a language, not a {type(self.constraint).__name__}: wrap it, as in Predicate(f)"
            )

    @classmethod
    def from_spec(cls, then: Mapping[str, Any]) -> Then:
        wanted = '{"then": {"marker": "</think>", "constraint": {"regex": "[0-9]+"}, "max_free_characters": 2000}}'
        if not isinstance(then, Mapping):
            raise GrammarError(f'"then" takes an object: {wanted}')
        if unknown := set(then) - {"marker", "constraint", "max_free_characters"}:
            raise GrammarError(f'"then" has the unknown key {min(map(repr, unknown))}; write {wanted}')
        if missing := {"marker", "constraint"} - set(then):
            raise GrammarError(f'"then" lacks {min(map(repr, missing))}; write {wanted}')
        return cls(then.get("max_free_characters"), then["marker"], language_from_spec(then["constraint"]))

    @property
    def spec(self) -> dict[str, Any]:
        bound = {} if self.max_free_characters is None else {"max_free_characters": self.max_free_characters}
        return {"then": {"marker": self.marker, "constraint": self.constraint.spec, **bound}}

    def compile(self, vocabulary: Vocabulary) -> ThenConstraint:
        return ThenConstraint(
            self.marker.encode(), self.max_free_characters, self.constraint.compile(vocabulary), vocabulary
        )

    def parse(self, text: str) -> Any:
        """What follows the marker, as its constraint parses it; ValueError where there is no marker."""
        _, found, rest = text.partition(self.marker)
        if not found:
            raise ValueError(f"it ends before the marker {self.marker!r}")
        return self.constraint.parse(rest)


# Bytes that may come inside a character: state 0 lies between characters, 1 to 3 want so many more bytes, the others want
# a second byte from a narrower range. Source: The Unicode Standard, table 3-7, "Well-Formed UTF-8 Byte Sequences".
_SECOND = {4: (0xA0, 0xBF, 1), 5: (0x80, 0x9F, 1), 6: (0x90, 0xBF, 2), 7: (0x80, 0x8F, 2)}
_LEADS = [
    (0x00, 0x7F, 0), (0xC2, 0xDF, 1), (0xE0, 0xE0, 4), (0xE1, 0xEC, 2), (0xED, 0xED, 5), (0xEE, 0xEF, 2),
    (0xF0, 0xF0, 6), (0xF1, 0xF3, 3), (0xF4, 0xF4, 7),
]  # fmt: skip


def _utf8() -> np.ndarray:
    """int16 [8, 256]: the next state, -1 where no text goes on so."""
    table = np.full((8, 256), -1, np.int16)
    for low, high, state in _LEADS:
        table[0, low : high + 1] = state
    for state in (1, 2, 3):
        table[state, 0x80:0xC0] = state - 1
    for state, (low, high, then) in _SECOND.items():
        table[state, low : high + 1] = then
    return table


def marker_automaton(marker: bytes) -> np.ndarray:
    """Text up to the end of a marker's first occurrence, byte by byte.

    With m = len(marker) state u * m + q means: the last q bytes are the longest beginning of the marker that the text ends
    with, and u is the state of its last character. State 8m is the marker's end; state 8m + 1 is no text.

    returns  int16 [8m + 2, 256]
    Source: Knuth, Morris & Pratt (1977), "Fast pattern matching in strings", as an automaton.
    """
    m = len(marker)
    matched = np.zeros((m, 256), np.int16)
    matched[0, marker[0]] = 1
    fallback = 0
    for q in range(1, m):
        matched[q] = matched[fallback]
        matched[q, marker[q]] = q + 1
        fallback = int(matched[fallback, marker[q]])
    utf8 = _utf8()
    table = np.empty((8 * m + 2, 256), np.int16)
    for u in range(8):
        table[u * m : (u + 1) * m] = np.where(
            utf8[u] < 0, 8 * m + 1, np.where(matched == m, 8 * m, utf8[u] * m + matched)
        )
    table[8 * m] = 8 * m
    table[8 * m + 1] = 8 * m + 1
    return table


class _Written:
    """What a vocabulary's tokens write, end to end, the longest first."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        tokens = sorted((t for t, w in enumerate(vocabulary.tokens) if w), key=lambda t: -len(vocabulary.tokens[t]))
        lengths = np.array([len(vocabulary.tokens[t]) for t in tokens], np.int64)
        self.tokens = np.array(tokens, np.int64)
        self.block = np.frombuffer(b"".join(vocabulary.tokens[t] for t in tokens), np.uint8)
        self.starts = lengths.cumsum() - lengths
        # longer[k] tokens have more than k bytes
        self.longer = np.searchsorted(-lengths, -np.arange(int(lengths.max(initial=0))), side="left")
        self.characters = np.zeros(vocabulary.size, np.int64)
        self.characters[self.tokens] = [_characters(vocabulary.tokens[t]) for t in tokens]
        self.most = int(self.characters.max(initial=0))


_WRITTEN: WeakKeyDictionary[Vocabulary, _Written] = WeakKeyDictionary()


def _characters(data: bytes) -> int:
    """Characters that begin in some bytes."""
    return sum(byte & 0xC0 != 0x80 for byte in data)


@dataclass(frozen=True)
class _Place:
    """What every token does at one state of the automaton.

    following  int16 [V]: the automaton's next state; that of no text where a token writes nothing
    free       bool [V]: the text is free after the token as well
    gains      int64 [V]: by how many characters such a token lengthens what stands before the marker, wherever that comes
    enders     token -> how many characters it adds before the marker, and what it writes after it
    goes_on    whether any of these writes something after it
    """

    following: memoryview
    free: np.ndarray
    gains: np.ndarray
    enders: Mapping[int, tuple[int, bytes]]
    goes_on: bool


class ThenConstraint:
    def __init__(self, marker: bytes, bound: int | None, inner: Constraint, vocabulary: Vocabulary) -> None:
        self.marker = marker
        self.bound = bound
        self.inner = inner
        self.vocabulary = vocabulary
        self.table = marker_automaton(marker)
        self.end = 8 * len(marker)
        written = _WRITTEN.get(vocabulary)
        self.written = _WRITTEN[vocabulary] = _Written(vocabulary) if written is None else written
        # matched[q]: characters in the first q bytes of the marker
        self.matched = np.array([_characters(marker[:q]) for q in range(len(marker) + 1)])
        self._places: dict[int, _Place] = {}
        self._masks: dict[int, np.ndarray] = {}
        self._admitted: dict[bytes, bool] = {}
        self._lock = threading.Lock()

    @property
    def can_mask(self) -> bool:
        """Of the free part there always is a mask."""
        return self.inner.can_mask

    def start(self) -> ThenState:
        self.inner.start()
        return ThenState(self, 0, 0)

    def place(self, state: int) -> _Place:
        """Made once for each state of the automaton that is met (some 10 ms for 49,152 tokens)."""
        place = self._places.get(state)
        if place is None:
            place = self._places[state] = self._make_place(state)
        return place

    def _make_place(self, state: int) -> _Place:
        written, table, m = self.written, self.table, len(self.marker)
        states = np.full(len(written.tokens), state, np.int64)
        ended_at = np.zeros(len(states), np.int64)
        for k, count in enumerate(written.longer.tolist()):
            before = states[:count]
            now = table[before, written.block[written.starts[:count] + k]]
            ended_at[:count][(now == self.end) & (before != self.end)] = k + 1
            states[:count] = now
        following = np.full(self.vocabulary.size, self.end + 1, np.int16)
        following[written.tokens] = states
        free = following < self.end
        gains = np.zeros(len(following), np.int64)
        pending = self.matched[state % m]
        gains[free] = written.characters[free] - self.matched[following[free] % m] + pending
        enders = {}
        for token, at in zip(written.tokens[ended_at > 0].tolist(), ended_at[ended_at > 0].tolist()):
            data = self.vocabulary.tokens[token]
            # The rest of a token may go wrong after the marker: that is the constraint's to say.
            enders[token] = int(_characters(data[:at]) - self.matched[m] + pending), data[at:]
        return _Place(following.data, free, gains, enders, any(rest for _, rest in enders.values()))

    def admits(self, rest: bytes) -> bool:
        """Whether what a token writes after the marker may begin what follows."""
        verdict = self._admitted.get(rest)
        if verdict is None:
            verdict = self._admitted[rest] = self.entered(rest) is not None
        return verdict

    def entered(self, rest: bytes) -> ConstraintState | None:
        return after(self.inner.start(), rest, self.vocabulary)

    def mask(self, state: int, free_characters: int) -> np.ndarray:
        """Where the bound is near the mask is made anew; elsewhere there is one for each state of the automaton."""
        place = self.place(state)
        room = None if self.bound is None else self.bound - free_characters
        near = room is not None and room < self.written.most + len(self.marker)
        if not near and (kept := self._masks.get(state)) is not None:
            return kept
        allowed = place.free.copy() if room is None else place.free & (place.gains <= room)
        for token, (gain, rest) in place.enders.items():
            if (room is None or gain <= room) and (not rest or not self.inner.can_mask or self.admits(rest)):
                allowed[token] = True
        mask = packed(allowed)
        if not near:
            self._masks[state] = mask
        return mask


class ThenState:
    """Before the marker: the automaton's state, and the characters that stand before the marker wherever it comes."""

    __slots__ = ("_constraint", "_free_characters", "_state")

    is_complete = False

    def __init__(self, constraint: ThenConstraint, state: int, free_characters: int) -> None:
        self._constraint = constraint
        self._state = state
        self._free_characters = free_characters

    @property
    def mask_is_exact(self) -> bool:
        """A constraint that can only test is not asked for every token that ends the marker and goes on."""
        constraint = self._constraint
        return constraint.inner.can_mask or not constraint.place(self._state).goes_on

    def bitmask(self) -> np.ndarray:
        return self._constraint.mask(self._state, self._free_characters)

    def accepts(self, tokens: np.ndarray, masked: bool = False) -> np.ndarray:
        if masked and self.mask_is_exact:
            return np.ones(len(tokens), dtype=bool)
        place = self._constraint.place(self._state)
        return np.array([self._accepts(t, place) for t in tokens.tolist()], dtype=bool)

    def _accepts(self, token: int, place: _Place) -> bool:
        constraint = self._constraint
        room = None if constraint.bound is None else constraint.bound - self._free_characters
        ender = place.enders.get(token)
        if ender is not None:
            gain, rest = ender
            return (room is None or gain <= room) and (not rest or constraint.admits(rest))
        return place.following[token] < constraint.end and (room is None or int(place.gains[token]) <= room)

    def advance(self, token: int) -> ConstraintState:
        constraint = self._constraint
        assert token != constraint.vocabulary.eos, "no text ends before the marker"
        place = constraint.place(self._state)
        if token in place.enders:
            entered = constraint.entered(place.enders[token][1])
            assert entered is not None, f"token {token} is not accepted here"
            return entered
        return ThenState(constraint, place.following[token], self._free_characters + int(place.gains[token]))
