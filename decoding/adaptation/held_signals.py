"""Signals that a caller hands over as objects: the model runner finds them in its own process, while somebody holds them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from weakref import WeakKeyDictionary, WeakValueDictionary

from decoding.adaptation.signal import Signal
from decoding.adaptation.signals import signal_named
from grammars.errors import RequestError

_COUNTER = itertools.count()
_PREFIX = "held:"
_BY_HANDLE: WeakValueDictionary[str, Signal] = WeakValueDictionary()
_HANDLES: WeakKeyDictionary[Signal, str] = WeakKeyDictionary()


def handle_of(signal: object) -> str:
    """Under which `signal_of` finds a signal: its name, or for an object a handle. Raises RequestError for what is none."""
    if isinstance(signal, str):
        return signal
    if not callable(getattr(signal, "log_odds", None)):
        raise RequestError(f"signal={signal!r:.80}: a name, or an object with log_odds(texts), was wanted")
    held: Signal = signal  # type: ignore[assignment]
    try:
        if held not in _HANDLES:
            _HANDLES[held] = f"{_PREFIX}{os.getpid()}-{next(_COUNTER)}"
        _BY_HANDLE[_HANDLES[held]] = held
    except TypeError as error:
        raise RequestError(
            f"signal={signal!r:.80} cannot be held: {error}; use an object of an ordinary class"
        ) from error
    return _HANDLES[held]


def signal_of(handle: str, named: Callable[[str], Signal] = signal_named) -> Signal:
    """The signal of a name or a handle. Raises RequestError for one there is not, or that lives in another process."""
    if not handle.startswith(_PREFIX):
        return named(handle)
    found = _BY_HANDLE.get(handle)
    if found is None:
        raise RequestError("the signal lives in another process than the model, or is gone: give it a name there")
    return found
