"""When to stop: the posteriors against scipy, and decisions that follow from them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from grammars.errors import RequestError
from samplers.rule import Drawn
from samplers.rules.softmax import Softmax
from samplers.stopping import (
    ImprovementStop,
    VoteStop,
    beta_above_half,
    expected_improvement,
    incomplete_beta,
    stop_of,
)

RULE = Softmax()


def drawn(texts: list[str], rewards: list[float] | None = None, weights: list[float] | None = None) -> Drawn:
    known = np.full(len(texts), math.nan) if rewards is None else np.array(rewards)
    with np.errstate(divide="ignore"):
        return Drawn(texts, known, np.zeros(len(texts)) if weights is None else np.log(weights), 1.0)


@given(st.floats(0.5, 2000), st.floats(0.5, 2000), st.floats(0, 1))
def test_the_incomplete_beta_function_is_scipys(a: float, b: float, x: float):
    assert incomplete_beta(a, b, x) == pytest.approx(scipy.stats.beta(a, b).cdf(x), abs=1e-10)


@settings(max_examples=30)
@given(st.floats(-3, 6), st.integers(3, 200), st.floats(0.1, 3))
def test_the_expected_improvement_is_the_integral_over_students_law(best: float, number: int, spread: float):
    law = scipy.stats.t(number - 1, 0.5, spread * math.sqrt(1 + 1 / number))
    grid = np.linspace(best, best + 400 * spread, 40_001)
    density = law.pdf(grid) * (grid - best)
    tail = float(np.trapezoid(density, grid))
    found = expected_improvement(best, 0.5, spread, number)
    # Two degrees of freedom leave 1/400 of the law's scale beyond the grid.
    assert found == pytest.approx(tail, abs=6e-3 * spread)


def test_the_vote_stops_once_the_leader_is_ahead_for_good():
    for ahead, behind in ((1, 0), (3, 0), (5, 0), (5, 2), (9, 1), (40, 20)):
        sure = scipy.stats.beta(ahead + 1, behind + 1).sf(0.5)
        assert beta_above_half(ahead + 1, behind + 1) == pytest.approx(sure, abs=1e-10)
        texts = ["a"] * ahead + ["b"] * behind
        for confidence in (0.6, 0.9, 0.95, 0.99):
            assert VoteStop(confidence).enough(drawn(texts), RULE, 4) == (sure > confidence)


def test_votes_are_weights_and_abstainers_are_none():
    # Twelve particles of which one has all the weight are one vote.
    assert VoteStop(0.95).enough(drawn(["a"] * 12), RULE, 4)
    assert not VoteStop(0.95).enough(drawn(["a"] * 12, weights=[1.0] + [1e-9] * 11), RULE, 4)
    assert not VoteStop(0.95, lambda text: text if text == "a" else None).enough(drawn(["a"] + ["b"] * 20), RULE, 4)
    assert not VoteStop(0.95, lambda text: None).enough(drawn(["a"] * 12), RULE, 4)
    # Rewards move the weight: b has e^5 of it for each.
    assert VoteStop(0.9).enough(drawn(["a"] * 6 + ["b"] * 6, [0.0] * 6 + [5.0] * 6), RULE, 4)


def test_improvement_stops_where_the_next_wave_gains_less_than_it_costs():
    rewards = list(np.random.default_rng(1).normal(0, 1, 60))
    texts = [str(k) for k in range(60)]
    mean, spread = float(np.mean(rewards)), float(np.std(rewards, ddof=1))
    gain = 4 * expected_improvement(max(rewards), mean, spread, 60)
    assert gain > 0
    for factor, enough in ((0.9, False), (1.1, True)):
        assert ImprovementStop(factor * gain).enough(drawn(texts, rewards), RULE, 4) == enough
    assert not ImprovementStop(1.0).enough(drawn(["a", "b"], [0.0, 0.0]), RULE, 4)
    assert ImprovementStop(0.0).enough(drawn(["a", "b", "c"], [1.0, 1.0, 1.0]), RULE, 4)


def test_a_verifier_that_has_said_no_so_far_is_asked_on_and_a_yes_is_enough():
    for count, enough in ((3, False), (38, False), (39, True)):
        texts = [str(k) for k in range(count)]
        assert ImprovementStop(0.1, highest=1.0).enough(drawn(texts, [0.0] * count), RULE, 4) == enough
    assert ImprovementStop(0.0, highest=1.0).enough(drawn(["a", "b"], [0.0, 1.0]), RULE, 4)
    assert not ImprovementStop(0.0, highest=1.0).enough(drawn(["a"], [math.nan]), RULE, 4)


@pytest.mark.parametrize(
    "given",
    ["nothing", 5, {"vote": {"confidence": 0.5}}, {"vote": {"confidence": 1}}, {"vote": {"extract": 3}}, {"vote": {"x": 1}},
     {"improvement": {"min_gain": -1}}, {"improvement": {"highest": math.nan}}, {"improvement": {"min_gain": math.inf}}],
)  # fmt: skip
def test_rules_for_stopping_that_cannot_be_are_named(given: Any):
    with pytest.raises(RequestError, match="until"):
        stop_of(given)
