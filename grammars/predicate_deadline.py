"""A call that may not take longer than its box, in the caller's own thread and without signals.

One thread watches all calls and raises an exception in the thread whose box is used up. Python delivers it between two
bytecodes: a loop in Python ends within some 50 ms of its box; a call that hangs inside C (time.sleep, a regular expression
that backtracks for ever, a query) is found out only when it returns. What may hang there belongs into a process that can
be killed: see predicate_pool.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from weakref import WeakSet

from grammars.cpu_time import CLOCK_PER_CPU, cpu_s_of_thread

T = TypeVar("T")

LOOK_S = 0.05
IDLE_S = 1.0


class TimeUp(BaseException):
    """Raised by the watch inside a call; no `except Exception` of the user's swallows it."""


class OutOfTime(Exception):
    """A call took longer than its box."""


class _Box(threading.local):
    """The box of the call that this thread makes."""

    def __init__(self) -> None:
        self.slot = _Slot(threading.get_ident())


class _Slot:
    __slots__ = ("__weakref__", "busy", "cpu_until", "deadline", "fired", "known", "look_s", "thread", "until")

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self.busy = False  # during a call and around it
        self.deadline = math.inf  # monotonic seconds; infinite between calls
        self.cpu_until = -math.inf  # the thread's CPU seconds that may be used up first, as long as it is not `until`
        self.until = math.inf
        self.look_s = LOOK_S
        self.fired = False
        self.known = False  # to the watch


class _Watch:
    """The thread that looks at all boxes. It sleeps while no call was made for a second."""

    def __init__(self) -> None:
        self.box = _Box()
        self.lock = threading.Lock()
        self.wake = threading.Event()
        self.asleep = True
        self._slots: WeakSet[_Slot] = WeakSet()
        self._thread: threading.Thread | None = None

    def rouse(self, slot: _Slot) -> None:
        with self.lock:
            self._slots.add(slot)
            slot.known = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="reweigh-predicate-deadlines", daemon=True)
                self._thread.start()
        self.wake.set()

    def _look(self) -> None:
        last_call = time.monotonic()
        while True:
            with self.lock:
                slots = list(self._slots)
                now = time.monotonic()
                for slot in slots:
                    if slot.deadline < now:
                        if (left := slot.cpu_until - cpu_s_of_thread(slot.thread)) > 0 and now < slot.until:
                            slot.deadline = now + min(max(left, LOOK_S), slot.until - now)
                            continue
                        slot.fired = True
                        # Where the function swallows it, it comes again.
                        slot.deadline = now + LOOK_S
                        _raise_in(slot.thread, TimeUp)
            boxes = [slot for slot in slots if slot.busy]
            if boxes:
                last_call = now
            elif now > last_call + IDLE_S:
                # A call that begins now sees `asleep`, or is seen here.
                self.asleep = True
                if not any(slot.busy for slot in slots):
                    del slots, boxes
                    self.wake.wait()
                self.wake.clear()
                self.asleep = False
                last_call = time.monotonic()
                continue
            time.sleep(min((slot.look_s for slot in boxes), default=LOOK_S))
            del slots, boxes


_watch = _Watch()


def _restart() -> None:
    global _watch
    _watch = _Watch()


# Threads do not survive a fork.
os.register_at_fork(after_in_child=_restart)


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    what = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), what)


def within(timeout_s: float, call: Callable[[], T], *, cpu: bool = False) -> T:
    """What a call returns or raises; OutOfTime where it takes longer. A box inside a box is the outer one.

    cpu  the box is CPU time, of which a busy machine gives less in a second; CLOCK_PER_CPU times it on the clock at most
    """
    return each_within(timeout_s, call, [()], cpu=cpu)[0]


def each_within(
    timeout_s: float,
    function: Callable[..., T],
    calls: Sequence[tuple[Any, ...]],
    outcomes: list[T] | None = None,
    *,
    cpu: bool = False,
) -> list[T]:
    """What the function returns for each tuple of arguments, each call in a box of its own.

    A call that takes longer raises OutOfTime; what a call raises is raised. Then `outcomes`, to which results are added as
    they come, says which it was. A box inside a box is the outer one.
    """
    outcomes = [] if outcomes is None else outcomes
    watch = _watch
    slot = watch.box.slot
    if slot.busy:
        outcomes.extend(function(*arguments) for arguments in calls)
        return outcomes
    slot.fired = False
    slot.look_s = LOOK_S if timeout_s > 4 * LOOK_S else max(timeout_s / 4, 0.002)
    failure: BaseException | None = None
    # Before the deadline is set: where TimeUp lands in an Event, its lock may stay held for ever.
    slot.busy = True
    if watch.asleep or not slot.known:
        watch.rouse(slot)
    now = time.monotonic
    try:
        for arguments in calls:
            if cpu:
                slot.cpu_until = cpu_s_of_thread(slot.thread) + timeout_s
                slot.until = now() + CLOCK_PER_CPU * timeout_s
            slot.deadline = now() + timeout_s
            outcomes.append(function(*arguments))
    except TimeUp:
        pass
    except BaseException as error:
        failure = error
    # From here on a TimeUp that is under way may still land, until the watch cannot send one and none is pending.
    while True:
        try:
            slot.deadline = math.inf
            with watch.lock:
                if slot.fired:
                    _raise_in(slot.thread, None)
            break
        except TimeUp:
            continue
    slot.busy, slot.cpu_until, slot.until = False, -math.inf, math.inf
    if failure is None and not slot.fired:
        return outcomes
    try:
        if slot.fired or failure is None:
            raise OutOfTime
        raise failure
    finally:
        del failure
