"""How much CPU time a thread or a process has used: what a budget should count where the machine may be busy with other things."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

# A budget of CPU time ends all the same once so many times it have passed on the clock: what waits uses none.
CLOCK_PER_CPU = 4.0
# What the kernel counts a process's time in, and a little.
_TICK_S = 0.02


def cpu_s_of_thread(thread: int) -> float:
    """CPU seconds that a thread of this process has used, by its `threading.get_ident()`."""
    return time.clock_gettime(time.pthread_getcpuclockid(thread))


def cpu_s_of_process(pid: int) -> float:
    """CPU seconds that a process has used; infinitely many where there is none."""
    try:
        # The name in brackets may hold anything; user and system time are the 12th and 13th field after it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return math.inf
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_waits(pid: int, seconds: float) -> Iterator[float]:
    """How long to wait for a process in turn, until it has used up its CPU seconds or the clock its share: then 0 for ever."""
    began, used = time.monotonic(), cpu_s_of_process(pid)
    while True:
        left = seconds - (cpu_s_of_process(pid) - used)
        clock = began + CLOCK_PER_CPU * seconds - time.monotonic()
        yield max(min(left, clock), 0.0) if left > _TICK_S else 0.0
