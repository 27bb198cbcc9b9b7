"""Do thousands of short groups of every kind, aborted at random, under a KV cache too small for them, all end rightly?

Rightly: every text is in its language or its weight is zero; the same request gives the same answer as on an idle, roomy
engine (float32); every block comes back; memory does not grow.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import re
import time
from collections import Counter
from typing import Any

import numpy as np

from bench.harness import report, say

PATTERN = r"[0-9]{1,6}(-[0-9]{2})?"
PROMPT = "My phone number is "


def resident_mib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


def order(k: int, rng: random.Random) -> dict[str, Any]:
    """The k-th request: everything about it is drawn at random."""
    options: dict[str, Any] = {
        "particles": rng.choice([1, 1, 2, 3, 5, 8, 13]),
        "max_tokens": rng.choice([6, 12, 24]),
        "temperature": rng.choice([0.7, 1.0, 1.3]),
        "ess_threshold": rng.choice([0.0, 0.5, 1.0]),
        "resampling": rng.choice(["systematic", "stratified", "residual", "multinomial"]),
        "sampler": rng.choice(["auto", "awrs", "masked", "geometric", "top_k"]),
        "seed": k,
    }
    kind = rng.randrange(3)
    if kind == 0:
        options["regex"] = PATTERN
    elif kind == 1:
        options["choice"] = ["12", "123-45", "7", "77", "5551234"]
    else:
        options["predicate"] = digits
        options["sampler"] = rng.choice(["auto", "awrs"])
    return options


def digits(text: str, complete: bool) -> bool:
    return text.isdigit() if complete else text == "" or text.isdigit()


def valid(text: str, options: dict[str, Any]) -> bool:
    if "regex" in options:
        return re.fullmatch(PATTERN, text) is not None
    return text in options["choice"] if "choice" in options else text.isdigit()


async def storm(engine: Any, count: int, at_once: int, abort_share: float, first: int = 0) -> dict[str, Any]:
    """Run requests first .. first + count - 1, `at_once` side by side, and cancel a share of them in flight."""
    rng = random.Random(first)
    gate = asyncio.Semaphore(at_once)
    outcome = {"done": 0, "aborted": 0, "dead": 0, "wrong": 0, "particles": 0}
    results: dict[int, Any] = {}

    async def one(k: int, options: dict[str, Any], abort: bool) -> None:
        async with gate:
            prompt = PROMPT + "5" * (k % 40)
            task = asyncio.create_task(engine.agenerate([prompt], **options))
            if abort:
                await asyncio.sleep(0.05 * (k % 7))
                if not task.done():
                    task.cancel()
            try:
                (result,) = await task
            except asyncio.CancelledError:
                outcome["aborted"] += 1
                return
            outcome["done"] += 1
            outcome["particles"] += len(result.texts)
            outcome["dead"] += result.error is not None
            alive = [t for t, w in zip(result.texts, result.log_weights, strict=True) if w > -np.inf]
            outcome["wrong"] += sum(not valid(text, options) for text in alive)
            if k % 50 == 0:
                results[k] = (prompt, options, result)

    await asyncio.gather(*(one(k, order(k, rng), rng.random() < abort_share) for k in range(first, first + count)))
    outcome["results"] = results
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--blocks", type=int, default=40, help="KV blocks of 32 tokens: too few for the batch")
    options = parser.parse_args()
    from decoding.engine import Engine

    settings = {"dtype": "float32", "max_num_seqs": 32, "max_model_len": 256}
    small = Engine(num_gpu_blocks_override=options.blocks, max_num_batched_tokens=256, **settings)
    scheduler = small._driver.scheduler
    start, resident, outcome = time.perf_counter(), [], Counter[str]()
    kept: dict[int, Any] = {}
    for quarter in range(4):
        part = asyncio.run(storm(small, options.requests // 4, 16, 0.2, quarter * (options.requests // 4)))
        kept |= part.pop("results")
        outcome.update(part)
        gc.collect()
        resident.append(resident_mib())
    wall = time.perf_counter() - start
    # One more step lets vLLM take note of the last aborts.
    small.generate(PROMPT, regex=PATTERN, particles=1, max_tokens=12, seed=1)
    pool = scheduler.kv_cache_manager.block_pool
    missing = pool.num_gpu_blocks - 1 - pool.get_num_free_blocks()
    left = {"runs": len(scheduler.runs), "rows": len(scheduler._rows), "requests": len(scheduler.requests)}
    forks = {"shared": scheduler.forks_shared, "recomputed": scheduler.forks_recomputed}
    preempted = scheduler.preemptions
    small.close()
    roomy = Engine(**settings)
    differing = 0
    for prompt, asked, result in kept.values():
        (again,) = roomy.generate([prompt], **asked)
        differing += again.texts != result.texts
        if again.texts != result.texts:
            say(f"differs: {asked} {result.texts} {again.texts}")
    roomy.close()
    results = {
        **outcome, "wall_s": wall, "blocks_missing": missing, "left_behind": left,
        "resident_mib_by_quarter": resident, "compared": len(kept),
        "forks": forks, "preemptions": preempted, "differing_from_roomy": differing,
    }  # fmt: skip
    report("robustness", {"requests": options.requests, "blocks": options.blocks}, results)
    assert outcome["wrong"] == 0 and missing == 0 and not any(left.values()) and differing == 0


if __name__ == "__main__":
    main()
