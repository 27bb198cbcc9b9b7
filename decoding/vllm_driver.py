"""The thread that owns a vLLM engine in this process: it takes groups in, steps the engine, and hands results back.

One thread touches vLLM; any number of threads and event loops submit to it, and what they submit shares one batch.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import queue
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from decoding.order import KEY, Order
from decoding.vllm_check import require_vllm
from grammars.errors import EngineError, ReweighError

# In-process engine core (predicates are Python objects), and a CPU cache that leaves room for the rest of the machine.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
# Groups handed to vLLM beyond those that fit its batch: enough to keep it full, few enough to keep its queue short.
_AHEAD = 2

_open_drivers: set[VllmDriver] = set()
_starting: set[VllmDriver] = set()
# vLLM's in-process engines share state of the process (forward context, oneDNN kernels): two must never run at once.
_vllm = threading.RLock()


@dataclass
class Ticket:
    """One group on its way through the engine.

    order       what its particles draw; prompt: token ids
    on_tokens   called in the driver's thread with new token ids of a single streamed particle
    on_step     called in the driver's thread with (steps, live, ess) after the group's steps
    done        resolves to the group's summary, with "wall_s" and "queued_s" added
    request_id  vLLM's own name for it, once it has it
    """

    order: Order
    prompt: list[int]
    on_tokens: Callable[[list[int]], None] | None = None
    on_step: Callable[[int, int, float], None] | None = None
    done: Future[dict[str, Any]] = field(default_factory=Future)
    submitted: float = field(default_factory=time.perf_counter)
    started: float | None = None
    request_id: str | None = None
    steps_seen: int = 0


Tickets = tuple[Ticket, ...]


@dataclass
class Call:
    """A function of the vLLM engine, to be run between two steps."""

    function: Callable[[Any], Any]
    result: Future[Any] = field(default_factory=Future)

    def run(self, engine: Any) -> None:
        try:
            self.result.set_result(self.function(engine))
        except Exception as error:
            self.result.set_exception(error)


class VllmDriver:
    """Runs a vLLM engine with reweigh's processor, scheduler and worker extension.

    engine_args  passed to vLLM as they are; those that would make weights unsound are refused with EngineError
    """

    def __init__(self, engine_args: dict[str, Any]) -> None:
        self._args = engine_args
        self._inbox: queue.SimpleQueue[Tickets | Call | None] = queue.SimpleQueue()
        self._gate = threading.Lock()  # nothing is put in once the failure is set
        self._backlog: deque[Ticket] = deque()
        self._tickets: dict[str, Ticket] = {}
        self._failure: EngineError | None = None
        self._ready: Future[None] = Future()
        self.engine: Any = None
        self._thread = threading.Thread(target=self._run, name="reweigh-engine", daemon=True)
        _starting.add(self)
        # A thread inside vLLM when the interpreter goes down would end the process with a crash: also one that still starts,
        # after Ctrl-C has ended the waiting for it.
        atexit.register(self.close)
        self._thread.start()
        self._ready.result()
        _open_drivers.add(self)

    # Called from any thread

    @property
    def config(self) -> Any:
        return self.engine.vllm_config

    @property
    def scheduler(self) -> Any:
        return self.engine.engine_core.engine_core.scheduler

    def submit(self, *tickets: Ticket) -> None:
        """Hand groups over, to begin in one step if there is room; their `done` resolve later."""
        self._put(tickets)

    def abort(self, ticket: Ticket) -> None:
        """Drop a group: its rows and blocks are free after the step that is under way."""
        with suppress(EngineError):  # an engine that has ended holds no rows
            self._put(Call(lambda _: self._abort(ticket)))

    def call(self, function: Callable[[Any], Any]) -> Any:
        """Run a function of the vLLM engine in the driver's thread, between two steps, and return its result."""
        call = Call(function)
        self._put(call)
        return call.result.result()

    def close(self) -> None:
        """End the engine; groups under way fail with EngineError. Idempotent."""
        atexit.unregister(self.close)
        self._inbox.put(None)
        self._thread.join()

    def _put(self, item: Tickets | Call) -> None:
        if threading.current_thread() is self._thread and not isinstance(item, Call):
            raise EngineError("a predicate or callback asked the engine that is waiting for it: use another engine")
        with self._gate:
            if self._failure is not None:
                raise self._failure
            self._inbox.put(item)

    # The driver's thread

    def _run(self) -> None:
        try:
            with _vllm:
                self.engine = self._start()
        except BaseException as error:
            self._failure = _chained(EngineError(f"vLLM did not start: {type(error).__name__}: {error}"), error)
            self._ready.set_exception(error if isinstance(error, ReweighError) else self._failure)
            atexit.unregister(self.close)
            return
        finally:
            _starting.discard(self)
        self._ready.set_result(None)
        failure = EngineError("the engine was closed; make a new one")
        try:
            while (items := self._wait()) is not None:
                with _vllm:
                    self._turn(items)
        except BaseException as error:
            failure = _chained(EngineError(f"vLLM failed while decoding: {type(error).__name__}: {error}"), error)
        finally:
            self._fail_all(failure)
            with _vllm:
                self._stop()

    def _wait(self) -> list[Tickets | Call] | None:
        """What was put in since the last turn; waits for something where there is nothing to do. None: close."""
        idle = not self._tickets and not self._backlog and not self.engine.has_unfinished_requests()
        items: list[Tickets | Call] = []
        try:
            while (item := self._inbox.get(block=idle and not items)) is not None:
                items.append(item)
        except queue.Empty:
            return items
        # Closing: what came in before goes back, to be failed with the rest.
        for one in items:
            self._inbox.put(one)
        return None

    def _turn(self, items: list[Tickets | Call]) -> None:
        """Take items in and make one step."""
        for item in items:
            if isinstance(item, Call):
                item.run(self.engine)
            else:
                self._backlog.extend(item)
        self._feed()
        for output in self.engine.step():
            self._take_output(output)
        self._report_steps()

    def _start(self) -> Any:
        arguments = sound_engine_args(self._args)
        if arguments.get("data_parallel_size", 1) != 1:
            raise EngineError(
                f"data_parallel_size={arguments['data_parallel_size']!r}: an Engine is one replica. Leave it out, or run "
                "reweigh serve, which shares requests out among several."
            )
        with vllm_environment():
            require_vllm()
            from vllm import EngineArgs
            from vllm.v1.engine.llm_engine import LLMEngine
            from vllm.v1.executor.abstract import Executor

            _refuse_unknown(arguments, [one.name for one in fields(EngineArgs)])
            config = EngineArgs(**arguments).create_engine_config()
            add_processor(config)
            engine = LLMEngine(
                vllm_config=config,
                executor_class=Executor.get_class(config),
                log_stats=not arguments["disable_log_stats"],
            )
        engine.collective_rpc("reweigh_install")
        return engine

    def _stop(self) -> None:
        """Give the engine's memory back. vLLM's own shutdown ends the process group, which all engines of a process share."""
        client, self.engine = self.engine.engine_core, None
        _open_drivers.discard(self)
        if _open_drivers:
            client._finalizer.detach()
            client.engine_core.model_executor.shutdown()
            client.engine_core.scheduler.shutdown()
            gc.unfreeze()  # vLLM hides its objects from the collector at the start
        else:
            client.shutdown()
        del client
        gc.collect()

    def _feed(self) -> None:
        """Hand groups to vLLM as it has room for them: its own queue stays short however many are submitted."""
        room = _AHEAD * self.scheduler.max_num_running_reqs
        rows = sum(ticket.order.num_particles for ticket in self._tickets.values())
        while self._backlog and rows < room:
            ticket = self._backlog.popleft()
            if not ticket.done.cancelled():
                self._add(ticket)
                rows += ticket.order.num_particles

    def _add(self, ticket: Ticket) -> None:
        from vllm.inputs.engine import tokens_input

        from decoding.vllm_params import order_params

        group = ticket.order.group
        self._tickets[group] = ticket
        try:
            ticket.request_id = self.engine.add_request(group, tokens_input(ticket.prompt), order_params(ticket.order))
        except Exception as error:
            refused = EngineError(f"vLLM refused the request: {type(error).__name__}: {error}")
            ticket.done.set_exception(error if isinstance(error, ReweighError) else _chained(refused, error))
            self._abort(ticket)

    def _abort(self, ticket: Ticket) -> None:
        if ticket in self._backlog:
            self._backlog.remove(ticket)
        if self._tickets.pop(ticket.order.group, None) is not None and ticket.request_id is not None:
            self.engine.abort_request([ticket.request_id], internal=True)
        ticket.done.cancel()

    def _take_output(self, output: Any) -> None:
        ticket = self._tickets.get(output.request_id)
        if ticket is None:
            return
        tokens = list(output.outputs[0].token_ids)
        if ticket.on_tokens is not None and tokens:
            self._tell(ticket, ticket.on_tokens, tokens)
        if output.finished and output.request_id in self._tickets:
            del self._tickets[output.request_id]
            self._complete(ticket, (output.kv_transfer_params or {}).get(KEY))

    def _complete(self, ticket: Ticket, summary: dict[str, Any] | None) -> None:
        if summary is None:
            ticket.done.set_exception(EngineError("the group was aborted inside the engine"))
            return
        now = time.perf_counter()
        times = {"wall_s": now - ticket.submitted, "queued_s": (ticket.started or now) - ticket.submitted}
        ticket.done.set_result({**summary, **times})

    def _report_steps(self) -> None:
        """Note who has begun, and tell those who listen how far their group is."""
        for ticket in list(self._tickets.values()):
            run = self.scheduler.runs.get(ticket.request_id)
            if run is None or run.group.steps == ticket.steps_seen:
                continue
            ticket.steps_seen = run.group.steps
            ticket.started = ticket.started or time.perf_counter()
            if ticket.on_step is not None:
                self._tell(ticket, ticket.on_step, run.group.steps, len(run.group.live), run.group.population.ess)

    def _tell(self, ticket: Ticket, listener: Callable[..., None], *news: Any) -> None:
        """Call a listener; one that fails (its event loop is closed, say) ends its own group, never the engine."""
        try:
            listener(*news)
        except Exception as error:
            gone = EngineError(f"the request's listener failed: {type(error).__name__}: {error}")
            if not ticket.done.done():
                ticket.done.set_exception(_chained(gone, error))
            self._abort(ticket)

    def _fail_all(self, failure: EngineError) -> None:
        with self._gate:
            self._failure = failure
        waiting: list[Future[Any]] = [ticket.done for ticket in (*self._tickets.values(), *self._backlog)]
        while not self._inbox.empty():
            item = self._inbox.get()
            if item is not None:
                waiting.extend([item.result] if isinstance(item, Call) else [ticket.done for ticket in item])
        for future in waiting:
            if not future.done():
                future.set_exception(failure)


def starting() -> bool:
    """Whether an engine is being started: a process that ends by itself then waits until it has come up."""
    return bool(_starting)


def sound_engine_args(arguments: dict[str, Any]) -> dict[str, Any]:
    """vLLM's engine arguments with reweigh's parts in them; raises EngineError for one that would make weights unsound."""
    for name, sound, reason in (
        ("async_scheduling", False, "a token has to be weighted before the next step is scheduled"),
        (
            "speculative_config",
            None,
            "speculative decoding under a constraint samples the locally masked law, not the target",
        ),
        ("scheduler_cls", None, "reweigh brings its own scheduler"),
        ("worker_extension_cls", None, "reweigh brings its own worker extension"),
    ):
        given = arguments.get(name, sound)
        if given != sound:
            raise EngineError(f"{name}={given!r} is not supported: {reason}. Leave it out.")
    return {
        "disable_log_stats": True,
        **arguments,
        "async_scheduling": False,
        "scheduler_cls": "decoding.vllm_scheduler.ReweighScheduler",
        "worker_extension_cls": "decoding.vllm_worker.WorkerExtension",
    }


def _refuse_unknown(arguments: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in arguments:
        if name not in known:
            near = get_close_matches(name, known, 1)
            raise EngineError(f"vLLM has no engine argument {name!r}" + (f": did you mean {near[0]}?" if near else ""))


def add_processor(vllm_config: Any) -> None:
    """Put reweigh's logits processor into an engine's configuration, before an engine is made of it."""
    vllm_config.model_config.logits_processors = [
        processor_for(vllm_config),
        *(vllm_config.model_config.logits_processors or []),
    ]


def processor_for(vllm_config: Any) -> str:
    """The logits processor that fits the model runner vLLM has chosen; each runner refuses the other's interface."""
    if vllm_config.use_v2_model_runner:
        return "decoding.vllm_processor_v2:ReweighProcessorV2"
    return "decoding.vllm_processor:ReweighProcessor"


def _chained(failure: EngineError, cause: BaseException) -> EngineError:
    failure.__cause__ = cause
    return failure


@contextmanager
def vllm_environment() -> Iterator[None]:
    """The environment vLLM is imported and started in: variables the user has set stay as they are, ours go afterwards."""
    added = [name for name in _ENVIRONMENT if name not in os.environ]
    os.environ.update({name: _ENVIRONMENT[name] for name in added})
    if "VLLM_LOGGING_LEVEL" in added:
        # Notices at import, before vLLM has set its logging up and beside it, that say nothing to a user.
        logging.getLogger("vllm").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\.")
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
