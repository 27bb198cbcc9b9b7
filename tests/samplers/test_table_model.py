"""The whole of SMC on a table of probabilities, against a target that is summed up text by text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import numpy as np
import pytest

from decoding import table_model
from decoding.table_model import Rollout, TableModel, letters, rollout
from samplers import resampling
from samplers.population import Population, log_mean_exp
from samplers.posterior import posterior
from samplers.resampling import SCHEMES
from samplers.smc import SMC
from samplers.token_samplers import SAMPLERS, token_sampler
from tests.laws.test_token_samplers import radius
from tests.samplers.enumeration import Choice, TreeRow, branches, pack, scripted

VOCABULARY = letters("abc")
EOS = VOCABULARY.eos
START = np.array([0.5, 0.3, 0.15, 0.05])
TRANSITIONS = np.array([[0.1, 0.5, 0.2, 0.2], [0.6, 0.05, 0.05, 0.3], [0.3, 0.3, 0.3, 0.1], [0.0, 0.0, 0.0, 1.0]])
MODEL = TableModel.markov(VOCABULARY, START, TRANSITIONS)
LENGTH = 4  # three letters and EOS
# A local trap: most first letters lead nowhere likely.
TEXTS = frozenset({(1,), (0, 0), (0, 2, 2), (1, 1, 0), (2, 1), (1, 2, 1)})


@dataclass(frozen=True)
class Listed:
    """The language of some texts over VOCABULARY; `masks` is "none", "exact" or "wide" (as if EOS were always allowed)."""

    texts: frozenset[tuple[int, ...]]
    masks: str
    prefix: tuple[int, ...] = ()

    @property
    def can_mask(self) -> bool:
        return self.masks != "none"

    def start(self) -> Listed:
        return self

    @property
    def is_complete(self) -> bool:
        return self.prefix in self.texts

    @property
    def mask_is_exact(self) -> bool:
        return self.masks == "exact"

    def allowed(self) -> np.ndarray:
        n = len(self.prefix)
        follow = {text[n] for text in self.texts if text[:n] == self.prefix and len(text) > n}
        return np.array([t in follow or (t == EOS and self.is_complete) for t in range(VOCABULARY.size)])

    def bitmask(self) -> np.ndarray | None:
        if self.masks == "none":
            return None
        return pack(self.allowed() | ((np.arange(VOCABULARY.size) == EOS) & (self.masks == "wide")))

    def accepts(self, tokens: np.ndarray, masked: bool = False) -> np.ndarray:
        return self.allowed()[tokens]

    def advance(self, token: int) -> Listed:
        assert token != EOS and self.allowed()[token]
        return Listed(self.texts, self.masks, (*self.prefix, token))


def log_potential(tokens: tuple[int, ...], finished: bool) -> float:
    """Texts with an 'a' in them are worth more; a prefix is guessed at by what it has."""
    return 0.9 * min(tokens.count(0), 2) - (0.4 if finished else 0.0)


def short_is_light(tokens: tuple[int, ...], finished: bool) -> float:
    """What ends first is worth so little that resampling by weights alone would drop it."""
    return -4.0 if finished and len(tokens) == 1 else 0.0


def target(
    texts: frozenset, temperature: float = 1.0, potential: Callable | None = None
) -> dict[tuple[int, ...], float]:
    """p(text, EOS) * Phi, text by text."""
    tempered = [law ** (1 / temperature) / (law ** (1 / temperature)).sum() for law in (START, *TRANSITIONS)]
    masses = {}
    for text in texts:
        steps = zip((-1, *text), (*text, EOS))
        mass = math.prod(tempered[last + 1][token] for last, token in steps)
        masses[text] = mass * (math.exp(potential(text, True)) if potential else 1.0)
    return masses


def run(sampler: str, masks: str, smc: SMC, **options: object) -> Rollout:
    return rollout(MODEL, Listed(TEXTS, masks), smc, token_sampler(sampler), LENGTH, **options)  # type: ignore[arg-type]


def masses_of(result: Rollout, texts: list[tuple[int, ...]]) -> np.ndarray:
    """The estimate of each text's mass, mean of w * 1{text}: float64 [texts]."""
    weights = np.exp(result.log_weights)
    return np.array([sum(w for w, t in zip(weights, result.tokens) if t == text) for text in texts]) / len(weights)


def is_unbiased(sampler: str, masks: str, n: int, runs: int, most: float = 1.0, **options: object) -> bool:
    """Whether the mean estimate of every text's mass, and of Z, agrees with the sum; estimates are at most `most`."""
    smc_options = {
        name: options.pop(name) for name in ("ess_threshold", "resampling", "resample_every") if name in options
    }
    exact = target(TEXTS, options.get("temperature", 1.0), options.get("log_potential"))  # type: ignore[arg-type]
    texts = sorted(exact)
    estimates = np.empty((runs, len(texts) + 1))
    for seed in range(runs):
        result = run(sampler, masks, SMC(n, seed=seed, **smc_options), **options)  # type: ignore[arg-type]
        estimates[seed, :-1] = masses_of(result, texts)
        estimates[seed, -1] = math.exp(result.log_z)
        assert estimates[seed, -1] == pytest.approx(estimates[seed, :-1].sum())
    expected = np.array([*(exact[text] for text in texts), sum(exact.values())])
    wrong = np.abs(estimates.mean(0) - expected) > most * radius(estimates / most, alpha=1e-6, checks=len(expected))
    return not wrong.any()


@pytest.mark.parametrize(
    ("sampler", "masks", "options"),
    [
        ("awrs", "none", {"ess_threshold": 1.0, "resampling": "stratified"}),
        ("masked", "exact", {"ess_threshold": 0.5, "resampling": "systematic", "temperature": 0.6}),
        ("geometric", "wide", {"ess_threshold": 0.0, "resample_every": 1, "resampling": "residual"}),
        # A step multiplies w * phi by at most .6 e^.9 (one 'a' more, at its largest p): three steps stay below 8.
        ("auto", "wide", {"ess_threshold": 0.7, "log_potential": log_potential, "most": 8.0}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_five_particles_estimate_every_texts_mass_without_bias(sampler: str, masks: str, options: dict) -> None:
    """E[mean w * 1{text}] = p(text) * Phi(text) and E[exp(log_z)] = Z. False alarm <= 1e-6."""
    assert is_unbiased(sampler, masks, 5, 800, **options)


def test_the_statistical_check_catches_local_masking() -> None:
    assert not is_unbiased("lcd", "exact", 5, 800, ess_threshold=1.0)


def expectation(
    sampler: str, masks: str, n: int, potential: Callable | None, texts: frozenset, length: int
) -> dict[tuple[int, ...], float]:
    """E[mean w * 1{text}] by walking every branch of every particle's tokens and of every resampling; with it, E[exp(log_z)].

    Ancestors are drawn independently, as by `multinomial`, at every step that has unequal weights.
    """
    mean: dict[tuple[int, ...], float] = dict.fromkeys(texts, 0.0)
    z = 0.0

    def walk(choice: Choice) -> Rollout:
        def ancestors(weights: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
            return np.array([choice(weights) for _ in uniforms])

        def rounded(value: float, _uniform: float) -> int:
            return int(value) + (int(choice(np.array([1 - value % 1, value % 1]))) if value % 1 else 0)

        with (
            mock.patch.object(table_model, "row_of", lambda logprobs, _: TreeRow(np.exp(logprobs), choice)),
            mock.patch.dict(SCHEMES, multinomial=ancestors),
            mock.patch.object(resampling, "rounded", rounded),
            scripted(choice, {}),
        ):
            smc = SMC(n, ess_threshold=1.0, resampling="multinomial")
            listed = Listed(texts, masks)
            return rollout(MODEL, listed, smc, token_sampler(sampler), length, log_potential=potential)

    for probability, result in branches(walk):
        z += probability * math.exp(result.log_z)
        for text, log_weight in zip(result.tokens, result.log_weights):
            if log_weight > -math.inf:
                mean[text] += probability * math.exp(log_weight) / n
    assert z == pytest.approx(sum(mean.values()), rel=1e-12)
    return mean


FEW = frozenset({(1,), (0, 0), (1, 0)})


@pytest.mark.parametrize("potential", [None, log_potential, short_is_light])
@pytest.mark.parametrize(
    ("sampler", "masks", "n"),
    [
        *((sampler, "none", 1) for sampler in ("masked", "awrs", "look_ahead", "top_k", "auto")),
        ("masked", "exact", 2),
        ("masked", "wide", 2),
    ],
)
def test_smc_gives_every_text_its_mass_exactly(sampler: str, masks: str, n: int, potential: Callable | None) -> None:
    found = expectation(sampler, masks, n, potential, FEW, 3)
    assert found == pytest.approx(target(FEW, potential=potential), rel=1e-10)


@pytest.mark.parametrize("potential", [None, short_is_light])
def test_three_particles_give_every_text_its_mass_exactly(potential: Callable | None) -> None:
    found = expectation("masked", "exact", 3, potential, FEW, 3)
    assert found == pytest.approx(target(FEW, potential=potential), rel=1e-10)


def test_the_exact_check_catches_local_masking_and_a_twist_that_is_not_taken_out() -> None:
    exact = target(FEW, potential=log_potential)
    assert expectation("lcd", "exact", 2, log_potential, FEW, 3) != pytest.approx(exact, rel=1e-3)

    def keeps_twists(self: Population, ancestors: np.ndarray, log_masses: np.ndarray | None = None) -> Population:
        mass = log_mean_exp(self.twisted) if log_masses is None else log_masses
        return Population(mass + np.zeros(len(ancestors)), self.log_twists[ancestors], self.step)

    with mock.patch.object(Population, "resample", keeps_twists):
        assert expectation("masked", "exact", 2, log_potential, FEW, 3) != pytest.approx(exact, rel=1e-3)


def test_the_exact_check_catches_a_kept_text_that_weighs_as_the_others_do() -> None:
    resample = Population.resample
    with mock.patch.object(Population, "resample", lambda self, ancestors, _: resample(self, ancestors)):
        found = expectation("masked", "exact", 3, short_is_light, FEW, 3)
    assert found != pytest.approx(target(FEW, potential=short_is_light), rel=1e-3)


def test_many_particles_find_the_posterior_and_local_masking_does_not() -> None:
    exact = target(TEXTS)
    z = sum(exact.values())

    def distance(sampler: str) -> float:
        result = run(sampler, "exact", SMC(4000, seed=1))
        found = posterior([str(t) for t in result.tokens], result.log_weights)
        return 0.5 * sum(abs(found.get(str(text), 0.0) - mass / z) for text, mass in exact.items())

    # N = 4000: each share of the posterior has a standard deviation below .02.
    assert distance("masked") < 0.05
    assert distance("lcd") > 0.15


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_runs_are_repeatable_and_members_of_the_language(sampler: str) -> None:
    for masks in ("none", "wide", "exact"):
        smc = SMC(6, ess_threshold=0.9, seed=5)
        one, two = run(sampler, masks, smc), run(sampler, masks, smc)
        assert one.tokens == two.tokens and np.array_equal(one.log_weights, two.log_weights)
        assert all(t in TEXTS for t, w in zip(one.tokens, one.log_weights) if w > -math.inf)
        assert len(one.ancestry) <= LENGTH


def test_at_the_last_slot_eos_is_forced_with_its_probability() -> None:
    """One slot: only the empty text is left, with weight p(EOS) if it is a member."""
    for texts, expected in ((frozenset({(), (0,)}), START[EOS]), (frozenset({(0,)}), 0.0)):
        result = rollout(MODEL, Listed(texts, "exact"), SMC(3), token_sampler("masked"), max_tokens=1)
        assert math.exp(result.log_z) == pytest.approx(expected)
        assert result.tokens == ((), (), ())
    # Two slots: the target is conditioned on the length, so (1, 1, 0) and the like have no part in Z.
    short = {text: mass for text, mass in target(TEXTS).items() if len(text) <= 1}
    found = expectation("masked", "exact", 2, None, TEXTS, 2)
    assert {text: mass for text, mass in found.items() if mass > 0.0} == pytest.approx(short)


def test_an_impossible_language_leaves_every_particle_dead() -> None:
    result = rollout(MODEL, Listed(frozenset(), "none"), SMC(4), token_sampler("awrs"), LENGTH)
    assert result.log_z == -math.inf and len(result.ancestry) == 1 and result.population.dead.all()


def test_a_prompt_is_part_of_the_prefix() -> None:
    model = TableModel(VOCABULARY, lambda prefix: np.eye(4)[EOS if len(prefix) >= 3 else prefix[-1]])
    texts = frozenset(itertools.product(range(3), repeat=1))
    result = rollout(model, Listed(texts, "none"), SMC(2), token_sampler("auto"), 4, prompt=(0, 2))
    assert result.tokens == ((2,), (2,)) and result.log_z == pytest.approx(0.0)
