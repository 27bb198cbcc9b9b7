"""Drawing in waves: what is merged, when it ends, and that budgets are kept."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from grammars.errors import RequestError, RewardError

if TYPE_CHECKING:
    from decoding.engine import Engine

DIGIT: dict[str, Any] = {"regex": "[0-9]", "max_tokens": 3}


def test_waves_are_the_draws_of_their_own_seeds_side_by_side(engine: Engine):
    asked: dict[str, Any] = {"regex": "[0-9]{1,4}", "max_tokens": 6}
    until = {"improvement": {"min_gain": 0.0, "highest": 99.0}}
    whole = engine.generate("A number: ", reward=len, until=until, k=10, wave=4, seed=7, **asked)
    first = engine.generate("A number: ", reward=len, k=4, seed=7, **asked)
    assert whole.waves == (4, 4, 2) and whole.stopped == "k" and len(whole.texts) == 10
    assert whole.texts[:4] == first.texts and whole.log_weights[:4].tolist() == first.log_weights.tolist()
    assert whole.rewards.tolist() == [len(text) for text in whole.texts]
    assert whole.usage.sampled_tokens == whole.stats.sampled_tokens >= whole.usage.completion_tokens
    assert whole.usage.prompt_tokens == first.usage.prompt_tokens
    tilted = np.exp(whole.log_weights + whole.rewards - whole.rewards.max())
    assert whole.selection_weights == pytest.approx(tilted / tilted.sum())
    again = engine.generate("A number: ", reward=len, until=until, k=10, wave=4, seed=7, **asked)
    assert again.texts == whole.texts and again.best == whole.best
    for _, parents in whole.ancestry:
        assert len(parents) == 10 and all(0 <= parent < 10 for parent in parents)


def test_a_sure_vote_ends_early_and_an_open_one_goes_on(engine: Engine):
    sure = engine.generate("Say a: ", choice=["a"], until={"vote": {"confidence": 0.9}}, wave=4, k=40, max_tokens=3)
    assert sure.stopped == "until" and sure.waves == (4,) and sure.vote() == {"a": 1.0}
    # A posterior of Beta(5, 1) is above a half with 31/32.
    longer = engine.generate("Say a: ", choice=["a"], until={"vote": {"confidence": 0.98}}, wave=4, k=40, max_tokens=3)
    assert longer.waves == (4, 4)
    # Six of one mind are Beta(7, 1): 127/128, and that is the most there can be.
    never = engine.generate("Say a: ", choice=["a"], until={"vote": {"confidence": 0.995}}, wave=3, k=6, max_tokens=3)
    assert never.waves == (3, 3) and never.stopped == "k"


def test_prompts_of_a_list_end_each_in_its_own_time(engine: Engine):
    until = {"improvement": {"highest": 1.0}}

    def judge(prompt: str, text: str) -> float:
        return float(prompt == "easy: ")

    results = engine.generate(["easy: ", "hard: "], reward=judge, until=until, k=9, wave=3, seed=2, **DIGIT)
    assert [one.stopped for one in results] == ["until", "k"] and [len(one.texts) for one in results] == [3, 9]
    alone = engine.generate("easy: ", reward=judge, until=until, k=9, wave=3, seed=2, **DIGIT)
    assert alone.texts == results[0].texts
    awaited = asyncio.run(engine.agenerate("easy: ", reward=judge, until=until, k=9, wave=3, seed=2, **DIGIT))
    assert awaited.texts == alone.texts


def test_budgets_are_never_exceeded(engine: Engine):
    until = {"improvement": {"highest": 99.0}}
    for budget, first in ((3, 1), (11, 3), (12, 4), (29, 4)):
        result = engine.generate("A: ", reward=len, until=until, k=50, wave=4, token_budget=budget, seed=1, **DIGIT)
        assert result.stopped == "token_budget" and result.usage.sampled_tokens <= budget
        assert result.waves[0] == first and sum(result.waves) >= budget // 3
    judged: list[str] = []

    def judge(text: str) -> float:
        judged.append(text)
        return 0.0

    result = engine.generate("A: ", reward=judge, until=until, k=50, wave=4, judge_budget=10, seed=1, **DIGIT)
    assert result.waves == (4, 4, 2) and result.stopped == "judge_budget" and len(judged) <= 10


def test_what_goes_wrong_in_a_later_wave_gives_all_that_was_drawn_back(engine: Engine):
    calls: list[int] = []

    def judge(texts: list[str]) -> list[float]:
        calls.append(len(texts))
        if len(calls) == 2:
            raise ConnectionError("the judge is gone")
        return [0.0] * len(texts)

    from decoding.rewarding import FunctionReward

    with pytest.raises(RewardError, match="the judge is gone") as failed:
        engine.generate("A: ", reward=FunctionReward(judge, batched=True), until={"improvement": {"highest": 1.0}}, k=9,
                        wave=3, seed=1, **DIGIT)  # fmt: skip
    paid_for = failed.value.result
    assert len(paid_for.texts) == 6 and np.isnan(paid_for.rewards).tolist() == [False] * 3 + [True] * 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"until": "nothing"}, "until"),
        ({"until": "improvement"}, "there is none"),
        ({"until": "vote", "wave": 0}, "wave=0"),
        ({"until": "vote", "k": 0}, "k=0"),
        ({"until": "vote", "k": 3, "particles": 4}, "one number"),
        ({"until": "vote", "token_budget": 2}, "token_budget=2"),
        ({"until": "vote", "judge_budget": 3}, "judge_budget"),
        ({"wave": 3}, "wave is about"),
        ({"until": "vote", "reward": "pairwise_judge"}, "compares the texts of one batch"),
        ({"until": "vote", "profile": {}}, "a profile says"),
        ({"until": "vote", "max_tokens": 0}, "max_tokens=0"),
        ({"until": "vote", "nope": 1}, "nope"),
    ],
)
def test_waves_that_cannot_be_are_named(engine: Engine, wrong: dict[str, Any], named: str):
    with pytest.raises(RequestError, match=named):
        engine.generate("a", **{**DIGIT, **wrong})
