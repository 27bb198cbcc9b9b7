"""Questions to the model, in batches, and the answers with their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decoding.engine import Engine, agenerate, generate, stream
    from decoding.request import Chunk, Result

__all__ = ["Chunk", "Engine", "Result", "agenerate", "generate", "stream"]


def __getattr__(name: str) -> Any:
    # torch and vLLM are imported when they are used, not when a name of this package is.
    if name in ("Chunk", "Result"):
        from decoding import request

        return getattr(request, name)
    if name in __all__:
        from decoding import engine

        return getattr(engine, name)
    raise AttributeError(f"module 'decoding' has no attribute {name!r}")
