"""From arguments to requests and from summaries to results, without an engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from decoding.asking import result_of, settings_of
from decoding.request import Request
from grammars.errors import DeadEnd, RequestError
from grammars.vocabulary import Vocabulary

BYTES = Vocabulary((*(bytes([byte]) for byte in range(256)), b""), (256,), 257)


def request(**changes: Any) -> Request:
    settings = {**settings_of({"particles": 1, "max_tokens": 9}), **changes}
    return Request((1,), None, None, seed=1, **settings)


def summary(text: bytes, status: str, log_weight: float = 0.0) -> dict[str, Any]:
    return {
        "tokens": [list(text)], "log_probs": [-1.0], "log_weights": [log_weight], "status": [status],
        "traces": None, "certainties": None,
        "sampled_tokens": len(text), "steps": 1, "checks": 0, "masks": 0, "computed_rows": 1, "ancestry": [],
        "ess_history": [], "wall_s": 1.0, "queued_s": 0.5, "error": None,
    }  # fmt: skip


def test_a_text_that_a_stop_string_ended_is_cut_there_and_counts_no_end():
    result = result_of(request(stop=("b",)), summary(b"aabb", "stop_string"), BYTES)
    assert result.texts == ["aa"] and result.tokens == [list(b"aabb")] and result.usage.completion_tokens == 4
    assert result_of(request(), summary(b"aabb", "stop"), BYTES).usage.completion_tokens == 5


@pytest.mark.parametrize(("text", "inside"), [("é".encode()[:1], True), ("é".encode(), False), (b"a", False)])
def test_a_dead_end_inside_a_character_says_what_to_do_about_it(text: bytes, inside: bool):
    error = result_of(request(), summary(text, "dead", -float("inf")), BYTES).error
    assert isinstance(error, DeadEnd) and ("inside a character" in str(error)) is inside


@pytest.mark.parametrize(
    "options", [{"stop": ""}, {"stop": [1]}, {"particles": True}, {"sampler": 5}, {"top_k": 5}, {"nonsense": 1}]
)
def test_options_are_checked_by_name(options: dict[str, Any]):
    with pytest.raises(RequestError, match=next(iter(options))):
        settings_of(options)


def test_votes_and_expectations_go_by_the_selection_weights():
    """Three living texts of weights 1, 1, 2 and a dead one; exp(r / T) doubles the first."""
    one = summary(b"", "stop")
    several = {**one, "tokens": [[65], [66], [65], [67]], "log_probs": [0.0] * 4, "status": ["stop"] * 3 + ["dead"]}
    several["log_weights"] = [0.0, 0.0, np.log(2.0), -np.inf]
    plain = result_of(request(particles=4), several, BYTES)
    assert plain.vote() == pytest.approx({"A": 0.75, "B": 0.25})
    assert plain.vote(lambda text: None if text == "A" else text.lower()) == pytest.approx({"b": 1.0})
    assert plain.expectation(ord) == pytest.approx(0.75 * 65 + 0.25 * 66)
    judged = replace(plain, rewards=np.array([np.log(2.0), 0.0, 0.0, np.nan]), select_temperature=1.0)
    assert judged.selection_weights == pytest.approx([0.4, 0.2, 0.4, 0.0])
    assert judged.expectation(lambda text: float(text == "B")) == pytest.approx(0.2)


def test_an_option_of_generate_is_not_unknown():
    with pytest.raises(RequestError, match="select_temperature, select, unjudged"):
        settings_of({"select_temprature": 1.0})
    with pytest.raises(RequestError, match="'reward' is for generate and agenerate"):
        settings_of({"reward": len})
