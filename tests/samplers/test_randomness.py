"""Uniforms by address."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplers.randomness import MAX_SEED, Purpose, Stream, derive_seed, philox4x32, uniforms

ONES = 0xFFFFFFFF
# Random123's known-answer tests for philox4x32-10: counter, key, output.
KNOWN = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([ONES] * 4, [ONES] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def test_philox_gives_the_known_answers() -> None:
    counters = np.array([counter for counter, _, _ in KNOWN], dtype=np.uint64).T
    keys = np.array([key for _, key, _ in KNOWN], dtype=np.uint64).T
    expected = np.array([words for _, _, words in KNOWN], dtype=np.uint64).T
    assert np.array_equal(philox4x32(counters, keys), expected)


def test_uniforms_are_53_bits_of_two_words() -> None:
    found = uniforms(np.array([0], dtype=np.uint64), np.array([0]), np.array([0]), 0, 2)[0]
    words = KNOWN[0][2]
    assert found[0] == ((words[0] << 32 | words[1]) >> 11) / 2**53
    assert found[1] == ((words[2] << 32 | words[3]) >> 11) / 2**53


WORDS = st.integers(0, 2**32 - 1)


@given(st.integers(0, MAX_SEED), WORDS, WORDS, st.integers(0, 50), st.integers(1, 20))
def test_any_block_of_uniforms_is_addressable(seed: int, particle: int, position: int, first: int, count: int) -> None:
    address = (np.array([seed], dtype=np.uint64), np.array([particle]), np.array([position]))
    whole = uniforms(*address, 0, first + count)
    assert np.array_equal(uniforms(*address, first, count), whole[:, first:])
    assert np.all((whole >= 0.0) & (whole < 1.0))


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    seeds = np.array([5, 2**63 + 1, 5], dtype=np.uint64)
    together = uniforms(seeds, np.array([0, 7, 1]), np.array([3, 3, 9]), 0, 5)
    for n, (particle, position) in enumerate([(0, 3), (7, 3), (1, 9)]):
        alone = uniforms(seeds[n : n + 1], np.array([particle]), np.array([position]), 0, 5)
        assert np.array_equal(together[n], alone[0])


def test_no_two_addresses_share_a_uniform() -> None:
    blocks = [
        uniforms(np.array([seed], dtype=np.uint64), np.array([particle]), np.array([position]), 0, 4, purpose)
        for seed in (0, 1, 1 << 32)
        for particle in (0, 1)
        for position in (0, 1)
        for purpose in Purpose
    ]
    assert len(np.unique(np.concatenate(blocks))) == 4 * len(blocks)


def test_uniforms_are_uniform_and_uncorrelated() -> None:
    """Each of 100 bins and each lag-one correlation is within 6 standard deviations of its expectation."""
    n = 200_000
    drawn = uniforms(np.array([3], dtype=np.uint64), np.array([0]), np.array([0]), 0, n)[0]
    counts = np.bincount((drawn * 100).astype(int), minlength=100)
    assert np.all(np.abs(counts - n / 100) < 6 * np.sqrt(n / 100))
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 6 / np.sqrt(n)


@pytest.mark.parametrize("prefetched", [0, 1, 7, 32, 33])
def test_a_stream_is_the_same_with_and_without_prefetched_uniforms(prefetched: int) -> None:
    seeds = np.array([11], dtype=np.uint64)
    expected = uniforms(seeds, np.array([2]), np.array([5]), 0, 100)[0].tolist()
    ahead = uniforms(seeds, np.array([2]), np.array([5]), 0, prefetched)[0] if prefetched else None
    stream = Stream(11, 2, 5, prefetched=ahead)
    assert [stream.random() for _ in range(100)] == expected


def test_derived_seeds_start_with_the_seed_itself_and_differ() -> None:
    assert derive_seed(42, 0) == 42
    derived = [derive_seed(seed, k) for seed in (0, 42, MAX_SEED) for k in range(1, 200)]
    assert len(set(derived)) == len(derived) and all(0 <= seed <= MAX_SEED for seed in derived)
