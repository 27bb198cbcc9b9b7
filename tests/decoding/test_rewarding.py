"""Functions as rewards: every form, every failure, and that equal texts are judged once."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import numpy as np
import pytest

from decoding.judging import JudgeTimeout
from decoding.rewarding import FunctionReward, judging, reward_of
from grammars.errors import RequestError, RewardError
from samplers.reward import Candidate, Reward

CANDIDATES = [Candidate("q", text) for text in ("a", "bb", "a", "ccc")]


def rewards_for(reward: Reward, candidates: list[Candidate], unjudged: str) -> np.ndarray:
    return judging(reward, candidates, unjudged)(None).rewards


async def slow_length(text: str) -> int:
    await asyncio.sleep(0.05)
    return len(text)


@pytest.mark.parametrize(
    "reward",
    [
        len,
        lambda text: len(text),
        lambda prompt, text: len(text) * (prompt == "q"),
        slow_length,
        FunctionReward(lambda texts: [len(text) for text in texts], batched=True),
        FunctionReward(lambda texts: (len(text) for text in texts), batched=True),
        FunctionReward(lambda prompts, texts: np.array([len(text) for text in texts]), batched=True),
    ],
)
def test_functions_of_every_form_score(reward: Any):
    assert rewards_for(reward_of(reward), CANDIDATES, "error").tolist() == [1, 2, 1, 3]


def test_equal_texts_are_judged_once_and_coroutines_run_side_by_side():
    asked = []

    async def judge(text: str) -> float:
        asked.append(text)
        await asyncio.sleep(0)
        return float(len(asked))

    assert rewards_for(reward_of(judge), CANDIDATES, "error").tolist() == [3.0, 3.0, 3.0, 3.0]
    assert asked == ["a", "bb", "ccc"]


def test_what_cannot_be_judged_is_an_error_or_dropped_and_never_zero():
    def judge(text: str) -> float | None:
        return None if text == "bb" else 1.0

    with pytest.raises(RewardError, match="cannot judge 'bb'"):
        rewards_for(reward_of(judge), CANDIDATES, "error")
    rewards = rewards_for(reward_of(judge), CANDIDATES, "drop")
    assert math.isnan(rewards[1]) and rewards[[0, 2, 3]].tolist() == [1.0, 1.0, 1.0]


class Scorer:
    def score(self, candidates: list[Candidate]) -> list[int]:
        return [len(one.text) for one in candidates]


class AsyncScorer:
    async def score(self, candidates: list[Candidate]) -> list[int]:
        await asyncio.sleep(0)
        return [len(one.text) for one in candidates]


class Wrong:
    def score(self, prompt: str, texts: list[str]) -> list[int]:
        return []


@pytest.mark.parametrize("timeout_s", [None, 30.0])
@pytest.mark.parametrize("reward", [Scorer(), AsyncScorer(), lambda *texts: len(texts[0])])
def test_objects_and_open_signatures_score(reward: Any, timeout_s: float | None):
    assert judging(reward_of(reward), CANDIDATES, "error", timeout_s)(timeout_s).rewards.tolist() == [1, 2, 1, 3]


@pytest.mark.parametrize(
    ("reward", "told"),
    [
        (Scorer, "is a class"),
        (Wrong(), r"score\(candidates\) was wanted.*'texts'"),
        (lambda text, *, style: 1.0, "has to be given 'style' too"),
    ],
)
def test_a_reward_that_cannot_be_called_is_refused_before_anything_is_drawn(reward: Any, told: str):
    with pytest.raises(RequestError, match=told):
        reward_of(reward)


async def hangs(text: str) -> float:
    await asyncio.sleep(600)
    return 1.0


@pytest.mark.parametrize("judge", [hangs, lambda text: time.sleep(600)])
def test_a_reward_is_given_up_when_its_time_is_up(judge: Any):
    began = time.monotonic()
    with pytest.raises(JudgeTimeout, match=r"had not judged 3 texts in time \(0\.2 s more\)"):
        judging(reward_of(judge), CANDIDATES, "error", 0.2)(0.2)
    assert time.monotonic() - began < 5


def test_a_reward_in_time_answers_as_it_does_without_a_limit():
    assert judging(reward_of(len), CANDIDATES, "error", 30.0)(None).rewards.tolist() == [1, 2, 1, 3]

    def fails(text: str) -> float:
        raise TimeoutError("of its own")

    with pytest.raises(RewardError, match="failed: TimeoutError: of its own"):
        judging(reward_of(fails), CANDIDATES, "error", 30.0)


@pytest.mark.parametrize(
    "judge",
    [lambda text: 1 / 0, lambda text: "good", lambda text: "5", lambda text: math.inf, lambda text: [1, 2]],
)
def test_a_judge_that_fails_is_named(judge: Any):
    with pytest.raises(RewardError, match="lambda"):
        rewards_for(reward_of(judge), CANDIDATES, "error")


@pytest.mark.parametrize("given", [5, lambda: 1, lambda a, b, c: 1, "nothing", {"numeric_match": {}}])
def test_what_is_no_reward_is_refused(given: Any):
    with pytest.raises(RequestError):
        reward_of(given)
