"""Time spent in a function, for both sides of the comparison. Standard library only."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any


@dataclass
class Meter:
    """Calls and time spent in some functions; CPU time is of all threads of the process."""

    calls: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0

    def around(self, function: Any) -> Any:
        """The function, timed. Not for coroutines (their time would include others'), nor for two that call each other."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.calls += 1
                self.wall_s += time.perf_counter() - wall
                self.cpu_s += time.process_time() - cpu

        return timed
