"""Questions to the model, in batches, and the answers with their weights."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decoding.engine import Engine, agenerate, generate, stream
    from decoding.judging import JudgeReward
    from decoding.potentials import PartialReward
    from decoding.request import Chunk, Result
    from samplers.rewards.judge import Judge

__all__ = ["Chunk", "Engine", "Judge", "JudgeReward", "PartialReward", "Result", "agenerate", "generate", "stream"]

_ELSEWHERE = {
    "Chunk": "decoding.request",
    "Judge": "samplers.rewards.judge",
    "JudgeReward": "decoding.judging",
    "PartialReward": "decoding.potentials",
    "Result": "decoding.request",
}


def __getattr__(name: str) -> Any:
    # torch and vLLM are imported when they are used, not when a name of this package is.
    if name in __all__:
        return getattr(importlib.import_module(_ELSEWHERE.get(name, "decoding.engine")), name)
    raise AttributeError(f"module 'decoding' has no attribute {name!r}")
