"""Selection by a reward on the server: profiles, rewards that need the model, and bodies that contradict themselves."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from samplers.inference_scaling_profile import Profile, dumped, loaded
from samplers.rule import Drawn, rule_of
from server.judge_endpoint import only_model
from tests.server.conftest import MODEL, PROFILE

if TYPE_CHECKING:
    from tests.server.conftest import Serving


def asked(serving: Serving, best_of: dict[str, Any]) -> Any:
    body = {
        "model": MODEL, "messages": [{"role": "user", "content": "A number."}], "max_tokens": 8, "seed": 5,
        "reweigh": {"constraint": {"regex": "[0-9]{1,3}"}, "best_of": best_of, "return_particles": True},
    }  # fmt: skip
    return serving.post("/v1/chat/completions", json=body)


def drawn(serving: Serving, own: dict[str, Any], **fields: Any) -> Any:
    """One choice, through the openai client."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "A number."}],
        "max_tokens": 8,
        "seed": 5,
        **fields,
    }
    own = {"constraint": {"regex": "[0-9]{1,3}"}, "return_particles": True, **own}
    return serving.client().chat.completions.create(**body, extra_body={"reweigh": own}).choices[0]


def test_a_profile_of_the_operators_goes_by_its_name(serving: Serving):
    by_name = asked(serving, {"reward": "short", "profile": "brief"}).json()["choices"][0]
    by_content = asked(serving, {"reward": "short", "profile": PROFILE}).json()["choices"][0]
    # What the first left in the cache of prefixes may change a weight's last digits.
    assert by_name["weight"] == pytest.approx(by_content["weight"], abs=1e-3)
    texts, others = ([one["text"] for one in told["particles"]] for told in (by_name, by_content))
    assert texts == others and len(texts) == 5


@pytest.mark.parametrize(
    "rule", [{"mbr": {"beta": 2.0}}, {"pessimistic": {"beta": 0.5}}, {"best_of_poisson": {"mean": 3.0}}]
)
def test_a_rule_makes_the_weights_it_makes_elsewhere(serving: Serving, rule: Any):
    particles = drawn(serving, {"best_of": {"k": 6, "reward": "short", "rule": rule}}).particles
    texts, rewards, log_weights = (
        np.array([one[key] for one in particles]) for key in ("text", "reward", "log_weight")
    )
    weights = np.exp(rule_of(rule).log_weights(Drawn(texts.tolist(), rewards, log_weights, 1.0)))
    assert [one["weight"] for one in particles] == pytest.approx(weights / weights.sum())
    assert len(set(texts)) > 1


def test_waves_end_with_the_vote_or_at_their_bound(serving: Serving):
    sure = {
        "constraint": {"choice": ["yes", "no"]},
        "best_of": {"until": {"vote": {"confidence": 0.7}}, "k": 30, "wave": 3},
    }
    choice = drawn(serving, sure, temperature=0.2)
    assert choice.stopped == "until" and sum(choice.waves) == len(choice.particles) < 30
    unsure = {"best_of": {"until": {"vote": {"confidence": 0.999999}}, "k": 7, "wave": 3}}
    choice = drawn(serving, unsure, temperature=2.0)
    assert choice.stopped == "k" and choice.waves == [3, 3, 1]
    assert {one["log_weight"] is not None for one in choice.particles} == {True}
    # 8 tokens a candidate at most: no fourth wave of two fits into what the first three have left.
    bounded = {"best_of": {"until": {"vote": {"confidence": 0.999999}}, "k": 30, "wave": 2, "token_budget": 24}}
    choice = drawn(serving, bounded, temperature=2.0)
    assert choice.stopped == "token_budget" and len(choice.waves) >= 1 and len(choice.particles) <= 12


def test_waves_end_when_no_better_reward_is_to_be_expected(serving: Serving):
    until = {"improvement": {"highest": -1.0}}
    own = {
        "constraint": {"choice": ["7", "42", "123"]},
        "best_of": {"until": until, "k": 40, "wave": 2, "reward": "short", "temperature": 0},
    }
    choice = drawn(serving, own, temperature=3.0, seed=1)
    rewards = [one["reward"] for one in choice.particles]
    assert choice.stopped == "until" and max(rewards) == choice.reward == -1.0 and choice.message.content == "7"
    # Each wave is judged as it comes: the highest reward there is came with the last.
    assert max(rewards[: -choice.waves[-1]], default=-9.0) < -1.0
    few = {**own, "best_of": {**own["best_of"], "until": {"improvement": {"highest": 1.0}}, "judge_budget": 5}}
    choice = drawn(serving, few, temperature=3.0, seed=1)
    assert choice.stopped == "judge_budget" and choice.waves == [2, 2, 1]


def test_waves_stream_their_progress_and_then_the_text(serving: Serving):
    own = {
        "constraint": {"regex": "[0-9]{1,3}"},
        "best_of": {"until": {"vote": {"confidence": 0.999999}}, "k": 4, "wave": 1},
    }
    stream = serving.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "A number."}],
        stream=True,
        seed=5,
        extra_body={"reweigh": own},
    )
    pieces = [choice for chunk in stream for choice in chunk.choices]
    assert [bool(piece.delta.content) for piece in pieces].count(True) == 1
    assert pieces[-1].waves == [1, 1, 1, 1] and pieces[-1].stopped == "k"


def test_a_reward_of_prefixes_is_a_factor_of_the_target(serving: Serving):
    """Without resampling the draws do not depend on it: the weights differ by exp(r/T) of the whole text alone."""
    own = {"constraint": {"regex": "[0-9]{6}"}, "particles": 12, "ess_threshold": 0}
    without = drawn(serving, own).particles
    for given, temperature in (("few_zeros", 1.0), ({"name": "few_zeros", "temperature": 0.25, "every": 2}, 0.25)):
        with_it = drawn(serving, {**own, "partial_reward": given}).particles
        assert [one["text"] for one in with_it] == [one["text"] for one in without]
        gained = [after["log_weight"] - before["log_weight"] for after, before in zip(with_it, without, strict=True)]
        assert gained == pytest.approx([-one["text"].count("0") / temperature for one in without])
    assert any("0" in one["text"] for one in without)
    steered = drawn(
        serving, {**own, "ess_threshold": 0.9, "partial_reward": {"name": "few_zeros", "temperature": 0.05}}
    )
    assert steered.ancestry and "0" not in steered.message.content


@pytest.mark.parametrize(
    ("name", "told"),
    [("raises_late", "raises late"), ("hangs", "was killed"), ("crashes", "the process that ran it died")],
)
def test_a_reward_of_prefixes_that_fails_ends_its_own_request_alone(serving: Serving, name: str, told: str):
    own = {"constraint": {"regex": "[0-9]{6}"}, "particles": 2, "partial_reward": name}
    body = {"model": MODEL, "prompt": "A number: ", "max_tokens": 8, "reweigh": own}
    response = serving.post("/v1/completions", json=body)
    error = response.json()["error"]
    assert response.status_code == 422 and told in error["message"], response.text
    assert error["param"] == "reweigh.partial_reward"
    assert drawn(serving, {"particles": 2, "partial_reward": "few_zeros"}).finish_reason == "stop"


def test_rewards_that_dawdle_hold_up_nobody_else(serving: Serving):
    """More of them than a pool has threads, all hung up on."""
    own = {"constraint": {"regex": "[0-9]{2}"}, "best_of": {"k": 2, "reward": "dawdles"}}
    body = {"model": MODEL, "prompt": "A number: ", "max_tokens": 8, "reweigh": own}

    def dawdling(_: int) -> None:
        with pytest.raises(httpx.ReadTimeout):
            serving.post("/v1/completions", json=body, timeout=8)

    with ThreadPoolExecutor(10) as threads:
        waiting = [threads.submit(dawdling, k) for k in range(10)]
        time.sleep(4)  # by then all of them are with their judge
        began = time.monotonic()
        assert drawn(serving, {"best_of": {"k": 2, "reward": "short"}}).finish_reason == "stop"
        assert time.monotonic() - began < 10
        for one in waiting:
            one.result()


def test_another_servers_model_judges_as_the_same_model_here(serving: Serving):
    """Over HTTP its 20 likeliest tokens are told: a digit that is not among them is missing from the mean."""
    here = drawn(serving, {"best_of": {"k": 3, "reward": "judge"}}).particles
    for best_of in ({"reward": "itself"}, {"reward": {"judge": {}}, "judge": "itself"}):
        there = drawn(serving, {"best_of": {"k": 3, **best_of}})
        rewards = [one["reward"] for one in there.particles]
        assert rewards == pytest.approx([one["reward"] for one in here], abs=0.2) and there.verdict
    assert only_model(f"{serving.url}/v1", serving.key) == MODEL
    pairs = drawn(serving, {"best_of": {"k": 2, "reward": "pairwise_judge", "judge": "itself"}}).particles
    assert all(np.isfinite(one["reward"]) for one in pairs)


def test_a_profile_says_how_many_and_how_greedily(serving: Serving):
    by_profile = asked(serving, {"reward": "short", "profile": PROFILE}).json()
    by_hand = asked(serving, {"reward": "short", "k": 5, "temperature": 0.5 * 0.4}).json()
    particles = by_profile["choices"][0]["particles"]
    assert len(particles) == 5 and particles == by_hand["choices"][0]["particles"]
    weights = np.array([one["log_weight"] + one["reward"] / 0.2 for one in particles])
    weights = np.exp(weights - weights.max())
    assert [one["weight"] for one in particles] == pytest.approx(weights / weights.sum())
    assert loaded(dumped(Profile(5, 0.5, 0.4))).select_temperature == pytest.approx(0.2)


@pytest.mark.parametrize(
    "reward", ["self_certainty", "pairwise_judge", {"rubric_judge": {"items": ["It is a number.", "It is even."]}}]
)
def test_rewards_that_need_the_model_are_had_from_it(serving: Serving, reward: Any):
    made = asked(serving, {"k": 3, "reward": reward, "temperature": 0.5}).json()
    rewards = [one["reward"] for one in made["choices"][0]["particles"]]
    assert all(np.isfinite(rewards)) and len(set(rewards)) > 1, made
    judged = reward != "self_certainty"
    assert (made["usage"]["judge_tokens"] > 0) == judged and ("verdict" in made["choices"][0]) == judged


@pytest.mark.parametrize(
    ("best_of", "param", "told"),
    [
        ({"reward": "short", "profile": PROFILE, "k": 3}, "reweigh.best_of.k", "beside a profile"),
        ({"reward": "short", "profile": PROFILE, "temperature": 1}, "reweigh.best_of.temperature", "beside a profile"),
        ({"reward": "short", "profile": "file.json"}, "reweigh.best_of.profile", "object"),
        ({"reward": "short", "profile": "nobodys"}, "reweigh.best_of.profile", "there are: brief"),
        ({"reward": "short", "k": 2, "rule": "nobodys"}, "reweigh.best_of.rule", "best_of_poisson"),
        ({"reward": "short", "k": 2, "rule": {"mbr": {}}}, "reweigh.best_of.rule", "beta"),
        ({"reward": "short", "k": 2, "rule": {"mbr": {"beta": 1, "utility": "x"}}}, "reweigh.best_of.rule", "utility"),
        ({"reward": "short", "k": 300, "rule": {"mbr": {"beta": 1}}}, "reweigh.best_of.k", "every two"),
        (
            {"reward": "short", "k": 2, "rule": {"pessimistic": {"beta": 1}}, "temperature": 1},
            "reweigh.best_of.temperature",
            "has none",
        ),
        ({"reward": "short", "k": 2, "rule": 7}, "reweigh.best_of.rule", "a name"),
        ({"k": 8}, "reweigh.best_of.reward", "select by"),
        ({"k": 8, "until": "vote", "rule": {"mbr": {"beta": 1}}}, "reweigh.best_of.rule", "there is none"),
        ({"k": 8, "until": "improvement"}, "reweigh.best_of.reward", "select by"),
        ({"k": 8, "until": "never"}, "reweigh.best_of.until", "vote"),
        ({"k": 8, "until": {"vote": {"extract": "str"}}}, "reweigh.best_of.until", "extract"),
        ({"k": 8, "until": {"vote": {"confidence": 2}}}, "reweigh.best_of.until", "confidence"),
        ({"k": 8, "until": "vote", "wave": 9}, "reweigh.best_of.wave", "from 1 to 8"),
        ({"k": 1000, "until": "vote", "wave": 4}, "reweigh.best_of.wave", "more than 64 waves"),
        ({"k": 5000, "until": "vote"}, "reweigh.best_of.k", "from 1 to 1024"),
        ({"k": 8, "until": "vote", "token_budget": 3}, "reweigh.best_of.token_budget", "one candidate"),
        ({"k": 8, "until": "vote", "judge_budget": 3}, "reweigh.best_of.judge_budget", "about a reward"),
        ({"k": 8, "reward": "short", "judge_budget": 3}, "reweigh.best_of.judge_budget", "until"),
        ({"k": 8, "until": "vote", "token_budget": "all"}, "reweigh.best_of.token_budget", "whole number"),
        ({"k": 8, "reward": "short", "wave": 4}, "reweigh.best_of.wave", "until"),
        ({"k": 8, "reward": "pairwise_judge", "until": "vote"}, "reweigh.best_of.reward", "one batch"),
        ({"reward": "short", "profile": "brief", "until": "vote"}, "reweigh.best_of.until", "beside a profile"),
        ({"k": 2, "reward": "judge", "judge": "nobody"}, "reweigh.best_of.judge", "there are: itself"),
        ({"k": 2, "reward": "short", "judge": "itself"}, "reweigh.best_of.judge", "asks no model"),
        ({"k": 2, "reward": "mean_logprob", "judge": "itself"}, "reweigh.best_of.judge", "asks no model"),
        ({"reward": "short", "profile": {**PROFILE, "k": 0}}, "reweigh.best_of.profile", "profile: k is 0"),
        ({"reward": "short", "profile": {"k": 3}}, "reweigh.best_of.profile", "reweigh_profile"),
        ({"k": 2, "reward": {"unit_tests": {"tests": "x"}}}, "reweigh.best_of.reward", "there are"),
        ({"k": 2, "reward": {"sql_match": {"database": "x"}}}, "reweigh.best_of.reward", "there are"),
        ({"k": 2, "reward": {"rubric_judge": {"items": []}}}, "reweigh.best_of.reward", "items"),
    ],
)
def test_what_contradicts_itself_or_would_run_code_is_a_400(serving: Serving, best_of: Any, param: str, told: str):
    response = asked(serving, best_of)
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"] == param and told in error["message"], response.text


@pytest.mark.parametrize(
    ("given", "param", "told"),
    [
        ("nobodys", "reweigh.partial_reward", "--partial-reward name=module:object"),
        ({"name": "short"}, "reweigh.partial_reward", "few_zeros"),
        ({"temperature": 1}, "reweigh.partial_reward", "name"),
        ({"name": "few_zeros", "temperature": 0}, "reweigh.partial_reward.temperature", "number"),
        ({"name": "few_zeros", "every": 0}, "reweigh.partial_reward.every", "whole number"),
        ({"name": "few_zeros", "function": "x"}, "reweigh.partial_reward.function", "not known"),
    ],
)
def test_rewards_of_prefixes_are_the_operators(serving: Serving, given: Any, param: str, told: str):
    body = {"model": MODEL, "prompt": "A", "reweigh": {"partial_reward": given}}
    response = serving.post("/v1/completions", json=body)
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"] == param and told in error["message"], response.text
