"""Rules of selection: laws that all obey, and each against what it is defined by."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammars.errors import RequestError
from samplers.population import normalise
from samplers.rule import Drawn, rule_names, rule_of
from samplers.rules.mbr import Mbr, utilities
from samplers.rules.pessimistic import threshold

OPTIONS = {"mbr": {"beta": 0.5}, "pessimistic": {"beta": 0.5}, "best_of_poisson": {"mean": 3.0}}
REWARDS = st.lists(st.integers(-400, 400).map(lambda eighths: eighths / 8), min_size=1, max_size=8)


def drawn(rewards: Any, shares: Any = None, texts: Any = None, temperature: float = 1.0) -> Drawn:
    rewards = np.asarray(rewards, dtype=float)
    count = len(rewards)
    with np.errstate(divide="ignore"):
        log_weights = np.zeros(count) if shares is None else np.log(np.asarray(shares, dtype=float))
    return Drawn(texts or [f"text {k}" for k in range(count)], rewards, log_weights, temperature)


def chances(name: str, given: Drawn, **options: float) -> np.ndarray:
    return normalise(rule_of({name: options or OPTIONS.get(name, {})}).log_weights(given))


@pytest.mark.parametrize("name", rule_names())
@given(REWARDS)
def test_every_rule_gives_a_law_that_no_constant_changes(name: str, rewards: list[float]):
    law = chances(name, drawn(rewards))
    assert law.sum() == pytest.approx(1.0) and (law >= 0).all()
    assert chances(name, drawn(np.array(rewards) + 8.0)) == pytest.approx(law, abs=1e-6)


@pytest.mark.parametrize("name", [name for name in rule_names() if name != "mbr"])
@given(REWARDS)
def test_a_higher_reward_is_never_less_likely(name: str, rewards: list[float]):
    law = chances(name, drawn(rewards))
    order = np.argsort(rewards)
    assert (np.diff(law[order]) >= -1e-9).all()


@pytest.mark.parametrize("name", rule_names())
def test_the_dead_and_the_unjudged_are_never_selected_and_weight_counts(name: str):
    law = chances(name, drawn([5.0, math.nan, 1.0, 1.0], [0.0, 1.0, 1.0, 3.0], ["a", "b", "c", "c"]))
    assert law.tolist() == pytest.approx([0.0, 0.0, 0.25, 0.75])
    nobody = rule_of({name: OPTIONS.get(name, {})}).log_weights(drawn([math.nan, math.nan]))
    assert np.isneginf(nobody).all()


@pytest.mark.parametrize("name", [name for name in rule_names() if name != "mbr"])
def test_a_particle_of_weight_two_is_two_particles(name: str):
    merged = chances(name, drawn([1.0, 2.0, 3.0], [2.0, 1.0, 2.0]))
    apart = chances(name, drawn([1.0, 1.0, 2.0, 3.0, 3.0]))
    assert merged == pytest.approx([apart[:2].sum(), apart[2], apart[3:].sum()])


def test_best_of_poisson_is_the_mean_over_draws_of_n():
    """By enumeration over all n-tuples of three candidates, n up to 8, with a mean for which more draws have no weight."""
    shares, rewards, mean = np.array([0.5, 0.2, 0.3]), np.array([1.0, 3.0, 2.0]), 0.4
    expected = np.zeros(3)
    for n in range(1, 9):
        chance_n = math.exp(-mean) * mean ** (n - 1) / math.factorial(n - 1)
        for tuple_ in itertools.product(range(3), repeat=n):
            best = max(tuple_, key=lambda k: rewards[k])
            expected[best] += chance_n * shares[list(tuple_)].prod()
    assert chances("best_of_poisson", drawn(rewards, shares), mean=mean) == pytest.approx(expected, abs=1e-7)


@given(REWARDS, st.floats(0.01, 20))
def test_the_pessimistic_law_maximises_reward_less_its_penalty(rewards: list[float], beta: float):
    """No mass moved between two candidates makes it better, and λ is where the weights sum to 1."""
    values, count = np.array(rewards), len(rewards)
    law, base = chances("pessimistic", drawn(rewards), beta=beta), np.full(count, 1 / count)
    lam = threshold(values, base, beta)
    assert float(base @ np.maximum(values - lam, 0)) == pytest.approx(beta, rel=1e-6)

    def objective(p: np.ndarray) -> float:
        return float(p @ values - beta / 2 * ((p - base) ** 2 / base).sum())

    for i, j in itertools.permutations(range(count), 2):
        moved = law.copy()
        step = 1e-3 * law[i]
        moved[i], moved[j] = moved[i] - step, moved[j] + step
        assert objective(moved) <= objective(law) + 1e-9


def test_pessimism_bounds_how_far_one_candidate_is_followed():
    """One of many is judged far too high: the softmax goes to it alone, pessimism as far as it says."""
    rewards = np.append(np.linspace(0, 1, 63), 30.0)
    assert chances("softmax", drawn(rewards))[-1] > 0.999
    assert chances("pessimistic", drawn(rewards), beta=4.0)[-1] < 0.3


def test_mbr_believes_in_texts_that_others_support():
    texts = ["the answer is 42", "the answer is 42!", "the answer is 43", "zzzzz qqqqq"]
    given = drawn([0.5, 0.5, 0.5, 0.9], texts=texts, temperature=0.05)
    assert int(np.argmax(chances("softmax", given))) == 3
    assert int(np.argmax(chances("mbr", given, beta=1.0))) == 0
    likeness = Mbr(1.0).likeness(given)
    assert likeness == pytest.approx(utilities(texts, None).mean(1)) and likeness[3] < min(likeness[:3])
    same = Mbr(2.0, utility=lambda a, b: float(a[-1] == b[-1])).likeness(drawn([0.0] * 3, texts=["a1", "b1", "c2"]))
    assert same == pytest.approx([2 / 3, 2 / 3, 1 / 3])
    # One of two unigrams shared, no bigram: the mean of 2/3 and 0.
    assert utilities(["", "a", "ab"], None) == pytest.approx(np.array([[1, 0, 0], [0, 1, 1 / 3], [0, 1 / 3, 1]]))


def test_the_default_utility_is_the_f1_of_shared_grams():
    """Text by text, with more texts than are compared pair by pair, repeated grams and empty texts."""
    rng = random.Random(0)
    texts = ["".join(rng.choice("abab c") for _ in range(rng.randrange(12))) for _ in range(120)]

    def f1(one: str, other: str) -> float:
        scores = []
        for n in range(1, 7):
            mine, theirs = (Counter(text[k : k + n] for k in range(len(text) - n + 1)) for text in (one, other))
            if mine or theirs:
                scores.append(2 * (mine & theirs).total() / (mine.total() + theirs.total()))
        return sum(scores) / len(scores) if scores else 1.0

    table = utilities(texts, None)
    assert table == pytest.approx(np.array([[f1(one, other) for other in texts] for one in texts]), abs=1e-12)


@pytest.mark.parametrize(
    "spec",
    ["nothing", {"mbr": {}}, {"mbr": {"beta": 0}}, {"mbr": {"beta": 1, "utility": 3}}, {"pessimistic": {"beta": math.inf}},
     {"best_of_poisson": {"mean": -1}}, {"best_of_poisson": {"mean": True}}, {}, 5],
)  # fmt: skip
def test_rules_that_cannot_be_are_named(spec: Any):
    with pytest.raises(RequestError, match="rule"):
        rule_of(spec)
    with pytest.raises(RequestError, match="utility"):
        Mbr(1.0, utility=lambda a, b: math.nan).log_weights(drawn([1.0, 2.0]))
