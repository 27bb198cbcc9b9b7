"""Populations, resampling and the SMC decision."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grammars.errors import RequestError
from samplers.population import Population, effective_sample_size, log_mean_exp, normalise
from samplers.posterior import n_best, posterior
from samplers.resampling import SCHEMES, keep_in_place, multinomial, systematic
from samplers.smc import SMC

WEIGHTS = st.lists(st.sampled_from([0.0, 1e-9, 0.1, 0.5, 1.0, 1.0, 7.0]), min_size=1, max_size=9).filter(any)
UNIT = st.floats(0.0, 1.0, exclude_max=True)


def share(weights: list[float]) -> np.ndarray:
    return np.array(weights) / sum(weights)


@pytest.mark.parametrize("name", SCHEMES)
@given(WEIGHTS, st.data())
def test_schemes_draw_n_ancestors_and_never_one_of_weight_zero(
    name: str, weights: list[float], data: st.DataObject
) -> None:
    uniforms = np.array(data.draw(st.lists(UNIT, min_size=len(weights), max_size=len(weights))))
    ancestors = SCHEMES[name](share(weights), uniforms)
    assert ancestors.dtype == np.int64 and ancestors.shape == (len(weights),)
    assert np.all(np.diff(ancestors) >= 0)
    assert np.all(np.array(weights)[ancestors] > 0.0)


@given(WEIGHTS, st.data())
def test_systematic_and_residual_draw_the_floor_or_more(weights: list[float], data: st.DataObject) -> None:
    n = len(weights)
    uniforms = np.array(data.draw(st.lists(st.floats(0.0, 1.0 - 1e-9), min_size=n, max_size=n)))
    expected = n * share(weights)
    counts = np.bincount(systematic(share(weights), uniforms), minlength=n)
    assert np.all(counts >= np.floor(expected - 1e-9)) and np.all(counts <= np.ceil(expected + 1e-9))
    assert np.all(np.bincount(SCHEMES["residual"](share(weights), uniforms), minlength=n) >= np.floor(expected - 1e-9))


@given(WEIGHTS)
def test_systematic_draws_each_ancestor_n_times_its_weight_on_average(weights: list[float]) -> None:
    """Exactly: the counts are constant between the fractions of the cumulative N * w."""
    probs = share(weights)
    n = len(probs)
    edges = np.unique(np.concatenate([[0.0, 1.0], np.mod(n * np.cumsum(probs), 1.0)]))
    mean = np.zeros(n)
    for low, high in itertools.pairwise(edges):
        mean += (high - low) * np.bincount(systematic(probs, np.full(n, (low + high) / 2)), minlength=n)
    assert np.allclose(mean, n * probs, atol=1e-9)


@pytest.mark.parametrize("name", SCHEMES)
def test_schemes_draw_each_ancestor_n_times_its_weight_on_average(name: str) -> None:
    """Over a grid of uniforms that is finer in every coordinate than the weights, the mean is exact to the grid."""
    probs = np.array([0.05, 0.45, 0.0, 0.3, 0.2])
    # One coordinate at a time moves: each point of a scheme depends on one uniform.
    grid = (np.arange(2000) + 0.5) / 2000
    mean = np.mean([np.bincount(SCHEMES[name](probs, np.full(5, u)), minlength=5) for u in grid], axis=0)
    assert np.allclose(mean, 5 * probs, atol=1e-2)


def test_systematic_uses_one_uniform_and_multinomial_all() -> None:
    probs = np.array([0.5, 0.3, 0.2])
    assert np.array_equal(systematic(probs, np.array([0.2, 0.9, 0.9])), systematic(probs, np.array([0.2, 0.0, 0.0])))
    assert multinomial(probs, np.array([0.99, 0.0, 0.6])).tolist() == [0, 1, 2]


@given(st.lists(st.integers(0, 7), min_size=8, max_size=8))
def test_survivors_keep_their_place(ancestors: list[int]) -> None:
    arranged = keep_in_place(np.array(sorted(ancestors)))
    assert sorted(arranged.tolist()) == sorted(ancestors)
    assert all(arranged[i] == i for i in set(ancestors))


def test_populations_know_their_weights() -> None:
    population = Population(np.log([0.5, 0.25, 0.25]) - 800.0, np.zeros(3))
    assert np.allclose(population.weights, [0.5, 0.25, 0.25])
    assert population.ess == pytest.approx(1 / (0.25 + 0.0625 * 2))
    assert population.log_z == pytest.approx(math.log(1 / 3) - 800.0)
    gone = Population(np.full(3, -np.inf), np.zeros(3))
    assert gone.log_z == -math.inf and gone.ess == 0.0 and gone.dead.all() and not gone.weights.any()
    assert effective_sample_size(np.array([0.0, -np.inf])) == 1.0
    assert log_mean_exp(np.array([-np.inf])) == -math.inf
    assert not normalise(np.array([-np.inf, -np.inf])).any()


@given(WEIGHTS, st.data())
def test_resampling_keeps_every_weighted_sum_on_average(weights: list[float], data: st.DataObject) -> None:
    """E[sum w' f(ancestor)] = sum w f, exactly, twists in between: an integral over systematic's one uniform."""
    n = len(weights)
    twists = np.array(data.draw(st.lists(st.sampled_from([0.1, 1.0, 1.0, 5.0]), min_size=n, max_size=n)))
    with np.errstate(divide="ignore"):
        population = Population(np.log(np.array(weights)), np.log(twists))
    probs = np.array(weights) * twists
    probs /= probs.sum()
    edges = np.unique(np.concatenate([[0.0, 1.0], np.mod(n * np.cumsum(probs), 1.0)]))
    mean = np.zeros(n)
    for low, high in itertools.pairwise(edges):
        ancestors = keep_in_place(systematic(probs, np.full(n, (low + high) / 2)))
        np.add.at(mean, ancestors, (high - low) * np.exp(population.resample(ancestors).log_weights))
    assert np.allclose(mean, weights, rtol=1e-6, atol=1e-8)


def test_without_twists_resampled_weights_are_their_mean() -> None:
    population = Population(np.log([3.0, 1.0, 2.0]), np.zeros(3)).resample(np.array([0, 0, 2]))
    assert np.allclose(np.exp(population.log_weights), 2.0)


def test_smc_multiplies_weights_and_resamples_when_ess_is_low() -> None:
    smc = SMC(4, ess_threshold=0.5, seed=1)
    population, ancestors = smc.step(smc.start(), np.log([0.5, 0.5, 0.5, 0.4]))
    assert ancestors is None and population.step == 1
    assert np.allclose(np.exp(population.log_weights), [0.5, 0.5, 0.5, 0.4])
    population, ancestors = smc.step(population, np.array([0.0, -9.0, -9.0, -np.inf]))
    assert ancestors is not None and population.step == 2
    assert np.all(population.log_weights == population.log_weights[0])
    assert ancestors[0] == 0 and 3 not in ancestors
    assert population.log_z == pytest.approx(math.log((0.5 + 2 * 0.5 * math.exp(-9)) / 4))


def test_threshold_zero_never_resamples_and_one_does_at_any_inequality() -> None:
    increments = np.array([0.0, -700.0, -np.inf])
    assert SMC(3, ess_threshold=0.0).step(SMC(3).start(), increments)[1] is None
    assert SMC(3, ess_threshold=1.0).step(SMC(3).start(), np.array([0.0, -1e-3, 0.0]))[1] is not None
    assert SMC(3, ess_threshold=1.0).step(SMC(3).start(), np.full(3, -0.1))[1] is None


def test_resample_every_hits_on_its_steps() -> None:
    smc = SMC(3, ess_threshold=0.0, resample_every=2)
    population, hits = smc.start(), []
    for _ in range(6):
        population, ancestors = smc.step(population, np.array([0.0, -0.1, -0.2]))
        hits.append(ancestors is not None)
    assert hits == [False, True, False, True, False, True]


def test_a_decision_depends_on_seed_and_step_only() -> None:
    weights = np.log(np.random.default_rng(0).gamma(0.1, size=64))
    start = SMC(64).start()
    assert np.array_equal(SMC(64, seed=3).step(start, weights)[1], SMC(64, seed=3).step(start, weights)[1])
    assert not np.array_equal(SMC(64, seed=3).step(start, weights)[1], SMC(64, seed=4).step(start, weights)[1])
    later = Population(start.log_weights, start.log_twists, step=5)
    assert not np.array_equal(SMC(64, seed=3).step(start, weights)[1], SMC(64, seed=3).step(later, weights)[1])


def test_a_population_of_the_dead_or_the_done_is_left_alone() -> None:
    smc = SMC(3, ess_threshold=1.0, resample_every=1)
    population, ancestors = smc.step(smc.start(), np.full(3, -np.inf))
    assert ancestors is None and population.log_z == -math.inf
    population, ancestors = smc.step(population, np.zeros(3))
    assert ancestors is None and population.log_z == -math.inf
    increments = np.array([0.0, -3.0, -np.inf])
    assert smc.step(smc.start(), increments, done=np.array([True, True, False]))[1] is None
    assert smc.step(smc.start(), increments, done=np.array([True, False, False]))[1] is not None


@given(WEIGHTS, st.lists(st.booleans(), min_size=9, max_size=9), st.sampled_from(list(SCHEMES)), st.integers(0, 99))
def test_texts_that_have_ended_never_all_go_and_those_that_have_not_may(
    weights: list[float], flags: list[bool], scheme: str, seed: int
) -> None:
    n = len(weights)
    with np.errstate(divide="ignore"):
        increments = np.log(np.array(weights))
    done = np.array(flags[:n])
    ended = done & (increments > -np.inf)
    population, ancestors = SMC(n, 1.0, scheme, seed).step(SMC(n).start(), increments, done=done)
    if ancestors is None or not ended.any():
        return
    of_ended = np.isin(ancestors, np.flatnonzero(ended))
    places = n * np.exp(increments[ended]).sum() / np.exp(increments).sum()
    assert of_ended.sum() >= 1
    assert np.floor(places) <= of_ended.sum() <= max(np.ceil(places), 1)
    if places < 1 - 1e-9:
        assert np.exp(population.log_weights[of_ended]).sum() == pytest.approx(np.exp(increments[ended]).sum())
        assert np.exp(population.log_z) == pytest.approx(np.mean(weights))


def test_a_light_text_that_has_ended_stays_and_resampling_goes_by_the_others() -> None:
    smc, done = SMC(4, ess_threshold=1.0), np.array([True, False, False, False])
    population, ancestors = smc.step(smc.start(), np.log([1e-9, 0.5, 0.25, 0.25]), done=done)
    assert ancestors is not None and ancestors[0] == 0
    assert np.exp(population.log_weights) == pytest.approx([1e-9, 1 / 3, 1 / 3, 1 / 3])
    for increments in (np.zeros(4), np.log([1.0, 0.5, 0.5, 0.5])):
        population, ancestors = smc.step(population, increments, done=done)
        assert ancestors is None
    # A text that goes on and weighs next to nothing may go: no steps are spent on it.
    done = np.array([True, True, True, False])
    _, ancestors = smc.step(smc.start(), np.log([0.5, 0.5, 0.5, 1e-9]), done=done)
    assert ancestors is not None and 3 not in ancestors


def test_numbers_that_are_no_weights_kill_their_particle_only() -> None:
    with np.errstate(all="raise"):
        population, _ = SMC(3, ess_threshold=0.0).step(SMC(3).start(), np.array([np.nan, np.inf, -1.0]))
    assert population.log_weights.tolist() == [-np.inf, -np.inf, -1.0]
    population, _ = SMC(3, ess_threshold=0.0).step(SMC(3).start(), np.zeros(3), np.array([np.nan, -np.inf, 2.0]))
    assert population.log_weights.tolist() == [-np.inf, -np.inf, 0.0]


def test_twists_steer_resampling_and_leave_the_weights_proper() -> None:
    smc = SMC(4, ess_threshold=1.0, seed=2)
    population, ancestors = smc.step(smc.start(), np.zeros(4), log_twists=np.log([8.0, 1.0, 1.0, 1.0]))
    assert ancestors is not None and np.sum(ancestors == 0) >= 2
    twists = np.where(ancestors == 0, 8.0, 1.0)
    assert np.allclose(np.exp(population.log_weights), 11 / 4 / twists)
    assert np.allclose(np.exp(population.log_twists), twists)


@settings(max_examples=30)
@given(st.integers(1, 6), st.sampled_from(list(SCHEMES)), st.integers(0, 2**64 - 1), st.data())
def test_a_run_of_any_weights_never_gives_nan(n: int, scheme: str, seed: int, data: st.DataObject) -> None:
    smc, numbers = SMC(n, 0.7, scheme, seed), st.sampled_from([0.0, -1.0, -800.0, -np.inf, 3.0, np.nan, np.inf])
    population = smc.start()
    for _ in range(5):
        increments = np.array(data.draw(st.lists(numbers, min_size=n, max_size=n)))
        twists = np.array(data.draw(st.lists(numbers, min_size=n, max_size=n)))
        population, ancestors = smc.step(population, increments, twists)
        assert not np.isnan(population.log_weights).any() and not math.isnan(population.log_z)
        assert 0.0 <= population.ess <= n * (1 + 1e-9)
        if ancestors is not None:
            assert not population.dead.any()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"num_particles": 0}, "num_particles=0 must be a whole number of at least 1"),
        ({"num_particles": 2.0}, "num_particles=2.0"),
        ({"num_particles": True}, "num_particles=True"),
        ({"num_particles": 3, "ess_threshold": 1.5}, "ess_threshold=1.5 must be a number from 0"),
        ({"num_particles": 3, "ess_threshold": math.nan}, "ess_threshold=nan"),
        ({"num_particles": 3, "ess_threshold": "half"}, "ess_threshold='half'"),
        (
            {"num_particles": 3, "resampling": "best"},
            "resampling='best' is not a scheme; use one of systematic, stratified",
        ),
        ({"num_particles": 3, "seed": -1}, "seed=-1 must be a whole number from 0"),
        ({"num_particles": 3, "seed": 2**64}, "must be a whole number from 0"),
        ({"num_particles": 3, "resample_every": 0}, "resample_every=0 must be None or"),
    ],
)
def test_wrong_arguments_are_errors_that_name_the_field(arguments: dict, says: str) -> None:
    with pytest.raises(RequestError) as error:
        SMC(**arguments)
    assert says in str(error.value)


def test_a_posterior_merges_equal_texts_and_leaves_out_the_dead() -> None:
    log_weights = np.log([0.2, 0.5, 0.4]).tolist()
    found = posterior(["a", "b", "a", "c"], np.array([*log_weights, -np.inf]))
    assert list(found) == ["a", "b"] and found["a"] == pytest.approx(6 / 11) and sum(found.values()) == pytest.approx(1)
    assert posterior(["a"], np.array([-np.inf])) == {}
    assert [text for text, _ in n_best(["a", "b", "c"], np.log([0.2, 0.2, 0.6]), 2)] == ["c", "a"]
