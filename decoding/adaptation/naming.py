"""Whom a text names first, axis by axis: while it is written, token by token, and once it is there, by its words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from grammars.vocabulary import Vocabulary

# group -> tokens that begin one of its words wherever they stand (" she"), and those that do where no letter stands before ("She")
Groups = Mapping[str, tuple[Sequence[int], Sequence[int]]]
Axes = Sequence[tuple[str, Groups]]
WORD = re.compile(r"\w+")


class Naming:
    """Follows one text under way. A word counts from its first token on, though it may become another: " he" that goes on as "her".

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
            self.in_a_word = bool(written) and is_of_a_word(written[-1])


def is_of_a_word(byte: int) -> bool:
    """Bytes above 127 are those of other scripts' letters, for the most part."""
    return byte >= 0x80 or chr(byte).isalnum() or byte == ord("_")


def named_first(
    texts: Sequence[str], lexicons: Mapping[str, Mapping[str, Sequence[str]]], before: str = ""
) -> dict[str, tuple[str | None, ...]]:
    """Axis -> for each text the group that it names first, as a reader sees it, however tokens cut its words.

    texts     [N]
    lexicons  axis -> group -> words in lower case
    before    letters that the prompt ends in, with which a text's first word may begin
    """
    owners = {
        axis: {word: group for group, words in groups.items() for word in words} for axis, groups in lexicons.items()
    }
    read = [
        [match.group().lower() for match in WORD.finditer(before + text) if match.end() > len(before)] for text in texts
    ]
    return {
        axis: tuple(next((owner[word] for word in words if word in owner), None) for words in read)
        for axis, owner in owners.items()
    }
