"""A small vocabulary with every trap of a real one, and random walks under a constraint."""

from __future__ import annotations

from random import Random

import numpy as np

from grammars import check
from grammars.constraint import Constraint, ConstraintState
from grammars.vocabulary import Vocabulary

# Every byte alone (so that every text has a tokenisation), pieces of characters, pieces of the examples, duplicates.
_PIECES = [
    *(bytes([byte]) for byte in range(256)),
    *(text.encode() for text in ("a", "ab", "abc", "bc", "é", "éé", "你", "你好", "好", "你们", " x", "yes", "no", "aa", "20")),
    *(text.encode() for text in ('{"', '":', '": "', ', "', '"}', "}}", "[1", "]]", "true", "false", "null", "name", '"age"')),
    *(text.encode() for text in ("-0", "12", "1.", "e5", "(1", "+2", "*(", "))", "=[", ";x", "20-", "-01", "é,", "\n  ")),
    "a你".encode()[:3], "你".encode()[1:], "你好".encode()[:4], "é".encode()[1:] + b"x", "😀".encode()[:2], "😀".encode()[2:],
]  # fmt: skip
# Two ids that end a text at the front, a special token in the middle, three padded columns at the end.
_TOKENS = (b"", *_PIECES[:100], b"", b"", *_PIECES[100:])
SMALL = Vocabulary(_TOKENS, (101, 0), len(_TOKENS) + 3)
EVERY_TOKEN = np.arange(SMALL.size)


def bits(mask: np.ndarray, size: int = SMALL.size) -> np.ndarray:
    """bool [size] of a bitmask; whatever its last word has beyond the vocabulary must be zero."""
    flags = np.unpackbits(mask.view(np.uint8), bitorder="little").astype(bool)
    assert not flags[size:].any()
    return flags[:size]


def after(constraint: Constraint, tokens: list[int]) -> ConstraintState:
    state = constraint.start()
    for token in tokens:
        state = state.advance(token)
    return state


def by_bytes(constraint: Constraint, text: bytes, vocabulary: Vocabulary = SMALL) -> ConstraintState | None:
    """The state after a text written byte by byte; None where it is refused on the way."""
    written, ids = vocabulary.by_bytes
    state = constraint.start()
    for k in range(len(text)):
        token = ids[written.index(text[k : k + 1])]
        if not state.accepts(np.array([token]))[0]:
            return None
        state = state.advance(token)
    return state


def is_member(constraint: Constraint, text: str, vocabulary: Vocabulary = SMALL) -> bool:
    state = by_bytes(constraint, text.encode(), vocabulary)
    return state is not None and bool(state.accepts(np.array([vocabulary.eos]))[0])


def walk(
    constraint: Constraint, random: Random, longest: int, vocabulary: Vocabulary = SMALL
) -> tuple[list[int], bool]:
    """A random history over the small vocabulary, and whether it was ended by EOS: see grammars.check."""
    return check.walk(constraint, vocabulary, np.random.default_rng(random.getrandbits(64)), longest)
