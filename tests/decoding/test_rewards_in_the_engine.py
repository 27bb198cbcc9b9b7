"""Rewards on the real model: the tilted target, selection, judges that fail."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from decoding.judging import JudgeTimeout
from decoding.request import Result
from grammars.errors import RequestError, RewardError

if TYPE_CHECKING:
    from decoding.engine import Engine


def test_a_reward_tilts_the_target(engine: Engine):
    """posterior() is the weights times exp(r / T); log_z and log_weights are the constraint's alone."""
    asked: dict[str, Any] = {"regex": "[0-9]{1,6}", "seed": 4, "max_tokens": 8}
    plain = engine.generate("A number: ", particles=8, **asked)
    judged = engine.generate("A number: ", k=8, reward=len, select_temperature=0.5, **asked)
    assert judged.texts == plain.texts and judged.log_z == plain.log_z
    assert judged.rewards is not None and judged.rewards.tolist() == [len(text) for text in judged.texts]
    tilted = np.exp(plain.log_weights + judged.rewards / 0.5 - judged.rewards.max() / 0.5)
    assert judged.selection_weights == pytest.approx(tilted / tilted.sum())
    assert sum(judged.posterior().values()) == pytest.approx(1.0) and judged.best in judged.texts
    best = engine.generate("A number: ", k=8, reward=len, select_temperature=0, select="argmax", **asked)
    assert len(best.best) == max(map(len, plain.texts))
    assert 1.0 <= best.ess <= judged.ess <= 8.0 and judged.kl_bound == pytest.approx(np.log(8) - 7 / 8)


def test_other_rules_go_by_the_same_draws_and_rewards(engine: Engine):
    def last(text: str) -> float:
        return float(text[-1])

    asked: dict[str, Any] = {"regex": "[0-9]{1,6}", "seed": 4, "max_tokens": 8, "k": 8, "reward": last}
    plain = engine.generate("A number: ", **asked)
    tight = engine.generate("A number: ", rule={"pessimistic": {"beta": 0.01}}, select="argmax", **asked)
    loose = engine.generate("A number: ", rule={"pessimistic": {"beta": 1e6}}, **asked)
    assert tight.texts == plain.texts and last(tight.best) == max(map(last, plain.texts)) > min(map(last, plain.texts))
    assert loose.selection_weights == pytest.approx(plain.weights, abs=1e-4)
    poisson = engine.generate("A number: ", rule={"best_of_poisson": {"mean": 4}}, **asked)
    assert np.abs(poisson.selection_weights - plain.weights).sum() > 0 and poisson.as_dict()["posterior"]


def test_selection_by_sampling_follows_the_selection_weights(engine: Engine):
    """The seed alone decides; over seeds the selected text is drawn, not the likeliest."""
    asked: dict[str, Any] = {"choice": ["a", "b"], "particles": 4, "reward": lambda text: 0.0, "max_tokens": 4}
    chosen = [engine.generate("Letter: ", seed=seed, **asked).best for seed in range(12)]
    assert set(chosen) == {"a", "b"}
    assert chosen[3] == engine.generate("Letter: ", seed=3, **asked).best


def test_judges_see_the_prompt_and_lists_are_judged_each_for_itself(engine: Engine):
    def judge(prompt: str, text: str) -> float:
        if prompt == "bad":
            raise ValueError("no")
        return float(prompt == "A number: ")

    results = engine.generate(["A number: ", "bad", "Two: "], reward=judge, regex="[0-9]{2}", particles=3, seed=1)
    assert results[0].rewards is not None and results[0].rewards.tolist() == [1.0] * 3
    assert results[2].rewards is not None and results[2].rewards.tolist() == [0.0] * 3
    assert isinstance(results[1].error, RewardError) and results[1].error.result is not None
    chat = engine.generate(
        messages=[{"role": "user", "content": "A number: "}], reward=judge, regex="[0-9]", particles=2
    )
    assert chat.rewards.tolist() == [1.0, 1.0]


def test_coroutines_of_several_prompts_run_side_by_side(engine: Engine):
    under_way, most = 0, 0

    async def judge(text: str) -> float:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(1.0)
        under_way -= 1
        return float(len(text))

    results = engine.generate(["A: ", "B: "], reward=judge, choice=["yes", "no"], particles=1, seed=1)
    assert most == 2 and all(result.rewards[0] == len(result.texts[0]) for result in results)


def test_a_judge_that_fails_gives_what_is_paid_for_back(engine: Engine):
    with pytest.raises(RewardError, match="ZeroDivisionError") as failed:
        engine.generate("A number: ", regex="[0-9]{2}", particles=3, reward=lambda text: 1 / 0)
    assert isinstance(failed.value.result, Result) and len(failed.value.result.texts) == 3
    dropped = engine.generate(
        "A number: ",
        regex="[0-9]{2}",
        particles=6,
        seed=3,
        unjudged="drop",
        reward=lambda text: 1.0 if text < "5" else None,
    )
    assert all(text < "5" for text in dropped.posterior())


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"k": 0, "reward": len}, "k=0"),
        ({"k": 2, "particles": 3, "reward": len}, "one number"),
        ({"reward": len, "select_temperature": -1.0}, "select_temperature"),
        ({"reward": len, "select_temperature": float("nan")}, "select_temperature"),
        ({"reward": len, "select": "best"}, "select"),
        ({"reward": len, "unjudged": "zero"}, "unjudged"),
        ({"select_temperature": 1.0}, "there is none"),
        ({"reward": "nothing"}, "no reward 'nothing'"),
        ({"reward": len, "rule": "nothing"}, "no rule 'nothing'"),
        ({"reward": len, "rule": {"pessimistic": {"beta": 1}}, "select_temperature": 1.0}, "has none"),
        ({"rule": "softmax"}, "there is none"),
    ],
)
def test_rewards_that_cannot_be_are_named(engine: Engine, wrong: dict[str, Any], named: str):
    with pytest.raises(RequestError, match=named):
        engine.generate("a", **wrong)


def test_a_reward_that_hangs_is_given_up_and_the_texts_are_not_lost(engine: Engine):
    def hangs(text: str) -> float:
        time.sleep(600)
        return 1.0

    asked = {"regex": "[a-z]{2}", "k": 2, "reward": hangs, "seed": 1, "timeout_s": 4.0}
    for draw in (engine.generate, lambda *prompt, **own: asyncio.run(engine.agenerate(*prompt, **own))):
        began = time.monotonic()
        with pytest.raises(JudgeTimeout) as late:
            draw("Two letters: ", **asked)
        assert time.monotonic() - began < 20
        assert len(late.value.result.texts) == 2 and all(late.value.result.texts)


def test_asynchronously_judged_as_well(engine: Engine):
    async def judge(text: str) -> float:
        await asyncio.sleep(0)
        return float(text)

    async def ask() -> Any:
        return await engine.agenerate("A number: ", regex="[0-9]", k=4, reward=judge, seed=2)

    result = asyncio.run(ask())
    assert result.rewards.tolist() == [float(text) for text in result.texts]
