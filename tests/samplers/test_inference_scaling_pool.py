"""Curves from stored pools: exact against enumeration, unbiased for fresh draws; and what is concluded from them."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grammars.errors import RequestError
from samplers.inference_scaling_choice import Calibration, curves_of, typical_spread, value_as_used
from samplers.inference_scaling_pool import Judged, hard_curve, law, pass_at_k, sizes, soft_curves
from samplers.inference_scaling_profile import Profile, dumped, loaded

POOLS = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 4)), min_size=2, max_size=7)


def enumerated(rewards: np.ndarray, values: np.ndarray, k: int, temperature: float) -> float:
    """The mean over all k-subsets, by walking them; ties of the hard rule are settled by chance."""
    found = []
    for subset in itertools.combinations(range(len(rewards)), k):
        r, f = rewards[list(subset)], values[list(subset)]
        above = r - r.max()
        w = np.exp(above / temperature) if temperature > 0 else (above == 0.0).astype(float)
        found.append(w @ f / w.sum())
    return float(np.mean(found))


@given(POOLS, st.sampled_from([1e-300, 1e-14, 1e-9, 0.004, 0.1, 0.7, 3.0, 1e4]))
@settings(max_examples=60)
def test_curves_are_means_over_all_subsets(pool: list[tuple[int, int]], temperature: float):
    rewards, values = np.array(pool, dtype=float).T
    ks = np.arange(1, len(pool) + 1)
    for t, got in (
        (0.0, hard_curve(rewards, values, ks)),
        (temperature, soft_curves(rewards, values, ks, [temperature])[0]),
    ):
        want = [enumerated(rewards, values, k, t) for k in ks]
        np.testing.assert_allclose(got, want, atol=1e-12 if t == 0.0 else 1e-6)


@given(st.lists(st.booleans(), min_size=2, max_size=9))
def test_pass_at_k_counts_subsets_with_a_correct_one(correct: list[bool]):
    values, ks = np.array(correct, dtype=float), np.arange(1, len(correct) + 1)
    want = [np.mean([any(subset) for subset in itertools.combinations(correct, k)]) for k in ks]
    np.testing.assert_allclose(pass_at_k(values, ks), want, atol=1e-12)


def test_a_pool_s_curve_is_unbiased_for_fresh_draws():
    """Finite law of three answers: the mean over all pools of 4, weighted, is the value of selection among k fresh draws."""
    p, r, f = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 2.0]), np.array([0.2, 1.0, 0.0])
    ks, temperature = np.array([1, 2, 3]), 0.8
    mean, fresh = np.zeros((2, 3)), np.zeros((2, 3))
    for pool in itertools.product(range(3), repeat=4):
        at, mass = list(pool), p[list(pool)].prod()
        mean += mass * np.stack([hard_curve(r[at], f[at], ks), soft_curves(r[at], f[at], ks, [temperature])[0]])
    for column, k in enumerate(ks):
        for draw in itertools.product(range(3), repeat=int(k)):
            at, mass = list(draw), p[list(draw)].prod()
            fresh[:, column] += [mass * enumerated(r[at], f[at], k, t) for t in (0.0, temperature)]
    np.testing.assert_allclose(mean, fresh, atol=1e-6)
    # Planted: selection from the whole pool, a plug-in for k = 4, is another number.
    assert np.abs(mean[:, 2] - [hard_curve(r[[0, 1, 2]], f[[0, 1, 2]], np.array([3]))[0]] * 2).max() > 0.01


def test_the_one_over_k_law_of_a_pool_holds_where_k_is_ten_times_rho():
    rng = np.random.default_rng(5)
    rewards, n = rng.standard_normal(200), 200
    values = (rng.random(n) < 1 / (1 + np.exp(-rewards))).astype(float)
    one, ks = law(rewards, values, 1.5), np.array([20, 40])
    predicted = one.limit + one.slope * (1 / ks - 1 / n) * n / (n - 1)
    left = np.abs(soft_curves(rewards, values, ks, [1.5])[0] - predicted)
    assert ks[0] >= 10 * one.rho and left.max() < 2e-4
    # Planted: the slope without ρ misses at first order.
    wrong = np.abs(soft_curves(rewards, values, ks, [1.5])[0] - one.limit - one.slope / one.rho * (1 / ks - 1 / n))
    assert wrong.min() > 4 * left.max()


def test_the_pool_knows_the_solvable_model():
    """Draws of y ~ N(m, s²) with reward -(y - y_R)²: the pool's curves are the exact errors, within four standard errors."""
    from samplers.inference_scaling import Question, exact_error

    question, ks, temperature = Question(0.2, -1.8), np.array([1, 2, 4, 16]), 2.0
    rng = np.random.default_rng(8)
    found = []
    for _ in range(150):
        e = -1.8 + rng.standard_normal(24)
        rewards, values = -(e**2), (e + question.d) ** 2
        found.append(np.stack([hard_curve(rewards, values, ks), soft_curves(rewards, values, ks, [temperature])[0]]))
    mean, bars = np.mean(found, 0), np.std(found, 0, ddof=1) / math.sqrt(len(found))
    for row, t in enumerate((0.0, temperature)):
        assert np.all(np.abs(mean[row] - exact_error(question, ks, t)) < 4 * bars[row])
    assert np.any(np.abs(mean[1] - exact_error(question, ks, temperature / 2)) > 4 * bars[1])


def test_rewards_are_normalised_for_each_prompt():
    one = Judged("q", np.array([1.0, 3.0, 5.0]), np.array([0.0, 0.0, 1.0]))
    assert one.normalised.mean() == pytest.approx(0.0) and one.normalised.std() == pytest.approx(1.0)
    moved = Judged("q", 100 * one.rewards - 7, one.values)
    np.testing.assert_allclose(one.normalised, moved.normalised)
    constant = Judged("q", np.full(3, 0.1), one.values)
    assert constant.spread == 0.0 and not constant.normalised.any()
    curves = curves_of(constant, np.array([1, 2, 3]), [0.0, 0.5])
    np.testing.assert_allclose(curves.values, 1 / 3, atol=1e-6)  # selection by chance
    assert typical_spread([constant, one, moved]) == pytest.approx((one.spread + moved.spread) / 2)
    assert typical_spread([constant]) == 0.0


def pool_of(kind: str, prompts: int = 80, n: int = 24) -> list[Judged]:
    """Pools with a known verdict. good: rewards follow correctness; hacked: a few wrong answers have the highest; bad: the
    reverse of good; noise: no relation; mild: good where the spread of rewards is the same but weaker."""
    rng = np.random.default_rng(4)
    made = []
    for p in range(prompts):
        correct = (rng.random(n) < rng.beta(1.5, 3)).astype(float)
        rewards = 0.3 * rng.standard_normal(n) + 0.35 * correct
        if kind == "hacked":
            loved = rng.random(n) < 0.06
            correct = np.where(loved, 0.0, correct)
            rewards = np.where(loved, 1.6 + 0.1 * rng.standard_normal(n), rewards)
        if kind == "noise":
            rewards = rng.standard_normal(n)
        made.append(Judged(f"p{p}", -rewards if kind == "bad" else rewards, correct, np.full(n, 100.0)))
    return made


def calibrated(pool: list[Judged], temperatures: tuple[float, ...] = (0.0, 0.5, 2.0), seed: int = 0) -> Calibration:
    ks = sizes(min(len(one.rewards) for one in pool))
    counts = np.array([len(one.rewards) for one in pool])
    curves = [curves_of(one, ks, temperatures) for one in pool]
    return Calibration(ks, temperatures, curves, counts, np.full(len(pool), 100.0), np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("kind", "k", "said"),
    [
        ("good", (16, 24), "more samples help"),
        ("hacked", (2, 6), "over-optimised"),
        ("bad", (1, 1), "more samples hurt"),
        ("noise", (1, 1), "no selection by this judge gains more"),
    ],
)
def test_the_verdict_on_a_pool_of_known_kind(kind: str, k: tuple[int, int], said: str):
    found = calibrated(pool_of(kind)).recommend()
    assert k[0] <= found.k <= k[1] and said in found.verdict, found
    assert found.tokens == 100.0 * found.k
    if found.k > 1:
        assert found.tokens_per_gain == pytest.approx(100 * (found.k - 1) / found.gain.mean)
        assert found.gain.low < found.gain.mean < found.gain.high


def test_halving_the_temperature_tells_what_more_samples_do():
    """The sign of value(T/2) - value(T) at k → ∞ is the sign of the curve's own change, where the law holds."""
    for kind, sign in (("good", 1), ("hacked", -1), ("bad", -1), ("noise", 0)):
        calibration = calibrated(pool_of(kind))
        check = calibration.law(2.0)
        assert check.reliable and check.halving.sign == sign, (kind, check)
        assert check.predicted == pytest.approx(check.measured, abs=4e-3)
        if sign:
            assert calibration.change(2.0, check.k, int(calibration.ks[-1])).sign == sign


def test_prompts_of_equal_rewards_do_not_vouch_for_the_law():
    """A verifier's pool: most prompts have no right answer at all, and the others one of many."""
    rng = np.random.default_rng(8)
    hopeless = [Judged(f"h{p}", np.zeros(32), np.zeros(32), np.full(32, 100.0)) for p in range(30)]
    rare = [np.eye(32)[rng.integers(32)] for _ in range(10)]
    solved = [Judged(f"s{p}", correct, correct, np.full(32, 100.0)) for p, correct in enumerate(rare)]
    for temperature in (0.5, 0.25):
        check = calibrated(hopeless + solved, (0.25, 0.5)).law(temperature)
        alone = calibrated(solved, (0.25, 0.5)).law(temperature)
        assert check.rho == pytest.approx(alone.rho) and check.rho > 3.2 and not check.reliable
    assert calibrated(hopeless, (0.5,)).law(0.5).rho == 1.0


def test_the_interval_covers_as_often_as_it_says():
    """Over 60 pools of 40 prompts with mean value ½ at k = 1: at least 0.95 less four standard errors of the count."""
    rng, covered = np.random.default_rng(6), 0
    for trial in range(60):
        pool = [Judged("", rng.standard_normal(4), (rng.random(4) < rng.random()).astype(float)) for _ in range(40)]
        calibration = calibrated(pool, (0.0,), trial)
        low, high = calibration.band(0.0)
        covered += low[0] <= 0.5 <= high[0]
    assert covered / 60 > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 60)


def test_the_value_as_used_is_at_one_temperature_for_all():
    pool = pool_of("good", prompts=5)
    at = value_as_used(pool, 4, 0.2)
    want = np.mean([soft_curves(one.rewards, one.values, np.array([4]), [0.2])[0, 0] for one in pool])
    assert at == pytest.approx(want)
    assert value_as_used(pool, 4, 0.0) == pytest.approx(calibrated(pool).mean(0.0)[3])


@pytest.mark.parametrize("values", [np.ones(6), np.array([1.0, 0, 0, 1, 0, 0])])
def test_where_nothing_can_be_gained_one_is_enough(values: np.ndarray):
    """Rewards that are all equal, or answers that are: what is left of differences is the error of the curves."""
    rewards = np.arange(6.0) if values.all() else np.full(6, 2.5)
    ks, temperatures = sizes(6), [0.0, 0.05, 0.5, 5.0]
    one = curves_of(Judged("q", rewards, values), ks, temperatures)
    chosen = Calibration(ks, temperatures, [one] * 4, np.full(4, 6), None, np.random.default_rng(0)).recommend()
    assert chosen.k == 1 and chosen.gain.mean == 0.0 and chosen.verdict.startswith("stop at k=1: no selection")


def test_one_prompt_has_no_interval():
    with pytest.raises(RequestError, match="at least 2"):
        calibrated(pool_of("good", prompts=1))


def test_sizes_are_all_at_first_then_sparse():
    assert sizes(5).tolist() == [1, 2, 3, 4, 5]
    ks = sizes(1024)
    assert ks[:16].tolist() == list(range(1, 17)) and ks[-1] == 1024 and len(ks) < 80
    assert sizes(100, 30)[-1] == 30 and {1, 2, 4, 8, 16, 32, 64} <= set(sizes(100).tolist())


def test_a_profile_comes_back_as_it_was():
    profile = Profile(8, 0.5, 0.21, {"prompts": 100, "verdict": "…"})
    assert loaded(dumped(profile)) == profile
    assert profile.select_temperature == pytest.approx(0.105)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"k": 0}, "k is 0"),
        ({"k": True}, "k is True"),
        ({"k": 2.0}, "k is 2.0"),
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"normalisation": {"method": "z", "typical_sd": 1}}, "normalisation is"),
        ({"normalisation": {"method": "prompt_sd", "typical_sd": None}}, "typical_sd is None"),
        ({"reweigh_profile": 2}, "version 2"),
        ({"evidence": []}, "evidence is"),
        ({"K": 3}, "'K' is not known"),
    ],
)
def test_a_profile_is_checked(change: dict[str, object], said: str):
    record = json.loads(dumped(Profile(8, 0.5, 0.21))) | change
    with pytest.raises(RequestError, match=said):
        loaded(json.dumps(record))


@pytest.mark.parametrize(
    ("text", "said"), [("", "no JSON"), ("[1]", "reweigh_profile"), ('{"k": 1}', "reweigh_profile")]
)
def test_what_is_no_profile_is_said(text: str, said: str):
    with pytest.raises(RequestError, match=said):
        loaded(text)
    record = json.loads(dumped(Profile(8, 0.5, 0.21)))
    del record["k"]
    with pytest.raises(RequestError, match="'k' is missing"):
        loaded(json.dumps(record))
