"""vLLM's logits-processor interface of the V1 model runner, over `RowSampler`.

Engine argument: logits_processors=["decoding.vllm_processor:ReweighProcessor"].
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from decoding.order import Order
from decoding.row_sampler import Row, RowSampler
from decoding.vllm_names import register_names
from decoding.vllm_params import check_params
from decoding.vllm_vocabulary import vocabulary_of

if TYPE_CHECKING:
    from vllm.config import VllmConfig


class ReweighProcessor(LogitsProcessor):
    """Runs the token sampler on the rows that carry an `Order`; leaves every other row alone."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self.rows: dict[int, Row] = {}
        register_names(vllm_config)
        self.sampler = RowSampler(vocabulary_of(vllm_config))

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        check_params(sampling_params)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._drop(index)
        for index, params, prompt, output in batch_update.added:
            self._drop(index)
            order = Order.of(params)
            if order is not None:
                past = prompt[len(prompt) - order.history :] if prompt and order.history else []
                self.rows[index] = self.sampler.add(order, past, partial(_same, output))
        for first, second, direction in batch_update.moved:
            a, b = self.rows.pop(first, None), self.rows.pop(second, None)
            if a is not None:
                self.rows[second] = a
            if direction == MoveDirectionality.SWAP:
                if b is not None:
                    self.rows[first] = b
            elif b is not None:
                self.sampler.discard(b)

    def _drop(self, index: int) -> None:
        row = self.rows.pop(index, None)
        if row is not None:
            self.sampler.discard(row)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        if self.rows:
            places = sorted(self.rows)
            self.sampler.step(logits, places, [self.rows[place] for place in places])
        return logits


def _same(output: list[int]) -> list[int]:
    """vLLM's own list of a row's kept tokens: it grows in place."""
    return output
