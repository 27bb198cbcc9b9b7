"""The model as a judge, on the engine that draws: the law it is read from, one batch, what it costs, how it fails."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bench.harness import counted_steps
from decoding.judging import JudgeReward, JudgeTimeout, answer_tokens, chat_prompt
from decoding.rewarding import reward_of
from grammars.errors import RequestError, RewardError
from samplers.judge import Question
from samplers.reward import Candidate
from samplers.rewards.judge import Judge

if TYPE_CHECKING:
    from decoding.engine import Engine

SHORT = Judge("Is the answer right?", template="{criteria} {prompt} {answer} Reply with a {scale}:")


def test_the_judge_is_read_from_the_models_own_law(engine: Engine):
    """Against draws of the very next token: their log p, and the mass of all digits as the mask finds it."""
    question = Question("How much is 1 + 1? Reply with a digit.", tuple("0123456789"))
    (reply,) = engine.asker.ask([question])(None)
    prompt = chat_prompt(engine.tokenizer, question.text)
    drawn = engine.generate(prompt, regex="[0-9]", sampler="masked", particles=32, max_tokens=1, truncate=True, seed=1)
    assert len(set(drawn.texts)) >= 3
    for text, log_prob in zip(drawn.texts, drawn.log_probs):
        assert reply.log_probs[int(text)] == pytest.approx(log_prob, abs=1e-5)
    assert float(np.exp(reply.log_probs).sum()) == pytest.approx(math.exp(drawn.log_z), rel=1e-5)
    assert reply.tokens == len(prompt) + 1


def test_every_spelling_of_an_answer_counts(engine: Engine):
    tokens = answer_tokens(engine.vocabulary, ("Yes", "7"))
    spelled = [{engine.vocabulary.bytes_of(token) for token in group} for group in tokens]
    assert spelled == [{b"Yes", b" Yes"}, {b"7"}]
    with pytest.raises(RequestError, match="'xyzzy' is no single token"):
        answer_tokens(engine.vocabulary, ("xyzzy", "1"))


def test_thirty_two_candidates_are_one_step_and_equal_ones_are_asked_about_once(engine: Engine):
    judge = JudgeReward(SHORT, engine.asker)
    texts = [Candidate("What is six times seven?", str(number)) for number in range(32)]
    with counted_steps(engine) as rows:
        judgement = judge.begin([*texts, *texts[:9]])(None)
    assert rows == [32]
    assert judgement.rewards[32:].tolist() == judgement.rewards[:9].tolist()
    prompts = [len(chat_prompt(engine.tokenizer, question.text)) for question in SHORT.questions(texts)]
    assert judgement.tokens == sum(prompts) + 32
    # What stands beside a candidate changes nothing.
    assert judge.score(texts[3:4])[0] == pytest.approx(judgement.rewards[3], abs=1e-5)
    assert asyncio.run(judge.ascore(texts[:4])) == pytest.approx(judgement.rewards[:4], abs=1e-5)


def test_generate_selects_by_the_judge_and_says_what_it_cost(engine: Engine):
    asked: dict[str, Any] = {"regex": "[0-9]{1,3}", "k": 6, "seed": 5, "max_tokens": 6}
    named = engine.generate("Six times seven is ", reward={"judge": {"scale": (0, 9)}}, select_temperature=0.1, **asked)
    given = engine.generate("Six times seven is ", reward=Judge(scale=(0, 9)), select_temperature=0.1, **asked)
    assert named.rewards is not None and named.verdicts is not None
    assert named.rewards.tolist() == pytest.approx(given.rewards.tolist(), abs=1e-5)
    tilted = np.exp(named.log_weights + (named.rewards - named.rewards.max()) / 0.1)
    assert named.selection_weights == pytest.approx(tilted / tilted.sum())
    for reward, verdict in zip(named.rewards, named.verdicts):
        assert verdict is not None and verdict.reward == reward and 0 <= verdict.outside <= 1 and verdict.variance > 0
    distinct = len(set(named.texts))
    assert named.usage.judge_tokens > 50 * distinct and named.as_dict()["verdicts"][0]["variance"] > 0


def test_prompts_of_a_list_are_judged_while_others_are_drawn(engine: Engine):
    """No step is for the judge alone while texts are under way: the first prompt's questions ride with the second's tokens."""
    with counted_steps(engine) as rows:
        results = engine.generate(
            ["One: ", "Two: "], reward=SHORT, k=2, constraint=[{"regex": "[0-9]"}, {"regex": "[0-9]{40}"}],
            max_tokens=48, seed=2,
        )  # fmt: skip
    assert all(one.rewards is not None for one in results)
    assert 41 <= len(rows) <= 43, rows
    results = asyncio.run(engine.agenerate(["One: ", "Two: "], reward=SHORT, k=2, regex="[0-9]", seed=2))
    assert all(one.rewards is not None and one.usage.judge_tokens for one in results)


def test_a_judge_that_cannot_answer_is_named_and_the_texts_are_kept(engine: Engine):
    with pytest.raises(RewardError, match=r"cannot judge '.*at least 0.999 was wanted") as failed:
        engine.generate("A number: ", regex="[0-9]{2}", k=3, reward=Judge(least_mass=0.999), seed=1)
    assert len(failed.value.result.texts) == 3  # type: ignore[attr-defined]
    assert failed.value.result.usage.judge_tokens > 100, "and what the judge has cost"  # type: ignore[attr-defined]
    with pytest.raises(RewardError, match="could judge none"):
        engine.generate("A: ", regex="[0-9]", k=3, reward=Judge(least_mass=0.999), unjudged="drop")
    long = Judge(template="{answer} " * 600)
    with pytest.raises(RewardError, match="tokens, and its model takes 511"):
        engine.generate("A number: ", regex="[0-9]{2}", k=3, reward=long, seed=1)
    with pytest.raises(RewardError, match="the text is empty"):
        engine.generate("A: ", regex=" ?", k=8, reward=SHORT, seed=1)
    with pytest.raises(RequestError, match="needs a model"):
        reward_of("judge")
    with pytest.raises(RewardError, match="no single token"):
        engine.generate("A: ", regex="[0-9]", k=2, reward=Judge(scale={"xyzzy": 1, "plugh": 0}))


def test_a_judge_that_is_late_is_given_up_and_leaves_nothing_behind(engine: Engine):
    collect = engine.asker.ask([Question("word " * 300, ("1", "2"))] * 8)
    with pytest.raises(JudgeTimeout, match="8 questions were not answered within 0 s"):
        collect(0.0)
    engine.generate("A: ", regex="[0-9]", particles=1)
    assert engine._driver.call(lambda _: engine._driver.scheduler.get_num_unfinished_requests()) == 0
