"""Whether a text is a program that passes its tests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from decoding.killable import at_once
from decoding.sandbox import Sandbox
from grammars.errors import RequestError
from samplers.reward import Candidate, reward

_FENCE = re.compile(r"^```(?:python|py)?[ \t]*\n(.*?)(?:^```|\Z)", re.DOTALL | re.MULTILINE | re.IGNORECASE)


@reward("unit_tests")
class UnitTests:
    """1 where prefix + text + tests runs to its end, otherwise 0: where it raises, leaves early, or takes too much time or memory.

    Of a text with code between ``` fences the last such block is the program, otherwise all of it is. Each runs in a process of
    its own with the standard library alone, without network and files (see `Sandbox`). The tests run in the program's
    process: the sandbox keeps a hostile text from doing harm, not from forging its own verdict by tampering with what tests it.

    tests        Python that raises where the program is wrong
    prefix       Python before the text: what it completes, such as a signature, or imports
    entry_point  a function that the tests' check(...) is called with, as HumanEval's are
    processes    programs run at once; the machine's cores by default
    timeout_s, memory_mib, isolation    of the sandbox
    """

    def __init__(
        self,
        tests: str,
        prefix: str = "",
        entry_point: str | None = None,
        processes: int | None = None,
        timeout_s: float = 5.0,
        memory_mib: int = 256,
        isolation: str = "full",
    ) -> None:
        for name, value in (("tests", tests), ("prefix", prefix)):
            if not isinstance(value, str):
                raise RequestError(f"unit_tests: {name}={value!r:.80}: Python text was wanted")
        if not tests.strip():
            raise RequestError("unit_tests: tests is empty: every program would pass")
        if entry_point is not None and not (isinstance(entry_point, str) and entry_point.isidentifier()):
            raise RequestError(f"unit_tests: entry_point={entry_point!r:.80}: a function's name was wanted")
        self._prefix, self._tests = prefix, tests + ("" if entry_point is None else f"\ncheck({entry_point})\n")
        self._processes = at_once(processes, "unit_tests")
        self._sandbox = Sandbox(timeout_s, memory_mib, isolation)
        compiled(self._tests, "unit_tests: tests")

    def __repr__(self) -> str:
        return "reward unit_tests"

    def score(self, candidates: Sequence[Candidate]) -> np.ndarray:
        with ThreadPoolExecutor(self._processes) as pool:
            outcomes = list(pool.map(self._sandbox.run, [self.program(one.text) for one in candidates]))
        return np.array([float(one.kind == "passed") for one in outcomes])

    def program(self, text: str) -> str:
        """What is run for a text."""
        blocks = _FENCE.findall(text)
        return f"{self._prefix}{blocks[-1] if blocks else text}\n{self._tests}"


def compiled(source: str, what: str) -> None:
    """Raises RequestError where the source is no Python; it is compiled, not run."""
    try:
        compile(source, "<tests>", "exec")
    except (SyntaxError, ValueError) as error:
        raise RequestError(f"{what} is no Python: {error}") from error
