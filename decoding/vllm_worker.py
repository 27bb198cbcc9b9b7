"""The worker's side of the way there and back: who draws from which row rides in on the scheduler's own output, and what the
row sampler posted rides out on the model runner's. On a CPU it also copies the KV blocks that forks part at.

Engine argument: worker_extension_cls="decoding.vllm_worker.WorkerExtension"; then collective_rpc("reweigh_install").
Both are pickled whole between processes, so weights arrive exact (float64) under every executor.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from decoding.parent_watch import end_with_parent
from decoding.preparation import Preparation
from decoding.row_sampler import RowSampler
from decoding.vllm_lora import mend_cpu_lora
from decoding.vllm_unembedding import unembedding_of
from grammars.errors import EngineError

RIDERS = "reweigh_riders"
SPENT = "reweigh_spent"
POSTS = "reweigh_posts"
PREPARE = "reweigh_prepare"
PREPARED = "reweigh_prepared"
# How long a step without rows waits for a constraint: without it the engine would spin.
PATIENCE_S = 0.005


class WorkerExtension:
    """Methods that vLLM mixes into its worker class."""

    model_runner: Any

    def reweigh_install(self) -> bool:
        """Tell the row sampler the riders of every step, and have every output carry the step's posts. Idempotent; returns True."""
        runner = self.model_runner
        if getattr(runner, "_reweigh_installed", False):
            return True
        end_with_parent()
        if runner.device.type == "cpu" and runner.lora_config is not None:
            mend_cpu_lora()
        execute, sample, sampler = runner.execute_model, runner.sample_tokens, row_sampler_of(runner)
        sampler.steering.unembedding = unembedding_of(runner, sampler.vocabulary.size)
        preparation = Preparation(sampler.vocabulary)
        blocks = host_blocks(runner.kv_caches, runner.kv_cache_config.num_blocks)

        def execute_model(scheduler_output: Any, *arguments: Any, **named: Any) -> Any:
            sampler.riders = getattr(scheduler_output, RIDERS, {})
            sampler.spent = getattr(scheduler_output, SPENT, {})
            preparation.start(getattr(scheduler_output, PREPARE, ()))
            copies = scheduler_output.kv_cache_block_copies
            # Where vLLM zeroes new blocks it does so before it copies: then the copy has to stay with it.
            if copies and blocks and not scheduler_output.new_block_ids_to_zero:
                copy_blocks(blocks, copies)
                scheduler_output.kv_cache_block_copies = None
            output = execute(scheduler_output, *arguments, **named)
            if not scheduler_output.total_num_scheduled_tokens:
                preparation.wait(PATIENCE_S)
                # A step without rows ends here, with an output that all such steps share.
                prepared = preparation.take()
                if prepared:
                    output = copy.copy(output)
                    setattr(output, PREPARED, prepared)
            return output

        def sample_tokens(grammar_output: Any) -> Any:
            output = sample(grammar_output)
            # The V2 runner wraps its output until the copy from the device has ended.
            bare = getattr(output, "model_runner_output", output)
            for name, news in ((POSTS, sampler.take_posts()), (PREPARED, preparation.take())):
                if news:
                    setattr(bare, name, news)
            return output

        runner.execute_model = execute_model
        runner.sample_tokens = sample_tokens
        runner._reweigh_installed = True
        return True


def host_blocks(caches: Iterable[torch.Tensor], num_blocks: int) -> list[np.ndarray]:
    """The KV cache as bytes, where it is the host's and a block is one piece of memory in every layer; otherwise empty.

    caches   one tensor a layer, its blocks along dimension 0; layers may share one
    returns  uint8 [num_blocks, bytes of a block] a layer
    """
    own = {cache.data_ptr(): cache for cache in caches}.values()
    if not all(cache.device.type == "cpu" and cache.is_contiguous() for cache in own):
        return []
    return [cache.view(torch.uint8).view(num_blocks, -1).numpy() for cache in own]


def copy_blocks(layers: Sequence[np.ndarray], copies: Sequence[tuple[int, int]]) -> None:
    """Copy blocks in every layer. vLLM's own copy moves byte by byte on a CPU, which takes ten times as long.

    copies  (source, destination); a destination is nobody's source
    """
    for layer in layers:
        for source, destination in copies:
            layer[destination] = layer[source]


def row_sampler_of(runner: Any) -> RowSampler:
    """The row sampler of a model runner's logits processor; the V1 runner keeps its processors with the batch."""
    batch = getattr(runner, "input_batch", None)
    processors = runner.sampler.logits_processors if batch is None else batch.logitsprocs.all
    for processor in processors:
        if isinstance(sampler := getattr(processor, "sampler", None), RowSampler):
            return sampler
    raise EngineError(
        "the engine has no reweigh logits processor: pass logits_processors=[decoding.vllm_driver.processor_for(...)]"
    )
