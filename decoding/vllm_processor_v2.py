"""vLLM's logits-processor interface of the V2 model runner (the default where Triton works), over `RowSampler`.

Engine argument: logits_processors=["decoding.vllm_processor_v2:ReweighProcessorV2"].
The V2 runner reorders rows at every step and says nothing when a request leaves, so a slot's row is found by the step's own
mapping and replaced when the slot is given out again. What vLLM has kept is known from the length of the sequence: the last
token written here counts once the sequence has grown by it, and is read back from vLLM's own history otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from vllm import SamplingParams
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcessor, LogitsProcRequestState

from decoding.order import Order
from decoding.row_sampler import Row, RowSampler
from decoding.vllm_names import register_names
from decoding.vllm_params import check_params
from decoding.vllm_vocabulary import vocabulary_of

if TYPE_CHECKING:
    from vllm.config import VllmConfig


@dataclass(eq=False)
class Slot:
    """One slot's row. kept: its tokens so far, the history of a fork among them; last: the token written at the last step."""

    order: Order
    kept: list[int] = field(default_factory=list)
    last: int | None = None
    row: Row | None = None


class ReweighProcessorV2(LogitsProcessor):
    """Runs the token sampler on the rows that carry an `Order`; leaves every other row alone."""

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        self.states = req_states
        self.slots: dict[int, Slot] = {}
        register_names(vllm_config)
        self.sampler = RowSampler(vocabulary_of(vllm_config))

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        check_params(sampling_params)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        old = self.slots.pop(req_idx, None)
        if old is not None and old.row is not None:
            self.sampler.discard(old.row)
        order = Order.of(sampling_params)
        if order is not None:
            self.slots[req_idx] = Slot(order)
        return order is not None

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        places: list[int] = []
        slots: list[Slot] = []
        for place, (index, length) in enumerate(
            zip(ctx.idx_mapping_np.tolist(), ctx.seq_lens_upper_bound_np.tolist(), strict=True)
        ):
            slot = self.slots.get(index)
            if slot is None or length < self.states.prefill_len.np[index]:
                continue  # not ours, or in the middle of a prefill: whatever is sampled there is thrown away
            self._catch_up(slot, index, length)
            places.append(place)
            slots.append(slot)
        if not places:
            return logits
        rows = [slot.row for slot in slots if slot.row is not None]
        for slot, token in zip(slots, self.sampler.step(logits, places, rows), strict=True):
            slot.last = token
        return logits

    def _catch_up(self, slot: Slot, index: int, length: int) -> None:
        """Bring the slot's tokens up to the sequence's length; makes its row at the first step that samples."""
        start = int(self.states.prompt_len.np[index]) - slot.order.history
        count = length - start
        if slot.row is not None and slot.last is not None and count == len(slot.kept) + 1:
            slot.kept.append(slot.last)
        elif count != len(slot.kept):
            slot.kept[:] = self.states.all_token_ids.gpu[index, start:length].tolist()
        if slot.row is None:
            slot.row = self.sampler.add(slot.order, (), lambda: slot.kept)
