"""Which signals there are: by their name, or by the file or model that makes one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

from decoding.adaptation.signal import Signal
from grammars.errors import RequestError


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

    name    one of SIGNALS; the path of a .npz file, a `LinearSignal`; or transformers:FOLDER_OR_HUB_NAME#LABEL
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
    raise RequestError(
        f"signal {name!r} is not known: name one of {', '.join(sorted(SIGNALS))}, a .npz file of a linear signal, "
        "or transformers:MODEL#LABEL"
    )
