"""The worker's side of the way there and back: who draws from which row rides in on the scheduler's own output, and what the
row sampler posted rides out on the model runner's.

Engine argument: worker_extension_cls="decoding.vllm_worker.WorkerExtension"; then collective_rpc("reweigh_install").
Both are pickled whole between processes, so weights arrive exact (float64) under every executor.
"""

from __future__ import annotations

import copy
from typing import Any

from decoding.preparation import Preparation
from decoding.row_sampler import RowSampler
from grammars.errors import EngineError

RIDERS = "reweigh_riders"
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
        execute, sample, sampler = runner.execute_model, runner.sample_tokens, row_sampler_of(runner)
        preparation = Preparation(sampler.vocabulary)

        def execute_model(scheduler_output: Any, *arguments: Any, **named: Any) -> Any:
            sampler.riders = getattr(scheduler_output, RIDERS, {})
            preparation.start(getattr(scheduler_output, PREPARE, ()))
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
