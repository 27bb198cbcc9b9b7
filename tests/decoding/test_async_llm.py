"""vLLM's AsyncLLM, its engine core in a process of its own: weights and ancestry arrive there and back, exact."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from decoding.order import KEY, Order

if TYPE_CHECKING:
    from decoding.engine import Engine

PROMPT = "Write a date: "
ASKED: dict[str, Any] = {"ess_threshold": 1.0, "sampler": "awrs", "temperature": 1.0, "seed": 9, "max_tokens": 16}
REGEX = r"[12][0-9]{3}-[01][0-9]-[0-3][0-9]"
PARTICLES = 5


async def group_over_async_llm(model: Path) -> Any:
    """Run one group over a fresh AsyncLLM, beside a plain request and a group that is aborted."""
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.engine.async_llm import AsyncLLM

    from decoding.engine import engine_defaults
    from decoding.vllm_driver import add_processor, sound_engine_args
    from decoding.vllm_params import order_params

    arguments = {**engine_defaults(), "dtype": "float32", "max_num_seqs": 32, "max_model_len": 512}
    config = AsyncEngineArgs(**sound_engine_args({"model": str(model), **arguments})).create_engine_config()
    add_processor(config)
    engine = AsyncLLM.from_vllm_config(config, disable_log_stats=True)
    try:
        assert await engine.collective_rpc("reweigh_install") == [True]
        prompt = {"prompt_token_ids": engine.get_tokenizer()(PROMPT)["input_ids"]}

        async def last(params: SamplingParams, request_id: str) -> Any:
            return [output async for output in engine.generate(prompt, params, request_id)][-1]

        def order(group: str, **changes: Any) -> Order:
            asked = {**ASKED, "constraint": json.dumps({"regex": REGEX}), **changes}
            return Order(group=group, num_particles=PARTICLES, **asked)

        long = order_params(order("doomed", constraint=None, max_tokens=400, truncate=True))
        doomed = asyncio.create_task(last(long, "doomed"))
        await asyncio.sleep(0.3)
        doomed.cancel()
        with pytest.raises(VLLMValidationError, match="temperature"):
            await last(order_params(order("bad", temperature=-1.0)), "bad")
        # Alone, as in process: what else is in a batch moves float32's last digits.
        output = await last(order_params(order("g")), "g")
        _, twin, plain = await asyncio.gather(
            last(order_params(order("h")), "h"),
            last(order_params(order("h")), "twin"),
            last(SamplingParams(temperature=0.0, max_tokens=8), "plain"),
        )
        assert len(plain.outputs[0].token_ids) == 8
        # A constraint that is compiled where the model runs: the same draws, or its own error.
        prepared = await last(order_params(order("prepared", prepare=True)), "prepared")
        assert prepared.kv_transfer_params[KEY]["log_weights"] == output.kv_transfer_params[KEY]["log_weights"]
        wrong, right = await asyncio.gather(
            last(order_params(order("wrong", prepare=True, constraint=json.dumps({"regex": "("}))), "wrong"),
            last(order_params(order("right", prepare=True, constraint=json.dumps({"regex": "[0-9]{4}"}))), "right"),
        )
        kind, message = wrong.kv_transfer_params[KEY]["error"]
        assert kind == "GrammarError" and "malformed at position 0" in message
        assert right.kv_transfer_params[KEY]["error"] is None and right.kv_transfer_params[KEY]["queued_s"] > 0
        assert "under way already" in twin.kv_transfer_params[KEY]["error"][1]
        return output
    finally:
        engine.shutdown()


def test_weights_cross_processes_exactly(engine: Engine, model_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same group in process and over AsyncLLM: the same tokens, weights to the last bit, the same ancestry."""
    here = engine.generate(PROMPT, regex=REGEX, particles=PARTICLES, **ASKED)
    for name, value in {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}.items():
        monkeypatch.setitem(os.environ, name, value)
    output = asyncio.run(group_over_async_llm(model_path))
    summary = output.kv_transfer_params[KEY]
    assert summary["tokens"] == here.tokens
    assert summary["log_weights"] == here.log_weights.tolist()
    assert [(step, parents) for step, parents in summary["ancestry"]] == here.ancestry and here.ancestry
    assert (summary["checks"], summary["masks"]) == (here.stats.checks, here.stats.masks)
