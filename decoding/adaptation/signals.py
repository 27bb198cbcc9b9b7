"""Which signals there are: by their name, or by the file or model that makes one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

from decoding.adaptation.signal import Signal
from grammars.errors import RequestError
from grammars.places import object_at


def _profanity() -> Signal:
    from decoding.adaptation.profanity import profanity

    return profanity()


def _profanity_with_identity() -> Signal:
    from decoding.adaptation.profanity import profanity

    return profanity("kept")


# Each imports what it needs when it is asked for.
SIGNALS: Mapping[str, Callable[[], Signal]] = {
    "profanity": _profanity,
    "profanity_with_identity": _profanity_with_identity,
}


@functools.cache
def signal_named(name: str) -> Signal:
    """The signal of that name, made once a process.

    name    one of SIGNALS; the path of a .npz file, a `LinearSignal`; transformers:FOLDER_OR_HUB_NAME#LABEL; or
            module:object, an object with log_odds(texts), or a class of such that takes no arguments
    raises  RequestError for an unknown name; EngineError when what the signal needs is missing or damaged
    """
    if make := SIGNALS.get(name):
        return make()
    if name.startswith("transformers:"):
        from decoding.adaptation.transformers_signal import TransformersSignal

        model, _, label = name.removeprefix("transformers:").partition("#")
        return TransformersSignal(model, label or None)
    if name.endswith(".npz"):
        from decoding.adaptation.linear_signal import LinearSignal

        return LinearSignal.load(Path(name))
    if ":" in name:
        return _at(name)
    raise RequestError(
        f"signal {name!r} is not known: name one of {', '.join(sorted(SIGNALS))}, a .npz file of a linear signal, "
        "transformers:MODEL#LABEL or module:object"
    )


def _at(place: str) -> Signal:
    """What stands at module:object."""
    found = object_at(place, "the signal", RequestError)
    try:
        signal: Signal = found() if isinstance(found, type) else found
    except Exception as error:  # whatever the class does
        raise RequestError(f"the signal: {place} cannot be made: {type(error).__name__}: {error}") from error
    if not callable(getattr(signal, "log_odds", None)):
        raise RequestError(f"the signal: {place} is {signal!r:.80}: an object with log_odds(texts) was wanted")
    return signal
