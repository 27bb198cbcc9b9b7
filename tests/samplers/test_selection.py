"""Selection among k judged candidates: the target it is for, ties, bad input, and its speed."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammars.errors import RequestError
from samplers import selection

FINITE = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(FINITE, st.floats(-50, 50)), min_size=1, max_size=12), st.floats(1e-3, 1e3))
def test_weights_are_proportional_to_the_target(pairs: list[tuple[float, float]], temperature: float):
    rewards, log_weights = np.array(pairs).T
    weights = selection.selection_weights(rewards, temperature, log_weights)
    assert weights.sum() == pytest.approx(1.0)
    for i, j in itertools.combinations(range(len(pairs)), 2):
        if min(weights[i], weights[j]) > 1e-250:
            log_odds = log_weights[i] - log_weights[j] + (rewards[i] - rewards[j]) / temperature
            assert math.log(weights[i] / weights[j]) == pytest.approx(log_odds, rel=1e-6, abs=1e-6)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8), st.floats(0, 5), FINITE)
def test_a_constant_added_to_all_rewards_changes_nothing(rewards: list[int], temperature: float, constant: float):
    plain = selection.selection_weights(np.array(rewards, dtype=float), temperature)
    moved = selection.selection_weights(np.array(rewards) + round(constant), temperature)
    np.testing.assert_allclose(plain, moved, atol=1e-12)


def test_selection_draws_from_the_reweighted_law():
    """All k-tuples of a three-letter law, by enumeration: the law of the selected tends to p·exp(r/T), at T = 0 to the best."""
    p, rewards, temperature = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 0.4]), 0.7
    target = p * np.exp(rewards / temperature)
    target /= target.sum()

    def law(k: int, t: float) -> np.ndarray:
        mass = np.zeros(3)
        for letters in itertools.product(range(3), repeat=k):
            weights = selection.selection_weights(rewards[list(letters)], t)
            np.add.at(mass, list(letters), weights * p[list(letters)].prod())
        return mass

    distances = [np.abs(law(k, temperature) - target).sum() / 2 for k in (1, 2, 4, 8)]
    assert distances == sorted(distances, reverse=True) and distances[-1] < 0.25 * distances[0]
    np.testing.assert_allclose(law(3, 0.0)[1], 1 - 0.7**3)  # the best is selected whenever it was drawn
    # Planted bias: half the temperature is another law.
    assert np.abs(law(8, temperature / 2) - target).sum() / 2 > 2 * distances[-1]


def test_weights_of_constrained_particles_multiply():
    """Draws of a proposal with proper weights: exhaustive proposal, so that selection is the target exactly."""
    p, allowed, rewards = np.array([0.5, 0.3, 0.2]), np.array([1.0, 0.0, 1.0]), np.array([0.0, 9.0, 1.0])
    with np.errstate(divide="ignore"):
        weights = selection.selection_weights(rewards, 0.5, np.log(p * allowed))
    target = p * allowed * np.exp(rewards / 0.5)
    np.testing.assert_allclose(weights, target / target.sum())


def test_ties_go_to_the_heavier_then_to_the_first():
    rewards = np.array([1.0, 2.0, 2.0, 2.0])
    assert selection.argmax(selection.selection_weights(rewards, 0.0)) == 1
    heavier = np.log([0.9, 0.1, 0.3, 0.3])
    weights = selection.selection_weights(rewards, 0.0, heavier)
    assert selection.argmax(weights) == 2
    np.testing.assert_allclose(weights, [0, 0.1 / 0.7, 0.3 / 0.7, 0.3 / 0.7])


def test_sampling_follows_the_weights_and_never_takes_weight_zero():
    weights = np.array([0.0, 0.25, 0.75])
    drawn = np.bincount([selection.sample(weights, seed) for seed in range(4000)], minlength=3) / 4000
    # Four standard errors.
    assert drawn[0] == 0.0 and abs(drawn[1] - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 4000)
    assert selection.sample(weights, 5) == selection.sample(weights, 5)


def test_expectation_and_votes():
    weights = selection.selection_weights(np.array([0.0, math.log(2.0), math.log(3.0), 0.0]), 1.0)
    assert selection.expectation(weights, np.array([7.0, 14.0, 21.0, 7.0])) == pytest.approx((7 + 28 + 63 + 7) / 7)
    assert selection.weighted_vote(weights, ["a", "b", "a", None]) == pytest.approx({"a": 4 / 6, "b": 2 / 6})
    assert list(selection.weighted_vote(np.full(4, 0.25), ["y", "x", "x", "y"])) == ["y", "x"]
    assert selection.weighted_vote(weights, [None] * 4) == {}
    assert selection.self_consistency(["a", "b", "b"]) == pytest.approx({"b": 2 / 3, "a": 1 / 3})
    dead = np.array([0.0, -math.inf, 0.0])
    assert selection.expectation(selection.selection_weights(np.zeros(3), 1.0, dead), np.array([1, math.nan, 3])) == 2.0


def test_ess_and_the_kl_bound():
    assert selection.selection_ess(np.array([0.5, 0.5, 0.0])) == pytest.approx(2.0)
    assert selection.kl_bound(1) == 0.0 and selection.kl_bound(8) == pytest.approx(math.log(8) - 7 / 8)
    # The hard rule among k distinct rewards attains it in the limit of many: here the law is uniform on 2,000 values.
    ranks, k = np.arange(1, 2001) / 2000, 5
    law = np.diff(ranks**k, prepend=0.0)
    assert (law * np.log(law * 2000)).sum() == pytest.approx(selection.kl_bound(k), abs=2e-3)
    assert (law * np.log(law * 2000)).sum() <= selection.kl_bound(k)


@pytest.mark.parametrize(
    ("rewards", "temperature", "log_weights", "said"),
    [
        ([], 1.0, None, "k >= 1 candidates"),
        ([1.0, math.nan], 1.0, None, r"rewards\[1\] is nan"),
        ([math.inf, 1.0], 0.0, None, r"rewards\[0\] is inf"),
        ([1.0, 2.0], -0.1, None, "temperature=-0.1"),
        ([1.0, 2.0], math.nan, None, "temperature=nan"),
        ([1.0, 2.0], math.inf, None, "temperature=inf"),
        ([1.0, 2.0], True, None, "temperature=True"),
        ([1.0, 2.0], 1.0, [0.0], "for 2 rewards"),
        ([1.0, 2.0], 1.0, [0.0, math.nan], r"log_weights\[1\] is nan"),
        ([1.0, 2.0], 1.0, [-math.inf, -math.inf], "none to select"),
    ],
)
def test_bad_input_is_named(rewards: list[float], temperature: float, log_weights: list[float] | None, said: str):
    given_weights = None if log_weights is None else np.array(log_weights)
    with pytest.raises(RequestError, match=said):
        selection.selection_weights(np.array(rewards), temperature, given_weights)


def test_a_candidate_that_could_not_be_judged_is_left_out_by_its_weight():
    weights = selection.selection_weights(np.array([math.nan, 1.0]), 1.0, np.array([-math.inf, 0.0]))
    np.testing.assert_array_equal(weights, [0.0, 1.0])
    with pytest.raises(RequestError, match="k=0"):
        selection.kl_bound(0)


def test_selection_among_1024_takes_less_than_a_millisecond():
    rng = np.random.default_rng(0)
    rewards, log_weights = rng.standard_normal(1024), rng.standard_normal(1024)
    seconds = []
    for seed in range(50):
        begun = time.perf_counter()
        selection.sample(selection.selection_weights(rewards, 0.5, log_weights), seed)
        seconds.append(time.perf_counter() - begun)
    assert min(seconds) < 1e-3
