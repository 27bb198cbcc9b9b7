"""A process that does one piece of work and says what came of it: killed, with all it has started, where it does not in time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from grammars.errors import RequestError

# For the process to start and to say what happened, beside the work's own time.
START_S = 20.0


def answered(
    arguments: Sequence[str], request: Mapping[str, Any], environment: Mapping[str, str], timeout_s: float
) -> tuple[bytes, bytes, int]:
    """Run a Python worker that reads a JSON object and answers on its stdout.

    arguments    of the interpreter
    environment  what the worker has beside MALLOC_ARENA_MAX=1: a heap for every thread would use up the address space it may have
    timeout_s    the work's own; the worker keeps it by itself
    returns      stdout, stderr, exit code
    Raises subprocess.TimeoutExpired START_S later.
    """
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**environment, "MALLOC_ARENA_MAX": "1"},
    )
    try:
        out, complaints = process.communicate(json.dumps(request).encode(), timeout=timeout_s + START_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return out, complaints, process.returncode


def at_once(processes: int | None, who: str) -> int:
    """How many workers run side by side: as many as said, or the cores there are. Raises RequestError."""
    if processes is None:
        return len(os.sched_getaffinity(0))
    if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
        raise RequestError(f"{who}: processes={processes!r:.80}: a whole number of at least 1 was wanted")
    return processes
