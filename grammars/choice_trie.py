"""A trie of byte strings in flat arrays, and two tries walked side by side: the tokens that stay inside a set of texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from weakref import WeakKeyDictionary

import numpy as np

from grammars.vocabulary import Vocabulary

# With more pairs of nodes than this a level is taken up by numpy at once: its calls cost some 20 µs a level, a pair in
# Python .4 µs.
MANY_PAIRS = 48


def end_to_end(strings: Iterable[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Strings as one block, and where each starts and stops."""
    strings = list(strings)
    stops = np.fromiter(map(len, strings), np.int64, len(strings)).cumsum()
    return np.frombuffer(b"".join(strings), np.uint8), np.concatenate([[0], stops[:-1]]), stops


def _next_eight(block: np.ndarray, at: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """The next eight bytes as one number that sorts as they do, zeros after the end: uint64 [n]."""
    number = np.zeros(len(at), np.uint64)
    for k in range(8):
        place = np.minimum(at + k, stop - 1)
        number = number << np.uint64(8) | np.where(at + k < stop, block[place], 0).astype(np.uint64)
    return number


class ByteTrie:
    """A set of byte strings. Nodes are numbered level by level, and within a level in byte order; 0 is the root.

    The children of a node are then neighbours, and its level's children follow in its level's order: one array of
    M + 1 numbers says where they begin.

    labels  bytes [M]: the last byte of each node's prefix; the root's means nothing
    first   uint32 [M + 1]: the children of node k are first[k] up to first[k + 1]
    ends    bytes [ceil(M / 8)]: bit k % 8 of byte k // 8 says whether a string of the set ends at node k
    """

    __slots__ = ("__weakref__", "children", "ends", "first", "labels", "length", "size")

    def __init__(self, block: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> None:
        """The set of block[starts[k]:stops[k]]: any order, each as often as it likes, none of them empty.

        block          uint8 [B], B < 2^31
        starts, stops  int [n]
        """
        at, stop = starts.astype(np.int32), stops.astype(np.int32)
        # The strings that reach the present level: where the next byte lies, where the string stops, its node in the level.
        node = np.zeros(len(at), np.int32)
        width = 1
        labels, ends = [np.zeros(1, np.uint8)], [np.zeros(1, bool)]
        counts: list[np.ndarray] = []  # of children, level by level
        while len(at):
            # Strings of a node are put in the order of their next bytes, eight at a time, unless each has one of its own.
            if len(counts) % 8 == 0 and (node[1:] == node[:-1]).any():
                order = np.lexsort((_next_eight(block, at, stop), node))
                at, stop, node = at[order], stop[order], node[order]
            byte = block[at]
            starts_node = np.ones(len(at), bool)
            starts_node[1:] = (node[1:] != node[:-1]) | (byte[1:] != byte[:-1])
            heads = np.flatnonzero(starts_node)
            counts.append(np.bincount(node[heads], minlength=width).astype(np.uint16))
            labels.append(byte[heads])
            node = starts_node.cumsum(dtype=np.int32) - 1
            width = len(heads)
            at = at + 1
            stops_here = at == stop
            ended = np.zeros(width, bool)
            if stops_here.any():
                ended[node[stops_here]] = True
                goes_on = ~stops_here
                at, stop, node = at[goes_on], stop[goes_on], node[goes_on]
            ends.append(ended)
        counts.append(np.zeros(width, np.uint16))
        self.labels = np.concatenate(labels).tobytes()
        self.size = len(self.labels)
        self.first = np.ones(self.size + 1, np.uint32)
        np.cumsum(np.concatenate(counts), dtype=np.uint32, out=self.first[1:])
        self.first[1:] += 1
        flags = np.concatenate(ends)
        self.length = int(np.count_nonzero(flags))
        self.ends = np.packbits(flags, bitorder="little").tobytes()
        # The same memory, read one number at a time in a third of numpy's time.
        self.children = self.first.data

    @classmethod
    def of(cls, strings: Iterable[bytes]) -> ByteTrie:
        return ByteTrie(*end_to_end(strings))

    def __len__(self) -> int:
        """Strings of the set."""
        return self.length

    @property
    def nbytes(self) -> int:
        return len(self.labels) + self.first.nbytes + len(self.ends)

    def is_end(self, node: int) -> bool:
        return bool(self.ends[node >> 3] >> (node & 7) & 1)

    def after(self, node: int, written: bytes) -> int:
        """The node reached from `node` by some bytes; -1 where no string goes on like this."""
        find, children = self.labels.find, self.children
        for byte in written:
            node = find(byte, children[node], children[node + 1])
            if node < 0:
                return -1
        return node

    def __iter__(self) -> Iterator[bytes]:
        """The strings, ascending."""
        stack = [(0, b"")]
        while stack:
            node, prefix = stack.pop()
            if self.is_end(node):
                yield prefix
            for child in range(self.children[node + 1] - 1, self.children[node] - 1, -1):
                stack.append((child, prefix + self.labels[child : child + 1]))


class TokenTrie(ByteTrie):
    """What the tokens of a vocabulary write, as a trie.

    ids     the tokens that write text, in the order of their bytes' nodes
    start   uint32 [M + 1]: node k's tokens are ids[start[k]:start[k + 1]]; several tokens may write the same
    keys    int64 [M - 1]: parent * 256 + label of the nodes 1, 2, ...: ascending
    """

    __slots__ = ("ids", "keys", "places", "start")

    def __init__(self, vocabulary: Vocabulary) -> None:
        written, ids = vocabulary.by_bytes
        super().__init__(*end_to_end(written))
        node_of = {text: self.after(0, text) for text in dict.fromkeys(written)}
        nodes = np.array([node_of[text] for text in written], np.int64)
        self.ids = np.array(ids, np.int64)[np.argsort(nodes, kind="stable")]
        self.start = np.zeros(self.size + 1, np.uint32)
        self.start[1:] = np.bincount(nodes, minlength=self.size).cumsum()
        self.places = self.start.data
        parents = np.repeat(np.arange(self.size), np.diff(self.first.astype(np.int64)))
        self.keys = parents * 256 + np.frombuffer(self.labels, np.uint8)[1:]


_TOKEN_TRIES: WeakKeyDictionary[Vocabulary, TokenTrie] = WeakKeyDictionary()


def token_trie(vocabulary: Vocabulary) -> TokenTrie:
    """The vocabulary's trie, made once (some .3 s for 49,152 tokens)."""
    trie = _TOKEN_TRIES.get(vocabulary)
    if trie is None:
        trie = _TOKEN_TRIES[vocabulary] = TokenTrie(vocabulary)
    return trie


def packed(allowed: np.ndarray) -> np.ndarray:
    """A read-only bitmask: int32 [ceil(V / 32)].

    allowed  bool [V]
    """
    words = np.zeros(-(-len(allowed) // 32) * 4, np.uint8)
    bits = np.packbits(allowed, bitorder="little")
    words[: len(bits)] = bits
    mask = words.view("<i4")
    mask.flags.writeable = False
    return mask


def next_tokens(texts: ByteTrie, node: int, tokens: TokenTrie) -> np.ndarray:
    """The tokens that lead from a node to another node of `texts`: both tries are walked side by side.

    returns  int64 [n], any order
    """
    labels, children = texts.labels, texts.children
    token_labels, token_children, places = tokens.labels, tokens.children, tokens.places
    reached: list[int] = []  # nodes of the token trie
    pairs = [(node, 0)]
    while pairs and len(pairs) <= MANY_PAIRS:
        longer = []
        for text, token in pairs:
            low, high = children[text], children[text + 1]
            token_low, token_high = token_children[token], token_children[token + 1]
            if high - low <= token_high - token_low:
                matches = [
                    (k, t) for k in range(low, high) if (t := token_labels.find(labels[k], token_low, token_high)) >= 0
                ]
            else:
                matches = [
                    (k, t) for t in range(token_low, token_high) if (k := labels.find(token_labels[t], low, high)) >= 0
                ]
            for pair in matches:
                if places[pair[1]] < places[pair[1] + 1]:
                    reached.append(pair[1])
            longer += matches
        pairs = longer
    found = np.array(reached, np.int64)
    if pairs:
        both = np.array(pairs, np.int64)
        found = np.concatenate([found, *_levels(texts, both[:, 0], tokens, both[:, 1])])
    return tokens.ids[_ranges(tokens.start, found)]


def _levels(texts: ByteTrie, node: np.ndarray, tokens: TokenTrie, token: np.ndarray) -> Iterator[np.ndarray]:
    """Nodes of the token trie that lie below pairs of nodes, level by level.

    node, token  int64 [n]
    """
    labels = np.frombuffer(texts.labels, np.uint8)
    while len(node):
        counts = texts.first[node + 1] - texts.first[node]
        child = _ranges(texts.first, node)
        key = np.repeat(token, counts) * 256 + labels[child]
        place = tokens.keys.searchsorted(key)
        place[place == len(tokens.keys)] = 0
        matches = tokens.keys[place] == key
        node, token = child[matches], place[matches] + 1
        yield token


def _ranges(starts: np.ndarray, which: np.ndarray) -> np.ndarray:
    """starts[k], starts[k] + 1, ... up to starts[k + 1] for every k of `which`, end to end: int64."""
    low = starts[which].astype(np.int64)
    counts = starts[which + 1] - low
    return np.repeat(low - (counts.cumsum() - counts), counts) + np.arange(counts.sum())
