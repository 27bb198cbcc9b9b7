"""Models that think before they answer, and LoRA adapters, on one server of their own: an operator's choices at start-up."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from tests.server.conftest import Serving, start_server, stop_server

THINKER, ADAPTERS = "thinker", ("shy", "loud")
AGE: dict[str, Any] = {
    "type": "object", "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}}, "required": ["age"],
    "additionalProperties": False,
}  # fmt: skip
FORMAT = {"type": "json_schema", "json_schema": {"name": "age", "schema": AGE, "strict": True}}
MESSAGES = [{"role": "user", "content": "How old is Zoe?"}]


def thinking_model(source: Path, folder: Path) -> Path:
    """The embedded model with <think> and </think> in place of two special tokens that it has not learnt to write.

    The end of thought gets the embedding of the full stop, a little longer: the first sentence usually ends with it.
    """
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, folder)
    tokenizer = (folder / "tokenizer.json").read_text()
    renamed = tokenizer.replace("<jupyter_start>", "<think>").replace("<jupyter_code>", "</think>")
    (folder / "tokenizer.json").write_text(renamed)
    ids = json.loads(renamed)["model"]["vocab"]
    weights = load_file(source / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    embedding[ids["</think>"]] = 1.2 * embedding[ids["."]]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def adapter(model: Path, folder: Path, seed: int) -> Path:
    """A LoRA adapter of rank 8 with random weights on the queries and values of every layer."""
    from safetensors.numpy import save_file

    config = json.loads((model / "config.json").read_text())
    hidden = config["hidden_size"]
    columns = {"q_proj": hidden, "v_proj": hidden // config["num_attention_heads"] * config["num_key_value_heads"]}
    rng = np.random.default_rng(seed)
    weights = {}
    for layer in range(config["num_hidden_layers"]):
        for name, size in columns.items():
            place = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{place}.lora_A.weight"] = rng.normal(0, hidden**-0.5, (8, hidden)).astype(np.float32)
            weights[f"{place}.lora_B.weight"] = rng.normal(0, 0.3, (size, 8)).astype(np.float32)
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 8, "target_modules": sorted(columns)}
    (folder / "adapter_config.json").write_text(json.dumps({**told, "bias": "none", "lora_dropout": 0.0}))
    return folder


@pytest.fixture(scope="module")
def models(operator_folder: Path, model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("models")
    model = thinking_model(model_path, folder / THINKER)
    modules = [f"{name}={adapter(model, folder / name, seed)}" for seed, name in enumerate(ADAPTERS)]
    server = start_server(
        operator_folder, f"--model={model}", f"--served-model-name={THINKER}", "--reasoning-parser=deepseek_r1",
        "--data-parallel-size=2", "--enable-lora", "--max-lora-rank=8", "--max-loras=2", "--lora-modules", *modules,
    )  # fmt: skip
    yield server
    stop_server(server.process)


def test_requests_are_shared_out_among_replicas_and_a_request_is_in_one(models: Serving):
    bodies = [
        {"model": THINKER, "prompt": "A date: ", "seed": k, "max_tokens": 12}
        | {"reweigh": {"constraint": {"regex": "[0-9]{4}-[0-9]{2}-[0-9]{2}"}, "particles": 4, "return_particles": True}}
        for k in range(6)
    ]
    with ThreadPoolExecutor(6) as threads:
        beside = list(threads.map(lambda body: models.post("/v1/completions", json=body), bodies))
    for body, answer in zip(bodies, beside, strict=True):
        (choice,) = answer.json()["choices"]
        (alone,) = models.post("/v1/completions", json=body).json()["choices"]
        assert re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", choice["text"])
        assert [one["text"] for one in choice["particles"]] == [one["text"] for one in alone["particles"]]
    ended = r'vllm:request_success_total{engine="(\d)".*finished_reason="(?:stop|length)".*} (.*)'
    done = re.findall(ended, models.get("/metrics").text)
    assert all(sum(float(count) for engine, count in done if engine == which) > 0 for which in "01"), done


# Thoughts


def chat(serving: Serving, **fields: Any) -> Any:
    body = {"model": THINKER, "messages": MESSAGES, "max_tokens": 64, "seed": 4, "response_format": FORMAT, **fields}
    return serving.client().chat.completions.create(**body)


@pytest.mark.parametrize("particles", [1, 4])
def test_only_what_follows_the_thought_is_constrained(models: Serving, particles: int):
    body = {"n": 2, "extra_body": {"reweigh": {"particles": particles}}}
    whole = chat(models, **body)
    for choice in whole.choices:
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content), AGE)
        thought = choice.message.model_extra["reasoning"]
        assert thought and "think>" not in thought
    streamed: dict[int, dict[str, str]] = {k: {"reasoning": "", "content": ""} for k in range(2)}
    pieces = []
    for chunk in chat(models, **body, stream=True):
        for choice in chunk.choices:
            made = {"reasoning": (choice.delta.model_extra or {}).get("reasoning"), "content": choice.delta.content}
            for kind, text in made.items():
                streamed[choice.index][kind] += text or ""
            pieces += [kind for kind, text in made.items() if text]
    assert streamed == {
        choice.index: {"reasoning": choice.message.model_extra["reasoning"], "content": choice.message.content}
        for choice in whole.choices
    }
    # One particle's thought comes as it is made; of several nothing may be retracted, so it comes with the selected text.
    assert (pieces.count("reasoning") > 3) == (particles == 1)


def test_a_thought_is_told_as_vllm_tells_it(models: Serving):
    """The same text, parted by vLLM's own parser."""
    from transformers import AutoTokenizer
    from vllm.reasoning import ReasoningParserManager

    folder = models.get("/v1/models").json()["data"][0]["root"]
    parser = ReasoningParserManager.get_reasoning_parser("deepseek_r1")(AutoTokenizer.from_pretrained(folder))
    for choice in chat(models, n=2, max_tokens=24, logprobs=True, extra_body={"reweigh": {"particles": 2}}).choices:
        text = "".join(one.token for one in choice.logprobs.content)
        thought, content = parser.extract_reasoning(text, None)
        assert (choice.message.model_extra["reasoning"], choice.message.content) == (thought, content)


def test_tokens_of_thoughts_are_counted_whole_and_in_a_stream(models: Serving):
    body = {"n": 2, "max_tokens": 24, "logprobs": True, "extra_body": {"reweigh": {"particles": 2}}}
    whole = chat(models, **body)
    counted = whole.usage.completion_tokens_details.reasoning_tokens
    *_, last = chat(models, **body, stream=True, stream_options={"include_usage": True})
    assert last.usage.completion_tokens_details.reasoning_tokens == counted
    within = 0
    for choice in whole.choices:
        tokens = [one.token for one in choice.logprobs.content]
        marks = [k for k, token in enumerate(tokens) if "think>" in token]
        within += (marks[-1] if "</think>" in "".join(tokens) else len(tokens)) - (tokens[0] == "<think>")
    assert 0 < counted == within <= whole.usage.completion_tokens


@pytest.mark.parametrize("particles", [1, 4])
@pytest.mark.parametrize("stream", [False, True])
def test_a_budget_that_ends_inside_the_thought_is_told(models: Serving, particles: int, stream: bool):
    made = chat(models, max_tokens=3, stream=stream, extra_body={"reweigh": {"particles": particles}})
    if not stream:
        (choice,) = made.choices
        assert choice.finish_reason == "length" and choice.message.content is None
        assert choice.message.model_extra["reasoning"]
        return
    choices = [choice for chunk in made for choice in chunk.choices]
    assert choices[-1].finish_reason == "length" and not any(choice.delta.content for choice in choices)
    assert any((choice.delta.model_extra or {}).get("reasoning") for choice in choices)


def test_a_prompt_that_has_ended_the_thought_is_answered_at_once(models: Serving):
    ended = [*MESSAGES, {"role": "assistant", "content": "<think>She is 30.</think>"}]
    told = {"add_generation_prompt": False, "continue_final_message": True}
    (choice,) = chat(models, messages=ended, max_tokens=12, extra_body=told).choices
    jsonschema.validate(json.loads(choice.message.content), AGE)
    assert not choice.message.model_extra.get("reasoning")
    (choice,) = chat(models, max_tokens=12, extra_body={"reweigh": {"thinking": False}}).choices
    jsonschema.validate(json.loads(choice.message.content), AGE)


def test_draws_without_a_constraint_are_parted_too(models: Serving):
    for choice in chat(models, response_format=None, max_tokens=24, extra_body={"reweigh": {"particles": 2}}).choices:
        assert choice.message.model_extra["reasoning"] and "think>" not in (choice.message.content or "")


# Adapters


def test_adapters_are_listed(models: Serving):
    assert {one.id for one in models.client().models.list()} == {THINKER, *ADAPTERS}
    assert models.get("/v1/models/shy").json()["parent"] == THINKER
    missing = models.post("/v1/completions", json={"model": "bold", "prompt": "a", "reweigh": {}})
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "model_not_found"


def test_an_adapter_draws_alone_as_it_does_beside_the_others(models: Serving):
    """Resampling at every step, one prompt for all: neither the prompt's blocks nor those that forks share are another's."""
    settings = {"particles": 6, "resample_every": 2, "return_particles": True}
    prompt = (
        "The quick brown fox jumps over the lazy dog, and the dog jumps over the quick brown fox. A number and a word: "
    )

    def drawn(model: str) -> Any:
        body = {
            "model": model, "prompt": prompt, "max_tokens": 16, "seed": 11,
            "reweigh": {**settings, "constraint": {"regex": "[0-9]{2} [a-z]{3,12}"}},
        }  # fmt: skip
        (choice,) = models.post("/v1/completions", json=body).json()["choices"]
        assert choice["ancestry"]
        return choice["particles"]

    names = (THINKER, *ADAPTERS)
    alone = {name: drawn(name) for name in names}
    assert len({json.dumps([one["log_weight"] for one in particles]) for particles in alone.values()}) == 3
    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(drawn, names * 2))
    for name, particles in zip(names * 2, together, strict=True):
        assert [one["text"] for one in particles] == [one["text"] for one in alone[name]]
        expected = [one["log_weight"] for one in alone[name]]
        assert [one["log_weight"] for one in particles] == pytest.approx(expected, abs=1e-4)


def test_an_adapter_is_steered_as_it_is_beside_the_others(models: Serving):
    def drawn(model: str) -> Any:
        own = {"detox": 3.0, "debias": ["gender"], "adaptation": {"method": "both", "gate": 0, "balance_gate": 0}}
        body = {"model": model, "prompt": "The nurse said that", "max_tokens": 8, "seed": 5, "temperature": 1,
                "reweigh": {**own, "particles": 4, "ess_threshold": 0, "return_particles": True}}  # fmt: skip
        (choice,) = models.post("/v1/completions", json=body).json()["choices"]
        return [(one["text"], one["log_weight"], one["adaptation"]["kl"]) for one in choice["particles"]]

    names = (THINKER, *ADAPTERS)
    alone = {name: drawn(name) for name in names}
    assert len({json.dumps(drawn) for drawn in alone.values()}) == 3
    assert all(kl > 0 for particles in alone.values() for _, _, kl in particles)
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(drawn, names))
    for name, particles in zip(names, together, strict=True):
        for (text, *numbers), (expected, *wanted) in zip(particles, alone[name], strict=True):
            assert text == expected and numbers == pytest.approx(wanted, rel=1e-3, abs=1e-3)


def test_a_chat_with_an_adapter_thinks_and_answers(models: Serving):
    (choice,) = chat(models, model="shy", extra_body={"reweigh": {"particles": 4}}).choices
    assert choice.finish_reason == "stop" and choice.message.model_extra["reasoning"]
    jsonschema.validate(json.loads(choice.message.content), AGE)
    plain = models.client().chat.completions.create(model="shy", messages=MESSAGES, max_tokens=8, temperature=0)
    base = models.client().chat.completions.create(model=THINKER, messages=MESSAGES, max_tokens=8, temperature=0)
    assert plain.model == "shy" and plain.choices[0].message != base.choices[0].message
