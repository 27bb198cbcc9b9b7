"""Constraints of requests compiled in processes that can be killed, before the engine hears of them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import multiprocessing
import time
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from grammars.cpu_time import cpu_waits
from grammars.errors import EngineError, GrammarError, OverBudget, ReweighError, error_named, kind_of
from grammars.vocabulary import Vocabulary

WORKERS = 2
REMEMBERED = 4096
# What was refused is not tried again for so long: a refusal may have been the machine's load, and is no longer for ever.
REFUSED_S = 60.0
START_S = 60.0
# Beyond the compile budget, which ends Python and the known native compilers by itself.
GRACE_S = 2.0


class CompilePool:
    """Says of a spec whether it compiles and can be satisfied, and how it is written for the engine.

    places     name -> module:object of the constraints that go by name; databases: name -> file or URL
    """

    def __init__(self, vocabulary: Vocabulary, places: Mapping[str, str], databases: Mapping[str, str]) -> None:
        from grammars.llguidance_probe import timeout_s

        self._budget_s = timeout_s()
        self._settings = (vocabulary, dict(places), dict(databases))
        self._threads = ThreadPoolExecutor(WORKERS, thread_name_prefix="reweigh-compile")
        self._idle: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()
        self._workers = [_Worker(*self._settings) for _ in range(WORKERS)]
        for worker in self._workers:
            self._idle.put_nowait(worker)
        self._known: OrderedDict[bytes, str] = OrderedDict()
        self._refused: OrderedDict[bytes, _Refused] = OrderedDict()
        self._asking: dict[bytes, asyncio.Future[str]] = {}

    async def start(self) -> None:
        """Start the processes; without this the first request for each does. Raises EngineError where one cannot be."""
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(self._threads, worker.start) for worker in self._workers))

    async def compiled(self, spec: Mapping[str, Any]) -> str:
        """The spec as the engine takes it. Raises GrammarError, Unsatisfiable, OverBudget.

        Whoever waits may be cancelled: the worker is free again once it has answered or is dead.
        """
        text = json.dumps(spec)
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key] or text
        if (refused := self._refused.get(key)) is not None and time.monotonic() < refused.until:
            raise refused.error()
        # Who asks for the same at the same time waits for the same answer; nobody who leaves takes it from the others.
        if key not in self._asking:
            self._asking[key] = asyncio.ensure_future(self._ask(key, text))
            self._asking[key].add_done_callback(lambda done: self._asked(key, done))
        return await asyncio.shield(self._asking[key])

    def _asked(self, key: bytes, done: asyncio.Future[str]) -> None:
        del self._asking[key]
        if not done.cancelled():
            done.exception()  # told to those who wait; where all have left there is nobody to tell

    async def _ask(self, key: bytes, text: str) -> str:
        try:
            made = await self._verdict(text)
        except GrammarError as error:
            self._refused[key] = _Refused(type(error), str(error), time.monotonic() + REFUSED_S)
            if len(self._refused) > REMEMBERED:
                self._refused.popitem(last=False)
            raise
        # Most specs are written as they came: remember that, not each text.
        self._known[key] = "" if made == text else made
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return made

    async def _verdict(self, text: str) -> str:
        worker = await self._idle.get()
        try:
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(self._threads, worker.ask, text, self._budget_s + GRACE_S)
        finally:
            self._idle.put_nowait(worker)
        if answer is None:
            raise OverBudget(
                f"the constraint was not compiled within {self._budget_s:g} s, or took its compiler down: make it smaller"
            )
        kind, said = answer
        if kind is None:
            return said
        raise error_named(kind, said)

    def close(self) -> None:
        """End the processes. Idempotent."""
        for worker in self._workers:
            worker.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class _Refused:
    """How a spec was refused, and until when (monotonic seconds) it is not tried again."""

    kind: type[ReweighError]
    message: str
    until: float

    def error(self) -> ReweighError:
        return self.kind(self.message)


class _Worker:
    """One process; started again after it was killed."""

    def __init__(self, vocabulary: Vocabulary, places: dict[str, str], databases: dict[str, str]) -> None:
        self._settings = (vocabulary, places, databases)
        self._process: Any = None
        self._connection: Connection | None = None

    def ask(self, text: str, timeout_s: float) -> tuple[str | None, str] | None:
        """(None, spec) or (error's type, its text); None where its CPU time was used up first. EngineError: there is no process."""
        self.start()
        assert self._connection is not None
        try:
            self._connection.send_bytes(text.encode("utf-8", "surrogatepass"))
            wait = cpu_waits(self._process.pid, timeout_s)
            while not self._connection.poll(left := next(wait)):
                if left == 0.0:
                    break
            else:
                answer: tuple[str | None, str] = self._connection.recv()
                return answer
        except (EOFError, OSError):  # it crashed
            pass
        self.stop()
        return None

    def start(self) -> None:
        """Start the process, where there is none. Raises EngineError where that fails: no fault of what is to be compiled."""
        if self._process is not None:
            return
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, *self._settings), daemon=True, name="reweigh-compile"
        )
        self._process.start()
        theirs.close()
        failure: str | None = f"it was not ready within {START_S:g} s"
        with contextlib.suppress(EOFError, OSError):
            if self._connection.poll(START_S):
                failure = self._connection.recv()
        if failure is not None:
            self.stop()
            raise EngineError(f"the process that compiles constraints did not start: {failure}")

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.join()
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _serve(connection: Connection, vocabulary: Vocabulary, places: dict[str, str], databases: dict[str, str]) -> None:
    """The process's main: specs in, verdicts out, until the other side is gone."""
    import signal

    from grammars import registry
    from grammars.named import register_from
    from grammars.registry import compile_spec, language_from_spec

    # What matters is the verdict, and that is remembered in front: compiled constraints are kept where the model runs.
    registry.CACHED_CONSTRAINTS = 8
    # Ctrl-C in a terminal reaches the whole group; this process ends when its parent does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        register_from(places, databases)
    except ReweighError as error:
        connection.send(str(error))
        return
    connection.send(None)
    with contextlib.suppress(EOFError, OSError):
        while True:
            text = connection.recv_bytes().decode("utf-8", "surrogatepass")
            connection.send(_verdict(text, vocabulary, compile_spec, language_from_spec))


def _verdict(text: str, vocabulary: Vocabulary, compile_spec: Any, language_from_spec: Any) -> tuple[str | None, str]:
    try:
        made = json.dumps(language_from_spec(json.loads(text)).spec)
        compile_spec(made, vocabulary).start()
        return None, made
    except ReweighError as error:
        return kind_of(error), str(error)
    except Exception as error:  # a defect in a compiler: told, not hidden, and the process goes on
        return "EngineError", f"internal error while the constraint was compiled: {type(error).__name__}: {error}"
