"""The OpenAI protocol, by the unmodified `openai` package over a socket."""

from __future__ import annotations

import asyncio
import json
import math
import re
from typing import Any, Literal

import httpx
import jsonschema
import openai
import pytest
from pydantic import BaseModel, ConfigDict

from tests.server.conftest import KEY, MODEL, Serving

pytestmark = pytest.mark.engine

MESSAGES: Any = [{"role": "user", "content": "Describe a person."}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
DATE = r"[12][0-9]{3}-[01][0-9]-[0-3][0-9]"
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"{name} of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 8}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("weather", "population")
]


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Literal["Ann", "Bob"]
    age: Literal[1, 2, 3]


def chat(serving: Serving, **asked: Any) -> Any:
    asked = {"model": MODEL, "messages": MESSAGES, "max_tokens": 48, "seed": 3, **asked}
    return serving.client().chat.completions.create(**asked)


def complete(serving: Serving, **asked: Any) -> Any:
    asked = {"model": MODEL, "prompt": "Write a date: ", "max_tokens": 16, "seed": 3, **asked}
    return serving.client().completions.create(**asked)


# Plain requests


def test_models_are_listed_and_found(serving: Serving):
    client = serving.client()
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


def test_plain_requests_are_vllms_own(serving: Serving):
    """Byte for byte what vLLM's handlers give: no key of ours, parameters that weights refuse, its own errors."""
    answer = chat(serving, temperature=0.5, top_p=0.9, max_tokens=5, n=2, presence_penalty=0.5, extra_body={"top_k": 5})
    assert len(answer.choices) == 2 and answer.usage.completion_tokens == 10
    assert not {"log_z", "ess", "reweigh"} & answer.model_extra.keys()
    assert not hasattr(answer.choices[0], "log_weight")
    greedy = complete(serving, temperature=0, logprobs=2, echo=True, max_tokens=2)
    assert greedy.choices[0].text.startswith("Write a date: ") and len(greedy.choices[0].logprobs.top_logprobs[-1]) >= 2
    with pytest.raises(openai.BadRequestError) as refused:
        chat(serving, temperature=-1)
    assert refused.value.param == "temperature"


def test_routes_there_are_and_others_have_the_error_object(serving: Serving):
    assert serving.get("/health").status_code == 200
    assert "vllm:num_requests_running" in serving.get("/metrics").text
    assert serving.get("/version").json()["version"]
    tokens = serving.post("/tokenize", json={"model": MODEL, "prompt": "Zoë 你好 🙂"}).json()["tokens"]
    back = serving.post("/detokenize", json={"model": MODEL, "tokens": tokens}).json()["prompt"]
    assert back == "Zoë 你好 🙂"
    for method, path in (
        ("GET", "/v1/nothing"),
        ("POST", "/v1/responses"),
        ("POST", "/invocations"),
        ("POST", "/v1/messages"),
        ("GET", "/docs"),
        ("POST", "/inference/v1/generate"),
    ):
        answer = httpx.request(method, serving.url + path, headers=serving.headers, json={})
        assert answer.status_code == 404 and set(answer.json()["error"]) == {"message", "type", "param", "code"}
    wrong = httpx.put(serving.url + "/v1/completions", headers=serving.headers)
    assert wrong.status_code == 405 and "PUT" in wrong.json()["error"]["message"]


# Constraints


@pytest.mark.parametrize("particles", [1, 6])
def test_a_schema_is_kept_and_carries_its_weight(serving: Serving, particles: int):
    answer = chat(
        serving, response_format=FORMAT, extra_body={"reweigh": {"particles": particles, "return_particles": True}}
    )
    (choice,) = answer.choices
    value = json.loads(choice.message.content)
    jsonschema.validate(value, PERSON)
    assert set(value) == {"name", "age"}, "strict closes an object that does not say whether it is open"
    assert choice.finish_reason == "stop" and choice.message.role == "assistant"
    assert len(choice.particles) == particles
    assert math.isclose(sum(one["weight"] for one in choice.particles), 1.0)
    (selected,) = {one["weight"] for one in choice.particles if one["text"] == choice.message.content}
    assert choice.weight == selected
    assert math.isclose(choice.log_z, answer.log_z) and math.isclose(choice.ess, answer.ess)
    assert 1.0 <= answer.ess <= particles + 1e-9
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.sampled_tokens >= usage.completion_tokens and usage.judge_tokens == 0


def test_the_same_seed_gives_the_same_answer_and_the_engines(serving: Serving, engine: Any):
    """Over HTTP as in process: float32, the same prompt, the same particles to the last digit that JSON carries."""
    asked: Any = {"extra_body": {"reweigh": {"constraint": {"regex": DATE}, "particles": 5, "return_particles": True}}}
    first, again = complete(serving, **asked), complete(serving, **asked)
    here = engine.generate("Write a date: ", regex=DATE, particles=5, seed=3, max_tokens=16, truncate=True)
    for answer in (first, again):
        assert [one["text"] for one in answer.choices[0].particles] == here.texts
        assert [one["log_weight"] for one in answer.choices[0].particles] == here.log_weights.tolist()
        assert answer.choices[0].ancestry == [[step, parents] for step, parents in here.ancestry]
    assert first.choices[0].text == again.choices[0].text
    assert complete(serving, **asked, seed=4).choices[0].particles != first.choices[0].particles


@pytest.mark.parametrize(
    ("outputs", "pattern"),
    [
        ({"regex": DATE}, DATE),
        ({"choice": ["yes", "no"]}, "yes|no"),
        ({"grammar": 'start: "a" "b"+'}, "ab+"),
        ({"json": {"enum": [1, "é"]}}, '1|"é"'),
        ({"json": '{"const": null}'}, "null"),
        (
            {"json": {**PERSON, "additionalProperties": False}, "disable_any_whitespace": True},
            r'\{"name":"[^"]*","age":\d+\}',
        ),
    ],
)
def test_structured_outputs_are_kept(serving: Serving, outputs: dict[str, Any], pattern: str):
    answer = chat(serving, extra_body={"structured_outputs": outputs})
    assert answer.choices[0].finish_reason == "length" or re.fullmatch(pattern, answer.choices[0].message.content)


def test_json_objects(serving: Serving):
    answer = chat(serving, response_format={"type": "json_object"}, max_tokens=200)
    assert answer.choices[0].finish_reason == "length" or isinstance(
        json.loads(answer.choices[0].message.content), dict
    )


@pytest.mark.parametrize(
    ("constraint", "pattern"),
    [
        ("even", "[0-9]*[02468]"),
        ({"all": ["even", {"regex": "[1-9][0-9]{0,2}"}]}, "[1-9]?[0-9]?[02468]"),
        ({"any": [{"regex": "a+"}, {"choice": ["b", "c"]}]}, "a+|b|c"),
        ({"then": {"marker": "=", "constraint": {"regex": "[0-9]"}, "max_free_characters": 6}}, "[^=]{0,6}=[0-9]"),
        ({"predicate": "even"}, "[0-9]*[02468]"),
        ({"sql": "shop"}, "(?i)(select|with) .*"),
        ({"smiles": {"max_atoms": 12}}, "[A-Za-z0-9=#()@+\\[\\]-]+"),
    ],
)
def test_constraints_of_every_kind_by_name_and_composed(serving: Serving, constraint: Any, pattern: str):
    answer = complete(serving, max_tokens=24, extra_body={"reweigh": {"constraint": constraint, "particles": 8}})
    choice = answer.choices[0]
    assert choice.finish_reason == "length" or re.fullmatch(pattern, choice.text, re.DOTALL), choice.text


def test_the_schema_is_shown_to_the_model_unless_it_should_not_be(serving: Serving):
    prompt = {
        show: chat(
            serving, response_format=FORMAT, max_tokens=1, extra_body={"reweigh": {"show_schema": show}}
        ).usage.prompt_tokens
        for show in (True, False)
    }
    plain = chat(serving, max_tokens=1).usage.prompt_tokens
    assert prompt[True] > prompt[False] + 20 and prompt[False] == plain
    told = chat(serving, max_tokens=1, extra_body={"reweigh": {"constraint": {"sql": "shop"}}})
    assert told.usage.prompt_tokens > plain + 20


def test_parse_gives_models_and_tells_a_cut_answer(serving: Serving):
    asked: Any = {"model": MODEL, "messages": MESSAGES, "response_format": Person, "seed": 1}
    parse = serving.client().chat.completions.parse
    person = parse(**asked, max_tokens=32, extra_body={"reweigh": {"particles": 4}}).choices[0].message.parsed
    assert isinstance(person, Person)
    with pytest.raises(openai.LengthFinishReasonError):
        parse(**asked, max_tokens=3)


def test_choices_are_draws_of_their_own(serving: Serving):
    answer = complete(serving, n=3, extra_body={"reweigh": {"constraint": {"regex": DATE}, "particles": 3}})
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.log_z for choice in answer.choices}) == 3
    assert all(re.fullmatch(DATE, choice.text) for choice in answer.choices)
    assert answer.usage.prompt_tokens < 10
    alone = complete(serving, extra_body={"reweigh": {"constraint": {"regex": DATE}, "particles": 3}})
    assert alone.choices[0].text == answer.choices[0].text


def test_several_prompts_are_several_choices(serving: Serving):
    answer = complete(
        serving, prompt=["Write a date: ", "Another one: "], n=2, extra_body={"structured_outputs": {"regex": DATE}}
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert all(re.fullmatch(DATE, choice.text) for choice in answer.choices)


def test_temperature_zero_is_greedy_under_the_constraint(serving: Serving):
    texts = {
        complete(serving, temperature=0, seed=seed, extra_body={"structured_outputs": {"regex": DATE}}).choices[0].text
        for seed in range(3)
    }
    assert len(texts) == 1


def test_a_stop_string_ends_an_answer(serving: Serving):
    answer = complete(serving, stop=["-"], extra_body={"structured_outputs": {"regex": DATE}})
    assert re.fullmatch("[12][0-9]{3}", answer.choices[0].text) and answer.choices[0].finish_reason == "stop"


def test_logprobs_of_p_and_under_the_constraint_have_names_of_their_own(serving: Serving):
    choice = chat(serving, response_format=FORMAT, logprobs=True, top_logprobs=3).choices[0]
    content = choice.logprobs.content
    assert "".join(token.token for token in content) == choice.message.content
    for token in content:
        assert token.logprob <= token.constrained_logprob <= 0.0
        assert len(token.top_logprobs) == 3 and all(isinstance(one.accepted, bool) for one in token.top_logprobs)
    columns = complete(serving, logprobs=2, extra_body={"structured_outputs": {"regex": DATE}}).choices[0].logprobs
    assert len(columns.tokens) == len(columns.token_logprobs) == len(columns.constrained_token_logprobs)
    assert columns.text_offset[0] == 0


# Rewards


@pytest.mark.parametrize(("reward", "temperature"), [("short", 0), ("short", 2.0), ("mean_logprob", 0.1)])
def test_a_reward_selects_among_k(serving: Serving, reward: str, temperature: float):
    asked = {"constraint": {"regex": "[0-9]{1,8}"}, "best_of": {"k": 6, "reward": reward, "temperature": temperature}}
    choice = complete(serving, extra_body={"reweigh": {**asked, "return_particles": True}}).choices[0]
    particles = choice.particles
    assert len(particles) == 6 and choice.reward in [one["reward"] for one in particles]
    if reward == "short":
        assert all(one["reward"] == -len(one["text"]) for one in particles)
    best = max(one["reward"] for one in particles)
    charged = [
        math.exp(one["log_weight"] + ((one["reward"] - best) / temperature if temperature else 0.0))
        * (temperature > 0 or one["reward"] == best)
        for one in particles
    ]
    assert [one["weight"] for one in particles] == pytest.approx([weight / sum(charged) for weight in charged])
    assert temperature or choice.reward == best


def test_a_reward_with_a_reference_from_the_body(serving: Serving):
    best_of = {"k": 8, "reward": {"numeric_match": {"reference": 7}}, "temperature": 0}
    asked = {"constraint": {"regex": "[0-9]"}, "best_of": best_of, "return_particles": True}
    choice = complete(serving, extra_body={"reweigh": asked}).choices[0]
    assert choice.reward == max(one["reward"] for one in choice.particles)
    assert all(one["reward"] == (one["text"] == "7") for one in choice.particles)


# Tools


def test_a_required_call_has_arguments_of_its_schema(serving: Serving):
    choice = chat(serving, tools=TOOLS, tool_choice="required").choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    for call in choice.message.tool_calls:
        assert call.type == "function" and call.function.name in ("weather", "population")
        assert set(json.loads(call.function.arguments)) == {"city"}


def test_a_named_call_has_arguments_of_its_schema(serving: Serving):
    named: Any = {"type": "function", "function": {"name": "population"}}
    choice = chat(serving, tools=TOOLS, tool_choice=named).choices[0]
    (call,) = choice.message.tool_calls
    assert call.function.name == "population" and set(json.loads(call.function.arguments)) == {"city"}


def test_one_call_at_a_time_where_no_parallel_ones_are_wanted(serving: Serving):
    choice = chat(serving, tools=TOOLS, tool_choice="required", parallel_tool_calls=False).choices[0]
    assert len(choice.message.tool_calls) == 1


def test_with_auto_a_text_or_well_formed_calls(serving: Serving):
    """Whatever the model writes: free text without the marker, or after it a list of calls."""
    for seed in range(3):
        choice = chat(serving, tools=TOOLS, seed=seed, max_tokens=24).choices[0]
        assert (
            choice.message.tool_calls or "<tool_call>" not in choice.message.content or choice.finish_reason == "length"
        )


def test_tools_or_the_response_format(serving: Serving):
    choice = chat(serving, tools=TOOLS, response_format=FORMAT).choices[0]
    if choice.message.tool_calls:
        assert choice.finish_reason == "tool_calls"
    else:
        jsonschema.validate(json.loads(choice.message.content), PERSON)


def test_tools_that_must_not_be_used_are_vllms_own(serving: Serving):
    assert not chat(serving, tools=TOOLS, tool_choice="none", max_tokens=4).choices[0].message.tool_calls


# Reasoning


def test_the_constraint_begins_after_the_end_of_thought(serving: Serving):
    bound = {"then": {"marker": ".", "constraint": {"regex": "yes|no"}, "max_free_characters": 40}}
    answer = chat(serving, extra_body={"reweigh": {"constraint": {"regex": "yes|no"}, "thinking": "."}}, max_tokens=64)
    choice = answer.choices[0]
    assert choice.finish_reason == "length" or choice.message.content in ("yes", "no")
    assert choice.message.model_extra["reasoning"] and "." not in choice.message.model_extra["reasoning"]
    assert complete(serving, extra_body={"reweigh": {"constraint": bound}}).choices[0].text


# Streams


def pieces(stream: Any) -> list[Any]:
    return list(stream)


def test_one_particle_streams_as_it_is_made(serving: Serving):
    whole = chat(serving, response_format=FORMAT)
    streamed = pieces(chat(serving, response_format=FORMAT, stream=True, stream_options={"include_usage": True}))
    assert streamed[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content for chunk in streamed if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(texts) == whole.choices[0].message.content and len(texts) > 4
    last, tail = streamed[-2], streamed[-1]
    assert last.choices[0].finish_reason == "stop" and last.choices[0].log_weight == whole.choices[0].log_weight
    assert last.log_z == whole.log_z and last.ess == 1.0
    assert not tail.choices and tail.usage.completion_tokens == whole.usage.completion_tokens


def test_of_several_particles_progress_streams_and_then_the_selected_text(serving: Serving):
    asked = {
        "model": MODEL, "messages": MESSAGES, "max_tokens": 48, "seed": 3, "response_format": FORMAT, "stream": True,
        "reweigh": {"particles": 6},
    }  # fmt: skip
    whole = chat(serving, response_format=FORMAT, extra_body={"reweigh": {"particles": 6}})
    lines = serving.post("/v1/chat/completions", json=asked).text.split("\n\n")
    comments = [line for line in lines if line.startswith(":")]
    assert comments and all(re.fullmatch(r": choice=0 step=\d+ live=\d ess=\d\.\d\d", line) for line in comments)
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    texts = [chunk["choices"][0]["delta"]["content"] for chunk in chunks if chunk["choices"][0]["delta"].get("content")]
    assert texts == [whole.choices[0].message.content]
    assert chunks[-1]["choices"][0]["weight"] == whole.choices[0].weight and chunks[-1]["usage"]["sampled_tokens"] > 0


def test_the_clients_own_stream_helper_puts_the_answer_together(serving: Serving):
    with serving.client().chat.completions.stream(
        model=MODEL, messages=MESSAGES, response_format=Person, max_tokens=32, seed=1
    ) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Person)


def test_tool_calls_stream(serving: Serving):
    chunks = pieces(chat(serving, tools=TOOLS, tool_choice="required", stream=True))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert calls and all(set(json.loads(call.function.arguments)) == {"city"} for call in calls)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_completions_stream_and_choices_keep_their_index(serving: Serving):
    asked: Any = {"n": 2, "extra_body": {"structured_outputs": {"regex": DATE}}}
    whole = complete(serving, **asked)
    texts = {0: "", 1: ""}
    for chunk in complete(serving, **asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert [texts[0], texts[1]] == [choice.text for choice in whole.choices]


def test_an_error_in_mid_stream_is_an_error_to_the_client(serving: Serving):
    with pytest.raises(openai.APIError, match="raises late"):
        pieces(complete(serving, stream=True, extra_body={"reweigh": {"constraint": "raises_late"}}))


def test_the_asynchronous_client(serving: Serving):
    async def ask() -> list[Any]:
        async with serving.async_client() as client:
            asked: Any = {"model": MODEL, "messages": MESSAGES, "response_format": FORMAT, "max_tokens": 48}
            answers = [client.chat.completions.create(**asked, seed=seed) for seed in range(4)]
            stream = await client.chat.completions.create(**asked, seed=0, stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            return [*(answer.choices[0].message.content for answer in await asyncio.gather(*answers)), text]

    *texts, streamed = asyncio.run(ask())
    assert texts[0] == streamed
    for text in texts:
        jsonschema.validate(json.loads(text), PERSON)


# Errors


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"guided_json": PERSON}, 400, "guided_json", "unsupported_field"),
        ({"grammar": "x"}, 400, "grammar", "unsupported_field"),
        ({"format": "json"}, 400, "format", "unsupported_field"),
        ({"extra_body": {"reweigh": {}}}, 400, "extra_body", "unsupported_field"),
        ({"top_p": 0, "reweigh": {}}, 400, "top_p", "invalid_value"),
        ({"top_k": 9, "reweigh": {}}, 400, "top_k", "unsupported_value"),
        ({"logit_bias": {"5": 1}, "reweigh": {}}, 400, "logit_bias", "unsupported_value"),
        ({"reweigh": {"constraints": {}}}, 400, "reweigh.constraints", "unknown_field"),
        ({"reweigh": {"best_of": {"k": 4}}}, 400, "reweigh.best_of.reward", "invalid_value"),
        ({"reweigh": {"best_of": {"k": 0, "reward": "short"}}}, 400, "reweigh.best_of.k", "invalid_value"),
        ({"reweigh": {"best_of": {"k": 2, "reward": "nothing"}}}, 400, "reweigh.best_of.reward", "invalid_value"),
        ({"reweigh": {"best_of": {"k": 2, "reward": {"json_valid": {}}}}}, 400, "reweigh.best_of.reward", "invalid_value"),
        ({"reweigh": {"best_of": {"k": 2, "reward": "short", "temperature": -1}}}, 400, None, "invalid_value"),
        ({"reweigh": {"best_of": {"k": 2, "reward": "short"}, "particles": 3}}, 400, "reweigh.best_of.k", "invalid_value"),
        ({"reweigh": {"best_of": {"k": 2, "reward": "fails"}}}, 422, "reweigh.best_of.reward", "reward_failed"),
        ({"reweigh": {"detox": 11}}, 400, "reweigh.detox", "invalid_value"),
        ({"reweigh": {"debias": ["height"]}}, 400, "reweigh.debias[0]", "invalid_value"),
        ({"reweigh": {"detox": 1, "adaptation": {"signal": None}}}, 400, "reweigh.adaptation.signal", "invalid_value"),
        ({"reweigh": {"detox": 1}, "temperature": 0}, 400, "temperature", "invalid_value"),
        (
            {"reweigh": {"debias": ["gender"], "adaptation": {"balance": "population"}}},
            400,
            "reweigh.adaptation.balance",
            "invalid_value",
        ),
        ({"reweigh": {"detox": 1, "adaptation": {"signal": "rules:Shouting"}}}, 400, "reweigh.adaptation.signal", "invalid_value"),
        ({"reweigh": {"detox": 1, "adaptation": {"signal": "/etc/x.npz"}}}, 400, "reweigh.adaptation.signal", "invalid_value"),
        ({"reweigh": {"particles": 33}}, 400, None, "invalid_value"),
        ({"reweigh": {"constraint": "nobody"}}, 400, "reweigh.constraint", "invalid_value"),
        ({"reweigh": {"constraint": {"sql": "/etc/passwd"}}}, 400, "reweigh.constraint.sql", "invalid_value"),
        ({"reweigh": {"constraint": {"choice": "/etc/passwd"}}}, 400, "reweigh.constraint.choice", "invalid_value"),
        ({"reweigh": {"constraint": {"all": [{"regex": "("}]}}}, 400, "reweigh.constraint", "invalid_constraint"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, 400, "structured_outputs", "invalid_value"),
        ({"structured_outputs": {"structural_tag": "{}"}}, 400, "structured_outputs", "invalid_value"),
        ({"response_format": {"type": "xml"}}, 400, "response_format", "invalid_value"),
        ({"response_format": FORMAT, "structured_outputs": {"regex": "a"}}, 400, "structured_outputs.regex", "invalid_value"),
        ({"tool_choice": "required"}, 400, "tool_choice", "invalid_value"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}}, 400, "tool_choice", "invalid_value"),
        ({"structured_outputs": {"regex": r"[^\s\S]"}}, 422, "structured_outputs.regex", "unsatisfiable"),
        ({"structured_outputs": {"json": {"$ref": "http://127.0.0.1:9/x"}}}, 400, "structured_outputs.json", "invalid_constraint"),
        ({"reweigh": {"constraint": "raises"}}, 422, "reweigh.constraint", "predicate_failed"),
        ({"model": "nobody", "reweigh": {}}, 404, None, "model_not_found"),
    ],
)  # fmt: skip
def test_what_is_not_applied_is_refused(serving: Serving, body: dict[str, Any], status: int, param: str, code: str):
    """Never an unconstrained 200."""
    asked = {"model": MODEL, "messages": MESSAGES, "max_tokens": 4, **body}
    answer = serving.post("/v1/chat/completions", json=asked)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), error
    assert param is None or error["param"] == param
    assert len(error["message"]) <= 1000


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "param", "said"),
    [({"prompt": [999999]}, None, "out of vocabulary"), ({"best_of": 4}, "best_of", "use reweigh: {")],
)
def test_completions_refuse_what_they_do_not_apply(
    serving: Serving, body: dict[str, Any], param: str | None, said: str, stream: bool
):
    asked = {"model": MODEL, "prompt": "A number: ", "max_tokens": 4, "stream": stream, **body}
    answer = serving.post("/v1/completions", json={**asked, "reweigh": {"constraint": {"regex": "[0-9]{2}"}}})
    if stream and answer.status_code == 200:
        # The prompt is known to be wrong only once it is drawn from: the stream has begun, and says so.
        assert said in answer.text and '"invalid_value"' in answer.text and "[DONE]" not in answer.text
        return
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] in (param, "prompt") and said in error["message"]


def test_a_prompt_that_is_too_long_is_a_400(serving: Serving):
    with pytest.raises(openai.BadRequestError, match="1024"):
        complete(serving, prompt="a b c d " * 1000, extra_body={"reweigh": {}})


def test_the_key_is_asked_for(serving: Serving):
    stranger = openai.OpenAI(base_url=f"{serving.url}/v1", api_key=KEY + "x", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as refused:
        stranger.models.list()
    assert refused.value.code == "invalid_api_key"
