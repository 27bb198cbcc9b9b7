"""Tokens that end within a character: allowed where some character that begins with their bytes may come.

Partial matching reads whole characters, and so cannot say of `é` begun whether `(.)\\1` still matches `x` and then that. A
pattern tells few characters apart, though: those of its classes, and those that the text has already, which a
back-reference may ask for again. One of each kind among the characters that the bytes can become is tried, through the
mask as through the matcher.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property

import numpy as np
from regex import _regex
from regex import _regex_core as core

from grammars.constraint import Constraint, ConstraintState
from grammars.patterns.tree import class_ranges, is_class, nodes, parse
from grammars.predicate_state import split_characters
from grammars.vocabulary import Vocabulary

REMEMBERED = 1024
# What nodes that are no classes look at in a character.
_LOOKED_AT = (r"\w", r"\n")
_CLUSTER_PARTS = ("CN", "CR", "EX", "L", "LF", "LV", "LVT", "PP", "RI", "SM", "T", "V", "ZWJ")
_CLUSTERS = (r"\p{Extended_Pictographic}", *(rf"\p{{GCB={part}}}" for part in _CLUSTER_PARTS))


class Kinds:
    """The characters that a pattern tells apart, whatever the text: as intervals of code points, each of one kind."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern

    @cached_property
    def _intervals(self) -> tuple[list[int], list[int]]:
        """Where the intervals begin, ascending from 0, and the kind of each."""
        tree, info = parse(self._pattern)
        found = list(nodes(tree))
        ranges = [class_ranges(node, info) for node in found if is_class(node)]
        looked_at = _LOOKED_AT + (_CLUSTERS if any(isinstance(node, core.Grapheme) for node in found) else ())
        for written in looked_at:
            (node,) = (node for node in nodes(parse(written)[0]) if is_class(node))
            ranges.append(class_ranges(node, info))
        for node in found:
            if isinstance(node, core.String):
                ranges += [((code, code),) for code in node.characters]
        if any(_folds_fully(node) for node in found):
            # ß stands for ss: each of these, and of the letters that they fold to, is a kind of its own.
            folded = _in_any_case("".join(char + char.casefold() for char in _regex.get_expand_on_folding()))
            ranges += [((code, code),) for code in sorted(folded)]
        changes: dict[int, int] = {0: 0}
        for k, members in enumerate(ranges):
            for low, high in members:
                changes[low] = changes.get(low, 0) ^ 1 << k
                changes[high + 1] = changes.get(high + 1, 0) ^ 1 << k
        starts, kinds, kind = sorted(changes), [], 0
        for start in starts:
            kind ^= changes[start]
            kinds.append(kind)
        return starts, kinds

    def among(self, low: int, high: int, text: str) -> Iterator[str]:
        """Characters from low to high of which one may follow the text if any does: one of each kind, and those of the text."""
        known = _in_any_case(text)
        starts, kinds = self._intervals
        seen: set[int] = set()
        for k in range(bisect_right(starts, low) - 1, len(starts)):
            if starts[k] > high:
                break
            end = starts[k + 1] - 1 if k + 1 < len(starts) else high
            if kinds[k] in seen:
                continue
            fresh = (code for code in range(max(low, starts[k]), min(high, end) + 1) if code not in known)
            if (code := next(fresh, None)) is not None:
                seen.add(kinds[k])
                yield chr(code)
        yield from (chr(code) for code in sorted(known) if low <= code <= high)


def _in_any_case(text: str) -> set[int]:
    """The characters of a text, and those that differ from one in case alone."""
    cases = (_regex.get_all_cases(core.FULLIGNORECASE | core.UNICODE, ord(char)) for char in set(text))
    return {code for variants in cases for code in variants if code is not None} | set(map(ord, text))


def _folds_fully(node: object) -> bool:
    return int(getattr(node, "case_flags", 0)) & core.FULLIGNORECASE == core.FULLIGNORECASE


def code_points(begun: bytes) -> tuple[int, int]:
    """The first and the last character that begin with some bytes, which are the beginning of one."""
    lead = begun[0]
    length = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    low = high = lead & (0xFF >> (length + 1))
    for k in range(1, length):
        low = low << 6 | (begun[k] & 0x3F if k < len(begun) else 0)
        high = high << 6 | (begun[k] & 0x3F if k < len(begun) else 0x3F)
    least = (0x80, 0x800, 0x10000)[length - 2]
    # From U+D800 to U+DFFF there are no characters.
    return max(low, least), min(high, 0xD7FF if low >> 12 == 0xD else 0x10FFFF)


class CompletionConstraint:
    """A constraint that reads whole characters, made exact where a token ends within one."""

    def __init__(self, inner: Constraint, kinds: Kinds, vocabulary: Vocabulary) -> None:
        self.inner = inner
        self.kinds = kinds
        self.vocabulary = vocabulary

    @property
    def can_mask(self) -> bool:
        return self.inner.can_mask

    def start(self) -> CompletionState:
        return CompletionState(self, self.inner.start(), "", b"")


class CompletionState:
    """The inner state, the characters written so far, and the bytes of one begun."""

    __slots__ = ("_begun", "_constraint", "_inner", "_text", "_verdicts")

    def __init__(self, constraint: CompletionConstraint, inner: ConstraintState, text: str, begun: bytes) -> None:
        self._constraint = constraint
        self._inner = inner
        self._text = text
        self._begun = begun
        self._verdicts: dict[bytes, bool] = {}

    @property
    def mask_is_exact(self) -> bool:
        return self._inner.mask_is_exact

    @property
    def is_complete(self) -> bool:
        return self._inner.is_complete

    def bitmask(self) -> np.ndarray | None:
        return self._inner.bitmask()

    def accepts(self, tokens: np.ndarray, masked: bool = False) -> np.ndarray:
        verdicts = self._inner.accepts(tokens, masked)
        bytes_of = self._constraint.vocabulary.bytes_of
        for k in np.flatnonzero(verdicts).tolist():
            written = bytes_of(int(tokens[k]))
            if written and written[-1] >= 0x80:
                verdicts[k] = self._may_be_completed(int(tokens[k]), written)
        return verdicts

    def _may_be_completed(self, token: int, written: bytes) -> bool:
        """Whether the character that a token ends within can become one that may come; True where it ends with a whole one."""
        added, begun = split_characters(self._begun + written)
        if not begun:
            return True
        verdict = self._verdicts.get(written)
        if verdict is None:
            if len(self._verdicts) >= REMEMBERED:
                self._verdicts.clear()
            after, low, high = self._inner.advance(token), *code_points(begun)
            verdict = self._verdicts[written] = any(
                self._may_write(after, char.encode()[len(begun) :])
                for char in self._constraint.kinds.among(low, high, self._text + added)
            )
        return verdict

    def _may_write(self, state: ConstraintState, rest: bytes) -> bool:
        """Whether tokens that write just these bytes may come."""
        for size in range(1, len(rest) + 1):
            token = self._constraint.vocabulary.token_of(rest[:size])
            if token is None or not state.accepts(np.array([token]))[0]:
                continue
            if size == len(rest) or self._may_write(state.advance(token), rest[size:]):
                return True
        return False

    def advance(self, token: int) -> CompletionState:
        constraint = self._constraint
        if token == constraint.vocabulary.eos:
            return self
        added, begun = split_characters(self._begun + constraint.vocabulary.bytes_of(token))
        return CompletionState(constraint, self._inner.advance(token), self._text + added, begun)
