"""Processes that run one function and can be killed: a call that hangs or crashes costs its process, which is replaced.

The function need not be importable: when the pool is made, the process forks a *nursery*, which holds the function, does
nothing else, has no threads, and forks the workers when they are wanted. So make a pool early: what is forked is the
process as it stands, and locks that other threads hold just then, or a CUDA context, are of no use in the copy.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, NoReturn

# A new process's first call is one on the empty text, to import what the function needs; it has this long.
WARM_UP_S = 10.0

# Our ends of all nurseries' and workers' pipes: a nursery forked later must not keep them open.
_OURS: weakref.WeakSet[Connection] = weakref.WeakSet()


class CallLost(Exception):
    """A call that gave no answer: its process was killed because its time was up, or died by itself."""


# What a worker does with one message: it yields one answer for each text, or raises nothing, ever.
Serve = Callable[[list[str], bool], Iterator[Any]]


@dataclass(eq=False)
class _Worker:
    pid: int
    connection: Connection
    warm: bool = False
    # What it is at: place of the next answer among the texts, end of its share, and when that answer is due.
    at: int = 0
    stop: int = 0
    due: float = field(default=0.0)


class Pool:
    """`processes` workers for one function.

    serve    runs in the worker: (texts, complete) -> one picklable answer a text; an answer is due timeout_s after the last
    batched  all answers of a share come together, timeout_s after it was sent
    """

    def __init__(self, serve: Serve, processes: int, timeout_s: float, batched: bool) -> None:
        self._timeout_s = timeout_s
        self._batched = batched
        self._lock = threading.Lock()
        self._workers: list[_Worker | None] = [None] * processes
        ours, theirs = Pipe()
        with warnings.catch_warnings():
            # Since Python 3.12 a fork beside other threads is warned of; what that means here is said above.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _nursery(ours, theirs, serve)
        theirs.close()
        _OURS.add(ours)
        self._nursery, self._nursery_pid = ours, pid
        weakref.finalize(self, _close, ours, pid, self._workers)

    def ask(self, texts: Sequence[str], complete: bool) -> list[Any]:
        """One answer a text, in order; the shares of all workers are run side by side. CallLost names the text."""
        answers: list[Any] = [None] * len(texts)
        with self._lock:
            busy: dict[Connection, _Worker] = {}
            try:
                self._hand_out(texts, complete, busy)
                while busy:
                    self._collect(busy, answers, texts)
            finally:
                # Only after a failure: what these are at is of no use to anyone, and would be taken for later answers.
                for worker in busy.values():
                    self._replace(worker)
        return answers

    def _hand_out(self, texts: Sequence[str], complete: bool, busy: dict[Connection, _Worker]) -> None:
        share = -(-len(texts) // len(self._workers))
        for k, start in enumerate(range(0, len(texts), share)):
            worker = self._workers[k] = self._workers[k] or self._fork()
            worker.at, worker.stop = start, min(start + share, len(texts))
            worker.due = time.monotonic() + (self._timeout_s if worker.warm else WARM_UP_S)
            busy[worker.connection] = worker
            try:
                if not worker.warm:
                    worker.connection.send(([""], False))
                worker.connection.send((list(texts[worker.at : worker.stop]), complete))
            except OSError:  # It died since: its end is found when its answer is read.
                pass

    def _collect(self, busy: dict[Connection, _Worker], answers: list[Any], texts: Sequence[str]) -> None:
        """Take in what has come, or give up on what is overdue."""
        first = min(worker.due for worker in busy.values())
        ready = wait(list(busy), max(first - time.monotonic(), 0.0))
        for connection in ready:
            worker = busy[connection]  # type: ignore[index]
            try:
                answer = worker.connection.recv()
            except (EOFError, OSError) as error:
                worker.pid = 0
                raise CallLost(f"the process that ran it died, for the text {texts[worker.at]!r}") from error
            worker.due = time.monotonic() + self._timeout_s
            if not worker.warm:
                worker.warm = True
                continue
            answers[worker.at] = answer
            worker.at += 1
            if worker.at == worker.stop:
                del busy[worker.connection]
        now = time.monotonic()
        for worker in busy.values():
            if worker.due < now:
                what = f"the text {texts[worker.at]!r}"
                if self._batched and worker.stop - worker.at > 1:
                    what = f"{worker.stop - worker.at} texts, the first of them {texts[worker.at]!r}"
                box = (
                    f"{self._timeout_s:g} s" if worker.warm else f"{WARM_UP_S:g} s in its first call, which may import,"
                )
                raise CallLost(f"took longer than {box} and was killed, for {what}")

    def _fork(self) -> _Worker:
        ours, theirs = Pipe()
        try:
            send_handle(self._nursery, theirs.fileno(), self._nursery_pid)
            pid = self._nursery.recv()
        except (EOFError, OSError) as error:
            ours.close()
            raise CallLost("the process that its workers are forked from has died: make the predicate again") from error
        finally:
            theirs.close()
        _OURS.add(ours)
        return _Worker(pid, ours)

    def _replace(self, worker: _Worker) -> None:
        # Who died by itself is reaped, and its number may be another's by now.
        if worker.pid:
            _kill(worker.pid)
        worker.connection.close()
        self._workers[self._workers.index(worker)] = None


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _close(nursery: Connection, pid: int, workers: list[_Worker | None]) -> None:
    for worker in workers:
        if worker is not None:
            _kill(worker.pid)
            worker.connection.close()
    nursery.close()
    _kill(pid)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _nursery(ours: Connection, theirs: Connection, serve: Serve) -> NoReturn:
    """The process that forks workers: for every end of a pipe that it gets, one that serves it, whose number it sends back."""
    try:
        ours.close()
        for other in list(_OURS):
            other.close()
        # Ctrl-C is the parent's affair; who ends is reaped by the system.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            descriptor = recv_handle(theirs)
            pid = os.fork()
            if pid == 0:
                theirs.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _work(Connection(descriptor), serve)
            os.close(descriptor)
            theirs.send(pid)
    except BaseException:
        os._exit(1)


def _work(connection: Connection, serve: Serve) -> NoReturn:
    try:
        while True:
            texts, complete = connection.recv()
            for answer in serve(texts, complete):
                connection.send(answer)
    finally:
        os._exit(0)
