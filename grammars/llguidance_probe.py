"""Large grammars are compiled first in a process that can be killed: llguidance answers no signal and may overflow its stack.

llguidance's own limits (see `llguidance_engine.LIMITS`) stop a small grammar that explodes, in some tenths of a second. They
do not stop a large one: a regex of 60 kB holds the thread for seconds, and 3,000 rules nested in a chain end the whole
process. So what is longer than `PROBE_FROM` is tried in a child process before this one compiles it.

Run as `python -m grammars.llguidance_probe` this file is that child: pickled messages on its stdin and stdout.
"""

from __future__ import annotations

import os
import pickle
import select
import struct
import subprocess
import sys
import threading
from typing import Any, BinaryIO

from grammars.cpu_time import cpu_waits
from grammars.errors import GrammarError, OverBudget
from grammars.vocabulary import Vocabulary

# Bytes of grammar. Below, the deepest chain of rules is some 600 long, and llguidance's stack holds more than 1,000.
PROBE_FROM = 4_000
TIMEOUT_VARIABLE = "REWEIGH_COMPILE_TIMEOUT_S"
TIMEOUT_S = 5.0
# Of the child, beside what it needs for its vocabulary: a grammar that asks for more is refused.
MEMORY_BYTES = 4 << 30
_START_S = 60.0
_LENGTH = struct.Struct("<Q")


def timeout_s() -> float:
    """CPU seconds a constraint may take to compile, and on a busy machine up to CLOCK_PER_CPU times as many on the clock: the
    environment's, or 5."""
    given = os.environ.get(TIMEOUT_VARIABLE)
    if given is None:
        return TIMEOUT_S
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not seconds > 0:
        raise GrammarError(f"{TIMEOUT_VARIABLE}={given!r}: seconds above 0 were wanted")
    return seconds


def too_slow(seconds: float) -> OverBudget:
    return OverBudget(
        f"the constraint was not compiled within {seconds:g} s: make it smaller, or allow more with {TIMEOUT_VARIABLE}"
    )


def probe(grammar: str, vocabulary: Vocabulary) -> None:
    """Compile a grammar elsewhere, for the sake of how that ends.

    Returns where it ends well or in an ordinary error, which this process will meet in turn.
    Raises GrammarError where it takes too long, too much memory, or crashes.
    """
    if len(grammar) <= PROBE_FROM:
        return
    with _lock:
        _child.compile(grammar, vocabulary, timeout_s())


class _Child:
    """The process, started when it is first needed and again after it was killed. One caller at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._vocabulary: Vocabulary | None = None
        self._asked = False  # and not answered yet

    def compile(self, grammar: str, vocabulary: Vocabulary, seconds: float) -> None:
        idle = self._process is not None and self._process.poll() is None and not self._asked
        if not idle or self._vocabulary is not vocabulary:
            self.stop()
            self._start(vocabulary)
        try:
            answer = self._ask(grammar, seconds)
        except BaseException:
            # Also where the caller's own time is up: what the child is at is of no use, and would be taken for a later answer.
            self.stop()
            raise
        if answer is None:
            process = self._process
            assert process is not None
            crashed = process.poll() is not None
            self.stop()
            if not crashed:
                raise too_slow(seconds)
            raise OverBudget(
                "the constraint overwhelms the mask engine (its compiler crashed, in a process of its own): "
                "nest its rules less deeply, or make it smaller"
            )

    def _start(self, vocabulary: Vocabulary) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "grammars.llguidance_probe"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        self._vocabulary = vocabulary
        if self._ask((vocabulary.tokens, vocabulary.eos_ids, vocabulary.size), _START_S) is None:
            self.stop()
            raise GrammarError("the process that tries out large grammars did not start: is the machine out of memory?")

    def _ask(self, question: Any, seconds: float) -> Any:
        """The child's answer; None where there is none in time, or the child has ended."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        self._asked = True
        try:
            _write(process.stdin, question)
        except BrokenPipeError:
            process.wait()
            return None
        wait = cpu_waits(process.pid, seconds)
        while not select.select([process.stdout], [], [], left := next(wait))[0]:
            if left == 0.0:
                return None
        answer = _read(process.stdout)
        if answer is None:
            process.wait()
        self._asked = False
        return answer

    def stop(self) -> None:
        process = self._process
        if process is None:
            return
        process.kill()
        process.wait()
        self._process, self._asked = None, False
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue  # what was still to be written has no reader any more


_child = _Child()
_lock = threading.Lock()


def _forked() -> None:
    """A fork has no claim on its parent's child."""
    global _child, _lock
    _child, _lock = _Child(), threading.Lock()


os.register_at_fork(after_in_child=_forked)


def _write(pipe: BinaryIO | Any, message: Any) -> None:
    data = pickle.dumps(message)
    pipe.write(_LENGTH.pack(len(data)) + data)
    pipe.flush()


def _read(pipe: BinaryIO | Any) -> Any:
    """The next message; None at the end of the stream."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    return pickle.loads(pipe.read(_LENGTH.unpack(head)[0]))


def _serve() -> None:
    import resource

    from grammars.llguidance_engine import parse_guided

    source, sink = sys.stdin.buffer, sys.stdout.buffer
    vocabulary = Vocabulary(*_read(source))
    parse_guided('start: "a"', vocabulary)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    _write(sink, "ready")
    while (grammar := _read(source)) is not None:
        matcher = parse_guided(grammar, vocabulary)
        if not matcher.is_error():
            matcher.compute_bitmask()
        _write(sink, "compiled")


if __name__ == "__main__":
    _serve()
