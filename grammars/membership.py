"""A constraint walked along given bytes, however its vocabulary would write them."""

from __future__ import annotations

from functools import cache

import numpy as np

from grammars.choice_trie import token_trie
from grammars.constraint import Constraint, ConstraintState, Language
from grammars.errors import Unsatisfiable
from grammars.registry import compile_cached
from grammars.vocabulary import Vocabulary


@cache
def byte_vocabulary() -> Vocabulary:
    """Every byte is a token, and the end is another."""
    return Vocabulary((*(bytes([byte]) for byte in range(256)), b""), (256,), 257)


def tokenised(data: bytes, vocabulary: Vocabulary) -> list[int] | None:
    """Some bytes as tokens, as few as will do; None where no tokens write them.

    Which tokens they are does not matter to a constraint: its verdict hangs on the bytes alone.
    """
    trie = token_trie(vocabulary)
    find, children, places = trie.labels.find, trie.children, trie.places
    # fewest[k]: for the bytes from k on, how many tokens, the first of them, and where the next one begins
    fewest: list[tuple[int, int, int] | None] = [None] * len(data) + [(0, -1, -1)]
    for k in range(len(data) - 1, -1, -1):
        node, best = 0, None
        for end in range(k + 1, len(data) + 1):
            node = find(data[end - 1], children[node], children[node + 1])
            if node < 0:
                break
            rest = fewest[end]
            if places[node] < places[node + 1] and rest is not None and (best is None or rest[0] < best[0] - 1):
                best = rest[0] + 1, int(trie.ids[places[node]]), end
        fewest[k] = best
    tokens, k = [], 0
    while k < len(data):
        step = fewest[k]
        if step is None:
            return None
        tokens.append(step[1])
        k = step[2]
    return tokens


def after(state: ConstraintState, data: bytes, vocabulary: Vocabulary) -> ConstraintState | None:
    """The state after some more bytes; None where they are refused, or where no tokens write them."""
    tokens = tokenised(data, vocabulary)
    if tokens is None:
        return None
    for token in tokens:
        if not state.accepts(np.array([token]))[0]:
            return None
        state = state.advance(token)
    return state


def is_member(constraint: Constraint, data: bytes, vocabulary: Vocabulary) -> bool:
    """Whether a finished text satisfies the constraint."""
    try:
        end = after(constraint.start(), data, vocabulary)
    except Unsatisfiable:
        return False
    return end is not None and end.is_complete


def contains(language: Language, text: str) -> bool:
    """Whether a text belongs to a language, without any model's vocabulary."""
    vocabulary = byte_vocabulary()
    return is_member(compile_cached(language, vocabulary), text.encode(), vocabulary)
