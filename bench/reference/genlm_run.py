"""How long does genlm-control take on the shared tasks, and what does it answer? One JSON line a run.

AWRS inside SMC, as its documentation has it, on the transformers backend. It runs in an environment of its own:

    make bench-reference ARGS="date json-user --particles 5 10 --seeds 0 1 2"

or asked run by run by `bench.bench_reference`: with --serve it reads jobs, {"task": ..., "particles": ..., "seed": ...}
a line, until its input ends.

What is measured, less the set-up of model and constraint:
  wall_s, cpu_s      the whole run; CPU time is of all threads of the process
  forward_cpu_s      of that, inside the model's own forward
  sampling_cpu_s     of that, outside the backend: not in preparing, running and reading batches of the model
  tokens, checks     tokens drawn, over all particles and end-of-sequence included; candidates tested by the constraint
Settings that favour it are chosen where there is a choice: the prompt's keys and values are cached, the batch goes out
as soon as all particles have asked, and the constraint's own cache lives on from seed to seed.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from genlm.backend.llm import AsyncTransformer
from genlm.control import AWRS, SMC, BoolCFG, BoolFSA, JsonSchema, PromptedLLM

from bench.reference.meter import Meter
from bench.tasks import TASKS, Task


class CountingAWRS(AWRS):
    """AWRS that counts its draws and its checks."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.draws = self.checks = 0

    async def sample(self, *args: Any, **kwargs: Any) -> Any:
        self.draws += 1
        return await super().sample(*args, **kwargs)

    async def _accept(self, *args: Any, **kwargs: Any) -> bool:
        self.checks += 1
        return await super()._accept(*args, **kwargs)


def condition_of(task: Task) -> Any:
    """The task's constraint as genlm-control's boolean potential over bytes."""
    if task.regex is not None:
        return BoolFSA.from_regex(task.regex)
    if task.json_schema is not None:
        return JsonSchema(task.json_schema)
    assert task.lark is not None
    return BoolCFG.from_lark(task.lark)


def run(model: AsyncTransformer, llm: PromptedLLM, condition: Any, task: Task, particles: int, seed: int, ess: float):
    """One SMC run as a JSON-able record; an exception becomes the record's `error`."""
    model.clear_cache()
    model.reset_async_queries()
    model.batch_size = particles
    llm.prompt_ids = model.tokenizer.encode(task.prompt)
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - its resampling draws from the global generator
    sampler = CountingAWRS(llm, condition, seed=seed)
    forward, backend = Meter(), Meter()
    model.model.forward = forward.around(type(model.model).forward.__get__(model.model))
    model.batch_evaluate_queries = backend.around(AsyncTransformer.batch_evaluate_queries.__get__(model))
    cache_prompt = backend.around(model.cache_kv)
    record: dict[str, Any] = {"task": task.name, "particles": particles, "seed": seed}
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        cache_prompt(llm.prompt_ids)
        result = asyncio.run(SMC(sampler)(n_particles=particles, ess_threshold=ess, max_tokens=task.max_tokens))
    except Exception as error:
        traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1]
        record["error"] = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    record |= {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "forward_wall_s": forward.wall_s,
        "forward_cpu_s": forward.cpu_s,
        "sampling_cpu_s": cpu_s - backend.cpu_s,
        "forwards": forward.calls,
        "tokens": sampler.draws,
        "checks": sampler.checks,
    }
    if "error" not in record:
        texts = [b"".join(part for part in context if isinstance(part, bytes)) for context in result.contexts]
        record |= {
            "log_z": float(result.log_ml),
            "ess": float(result.ess),
            "texts": [text.decode("utf-8", "replace") for text in texts],
            "log_weights": [float(weight) for weight in result.log_weights],
        }
    return record


def jobs(options: argparse.Namespace) -> Iterator[tuple[Task, int, int]]:
    """The runs asked for: task, particles, seed."""
    if options.serve:
        for line in sys.stdin:
            job = json.loads(line)
            yield TASKS[job["task"]], job["particles"], job["seed"]
        return
    names = options.tasks or [name for name, task in TASKS.items() if not task.hard]
    yield from ((TASKS[name], n, seed) for name in names for n in options.particles for seed in options.seeds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(TASKS)}; all but the hard ones if none is named")
    parser.add_argument("--model", required=True, help="the model's folder")
    parser.add_argument("--dtype", default="auto", help="auto: as the model's folder says")
    parser.add_argument("--particles", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ess-threshold", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=1, help="of torch; vLLM's CPU build takes one on two cores")
    parser.add_argument("--serve", action="store_true", help="read jobs from the standard input, one JSON a line")
    options = parser.parse_args()
    unknown = set(options.tasks) - set(TASKS)
    if unknown:
        parser.error(f"unknown tasks {', '.join(sorted(unknown))}: choose from {', '.join(TASKS)}")
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", message="Common vocabulary")  # a constraint is meant to be narrow

    model = AsyncTransformer.from_name(options.model, hf_opts={"torch_dtype": options.dtype}, timeout=0.001)
    llm = PromptedLLM(model, eos_byte_strings=[model.tokenizer.eos_token.encode()])
    settings = {
        "engine": f"genlm-control {importlib.metadata.version('genlm-control')}",
        "dtype": str(model.model.dtype),
        "threads": options.threads,
    }
    compiled: dict[str, tuple[Any, float]] = {}
    for task, particles, seed in jobs(options):
        if task.name not in compiled:
            start = time.perf_counter()
            condition = condition_of(task).coerce(llm, f=b"".join)
            compiled[task.name] = condition, time.perf_counter() - start
        condition, compile_s = compiled[task.name]
        record = run(model, llm, condition, task, particles, seed, options.ess_threshold)
        print(json.dumps(settings | {"compile_s": compile_s} | record, ensure_ascii=False), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
