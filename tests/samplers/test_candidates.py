"""A row's candidates: the law of successive sampling, draw by draw, from given uniforms."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samplers import candidates
from samplers.candidates import RowCandidates, chunk_sums, locate
from tests.samplers.enumeration import pack


@dataclass
class Given:
    """Uniforms that are given."""

    values: list[float]

    def random(self) -> float:
        return self.values.pop(0)


MASSES = st.lists(st.sampled_from([0.0, 0.0, 1e-30, 1e-9, 0.01, 0.25, 0.5, 1.0]), min_size=1, max_size=23)
UNIFORMS = st.lists(st.floats(0.0, 1.0, exclude_max=True), min_size=24, max_size=24)


@pytest.mark.parametrize("chunk", [1, 4, 256])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(MASSES, UNIFORMS)
def test_draws_invert_the_cdf_of_what_remains(chunk: int, dtype: type, masses: list[float], drawn: list[float]) -> None:
    """Draw i is the smallest token whose cumulative remaining mass is above u_i * total: the exact law of the draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "CHUNK", chunk)
        row = RowCandidates(np.array(masses, dtype=dtype), -1.5, Given(list(drawn)))
        left = np.array(masses, dtype=dtype).astype(np.float64)
        for uniform in drawn:
            assert row.log_remaining == pytest.approx(math.log(left.sum()) - 1.5 if left.any() else -math.inf)
            if not left.any():
                break
            token, log_prob = row.draw()
            assert left[token] > 0.0
            cdf, point = left.cumsum(), uniform * left.sum()
            slack = 1e-12 * left.sum()
            assert (cdf[token - 1] if token else 0.0) <= point + slack and cdf[token] >= point - slack
            assert log_prob == pytest.approx(math.log(left[token]) - 1.5)
            left[token] = 0.0


@given(st.lists(st.sampled_from([0.0, 1e-300, 1e-20, 1.0, 3.0]), min_size=1, max_size=9), st.floats(0.0, 2.0))
def test_locate_never_gives_a_token_of_mass_zero(masses: list[float], share: float) -> None:
    cdf = np.cumsum(masses)
    if cdf[-1] > 0.0:
        index = locate(cdf, share * cdf[-1])
        assert cdf[index] > (cdf[index - 1] if index else 0.0)


def test_sums_made_in_another_order_do_not_break_a_draw() -> None:
    masses = np.zeros(600)
    masses[[10, 599]] = 1e-9, 1.0
    for uniform, rounding in itertools.product((0.0, 1e-9, 2e-9, 0.5, 1.0 - 2**-53), (-1e-6, 1e-6)):
        sums = chunk_sums(masses) * (1.0 + rounding)
        row = RowCandidates(masses, 0.0, Given([uniform] * 2), sums=sums)
        assert {row.draw()[0], row.draw()[0]} == {10, 599}
        assert row.log_remaining == -math.inf


def test_the_remaining_mass_is_a_sum_and_not_a_difference() -> None:
    masses = np.array([1.0, 1e-20, 3e-20])
    row = RowCandidates(masses, 0.0, Given([0.3, 0.1, 0.0]))
    assert row.draw()[0] == 0
    assert row.log_remaining == pytest.approx(math.log(4e-20), rel=1e-12)
    assert row.draw() == (1, pytest.approx(math.log(1e-20)))
    assert row.log_remaining == pytest.approx(math.log(3e-20), rel=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_underflowed_masses_come_back_from_the_logits(dtype: type) -> None:
    logits = np.array([0.0, -200.0, -201.0, -3000.0, -np.inf, -np.inf], dtype=dtype)
    with np.errstate(under="ignore"):
        row = RowCandidates(np.exp(logits), 7.0, Given([0.5, 0.5, 0.9, 0.5]), logits=logits, logits_offset=7.0)
    assert row.draw() == (0, 7.0)
    assert row.log_remaining == pytest.approx(7.0 + np.logaddexp(-200.0, -201.0), rel=1e-9)
    assert [row.draw()[0] for _ in range(3)] == [1, 2, 3]
    assert row.log_remaining == -math.inf


def test_a_mask_holds_for_tokens_that_come_back_from_the_logits() -> None:
    logits = np.array([0.0, -2000.0, -2001.0, -2002.0])
    row = RowCandidates(np.exp(logits), 0.0, Given([0.0] * 4), logits=logits)
    row.keep(pack(np.array([True, False, True, True])))
    assert [row.draw()[0] for _ in range(3)] == [0, 2, 3]
    assert row.log_remaining == -math.inf


@settings(max_examples=60, deadline=None, derandomize=True)
@given(MASSES, UNIFORMS, st.integers(1, 8), st.integers(0, 6))
def test_top_takes_out_the_likeliest(masses: list[float], drawn: list[float], k: int, first: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "CHUNK", 4)
        row = RowCandidates(np.array(masses), 0.0, Given(list(drawn)))
        left = np.array(masses)
        for _ in range(first):
            if left.any():
                left[row.draw()[0]] = 0.0
        tokens, log_probs = row.top(k)
        order = np.lexsort((np.arange(len(left)), -left))[:k]
        assert tokens.tolist() == [t for t in order if left[t] > 0.0]
        assert np.allclose(log_probs, np.log(left[tokens]))
        left[tokens] = 0.0
        assert row.log_remaining == pytest.approx(math.log(left.sum()) if left.any() else -math.inf)


def test_top_of_a_large_row_is_its_sorted_head() -> None:
    masses = np.random.default_rng(0).gamma(0.3, size=20_000).astype(np.float32)
    tokens, log_probs = RowCandidates(masses, 0.0, Given([])).top(50)
    assert np.array_equal(tokens, np.argsort(-masses, kind="stable")[:50])
    assert np.all(np.diff(log_probs) <= 0.0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(MASSES, UNIFORMS, st.integers(0, 5), st.integers(0, 2**23 - 1), st.booleans())
def test_keep_and_remaining_leave_out_what_was_drawn(
    masses: list[float], drawn: list[float], first: int, bits: int, with_logits: bool
) -> None:
    left = np.array(masses)
    with np.errstate(divide="ignore"):
        logits = np.log(left) if with_logits else None
    row = RowCandidates(left.copy(), 0.0, Given(list(drawn)), logits=logits)
    for _ in range(first):
        if left.any():
            left[row.draw()[0]] = 0.0
    allowed = np.array([bits >> t & 1 for t in range(len(left))], dtype=bool)
    row.keep(pack(allowed))
    left[~allowed] = 0.0
    assert row.log_remaining == pytest.approx(math.log(left.sum()) if left.any() else -math.inf)
    tokens, log_probs = row.remaining()
    assert sorted(tokens.tolist()) == np.flatnonzero(left).tolist()
    assert np.allclose(np.exp(log_probs), left[tokens])
    assert row.log_remaining == -math.inf and not len(row.remaining()[0]) and not len(row.top(3)[0])


def test_a_row_never_changes_the_masses_it_was_given() -> None:
    masses = np.random.default_rng(0).random(1000).astype(np.float32)
    masses.setflags(write=False)
    sums = chunk_sums(masses)
    sums.setflags(write=False)
    row = RowCandidates(masses, 0.0, np.random.default_rng(1), sums=sums)
    for _ in range(20):
        row.draw()
    row.top(5)
    row.keep(pack(np.ones(1000, dtype=bool)))
    assert len(row.remaining()[0]) == 975


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_with_a_mass_that_is_no_number_has_nothing_to_draw(bad: float) -> None:
    masses = np.ones(700)
    masses[300] = bad
    row = RowCandidates(masses, 0.0, Given([]))
    assert row.log_remaining == -math.inf
    assert not len(row.top(3)[0]) and not len(row.remaining()[0])


def test_chunk_sums_of_many_rows_are_those_of_each() -> None:
    masses = np.random.default_rng(0).random((3, 1000)).astype(np.float32)
    together = chunk_sums(masses)
    assert together.dtype == np.float64 and together.shape == (3, 4)
    assert np.array_equal(together, np.stack([chunk_sums(row) for row in masses]))
    assert np.allclose(together.sum(1), masses.sum(1, dtype=np.float64))
