"""Does the cost of a step on the host grow with the vocabulary?

Synthetic rows: 32 rows of logits whose head is the same at every size, a vocabulary of V words, a regex that about half of
the head passes. The device's part (softmax, sums, first draws) has to read V numbers a row; the host's part must not.
"""

from __future__ import annotations

import argparse
import itertools
import time
from typing import Any

import numpy as np
import torch

from bench.harness import report, say, spread
from decoding import row_sampler
from decoding.order import Order
from decoding.row_sampler import RowSampler
from decoding.rows import StepRows
from grammars.vocabulary import Vocabulary

ROWS, LETTERS = 32, "abcdefghijklmnopqrstuvwxyz"


def words(size: int) -> Vocabulary:
    """One EOS, then the first size - 1 of a, b, ..., aa, ab, ..."""
    spelled = itertools.chain.from_iterable(
        map("".join, itertools.product(LETTERS, repeat=length)) for length in itertools.count(1)
    )
    tokens = [b"", *(word.encode() for word in itertools.islice(spelled, size - 1))]
    return Vocabulary(tuple(tokens), (0,), size)


def peaked_logits(size: int, steps: int) -> list[torch.Tensor]:
    """The head of 1,000 tokens holds nearly all mass at every V; the rest is a flat, faint tail."""
    rng = np.random.default_rng(0)
    out = []
    for _ in range(steps):
        logits = np.full((ROWS, size), -14.0, dtype=np.float32)
        logits[:, 1:1001] = rng.permuted(np.tile(-1.5 * np.log(np.arange(1, 1001)), (ROWS, 1)), axis=1)
        out.append(torch.from_numpy(logits))
    return out


def measure(size: int, sampler: str, steps: int) -> dict[str, Any]:
    vocabulary = words(size)
    rows = RowSampler(vocabulary)
    kept: list[list[int]] = [[] for _ in range(ROWS)]
    constraint = '{"regex": "([a-m]|[n-z][a-z])[a-z]*"}'
    held = [
        rows.add(Order("g", ROWS, constraint, sampler, 1.0, 3, 10**6, truncate=True, row=k), [], lambda k=k: kept[k])
        for k in range(ROWS)
    ]
    device: list[float] = []

    class Timed(StepRows):
        def __init__(self, *arguments: Any) -> None:
            start = time.perf_counter()
            super().__init__(*arguments)
            device.append(time.perf_counter() - start)

    original, row_sampler.StepRows = row_sampler.StepRows, Timed  # type: ignore[misc]
    whole: list[float] = []
    checks = 0
    try:
        for logits in peaked_logits(size, steps):
            start = time.perf_counter()
            rows.step(logits, range(ROWS), held)
            whole.append(time.perf_counter() - start)
            for k, (post,) in enumerate(rows.take_posts().values()):
                checks += post.checks
                if post.log_weight > -np.inf:
                    kept[k].append(post.token)
    finally:
        row_sampler.StepRows = original  # type: ignore[misc]
    host = [w - d for w, d in zip(whole, device, strict=True)]
    skip = steps // 5
    return {
        "device_ms": {k: 1e3 * v for k, v in spread(device[skip:]).items()},
        "host_ms": {k: 1e3 * v for k, v in spread(host[skip:]).items()},
        "checks_per_token": checks / (steps * ROWS),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for sampler in ("awrs", "masked", "auto"):
        by_size = {size: measure(size, sampler, options.steps) for size in (49152, 262144)}
        small, large = by_size[49152], by_size[262144]
        results[sampler] = {
            **{str(size): result for size, result in by_size.items()},
            "host_growth": large["host_ms"]["median"] / small["host_ms"]["median"],
            "device_growth": large["device_ms"]["median"] / small["device_ms"]["median"],
        }
        say(f"{sampler}: {results[sampler]}")
    report("vocabulary", {"rows": ROWS, "steps": options.steps, "sizes": [49152, 262144]}, results)


if __name__ == "__main__":
    main()
