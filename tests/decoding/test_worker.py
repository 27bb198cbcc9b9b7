"""The worker's copy of KV blocks does what vLLM's own does."""

from __future__ import annotations

import torch
from vllm.v1.worker.utils import copy_kv_cache_blocks_inplace

from decoding.engine import Engine
from decoding.vllm_worker import copy_blocks, host_blocks

BLOCKS, COPIES = 8, [(1, 5), (1, 2), (7, 0)]


def caches(dtype: torch.dtype) -> list[torch.Tensor]:
    """Three layers of [BLOCKS, heads, tokens, 2 * head size], two in one allocation; the last layer shares the first's."""
    generator = torch.Generator().manual_seed(0)
    both = torch.randn((2, BLOCKS, 3, 4, 8), generator=generator).to(dtype)
    alone = torch.randn((BLOCKS, 3, 4, 8), generator=generator).to(dtype)
    return [both[0], both[1], alone, both[0]]


def test_blocks_are_copied_as_vllm_copies_them():
    for dtype in (torch.bfloat16, torch.float32):
        expected, found = caches(dtype), caches(dtype)
        copy_kv_cache_blocks_inplace(expected, BLOCKS, COPIES)  # type: ignore[arg-type]
        copy_blocks(host_blocks(found, BLOCKS), COPIES)
        assert all(map(torch.equal, found, expected))
        assert not torch.equal(found[0], caches(dtype)[0])


def test_a_cache_in_pieces_is_left_to_vllm():
    apart = torch.zeros((3, BLOCKS, 4, 8)).transpose(0, 1)
    assert host_blocks([apart], BLOCKS) == []


def test_the_engine_copies_its_blocks_in_one_piece(engine: Engine):
    """Otherwise a fork costs ten times as much, unseen."""
    executor = engine._driver.engine.engine_core.engine_core.model_executor
    runner = executor.driver_worker.worker.model_runner
    assert len(host_blocks(runner.kv_caches, runner.kv_cache_config.num_blocks)) == len(runner.kv_caches)
