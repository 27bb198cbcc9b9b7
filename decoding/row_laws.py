"""What a row's whole law is asked for beside a draw: the mass of some answers, and how far it is from uniform."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def log_masses(logits: torch.Tensor, groups: Sequence[Sequence[int]], temperature: float) -> tuple[float, ...]:
    """The log of the mass that softmax(logits / temperature) has on each group of tokens.

    logits   float32 [V]
    groups   token ids of each group; of an empty one the mass is 0
    returns  [groups], natural log; -inf for mass 0
    """
    scaled = logits.double() / temperature
    total = float(torch.logsumexp(scaled, 0))
    return tuple(
        float(torch.logsumexp(scaled[torch.as_tensor(list(group), device=logits.device)], 0)) - total
        if len(group)
        else -math.inf
        for group in groups
    )


def self_certainty(logits: torch.Tensor, temperatures: Sequence[float]) -> list[float]:
    """KL(uniform ‖ p) of each row, nats: -(1/V) Σ log(V·p(v)), from 0 for a flat law.

    Columns of -inf, which stand for no token, are not counted.

    logits        float32 [N, V]
    temperatures  [N], of p
    returns       [N]
    Source: Kang, Zhao & Song (2025), "Scalable best-of-N selection for large language models via self-certainty", arXiv
    2502.18581.
    """
    scaled = logits / torch.as_tensor(list(temperatures), device=logits.device, dtype=torch.float32)[:, None]
    there = torch.isfinite(scaled)
    counts = there.sum(1).double()
    means = torch.where(there, scaled, 0.0).sum(1, dtype=torch.float64) / counts
    certainty: list[float] = (torch.logsumexp(scaled, 1).double() - means - counts.log()).tolist()
    return certainty
