"""Programs that a model wrote, run in a process that can be killed, without files, network or more than their time and memory."""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import dataclass
from pathlib import Path

from decoding.killable import answered
from grammars.errors import RequestError, RewardError

WORKER = Path(__file__).with_name("sandbox_worker.py")
ISOLATION = ("full", "limits")


@dataclass(frozen=True)
class Sandbox:
    """What a program may use.

    timeout_s   wall clock, after which it is killed with all it has started
    memory_mib  what it may allocate
    isolation   "full": no network, no files but the standard library's, no other processes in sight (Linux namespaces and
                Landlock; an error where the kernel gives none). "limits": time and memory alone: a hostile program can then
                read and write what this user can
    """

    timeout_s: float = 5.0
    memory_mib: int = 256
    isolation: str = "full"

    def __post_init__(self) -> None:
        for name, value in (("timeout_s", self.timeout_s), ("memory_mib", self.memory_mib)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise RequestError(f"sandbox: {name}={value!r:.80}: a number above 0 was wanted")
        if self.isolation not in ISOLATION:
            raise RequestError(f"sandbox: isolation={self.isolation!r:.80}: one of {', '.join(ISOLATION)} was wanted")

    def run(self, program: str) -> Outcome:
        """Run a Python program to its end, in a fresh interpreter with the standard library alone.

        Raises RewardError where there is no sandbox to be had, or it failed itself.
        """
        request = {
            "program": program, "timeout_s": self.timeout_s, "memory_mib": int(self.memory_mib), "isolation": self.isolation,
        }  # fmt: skip
        try:
            out, complaints, code = answered(["-I", "-S", str(WORKER)], request, {"LC_ALL": "C.UTF-8"}, self.timeout_s)
        except subprocess.TimeoutExpired as late:
            raise RewardError(f"the sandbox did not answer within {late.timeout:g} s") from None
        try:
            told = json.loads(out)
            outcome = Outcome(told["outcome"], told["detail"])
        except (ValueError, KeyError, TypeError) as error:
            said = complaints.decode(errors="replace").strip()[-300:]
            raise RewardError(f"the sandbox ended with code {code}: {said}") from error
        if outcome.kind == "no sandbox":
            raise RewardError(
                f"no sandbox can be had here ({outcome.detail}): run where user namespaces and Landlock are allowed, or, for "
                'programs that you trust, say isolation="limits"'
            )
        return outcome


@dataclass(frozen=True)
class Outcome:
    """How a program ended. kind: passed, failed (it raised, or left early), timeout or memory; detail: a line about it."""

    kind: str
    detail: str
