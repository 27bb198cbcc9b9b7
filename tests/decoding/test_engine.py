"""The public face on the real model in real vLLM: what is asked is what is drawn, whatever else is in the batch."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jsonschema
import numpy as np
import pydantic
import pytest

from decoding.order import KEY
from grammars.errors import (
    DeadEnd,
    EngineError,
    GrammarError,
    ParseError,
    PredicateError,
    RequestError,
    Unsatisfiable,
)
from grammars.predicate import Predicate
from grammars.regex import Regex

if TYPE_CHECKING:
    from decoding.engine import Engine
    from decoding.request import Result

DATE = r"[12][0-9]{3}-[01][0-9]-[0-3][0-9]"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "age": {"type": "integer", "maximum": 99, "minimum": 1},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


class Pet(pydantic.BaseModel):
    kind: Literal["cat", "dog"]
    legs: int = pydantic.Field(ge=0, le=8)


@dataclass
class Point:
    x: Literal[0, 1]
    y: Literal[0, 1]


def digits(text: str, complete: bool) -> bool:
    return text.isdigit() if complete else text == "" or text.isdigit()


def same(one: Result, other: Result) -> bool:
    return one.tokens == other.tokens and bool(np.allclose(one.log_weights, other.log_weights, atol=1e-4))


@pytest.mark.parametrize("sampler", ["auto", "masked", "awrs", "lcd", "geometric", "look_ahead", "top_k"])
def test_every_finished_text_matches_its_regex(engine: Engine, sampler: str):
    result = engine.generate("Write a date: ", regex=DATE, particles=5, sampler=sampler, seed=1, max_tokens=16)
    assert all(re.fullmatch(DATE, text) for text in result.texts)
    assert result.finish_reasons == ["stop"] * 5
    assert result.best in result.texts and sum(result.posterior().values()) == pytest.approx(1.0)
    assert 1.0 <= result.ess <= 5.0 and math.isfinite(result.log_z)
    assert result.usage.completion_tokens == sum(map(len, result.tokens)) + 5


def test_json_is_valid_and_parsed(engine: Engine):
    result = engine.generate("A person in JSON: ", json_schema=PERSON, particles=4, seed=2, max_tokens=48)
    for text, reason in zip(result.texts, result.finish_reasons, strict=True):
        if reason == "stop":
            jsonschema.validate(json.loads(text), PERSON)
    assert result.parsed == json.loads(result.best)
    json.dumps(result.as_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("constraint", "kind"),
    [(Pet, Pet), (Literal["red", "green"], str), (Regex(r"[0-9]{2}"), str), ({"choice": ["left", "right"]}, str)],
)
def test_constraints_come_in_many_forms(engine: Engine, constraint: Any, kind: type):
    result = engine.generate("One answer: ", constraint=constraint, particles=2, seed=3, max_tokens=24)
    assert isinstance(result.parsed, kind)


def test_a_dataclass_is_a_schema(engine: Engine):
    result = engine.generate("A point: ", constraint=Point, particles=2, seed=3, max_tokens=24)
    assert set(json.loads(result.best)) == {"x", "y"}  # a type's schema is closed, though JSON Schema objects are open


def test_a_predicate_is_tested_and_a_conjunction_masks_first(engine: Engine):
    only_tests = engine.generate("My number is ", predicate=digits, particles=3, seed=4, max_tokens=6)
    assert all(text.isdigit() for text in only_tests.posterior())
    assert only_tests.stats.checks > 0
    even = Regex(r"[0-9]{1,3}") & Predicate(lambda text, complete: not complete or int(text) % 2 == 0)
    both = engine.generate("My number is ", constraint=even, particles=5, seed=4, max_tokens=6)
    assert all(int(text) % 2 == 0 for text in both.posterior())
    assert both.stats.masks > 0 and both.stats.checks > 0


def test_draws_do_not_depend_on_what_else_is_in_the_batch(engine: Engine):
    """The same request alone, in a list among others, and beside other threads' requests: the same particles."""
    asked = {"regex": DATE, "particles": 4, "max_tokens": 16, "sampler": "awrs", "ess_threshold": 1.0}
    alone = engine.generate("Write a date: ", seed=9, **asked)
    first, _, _ = engine.generate(["Write a date: ", "Hello ", "A date is "], seed=9, **asked)

    async def together() -> list[Any]:
        return await asyncio.gather(
            engine.agenerate("Write a date: ", seed=9, **asked),
            engine.agenerate("Count: ", choice=["1", "2", "33"], particles=7, seed=1, temperature=2.0),
            engine.agenerate("My number is ", predicate=digits, particles=3, seed=2, max_tokens=9),
            engine.agenerate(["Once upon"] * 3, particles=2, max_tokens=10, truncate=True),
        )

    assert same(alone, first)
    assert same(alone, asyncio.run(together())[0])
    assert alone.ancestry, "nothing was resampled: the test would not see a fork that depends on the batch"


def test_the_seed_decides_and_is_reported(engine: Engine):
    free = engine.generate("Hello", particles=2, max_tokens=6, truncate=True)
    assert same(free, engine.generate("Hello", particles=2, max_tokens=6, truncate=True, seed=free.seed))
    assert not same(free, engine.generate("Hello", particles=2, max_tokens=6, truncate=True, seed=free.seed + 1))
    one, two = engine.generate(["Hello", "Hello"], particles=2, max_tokens=6, truncate=True, seed=5)
    assert not same(one, two)


def test_forks_share_blocks_and_recomputed_forks_give_the_same(engine: Engine):
    """The recompute path (no shared blocks) is the reference: tokens and weights are the same."""
    asked: dict[str, Any] = {"particles": 6, "max_tokens": 40, "truncate": True, "seed": 3}
    asked |= {"resample_every": 3, "resampling": "multinomial"}
    scheduler = engine._driver.scheduler
    before = scheduler.forks_shared
    shared = engine.generate("Once upon a time there was a " * 8, **asked)
    assert scheduler.forks_shared > before
    scheduler.shares_blocks, counted = False, scheduler.forks_recomputed
    try:
        recomputed = engine.generate("Once upon a time there was a " * 8, **asked)
    finally:
        scheduler.shares_blocks = True
    assert scheduler.forks_recomputed > counted
    assert same(shared, recomputed) and shared.ancestry == recomputed.ancestry


def test_streaming_one_particle_adds_up_to_its_text_and_is_never_retracted(engine: Engine):
    chunks = list(engine.stream("The sea is 大海 and", max_tokens=12, truncate=True, seed=3))
    result = chunks[-1].result
    assert result is not None and "".join(chunk.text for chunk in chunks) == result.texts[0]
    assert len(chunks) == 13
    again = engine.generate("The sea is 大海 and", max_tokens=12, truncate=True, seed=3, particles=1)
    assert again.texts == result.texts


def test_streaming_several_particles_tells_progress_and_then_the_result(engine: Engine):
    chunks = list(engine.stream("Write a date: ", regex=DATE, particles=4, seed=1, max_tokens=16))
    assert all(chunk.text == "" and chunk.result is None for chunk in chunks[:-1])
    assert [chunk.step for chunk in chunks[:-1]] == sorted({chunk.step for chunk in chunks[:-1]})
    assert chunks[-1].result is not None and re.fullmatch(DATE, chunks[-1].result.best)


def test_astream_streams(engine: Engine):
    async def collect() -> list[Any]:
        return [chunk async for chunk in engine.astream("Hello", max_tokens=5, truncate=True, seed=1)]

    chunks = asyncio.run(collect())
    assert "".join(chunk.text for chunk in chunks) == chunks[-1].result.texts[0]


def test_chat_messages_go_through_the_template(engine: Engine):
    messages = [{"role": "user", "content": "Is the sky blue? Answer yes or no."}]
    result = engine.generate(messages=messages, choice=["yes", "no"], particles=4, seed=1)
    assert set(result.posterior()) <= {"yes", "no"}
    both = engine.generate(messages=[messages, messages], choice=["yes", "no"], particles=4, seed=1)
    assert same(result, both[0])


def test_many_prompts_share_one_batch_and_one_bad_apple_hurts_nobody(engine: Engine):
    def picky(text: str, complete: bool) -> bool:
        if len(text) > 1:
            raise ZeroDivisionError("boom")
        return True

    constraints = [Regex(r"[0-9]{3}"), Predicate(picky), None, Regex(r"[a-z]{2}")]
    results = engine.generate(["Say "] * 4, constraint=constraints, particles=3, max_tokens=8, seed=1)
    assert isinstance(results[1].error, PredicateError) and "boom" in str(results[1].error)
    with pytest.raises(PredicateError):
        _ = results[1].best
    for k in (0, 2, 3):
        assert results[k].error is None
    assert re.fullmatch(r"[0-9]{3}", results[0].best)


def test_an_unconstrained_text_is_a_plain_sample_of_weight_one(engine: Engine):
    result = engine.generate("Hello", particles=3, max_tokens=4, truncate=True, seed=1)
    assert result.log_weights.tolist() == [0.0] * 3 and result.stats.checks == 0


def test_without_truncate_the_target_is_conditioned_on_the_length(engine: Engine):
    """Every text ends in EOS; what the model would rather have gone on with weighs accordingly less."""
    result = engine.generate("Hello", particles=3, max_tokens=4, seed=1)
    assert all(len(tokens) <= 3 for tokens in result.tokens) and result.finish_reasons == ["stop"] * 3
    assert result.log_z < -3


@pytest.mark.parametrize(
    ("asked", "error", "named"),
    [
        ({"prompts": ""}, RequestError, "prompt is empty"),
        ({"prompts": ["a", ""]}, RequestError, "prompts[1] is empty"),
        ({"prompts": "word " * 600}, RequestError, "512: shorten it, or raise the engine's max_model_len"),
        ({"prompts": "a", "max_tokens": 600}, RequestError, "lower max_tokens to 511"),
        ({"prompts": [99999999]}, RequestError, "99999999"),
        ({"prompts": 7}, RequestError, "prompts is int"),
        ({"prompts": b"bytes"}, RequestError, "prompts is bytes"),
        ({"prompts": [None]}, RequestError, "prompts[0] is None"),
        ({"prompts": [1, "a"]}, RequestError, "prompts[0] is 1"),
        ({"prompts": "half \ud800"}, RequestError, "position 5"),
        ({"messages": [{"role": "user", "content": 3}]}, RequestError, "messages[0].content"),
        ({"prompts": "a", "timeout_s": "x"}, RequestError, "timeout_s='x'"),
        ({"prompts": "a", "temperature": True}, RequestError, "temperature=True"),
        ({"prompts": "a", "temperature": 1e-300}, RequestError, "temperature=1e-300"),
        ({"prompts": "a", "sampler": object()}, RequestError, "sampler="),
        ({"prompts": "a", "messages": [{"role": "user", "content": "a"}]}, RequestError, "not both"),
        ({"messages": [{"role": "user"}]}, RequestError, "messages[0]"),
        ({"prompts": "a", "particles": 0}, RequestError, "particles=0"),
        ({"prompts": "a", "particles": 33}, RequestError, "max_num_seqs=32"),
        ({"prompts": "a", "temperature": float("nan")}, RequestError, "temperature=nan"),
        ({"prompts": "a", "temperature": 0}, RequestError, "temperature=0"),
        ({"prompts": "a", "max_tokens": 0}, RequestError, "max_tokens=0"),
        ({"prompts": "a", "seed": -1}, RequestError, "seed=-1"),
        ({"prompts": "a", "sampler": "greedy"}, RequestError, "sampler='greedy'"),
        ({"prompts": "a", "resampling": "often"}, RequestError, "often"),
        ({"prompts": "a", "top_k": 9}, RequestError, "'top_k' would change p"),
        ({"prompts": "a", "top_p": 0.0}, RequestError, "top_p=0.0: a number above 0 and at most 1"),
        ({"prompts": "a", "timeout": 1}, RequestError, "timeout_s"),
        ({"prompts": "a", "regex": "a("}, GrammarError, "a("),
        ({"prompts": "a", "regex": r"[^\s\S]"}, Unsatisfiable, ""),
        ({"prompts": "a", "regex": "a", "choice": ["b"]}, GrammarError, "&"),
        ({"prompts": "a", "choice": []}, GrammarError, ""),
        ({"prompts": "a", "lark": "start: x"}, GrammarError, "x"),
        ({"prompts": "a", "json_schema": {"type": "no such type"}}, GrammarError, "no such type"),
        ({"prompts": ["a", "b"], "constraint": [None]}, RequestError, "list of 1 for 2"),
    ],
)
def test_bad_input_is_named_at_once(engine: Engine, asked: dict[str, Any], error: type[Exception], named: str):
    with pytest.raises(error) as caught:
        engine.generate(**asked)
    assert named in str(caught.value)


def test_all_dead_is_an_error_that_says_why(engine: Engine):
    with pytest.raises(DeadEnd, match="max_tokens=3"):
        engine.generate("Write a date: ", regex=DATE, particles=2, max_tokens=3, seed=1)
    with pytest.raises(DeadEnd, match="dead end"):
        engine.generate("Go: ", predicate=lambda text, complete: text == "", particles=2, max_tokens=9, seed=1)


def test_a_deadline_ends_the_call_and_frees_the_rows(engine: Engine):
    with pytest.raises(TimeoutError, match=r"timeout_s=0\.3"):
        engine.generate(["Once"] * 8, particles=4, max_tokens=400, truncate=True, timeout_s=0.3)
    engine.generate("Hello", particles=1, max_tokens=2, truncate=True)
    assert_nothing_left(engine)


def test_a_cancelled_coroutine_frees_its_rows(engine: Engine):
    async def cancelled() -> None:
        task = asyncio.create_task(engine.agenerate("Once", particles=8, max_tokens=400, truncate=True))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    engine.generate("Hello", particles=1, max_tokens=2, truncate=True)
    assert_nothing_left(engine)


def test_a_stream_that_is_left_frees_its_rows(engine: Engine):
    stream = engine.stream("Once", max_tokens=400, truncate=True)
    next(stream)
    stream.close()
    engine.generate("Hello", particles=1, max_tokens=2, truncate=True)
    assert_nothing_left(engine)


def test_equal_texts_are_computed_once(engine: Engine):
    """The model is asked once for each distinct text that some particle had on its way, its end included."""
    options = ["The same long head, a", "The same long head, b"]
    many = engine.generate("Say: ", choice=options, particles=12, ess_threshold=0.0, max_tokens=30, seed=2)
    assert set(many.finish_reasons) == {"stop"}
    texts = {tuple(tokens[:n]) for tokens in many.tokens for n in range(len(tokens) + 1)}
    assert many.stats.computed_rows == len(texts) < many.stats.sampled_tokens == sum(map(len, many.tokens)) + 12
    resampled = engine.generate("Say: ", choice=options, particles=12, ess_threshold=1.0, max_tokens=30, seed=2)
    assert resampled.ancestry and resampled.stats.computed_rows < resampled.stats.sampled_tokens


def test_particles_on_one_row_ask_a_predicate_once(engine: Engine):
    """A costly predicate is not asked again for a candidate that another particle of the same text has tested."""
    asked: Counter[tuple[str, bool]] = Counter()

    def letters(text: str, complete: bool) -> bool:
        asked[text, complete] += 1
        return text.isalpha() or not text

    result = engine.generate("A word:", predicate=letters, particles=16, sampler="awrs", max_tokens=2, seed=1)
    first_step = {text: count for (text, complete), count in asked.items() if text and not complete}
    assert result.stats.checks > 32 and max(first_step.values()) == 1


@pytest.mark.parametrize("sampler", ["awrs", "masked"])
def test_a_trace_says_what_was_tested_and_where_the_mass_went(engine: Engine, sampler: str):
    """It changes nothing, follows each particle through its resamplings, and adds up to the log weight."""
    asked: dict[str, Any] = {"regex": "[0-9]{4}-[0-9]{2}", "particles": 6, "sampler": sampler, "seed": 4}
    plain = engine.generate("Write a date: ", **asked)
    traced = engine.generate("Write a date: ", trace=True, **asked)
    assert same(plain, traced) and plain.trace is None and traced.trace is not None
    for text, tokens, steps in zip(traced.texts, traced.tokens, traced.trace, strict=True):
        assert len(steps) == len(tokens) + 1 and steps[-1].token == "" and steps[-1].prefix == text
        assert "".join(step.token for step in steps) == text
        for step in steps:
            assert [p.logprob for p in step.likeliest] == sorted((p.logprob for p in step.likeliest), reverse=True)
            allowed = {p.text for p in step.likeliest if p.accepted}
            assert all(re.fullmatch(r"[0-9-]*", text) for text in allowed)
            assert all(p.accepted == (p.text in allowed) for p in step.tested if p in step.likeliest)
            assert bool(step.tested) == (sampler == "awrs")
    assert any(not p.accepted for steps in traced.trace for step in steps for p in step.likeliest)


def test_plain_requests_beside_groups_are_vllms_own(engine: Engine):
    """A request without an order, in the same batch as SMC groups, gets what vLLM gives it alone (greedy: exactly)."""
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input

    prompt = engine.tokenizer("The capital of France is")["input_ids"]

    def submit(llm: Any) -> str:
        return llm.add_request("plain", tokens_input(list(prompt)), SamplingParams(temperature=0.0, max_tokens=12))

    def run(beside: bool) -> str:
        texts: list[str] = []
        driver = engine._driver
        original = driver._take_output

        def watch(output: Any) -> None:
            if output.request_id == "plain" and output.finished:
                texts.append(output.outputs[0].text)
            original(output)

        driver._take_output = watch  # type: ignore[method-assign]
        try:
            driver.call(submit)
            asked = {
                "particles": 5,
                "max_tokens": 20,
                "truncate": True,
                "resample_every": 2,
                "resampling": "multinomial",
            }
            engine.generate(
                "Once upon a time", **(asked if beside else {"particles": 1, "max_tokens": 20, "truncate": True})
            )
        finally:
            driver._take_output = original  # type: ignore[method-assign]
        return texts[0]

    assert run(beside=True) == run(beside=False)


def test_a_stream_whose_event_loop_is_gone_ends_alone(engine: Engine):
    """Abandoned in the middle, its loop closed under it: the engine goes on serving."""

    async def abandoned() -> None:
        chunks = engine.astream("Once", max_tokens=100, truncate=True)
        await anext(chunks)
        kept.append(chunks)  # not closed: the loop ends with the generator suspended

    kept: list[Any] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(abandoned())
    loop.close()
    assert engine.generate("Hello", particles=1, max_tokens=40, truncate=True).error is None
    assert_nothing_left(engine)


def test_two_engines_take_turns(engine: Engine, model_path: Path):
    """vLLM's engines share state of the process: each finishes its requests although the other is at work."""
    from decoding.engine import Engine as Second

    def work(one: Engine) -> list[list[str]]:
        return [one.generate("Say ", regex="[a-z]{2,6}", seed=k, particles=4, max_tokens=12).texts for k in range(4)]

    alone = work(engine)
    with (
        Second(model_path, dtype="float32", max_num_seqs=32, max_model_len=512) as second,
        ThreadPoolExecutor(2) as pool,
    ):
        assert list(pool.map(work, (engine, second))) == [alone, alone]
    with pytest.raises(EngineError, match="closed"):
        second.generate("Hello")
    assert work(engine) == alone


def test_what_vllm_refuses_is_told(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any) -> None:
        raise ValueError("vLLM says no")

    monkeypatch.setattr(engine._driver.engine, "add_request", refuse)
    with pytest.raises(EngineError, match="vLLM says no"):
        engine.generate("Hello", max_tokens=4)
    monkeypatch.undo()
    assert engine.generate("Hello", particles=1, max_tokens=4, truncate=True).error is None


def test_a_predicate_that_asks_its_own_engine_is_an_error_not_a_deadlock(engine: Engine):
    with pytest.raises(PredicateError, match="another engine"):
        engine.generate(
            "a", predicate=lambda text, complete: text == "" or bool(engine.generate("b")), particles=1, max_tokens=3
        )


def test_a_text_that_stands_for_no_value_is_said_to(engine: Engine):
    cut = engine.generate("A person: ", json_schema=PERSON, particles=2, max_tokens=3, truncate=True, seed=1)
    with pytest.raises(ParseError):
        _ = cut.parsed
    assert cut.values == [None, None] and cut.as_dict()["parsed"] is None


def test_every_kind_of_value_is_jsonable(engine: Engine):
    for constraint in (Point, Pet, Literal["red", "green"]):
        json.dumps(engine.generate("One: ", constraint=constraint, particles=2, seed=3, max_tokens=24).as_dict())


def test_a_long_choice_travels_as_one_text(engine: Engine):
    """An order holds the cached text of 50,000 names, and every row's order the very same one."""
    names = [f"name {k}" for k in range(50_000)]
    requests, _ = engine._requests("I am ", None, {"choice": names, "particles": 16, "max_tokens": 12, "seed": 1})
    order = engine._ticket(requests[0]).order
    assert order.forked(3, 1, 0).extra_args()[KEY]["constraint"] is order.constraint
    result = engine.generate("I am ", choice=names, particles=16, seed=1, max_tokens=12)
    assert set(result.posterior()) <= set(names)


def test_no_prompts_no_results(engine: Engine):
    assert engine.generate([]) == [] and asyncio.run(engine.agenerate([])) == []


def test_agenerate_says_what_was_too_late(engine: Engine):
    with pytest.raises(TimeoutError, match=r"timeout_s=0\.2"):
        asyncio.run(engine.agenerate(["Once"] * 8, particles=4, max_tokens=400, truncate=True, timeout_s=0.2))


def test_numbers_and_token_ids_of_numpy_are_numbers(engine: Engine):
    asked: dict[str, Any] = {"max_tokens": 4, "truncate": True}
    plain = engine.generate([5, 6, 7], particles=2, seed=3, temperature=0.5, **asked)
    numpy = engine.generate(
        np.array([5, 6, 7]), particles=np.int64(2), seed=np.int64(3), temperature=np.float32(0.5), **asked
    )
    assert same(plain, numpy)


def assert_nothing_left(engine: Engine) -> None:
    scheduler = engine._driver.scheduler
    pool = scheduler.kv_cache_manager.block_pool
    assert not scheduler.runs and not scheduler._rows and not scheduler._leaving and not scheduler.requests
    assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1


def test_a_model_that_is_not_there_is_named():
    from decoding.engine import Engine

    with pytest.raises(EngineError, match="no such folder"):
        Engine("./no-such-model")
    with pytest.raises(EngineError, match="no hub name"):
        Engine("no such/model")


def test_a_hub_name_is_looked_up_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub

    from decoding.engine import Engine

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EngineError, match="HF_HUB_OFFLINE is set"):
        Engine("nobody/no-such-model")


def test_an_engine_argument_that_vllm_has_not_is_named(model_path: Path):
    from decoding.engine import Engine

    with pytest.raises(EngineError, match=r"'max_num_seq': did you mean max_num_seqs\?"):
        Engine(model_path, max_num_seq=3)


def test_an_engine_is_one_replica(model_path: Path):
    from decoding.engine import Engine

    with pytest.raises(EngineError, match="data_parallel_size=2: an Engine is one replica"):
        Engine(model_path, data_parallel_size=2)


@pytest.mark.parametrize(
    "arguments",
    [
        {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}},
        {"async_scheduling": True},
        {"scheduler_cls": "vllm.v1.core.sched.scheduler.Scheduler"},
    ],
)
def test_settings_that_make_weights_unsound_are_refused(arguments: dict[str, Any]):
    from decoding.vllm_driver import sound_engine_args

    with pytest.raises(EngineError, match=next(iter(arguments))):
        sound_engine_args({"model": "m", **arguments})


@pytest.mark.parametrize("particles", [1, 6])
def test_a_stop_string_ends_a_text_as_it_stands(engine: Engine, particles: int):
    """The stop string is cut off, wherever in a token it begins; nothing of it streams."""
    asked: dict[str, Any] = {
        "regex": "[a-z]{3}([0-9]{2}[a-z]{3}){8}",
        "seed": 5,
        "max_tokens": 40,
        "ess_threshold": 0.0,
    }
    whole = engine.generate("Codes: ", particles=particles, **asked)
    stops = [whole.texts[0][4:6], whole.texts[-1][9:11]]
    cut = engine.generate("Codes: ", particles=particles, stop=stops, **asked)
    for text, reason in zip(cut.texts, cut.finish_reasons, strict=True):
        assert reason == "stop_string" or not any(stop in text for stop in stops)
        assert not any(stop in text for stop in stops)
    assert "stop_string" in cut.finish_reasons
    if particles == 1:
        *chunks, last = engine.stream("Codes: ", stop=stops, **asked)
        assert "".join(chunk.text for chunk in (*chunks, last)) == cut.texts[0] == whole.texts[0][: len(cut.texts[0])]


def test_stop_strings_are_checked(engine: Engine):
    for wrong in ("", [""], [1], 7, ["x"] * 17):
        with pytest.raises(RequestError, match="stop"):
            engine.generate("a", stop=wrong)


def test_the_log_probability_of_every_text_is_the_sum_of_its_tokens(engine: Engine):
    """Resampled particles take their parent's with them; the end of a text counts."""
    result = engine.generate("Codes: ", regex="[a-z]{2,6}", particles=6, ess_threshold=1.0, seed=2, trace=True)
    assert result.trace is not None and result.ancestry
    sums = [sum(step.logprob for step in steps) for steps in result.trace]
    assert result.log_probs == pytest.approx(sums, abs=1e-9)
    assert all(steps[-1].token == "" for steps in result.trace)
