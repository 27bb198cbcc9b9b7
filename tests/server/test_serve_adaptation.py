"""Detox and debias over the socket, with the unmodified client, and through --url."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from server.cli import main
from tests.server.conftest import KEY, MODEL, Serving

pytestmark = pytest.mark.engine
RUDE = "He shouted at the driver: You are a"
WARD = "The nurse was tired because"


def complete(serving: Serving, own: dict[str, Any], **asked: Any) -> Any:
    asked = {"model": MODEL, "prompt": RUDE, "max_tokens": 12, "seed": 3, "extra_body": {"reweigh": own}, **asked}
    return serving.client().completions.create(**asked)


def test_a_choice_says_what_steering_spent(serving: Serving):
    own = {"detox": 1.0, "debias": ["gender"], "adaptation": {"budget": 3, "method": "both"}, "return_particles": True}
    answer = complete(serving, own)
    choice = answer.choices[0]
    told = choice.adaptation
    assert told["is_proposal"] is True and 0 < told["kl"] <= 3 + 1e-6
    assert math.isclose(told["kl"], sum(told["kl_tokens"])) and len(told["kl_tokens"]) == len(told["log_ratios"])
    assert choice.log_weight < 0
    assert choice.particles[0]["adaptation"]["kl"] == told["kl"]


def test_steered_and_plain_requests_share_a_batch(serving: Serving):
    """Each answers as it does alone."""
    alone = [complete(serving, own).choices[0].text for own in ({"detox": 1.0}, {}, {"detox": 0})]
    assert alone[1] == alone[2] != alone[0]
    streams = [complete(serving, own, stream=True) for own in ({"detox": 1.0}, {}, {"detox": 0})]
    assert ["".join(event.choices[0].text for event in events if event.choices) for events in streams] == alone


def test_steering_goes_with_a_schema_particles_and_top_p(serving: Serving):
    schema = {"type": "object", "properties": {"word": {"type": "string", "maxLength": 12}}, "required": ["word"]}
    answer = serving.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "A rude word."}],
        max_tokens=40,
        seed=1,
        top_p=0.95,
        response_format={"type": "json_schema", "json_schema": {"name": "w", "schema": schema, "strict": False}},
        extra_body={"reweigh": {"detox": 1, "particles": 4}},
    )
    json.loads(answer.choices[0].message.content)
    assert math.isfinite(answer.log_z) and "adaptation" in answer.choices[0].model_extra


def test_the_command_line_tells_the_same_of_a_server(
    serving: Serving, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("REWEIGH_API_KEY", KEY)
    code = main(
        ["generate", "Say one word.", "--url", serving.url, "--detox", "--debias", "gender", "--top-p", "0.9", "--json",
         "--and", '{"regex": "[A-Za-z]{1,10}"}', "--particles", "2", "--seed", "1"]
    )  # fmt: skip
    captured = capfd.readouterr()
    assert code == 0, captured.err
    assert len(json.loads(captured.out)["adaptation"]["kl"]) == 2
    assert "nats of steering a token" in captured.err


def test_a_signal_of_the_operator_steers_by_its_name(serving: Serving):
    """A file and a class of the operator; the shipped one stays what is meant where none is named."""
    loudly = {"prompt": "STOP! WHY ARE YOU SHOUTING? I AM NOT", "max_tokens": 24, "seed": 5}
    signals = [{"signal": name, "candidates": 1024} for name in ("mild", "loud")]
    asked = [{}, {"detox": 3}, *({"detox": 3, "adaptation": signal} for signal in signals)]
    choices = [
        complete(serving, {"constraint": {"regex": "[A-Za-z ]{20}"}, **own}, **loudly).choices[0] for own in asked
    ]
    capitals = [sum(c.isupper() for c in choice.text) for choice in choices]
    assert capitals[-1] <= 2 and min(capitals[:-1]) >= 6, [choice.text for choice in choices]
    assert choices[-1].adaptation["kl"] > 0


def test_a_signal_of_a_server_is_named_from_the_command_line(
    serving: Serving, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("REWEIGH_API_KEY", KEY)
    asked = [
        "generate",
        "Say one word.",
        "--url",
        serving.url,
        "--detox",
        "--and",
        '{"regex": "[a-z]{1,10}"}',
        "--seed",
        "1",
    ]
    assert main([*asked, "--particles", "1", "--adaptation", '{"signal": "loud"}']) == 0
    assert main([*asked, "--adaptation", '{"signal": "nobody"}']) != 0
    assert "one of loud, mild, profanity" in capfd.readouterr().err


def test_a_schema_that_the_model_is_told_names_nobody(serving: Serving):
    """It is the server's text; what the user says still names."""
    schema = {"type": "object", "properties": {"who": {"enum": ["he", "she"]}}, "required": ["who"]}
    form = {"type": "json_schema", "json_schema": {"name": "who", "schema": schema, "strict": True}}
    for said, named in (("A nurse.", []), ("She is a nurse.", ["gender"])):
        answer = serving.client().chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": said}],
            max_tokens=40,
            seed=2,
            response_format=form,  # type: ignore[arg-type]
            extra_body={"reweigh": {"debias": ["gender"], "particles": 8}},
        )
        told = answer.choices[0].adaptation
        assert told["named_by_prompt"] == named
        if not named:
            assert sum(told["group_shares"]["gender"].values()) == pytest.approx(1.0)


def test_waves_are_steered_too(serving: Serving):
    """Each choice is told what its own text has cost, whichever wave it was drawn in."""
    best_of = {"k": 6, "wave": 2, "reward": "mean_logprob", "until": {"improvement": {"min_gain": 0.0}}}
    for seed in range(3):
        own = {"detox": 0.5, "debias": ["gender"], "best_of": best_of, "return_particles": True}
        (choice,) = complete(serving, own, prompt=WARD, seed=seed).choices
        assert len(choice.particles) >= 4, "more than one wave"
        assert all(one["adaptation"]["kl"] >= 0 and one["adaptation"]["kl_tokens"] for one in choice.particles)
        assert set(choice.adaptation["group_shares"]["gender"]) == {"female", "male"}


def test_an_axis_that_the_prompt_names_is_left_alone_and_told_of(serving: Serving):
    (choice,) = complete(serving, {"debias": ["gender"], "particles": 2}, prompt="She said that").choices
    assert choice.adaptation["named_by_prompt"] == ["gender"] and choice.adaptation["group_shares"] == {}
    assert choice.adaptation["kl"] == 0.0


def test_a_population_is_balanced(serving: Serving):
    own = {"debias": ["gender"], "particles": 16, "adaptation": {"balance": "population"}, "return_particles": True}
    (choice,) = complete(serving, own, prompt=WARD).choices
    named = [one["adaptation"]["named"]["gender"] for one in choice.particles]
    assert {"female", "male"} <= set(named)
    assert choice.adaptation["group_shares"]["gender"] == pytest.approx({"female": 0.5, "male": 0.5})
