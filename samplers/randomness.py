"""Uniforms by address: a row's draws depend on its (seed, particle, position, purpose) and on nothing in the batch.

The generator is Philox4x32-10 (Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
    key      (low, high) 32-bit words of the seed
    counter  (block, particle, position, purpose), one 32-bit word each
Block b gives the words w0..w3 and with them uniforms 2b and 2b + 1 of the address: ((w0 << 32 | w1) >> 11) * 2^-53 and
the same of (w2, w3): 53 bits each, in [0, 1). Whoever follows these lines elsewhere (a GPU kernel, another rank) gets
the same numbers.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
_KEY_STEPS = np.array([[0x9E3779B9], [0xBB67AE85]], dtype=np.uint64)
_ROUND_KEYS = np.arange(10, dtype=np.uint64)[:, None, None] * _KEY_STEPS  # [10, 2, 1]
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_11 = np.uint64(11)

MAX_SEED = 2**64 - 1


class Purpose(IntEnum):
    """What a uniform is for: different purposes never share one."""

    TOKEN = 0
    RESAMPLE = 1
    SEED = 2
    RACE = 3
    SELECT = 4


def philox4x32(counters: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Ten rounds of Philox, for n counters side by side.

    counters  uint64 [4, n], each below 2^32
    keys      uint64 [2, n] or [2, 1], each below 2^32
    returns   uint64 [4, n], each below 2^32
    """
    round_keys = (keys + _ROUND_KEYS) & _LOW
    even, odd = counters[0::2], counters[1::2]
    for round_key in round_keys:
        products = even * _MULTIPLIERS
        even = (products >> _32)[::-1] ^ odd
        even ^= round_key
        odd = (products & _LOW)[::-1]
    words = np.empty((4, even.shape[1]), dtype=np.uint64)
    words[0::2], words[1::2] = even, odd
    return words


def uniforms(
    seeds: np.ndarray,
    particles: np.ndarray,
    positions: np.ndarray,
    first: int,
    count: int,
    purpose: int = Purpose.TOKEN,
) -> np.ndarray:
    """Uniforms first .. first + count - 1 of N addresses.

    seeds      uint64 [N]
    particles  integers [N] below 2^32
    positions  integers [N] below 2^32
    returns    float64 [N, count] in [0, 1), 53 bits each
    """
    seeds = np.asarray(seeds).astype(np.uint64, copy=False)
    rows = len(seeds)
    block, blocks = first // 2, (first + count + 1) // 2 - first // 2
    counters = np.empty((4, rows, blocks), dtype=np.uint64)
    counters[0] = np.arange(block, block + blocks, dtype=np.uint64)
    counters[1] = np.asarray(particles).astype(np.uint64, copy=False)[:, None]
    counters[2] = np.asarray(positions).astype(np.uint64, copy=False)[:, None]
    counters[3] = purpose
    keys = np.empty((2, rows, blocks), dtype=np.uint64)
    keys[0] = (seeds & _LOW)[:, None]
    keys[1] = (seeds >> _32)[:, None]
    words = philox4x32(counters.reshape(4, -1), keys.reshape(2, -1))
    doubles = np.empty((rows * blocks, 2), dtype=np.float64)
    doubles[:] = (((words[0::2] << _32) | words[1::2]) >> _11).T
    doubles *= 2.0**-53
    skipped = first - 2 * block
    return doubles.reshape(rows, 2 * blocks)[:, skipped : skipped + count]


def derive_seed(seed: int, index: int) -> int:
    """The seed of prompt `index` in a batch: the seed itself for index 0, 64 fresh bits of it for the others.

    So generate([p, q, ...], seed=s)[0] draws what generate(p, seed=s) draws, and equal prompts in a batch draw
    differently.
    """
    if index == 0:
        return seed
    counter = np.array([[index & 0xFFFFFFFF], [index >> 32], [0], [Purpose.SEED]], dtype=np.uint64)
    key = np.array([[seed & 0xFFFFFFFF], [seed >> 32]], dtype=np.uint64)
    words = philox4x32(counter, key)
    return int(words[0, 0]) << 32 | int(words[1, 0])


class Stream:
    """The uniforms of one address, in order.

    prefetched  float64 [K]: the first K of them, where the caller has computed them for all rows at once; further ones
                are computed here as they are needed. The numbers are the same either way.
    """

    __slots__ = ("_block", "_next", "_offset", "particle", "position", "purpose", "seed")

    def __init__(
        self,
        seed: int,
        particle: int,
        position: int,
        prefetched: np.ndarray | None = None,
        purpose: int = Purpose.TOKEN,
    ) -> None:
        self.seed, self.particle, self.position, self.purpose = seed, particle, position, purpose
        self._block: list[float] = [] if prefetched is None else prefetched.tolist()
        self._next = 0  # index into _block
        self._offset = 0  # number of the uniform that _block starts with

    def random(self) -> float:
        """The next uniform in [0, 1)."""
        if self._next == len(self._block):
            self._offset += len(self._block)
            seeds = np.array([self.seed], dtype=np.uint64)
            self._block = uniforms(
                seeds, np.array([self.particle]), np.array([self.position]), self._offset, 32, self.purpose
            )[0].tolist()
            self._next = 0
        value = self._block[self._next]
        self._next += 1
        return value
