"""vLLM's LoRA operations for CPUs, mended: rows without an adapter are left alone, the others are what they were."""

from __future__ import annotations

import pytest
import torch

from decoding.vllm_lora import mend_cpu_lora


@pytest.mark.parametrize("name", ["bgmv_shrink", "bgmv_expand", "bgmv_expand_slice"])
def test_rows_without_an_adapter_are_left_alone(name: str):
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    mend_cpu_lora()
    mend_cpu_lora()
    mended = getattr(lora_ops, name)
    assert getattr(punica_cpu, name) is mended
    torch.manual_seed(0)
    rows, rank, width = 5, 2, 3
    wide, weights = (width, (4, 1, rank, width)) if name == "bgmv_shrink" else (rank, (4, 1, width, rank))
    inputs, adapters = torch.randn(rows, wide), torch.randn(weights)
    indices = torch.tensor([0, -1, 3, -1, 2])
    more = {"bgmv_shrink": (0.5,), "bgmv_expand": (True,), "bgmv_expand_slice": (0, width, True)}[name]
    start = torch.zeros(rows, rank) if name == "bgmv_shrink" else torch.randn(rows, width)
    made, alone, original = start.clone(), start.clone(), start.clone()
    mended(inputs, adapters, made, indices, *more)
    with_one = indices >= 0
    part = alone[with_one]
    mended.__wrapped__(inputs[with_one], adapters, part, indices[with_one], *more)
    alone[with_one] = part
    torch.testing.assert_close(made, alone, rtol=0, atol=0)
    # What makes it needed: the day this fails, vLLM leaves such rows alone itself, and the mend may go.
    mended.__wrapped__(inputs, adapters, original, indices, *more)
    assert not torch.equal(original[1], start[1])
