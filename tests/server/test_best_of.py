"""Selection by a reward on the server: profiles, rewards that need the model, and bodies that contradict themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from samplers.inference_scaling_profile import Profile, dumped, loaded

if TYPE_CHECKING:
    from tests.server.conftest import Serving

MODEL = "smollm2-135m-instruct"
PROFILE: dict[str, Any] = {
    "reweigh_profile": 1, "k": 5, "temperature": 0.5, "normalisation": {"method": "prompt_sd", "typical_sd": 0.4},
    "evidence": {},
}  # fmt: skip


def asked(serving: Serving, best_of: dict[str, Any]) -> Any:
    body = {
        "model": MODEL, "messages": [{"role": "user", "content": "A number."}], "max_tokens": 8, "seed": 5,
        "reweigh": {"constraint": {"regex": "[0-9]{1,3}"}, "best_of": best_of, "return_particles": True},
    }  # fmt: skip
    return serving.post("/v1/chat/completions", json=body)


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
