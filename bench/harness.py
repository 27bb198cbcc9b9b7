"""What every benchmark shares: arms measured in turn in one run, one JSON line of results."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("REWEIGH_DATA") or ROOT.parent / "shared" / "data")
RESULTS = ROOT / "bench" / "results"


def in_turn(arms: Mapping[str, Callable[[], Any]], repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of every arm, all arms once a round, so that a slow spell of the machine meets them all.

    returns  arm -> float [repeats]
    """
    for _ in range(warm_up):
        for arm in arms.values():
            arm()
    times: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repeats):
        for name, arm in arms.items():
            start = time.perf_counter()
            arm()
            times[name].append(time.perf_counter() - start)
    return times


def spread(values: list[float]) -> dict[str, float]:
    """Median with the quartiles around it."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return {"median": statistics.median(ordered), "low": ordered[quarter], "high": ordered[-1 - quarter]}


def ratio(times: dict[str, list[float]], arm: str, base: str) -> float:
    """Speed of an arm relative to a base: the median over rounds of base time / arm time, so above 1 is faster than the base."""
    return statistics.median(b / a for a, b in zip(times[arm], times[base], strict=True))


def report(bench: str, settings: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """Print one JSON line: what was measured, on what, with which settings."""
    line = {
        "bench": bench,
        "commit": _commit(),
        "device": f"{platform.processor() or platform.machine()} x{_cores()}",
        "python": platform.python_version(),
        "settings": dict(settings),
        "results": dict(results),
    }
    print(json.dumps(line, default=float), flush=True)


def say(text: str) -> None:
    """Progress for the reader, beside the JSON."""
    print(text, file=sys.stderr, flush=True)


def plain_vllm(model: str, **arguments: Any) -> Any:
    """vLLM's own `LLM` with the settings that `decoding.Engine` gives it here, and none of reweigh's parts."""
    from decoding.engine import engine_defaults
    from decoding.vllm_driver import vllm_environment

    with vllm_environment():
        from vllm import LLM

        return LLM(model, **{**engine_defaults(), "disable_log_stats": True, **arguments})


@contextmanager
def counted_steps(engine: Any) -> Iterator[list[int]]:
    """How many rows a `decoding.Engine` has in each step that has any."""
    rows: list[int] = []
    step = engine._driver.engine.step

    def counted() -> Any:
        if unfinished := engine._driver.scheduler.get_num_unfinished_requests():
            rows.append(unfinished)
        return step()

    engine._driver.call(lambda vllm: setattr(vllm, "step", counted))
    yield rows
    engine._driver.call(lambda vllm: setattr(vllm, "step", step))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "-uno"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() + ("+" if dirty.stdout.strip() else "")
