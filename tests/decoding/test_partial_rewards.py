"""Rewards on partial text: exact by enumeration over the bookkeeping that vLLM's scheduler runs, and on the real model."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pytest

from decoding import table_model
from decoding.groups import Group
from decoding.order import Order
from decoding.potentials import PartialReward, TextPotential
from decoding.row_sampler import Post
from grammars.errors import RequestError, RewardError
from samplers.randomness import Stream
from samplers.smc import SMC
from samplers.token_samplers import draw_row
from tests.samplers import test_table_model as table

if TYPE_CHECKING:
    from decoding.engine import Engine


def group_rollout(
    model: Any, constraint: Any, smc: SMC, sampler: Any, max_tokens: int, log_potential: Any, every: int = 1
) -> SimpleNamespace:
    """`table_model.rollout` by a `Group`, as the scheduler drives it: rows of equal texts, posts, forks and retirements."""

    def reward(text: str, complete: bool) -> float:
        return log_potential(tuple(map("abc".index, text)), complete)

    potential = TextPotential(PartialReward(reward, every=every), table.VOCABULARY.decode)
    order = Order(
        group="g", num_particles=smc.num_particles, constraint=None, sampler="masked", temperature=1.0, seed=0,
        max_tokens=max_tokens, ess_threshold=smc.ess_threshold, resampling=smc.resampling, potential=potential.handle,
    )  # fmt: skip
    group = Group(order)
    while not group.finished:
        for row, riders in list(group.riders.items()):
            if group.holds(row):
                continue
            prefix = group.tokens[riders[0]]
            state = constraint.start()
            for token in prefix:
                state = state.advance(token)
            logprobs = model.next_logprobs(prefix)
            posts = [_drawn(logprobs, state, sampler, particle, len(prefix), max_tokens) for particle in riders]
            going_on = Counter(post.token for post in posts if not post.is_eos and post.log_weight > -math.inf)
            group.post(row, posts, going_on.most_common(1)[0][0] if going_on else table.EOS)
        group.commit()
    assert group.error is None
    tokens = [tuple(one) for one in group.tokens]
    return SimpleNamespace(tokens=tokens, log_weights=group.population.log_weights, log_z=group.population.log_z)


def _drawn(logprobs: np.ndarray, state: Any, sampler: Any, particle: int, position: int, max_tokens: int) -> Post:
    if position == max_tokens - 1:
        log_weight = float(logprobs[table.EOS]) if state.is_complete else -math.inf
        return Post(particle, position, table.EOS, log_weight, log_weight, 0, 0, is_eos=True)
    draw = draw_row(sampler, table_model.row_of(logprobs, Stream(0, particle, position)), state)
    token = draw.token if draw.token >= 0 else table.EOS
    return Post(particle, position, token, draw.log_weight, draw.logprob, 0, 0, is_eos=token == table.EOS)


def expectation(potential: Callable[..., float], particles: int, every: int = 1, sampler: str = "masked") -> Any:
    def rollout(*arguments: Any, log_potential: Any) -> SimpleNamespace:
        return group_rollout(*arguments, log_potential, every)

    with mock.patch.object(table, "rollout", rollout):
        return table.expectation(sampler, "exact", particles, potential, table.FEW, 3)


def deadly(tokens: tuple[int, ...], finished: bool) -> float:
    """Whatever begins with 'b' has potential 0, and that shows at once."""
    return -math.inf if tokens[:1] == (1,) else table.log_potential(tokens, finished)


@pytest.mark.parametrize(("particles", "every"), [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("potential", [table.log_potential, deadly])
def test_every_text_has_its_mass_times_its_potential_exactly(potential: Any, particles: int, every: int):
    """E[mean w·1{text}] = p(text)·Phi(text) over every branch of tokens and resamplings, whatever prefixes are guessed at."""
    exact = table.target(table.FEW, potential=potential)
    assert expectation(potential, particles, every) == pytest.approx(exact, rel=1e-10, abs=1e-15)


def test_the_check_catches_local_masking_and_a_twist_that_stays():
    exact = table.target(table.FEW, potential=table.log_potential)
    assert expectation(table.log_potential, 2, sampler="lcd") != pytest.approx(exact, rel=1e-3)
    charge = Group._charge

    def stays(self: Group, potential: Any, drawn: Any, increments: np.ndarray) -> Any:
        twists = charge(self, potential, drawn, increments)
        assert twists is not None
        increments += np.where(np.isfinite(twists), twists, 0.0) * 0.5
        return twists

    with mock.patch.object(Group, "_charge", stays):
        assert expectation(table.log_potential, 2) != pytest.approx(exact, rel=1e-3)


def test_the_engine_charges_finished_texts_and_steers_by_prefixes(engine: Engine):
    """With and without resampling log_weights are those of p·1[C] times exp(r/T); a promise of nothing is kept."""
    asked: dict[str, Any] = {"regex": "[0-9]{3}", "particles": 8, "seed": 6, "max_tokens": 5}

    def digits(text: str, complete: bool) -> float:
        return float(sum(map(int, text)))

    plain = engine.generate("A number: ", ess_threshold=0, **asked)
    charged = engine.generate(
        "A number: ", ess_threshold=0, partial_reward=PartialReward(digits, temperature=4.0), **asked
    )
    assert charged.texts == plain.texts
    factors = [sum(map(int, text)) / 4.0 for text in plain.texts]
    assert charged.log_weights == pytest.approx(plain.log_weights + factors)
    steered = engine.generate("A number: ", ess_threshold=1.0, partial_reward=digits, **asked)
    assert steered.ancestry and np.mean([digits(text, True) for text in steered.texts]) > np.mean(factors) * 4.0
    no_nines = engine.generate(
        "A number: ", partial_reward=lambda text, complete: -math.inf if "9" in text else 0.0, **asked
    )
    living = [text for text, weight in zip(no_nines.texts, no_nines.log_weights) if weight > -math.inf]
    assert living and not any("9" in text for text in living)
    both = engine.generate("A number: ", partial_reward=digits, reward=len, **asked)
    assert both.rewards is not None and set(both.rewards.tolist()) == {3.0}
    awaited = asyncio.run(engine.agenerate("A number: ", ess_threshold=1.0, partial_reward=digits, **asked))
    assert awaited.texts == steered.texts


def test_the_estimate_of_log_z_is_of_the_target_with_the_potential_in_it(engine: Engine):
    """Two digits, of which the sum is rewarded: resampling by twists against importance sampling without."""

    def reward(text: str, complete: bool) -> float:
        return 0.3 * sum(map(int, text))

    asked: dict[str, Any] = {"regex": "[0-9]{2}", "max_tokens": 3, "sampler": "masked", "particles": 32}
    plain = [engine.generate("A number: ", ess_threshold=0, seed=seed, **asked) for seed in range(6)]
    weighted = np.concatenate([
        np.exp(one.log_weights + np.array([reward(text, True) for text in one.texts])) for one in plain
    ])  # fmt: skip
    estimates = np.exp([
        engine.generate("A number: ", partial_reward=reward, ess_threshold=0.9, seed=100 + seed, **asked).log_z
        for seed in range(12)
    ])  # fmt: skip
    spread = math.hypot(weighted.std() / math.sqrt(len(weighted)), estimates.std(ddof=1) / math.sqrt(len(estimates)))
    assert abs(estimates.mean() - weighted.mean()) < 4 * spread


def test_a_partial_reward_that_fails_ends_its_request_alone(engine: Engine):
    def fails(text: str, complete: bool) -> float:
        if len(text) > 1:
            raise ValueError("no")
        return 0.0

    for function, told in (
        (fails, "ValueError: no"),
        (lambda text, complete: None, "TypeError"),
        (lambda text, complete: math.nan, "returned nan"),
        (lambda text, complete: math.inf, "returned inf"),
    ):
        with pytest.raises(RewardError, match=told) as failed:
            engine.generate("A: ", regex="[0-9]{3}", particles=2, partial_reward=function)
        assert len(failed.value.result.texts) == 2, "what was paid for is not lost"
    assert engine.generate("A: ", regex="[0-9]", particles=2).error is None
    with pytest.raises(RequestError, match="partial_reward=5"):
        engine.generate("A: ", partial_reward=5)
    for wrong in ({"temperature": 0}, {"every": 0}, {"temperature": math.inf}, {"every": 1.5}):
        with pytest.raises(RequestError, match="partial_reward"):
            PartialReward(fails, **wrong)  # type: ignore[arg-type]


def test_a_group_of_another_process_says_so():
    order = Order("g", 2, None, "masked", 1.0, 0, 4, potential="nobody's")
    assert Group(order).error == (
        "RewardError",
        "the partial reward lives in another process than the scheduler, or is gone",
    )
