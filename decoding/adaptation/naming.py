"""Whom a text names first, axis by axis, told token by token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy

from grammars.vocabulary import Vocabulary

# group -> tokens that begin one of its words wherever they stand (" she"), and those that do where no letter stands before ("She")
Groups = Mapping[str, tuple[Sequence[int], Sequence[int]]]
Axes = Sequence[tuple[str, Groups]]


class Naming:
    """Follows one text. A word counts from its first token on.

    first       axis -> the group that the text has named first, or None
    in_a_word   whether what stands before the next token ends in a letter or figure: then only a token with a space begins a word
    """

    def __init__(self, axes: Axes, vocabulary: Vocabulary, in_a_word: bool) -> None:
        self.first: dict[str, str | None] = {name: None for name, _ in axes}
        self.in_a_word = in_a_word
        self._vocabulary = vocabulary
        self._anywhere, self._alone = (
            {name: {token: group for group, ids in groups.items() for token in ids[kind]} for name, groups in axes}
            for kind in (0, 1)
        )

    def advance(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            for name, first in self.first.items():
                if first is None:
                    group = self._anywhere[name].get(token)
                    if group is None and not self.in_a_word:
                        group = self._alone[name].get(token)
                    self.first[name] = group
            written = self._vocabulary.bytes_of(token)
            self.in_a_word = bool(written) and _is_of_a_word(written[-1])


def _is_of_a_word(byte: int) -> bool:
    """Bytes above 127 are those of other scripts' letters, for the most part."""
    return byte >= 0x80 or chr(byte).isalnum() or byte == ord("_")


def named_first(
    texts: Sequence[Sequence[int]], axes: Axes, vocabulary: Vocabulary, in_a_word: bool
) -> dict[str, tuple[str | None, ...]]:
    """Axis -> for each text the group that it names first. texts  [N] of token ids; in_a_word: of what stands before them"""
    followed, start = [], Naming(axes, vocabulary, in_a_word)
    for text in texts:
        naming = copy(start)
        naming.first = dict(start.first)
        naming.advance(text)
        followed.append(naming.first)
    return {name: tuple(first[name] for first in followed) for name, _ in axes}
