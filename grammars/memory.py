"""Memory of constraints that are gone, given back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys


def give_back() -> None:
    """Collect what refers to itself, as a constraint and its states do, and have the C library return its free pages.

    Python's own collection of old objects comes rarely in a process with a model in it, and knows nothing of the mask engine's
    memory that hangs on them. Where the C library cannot be asked (another system, another allocator) it keeps its pages.
    Source: glibc manual, malloc_trim(3).
    """
    gc.collect()
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
