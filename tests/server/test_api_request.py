"""Bodies as requests: what is read, what is vLLM's, and what is refused; without a server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammars.registry import language_from_spec
from server.api_constraints import Names, spec_of
from server.api_errors import ApiError, api_error
from server.api_request import asked_of, is_ours, refuse_unknown
from server.api_schemas import nodes, strict_schema
from server.api_tools import tools_of

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
NAMES = Names(frozenset({"even", "shop"}), frozenset({"shop"}))


def read(body: dict[str, Any], chat: bool = True) -> Any:
    refuse_unknown(body)
    return asked_of(body, NAMES, chat=chat)


@pytest.mark.parametrize(
    ("body", "ours"),
    [
        ({}, False),
        ({"response_format": {"type": "text"}}, False),
        ({"tools": []}, False),
        ({"tools": [{}], "tool_choice": "none"}, False),
        ({"tools": [{}]}, True),
        ({"tool_choice": "required"}, True),
        ({"response_format": {"type": "json_object"}}, True),
        ({"structured_outputs": {}}, True),
        ({"reweigh": {}}, True),
        ({"reweigh": None}, False),
    ],
)
def test_only_what_asks_for_something_of_ours_is_ours(body: dict[str, Any], ours: bool):
    assert is_ours(body) is ours


def test_the_fields_of_a_body():
    asked = read({
        "reweigh": {"constraint": {"regex": "a"}, "particles": 4, "seed": 9, "ess_threshold": 0, "select": "best"},
        "n": 2, "seed": 5, "max_completion_tokens": 7, "max_tokens": 9, "stop": "x", "temperature": 0,
    })  # fmt: skip
    assert (asked.spec, asked.settings["particles"], asked.n, asked.select) == ({"regex": "a"}, 4, 2, "best")
    assert (asked.seed, asked.max_tokens) == (9, 7), (
        "reweigh.seed goes before seed, max_completion_tokens before max_tokens"
    )
    assert asked.settings["stop"] == ["x"] and asked.settings["ess_threshold"] == 0.0
    assert 0 < asked.settings["temperature"] < 0.001


@pytest.mark.parametrize(
    ("body", "chat", "param"),
    [
        ({"tools": [TOOL]}, False, "tools"),
        (
            {"tools": [TOOL], "tool_choice": "required", "reweigh": {"constraint": {"regex": "a"}}},
            True,
            "reweigh.constraint",
        ),
        ({"reweigh": {}, "length_penalty": 2}, True, "length_penalty"),
        (
            {"reweigh": {"best_of": {"k": 2, "reward": "mean_logprob", "unjudged": "skip"}}},
            True,
            "reweigh.best_of.unjudged",
        ),
        ({"tool_choice": "required"}, False, "tool_choice"),
        ({"reweigh": {"thinking": "</think>"}}, True, "reweigh.thinking"),
        ({"reweigh": {}, "stream": "yes"}, True, "stream"),
        ({"reweigh": {}, "stream_options": [1]}, True, "stream_options"),
        ({"reweigh": {}, "return_token_ids": True}, True, "return_token_ids"),
        ({"reweigh": {}, "skip_special_tokens": False}, True, "skip_special_tokens"),
    ],
)
def test_a_field_that_would_be_ignored_is_refused(body: dict[str, Any], chat: bool, param: str):
    """Tools in a plain completion above all: it would be an unconstrained 200."""
    with pytest.raises(ApiError) as refused:
        read(body, chat)
    assert (refused.value.status, refused.value.param) == (400, param)


@pytest.mark.parametrize("extra", [{}, {"add_generation_prompt": True}])
def test_an_extra_body_that_repeats_what_stands_at_the_top_loses_nothing(extra: dict[str, Any]):
    refuse_unknown({**extra, "extra_body": extra})


def test_an_extra_body_that_says_something_else_is_refused():
    with pytest.raises(ApiError) as refused:
        refuse_unknown({"guided": 1, "extra_body": {"guided": 2}})
    assert refused.value.param == "extra_body"


@pytest.mark.parametrize(
    "field",
    ["Reweigh", "reweight", "re_weigh", "lark", "sql", "best_of", "n_particles", "structured_output", "responseFormat",
     "response-format", "json", "response_schema", "output_schema", "pattern", "json_mode", "text", "output_config", "nvext",
     "logits_processors", "guidance", "smiles"],
)  # fmt: skip
def test_a_field_that_is_named_like_a_constraint_is_refused(field: str):
    with pytest.raises(ApiError) as refused:
        refuse_unknown({"messages": [], field: {"regex": "a"}})
    assert (refused.value.status, refused.value.param, refused.value.code) == (400, field, "unsupported_field")


@pytest.mark.parametrize(
    "form",
    [{"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}],
)
def test_a_response_format_beside_a_tool_that_must_be_called_is_of_the_words(form: dict[str, Any]):
    asked = read({"tools": [TOOL], "tool_choice": "required", "response_format": form})
    assert asked.spec == read({"tools": [TOOL], "tool_choice": "required"}).spec


def test_fields_of_vllm_and_of_openai_pass():
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    of_openai = (
        "audio", "metadata", "modalities", "prediction", "prompt_cache_key", "safety_identifier", "service_tier", "store",
        "verbosity", "web_search_options",
    )  # fmt: skip
    refuse_unknown(dict.fromkeys((*ChatCompletionRequest.model_fields, *CompletionRequest.model_fields, *of_openai), 1))
    refuse_unknown({"best_of": 1, "lark": None})


def test_reweighs_own_vllm_argument_is_refused():
    with pytest.raises(ApiError, match="use reweigh at the top level"):
        refuse_unknown({"vllm_xargs": {"reweigh": "x"}})


@pytest.mark.parametrize(
    ("best_of", "said"),
    [
        ({"rule": "pessimistic"}, "reweigh.best_of.rule: rule 'pessimistic' needs beta"),
        ({"rule": "bogus"}, "reweigh.best_of.rule: there is no rule 'bogus'"),
        ({"reward": "exact_match"}, "reward 'exact_match' needs reference"),
        (
            {"reward": {"exact_match": {"answer": "3"}}},
            "reward 'exact_match' has no option 'answer'; there are reference",
        ),
        ({"reward": {"mean_logprob": {"a": 1}}}, "reward 'mean_logprob' has no option 'a'; it has none"),
    ],
)
def test_an_option_that_is_missing_or_unknown_is_named(best_of: dict[str, Any], said: str):
    with pytest.raises(ApiError) as refused:
        read({"reweigh": {"best_of": {"k": 2, "reward": "mean_logprob", **best_of}}})
    assert said in refused.value.message and "__init__" not in refused.value.message


def test_negative_seeds_have_a_place_of_their_own():
    assert read({"seed": -1, "reweigh": {}}).seed == 2**64 - 1


KEYS = (
    "regex", "json_schema", "choice", "all", "any", "then", "marker", "constraint", "type", "schema", "function", "name",
)  # fmt: skip
FIELDS = (
    "reweigh", "reweigh.constraint", "reweigh.particles", "reweigh.seed", "reweigh.sampler", "reweigh.thinking",
    "response_format", "structured_outputs", "tools", "tool_choice", "stop", "n", "max_tokens", "temperature", "logprobs",
    "top_logprobs", "stream_options", "seed", "parallel_tool_calls",
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=12,
)


@given(VALUES, st.sampled_from(FIELDS), st.booleans())
def test_any_value_anywhere_is_read_or_refused_as_a_400(value: Any, field: str, with_tools: bool):
    body: dict[str, Any] = {"reweigh": {}, **({"tools": [TOOL]} if with_tools else {})}
    if field.startswith("reweigh."):
        body["reweigh"] = {field.split(".")[1]: value}
    else:
        body[field] = value
    answer: Any = None
    try:
        answer = read(body).spec
    except ApiError as refused:
        answer = refused.body() if refused.status == 400 else pytest.fail(f"{refused.status} for {body}")
    assert len(json.dumps(answer)) < 5000


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("nobody", "c"),
        ({"named": "nobody"}, "c.named"),
        ({"predicate": "example: palindrome"}, "c.predicate"),
        ({"sql": "even"}, "c.sql"),
        ({"sql": {"tables": {}}}, "c.sql"),
        ({"choice": "/etc/passwd"}, "c.choice"),
        ({"choice": ["a"] * 10_001}, "c.choice"),
        ({"pddl": {"domain": "/etc/passwd", "problem": "("}}, "c.pddl.domain"),
        ({"regex": "a", "lark": "b"}, "c"),
        ({"all": []}, "c.all"),
        ({"all": [{"regex": 1}]}, "c.all[0].regex"),
        ({"then": {"marker": "x"}}, "c.then"),
        (7, "c"),
    ],
)
def test_files_code_and_unknown_names_never_come_in_a_body(given: Any, place: str):
    with pytest.raises(ApiError) as refused:
        spec_of(given, "c", NAMES)
    assert refused.value.param == place


def test_specs_are_what_the_registry_takes():
    spec = spec_of({"all": [{"regex": "a+"}, {"any": [{"choice": ["a"]}, {"lark": 'start: "aa"'}]}]}, "c", NAMES)
    assert language_from_spec(spec).spec == spec
    assert spec_of("even", "c", NAMES) == spec_of({"predicate": "even"}, "c", NAMES) == {"named": "even"}


def test_strict_closes_objects_that_do_not_say_whether_they_are_open():
    schema = {
        "properties": {"a": {"properties": {"b": {}}}, "c": {"items": {"properties": {}, "additionalProperties": {}}}},
        "$defs": {"d": {"anyOf": [{"properties": {}}]}},
    }
    closed = strict_schema(schema)
    assert closed["additionalProperties"] is False and closed["properties"]["a"]["additionalProperties"] is False
    assert closed["properties"]["c"]["items"]["additionalProperties"] == {}
    assert closed["$defs"]["d"]["anyOf"][0]["additionalProperties"] is False
    entangled = {"properties": {}, "allOf": [{"properties": {"a": {}}}]}
    assert strict_schema(entangled) == entangled


def test_nodes_are_counted_no_further_than_they_matter():
    assert nodes({"a": [1, 2, {"b": 3}]}, 100) == 6
    assert nodes([[0] * 1000] * 1000, 50) <= 1100


def test_tool_calls_are_read_back_and_cut_ones_are_text():
    tools = tools_of({"tools": [{"type": "function", "function": {"name": "f"}}]})
    assert tools is not None
    text = 'I ask. <tool_call>[{"name": "f", "arguments": {"a": "é"}}]'
    content, calls = tools.read(text, True)
    assert content == "I ask. " and calls[0]["function"] == {"name": "f", "arguments": '{"a": "é"}'}
    assert tools.read(text[:-4], False) == (text[:-4], [])
    assert tools.read("none", True) == ("none", [])


def test_errors_of_every_kind_have_a_status_that_says_whether_to_try_again():
    from grammars import errors

    statuses = {
        kind: api_error(getattr(errors, kind)("why")).status
        for kind in vars(errors)
        if kind[0].isupper() and kind != "ReweighError"
    }
    assert statuses == {
        "GrammarError": 400, "OverBudget": 422, "Unsatisfiable": 422, "PredicateError": 422, "RequestError": 400,
        "ParseError": 400, "DeadEnd": 422, "RewardError": 422, "EngineError": 500,
    }  # fmt: skip
    assert len(api_error(ValueError("x" * 5000)).body()["error"]["message"]) == 1000
    json.dumps(api_error(ValueError("half \ud800")).body(), ensure_ascii=False).encode()
