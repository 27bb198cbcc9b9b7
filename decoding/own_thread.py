"""Work of a user's own in a thread of its own: it may never end, and a pool of threads would then lack one for good."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def in_own_thread(work: Callable[[], T]) -> Future[T]:
    """What comes of the work. Python cannot end a thread: it goes on where nobody waits any more, and ends with the process."""
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()  # from here on it cannot be cancelled, and has a result or an error

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    Thread(target=run, name="reweigh-own-work", daemon=True).start()
    return done
