"""Signals that a caller hands over as objects: the model runner finds them in its own process, while somebody holds them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from weakref import WeakValueDictionary

from decoding.adaptation.signal import Signal
from decoding.adaptation.signals import signal_named
from grammars.errors import RequestError

_COUNTER = itertools.count()
_PREFIX = "held:"
_BY_HANDLE: WeakValueDictionary[str, Signal] = WeakValueDictionary()


def handle_of(signal: object) -> str:
    """Under which `signal_of` finds a signal: its name, or for an object a handle. Raises RequestError for what is none."""
    if isinstance(signal, str):
        return signal
    if not callable(getattr(signal, "log_odds", None)):
        raise RequestError(f"signal={signal!r:.80}: a name, or an object with log_odds(texts), was wanted")
    held: Signal = signal  # type: ignore[assignment]
    for handle, one in list(_BY_HANDLE.items()):
        if one is held:
            return handle
    handle = f"{_PREFIX}{os.getpid()}-{next(_COUNTER)}"
    try:
        _BY_HANDLE[handle] = held
    except TypeError as error:  # a class with __slots__ and without __weakref__
        raise RequestError(f"signal={signal!r:.80} cannot be held: {error}; use an object without __slots__") from error
    return handle


def signal_of(handle: str, named: Callable[[str], Signal] = signal_named) -> Signal:
    """The signal of a name or a handle. Raises RequestError for one there is not, or that lives in another process."""
    if not handle.startswith(_PREFIX):
        return named(handle)
    found = _BY_HANDLE.get(handle)
    if found is None:
        raise RequestError("the signal lives in another process than the model, or is gone: give it a name there")
    return found
