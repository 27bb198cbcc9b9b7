"""The last matrix of a model that vLLM runs, where it can be had as it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Unembedding:
    """weight  [V', D] with V' >= V columns of logits; scale: of the logits"""

    weight: torch.Tensor
    scale: float

    def rows(self, tokens: torch.Tensor) -> torch.Tensor:
        """float32 [K, D]. tokens  int64 [K], on the device"""
        return self.weight[tokens].float() * self.scale


def unembedding_of(runner: Any, size: int) -> Unembedding | None:
    """The unembedding of a model runner's model; None where logits are not scale·W·h of one plain matrix.

    So it is where the matrix is split among ranks, quantised, given LoRA adapters or packed away, or the logits are capped.
    size  V, columns of the logits
    """
    model = runner.get_model()
    head, processor = getattr(model, "lm_head", None), getattr(model, "logits_processor", None)
    weight = getattr(head, "weight", None)
    if processor is None or not isinstance(weight, torch.Tensor) or not weight.is_floating_point() or weight.ndim != 2:
        return None
    if getattr(processor, "soft_cap", None) is not None or getattr(head, "tp_size", 1) != 1 or weight.shape[0] < size:
        return None
    return Unembedding(weight.detach(), float(getattr(processor, "scale", 1.0)))
