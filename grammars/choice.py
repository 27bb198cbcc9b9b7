"""A closed set of texts, one of which is written: a handful, or a million names."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import numpy as np

from grammars.choice_names import digest_of, encoded, listed, read_file
from grammars.choice_trie import ByteTrie, next_tokens, packed, token_trie
from grammars.constraint import Language
from grammars.errors import GrammarError
from grammars.registry import Example, grammar
from grammars.vocabulary import Vocabulary

# A larger set does not travel with each request: it goes by a file's name, or by a handle within its process.
MAX_SPEC_BYTES = 1 << 18
CACHED_MASK_BYTES = 16 << 20

# Large sets in this process, for as long as somebody holds one of their languages or compiled constraints.
_IN_MEMORY: WeakValueDictionary[str, ByteTrie] = WeakValueDictionary()


@grammar("choice")
class Choice(Language):
    """Exactly the given texts; one may be a prefix of another, and a text given twice counts once.

    names  a list or an iterator of texts, none of them empty; Literal["yes", "no"]; or a path: a UTF-8 text file with one
           name a line, blank lines left out. {"file": path} is the same in a spec, with "sha256" to pin the content.

    Up to 256 KiB of texts travel as they are. Of more, in memory, only a handle travels, which other processes cannot
    resolve (a GrammarError says so): a file reaches every process that can read it. The file is read when the language is
    made; a process that finds another content there raises GrammarError.
    """

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"choice": ["yes", "no"]}, ("yes", "no"), ("", "y", "yess", "maybe")),
        Example(
            {"choice": ["a", "ab", "abc", "b c", "é", "你好", "你们"]},
            ("a", "ab", "é", "你们"),
            ("", "b", "abcd", "你"),
        ),
    )

    def __init__(self, names: Any) -> None:
        if isinstance(names, Mapping) and set(names) == {"memory"}:
            names = names["memory"]
            trie = _IN_MEMORY.get(names) if isinstance(names, str) else None
            if trie is None:
                raise GrammarError(
                    "a choice among very many texts in memory cannot cross to another process, and ends with its language: "
                    'write the texts to a file, one a line, and give the path, or {"choice": {"file": path}}'
                )
            self.trie, self._source = trie, {"memory": names}
        elif isinstance(names, os.PathLike) or (isinstance(names, Mapping) and "file" in names):
            reference = names if isinstance(names, Mapping) else {"file": names}
            if unknown := set(reference) - {"file", "sha256"}:
                raise GrammarError(f'choice from a file takes "file" and "sha256", not {sorted(map(str, unknown))}')
            path, sha256, self.trie = read_file(reference["file"], reference.get("sha256"))
            self._source = {"file": path, "sha256": sha256}
        else:
            self.trie, self._source = _held(listed(names))

    @property
    def spec(self) -> dict[str, Any]:
        return {"choice": self._source}

    @property
    def options(self) -> tuple[str, ...]:
        """The texts: in the order given if they are few, in byte order if they are many or a file's."""
        if isinstance(self._source, list):
            return tuple(self._source)
        return tuple(name.decode() for name in self.trie)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Choice) and self._source == other._source

    def __hash__(self) -> int:
        return hash(str(self._source))

    def __repr__(self) -> str:
        text = repr(self._source)
        return f"Choice({text if len(text) <= 80 else text[:77] + '...'})"

    def compile(self, vocabulary: Vocabulary) -> ChoiceConstraint:
        return ChoiceConstraint(self.trie, vocabulary)


def _held(options: Iterable[Any]) -> tuple[ByteTrie, Any]:
    """The trie of some texts, and what stands for them in a spec."""
    block, starts, stops = encoded(options)
    trie = ByteTrie(block, starts, stops)
    # JSON writes a text in quotes with a comma and a space.
    if len(block) + 4 * len(starts) <= MAX_SPEC_BYTES:
        texts = (block[start:stop].tobytes().decode() for start, stop in zip(starts.tolist(), stops.tolist()))
        return trie, list(dict.fromkeys(texts))
    handle = digest_of(trie)
    return _IN_MEMORY.setdefault(handle, trie), {"memory": handle}


class ChoiceConstraint:
    """A trie of texts beside a trie of tokens. A state is a node of the former."""

    can_mask = True

    def __init__(self, trie: ByteTrie, vocabulary: Vocabulary) -> None:
        self.trie = trie
        self.vocabulary = vocabulary
        self.tokens = token_trie(vocabulary)
        self._masks: OrderedDict[int, np.ndarray] = OrderedDict()
        self._room = max(CACHED_MASK_BYTES // (4 * vocabulary.mask_words), 16)
        self._lock = threading.Lock()

    def start(self) -> ChoiceState:
        return ChoiceState(self, 0)

    def mask(self, node: int) -> np.ndarray:
        """The bitmask at a node, from the cache where some sequence has been there lately."""
        with self._lock:
            mask = self._masks.get(node)
            if mask is not None:
                self._masks.move_to_end(node)
                return mask
        allowed = np.zeros(self.vocabulary.size, dtype=bool)
        allowed[next_tokens(self.trie, node, self.tokens)] = True
        allowed[self.vocabulary.eos] = self.trie.is_end(node)
        mask = packed(allowed)
        with self._lock:
            self._masks[node] = mask
            while len(self._masks) > self._room:
                self._masks.popitem(last=False)
        return mask


class ChoiceState:
    """The text so far, as its node in the trie."""

    __slots__ = ("_constraint", "_node")

    mask_is_exact = True

    def __init__(self, constraint: ChoiceConstraint, node: int) -> None:
        self._constraint = constraint
        self._node = node

    @property
    def is_complete(self) -> bool:
        return self._constraint.trie.is_end(self._node)

    def bitmask(self) -> np.ndarray:
        return self._constraint.mask(self._node)

    def accepts(self, tokens: np.ndarray, masked: bool = False) -> np.ndarray:
        if masked:
            return np.ones(len(tokens), dtype=bool)
        vocabulary, after, node = self._constraint.vocabulary, self._constraint.trie.after, self._node
        return np.array(
            [
                after(node, written) >= 0
                if (written := vocabulary.bytes_of(t))
                else t == vocabulary.eos and self.is_complete
                for t in tokens.tolist()
            ],
            dtype=bool,
        )

    def advance(self, token: int) -> ChoiceState:
        constraint = self._constraint
        if token == constraint.vocabulary.eos:
            return self
        node = constraint.trie.after(self._node, constraint.vocabulary.bytes_of(token))
        assert node >= 0, f"token {token} is not accepted here"
        return ChoiceState(constraint, node)
