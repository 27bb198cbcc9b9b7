"""LoRA on a CPU: rows without an adapter stay without one, whatever adapters the rest of the batch has.

vLLM marks such rows with index -1, and its kernels pass them by; its PyTorch operations for CPUs take -1 for the last adapter, so
that a request to the base model draws from another law as soon as it shares a step with one to an adapter. This may go once
vllm-project/vllm pull request 48421, or its like, is in the vLLM that is used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

_OPERATIONS = ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice")


def mend_cpu_lora() -> None:
    """Have vLLM's operations for CPUs leave rows of index -1 alone, in this process. Idempotent."""
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    for name in _OPERATIONS:
        operation = getattr(lora_ops, name)
        if not getattr(operation, "_reweigh_mended", False):
            mended = leaving_out(operation)
            # The operations for prefills call those for single rows by their names in the one module, decoding in the other.
            setattr(lora_ops, name, mended)
            setattr(punica_cpu, name, mended)


def leaving_out(operation: Callable[..., Any]) -> Callable[..., Any]:
    """The operation with nothing put in for rows of index -1: linear as it is, nothing comes out for them."""

    @wraps(operation)
    def mended(
        inputs: torch.Tensor,
        weights: torch.Tensor,
        output: torch.Tensor,
        indices: torch.Tensor,
        *more: Any,
        **named: Any,
    ) -> Any:
        inputs = inputs * (indices >= 0).unsqueeze(1).to(inputs.dtype)
        return operation(inputs, weights, output, indices, *more, **named)

    mended._reweigh_mended = True  # type: ignore[attr-defined]
    return mended
