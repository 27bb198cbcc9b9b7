"""A row's whole law: cut to its nucleus, and what it is asked for beside a draw."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

# Tokens among which most nuclei lie: a row is sorted as a whole only where they do not hold enough.
_NUCLEUS = 512


def cut_to_nucleus(logits: torch.Tensor, temperatures: Sequence[float], shares: Sequence[float]) -> None:
    """Leave of every row only its likeliest tokens, as few as hold the share of softmax(logits / temperature); in place.

    Tokens as likely as the last one kept are kept with it. What is left is the law p from then on.
    logits        float32 [N, V]; the others become -inf
    temperatures  [N]; shares: [N], above 0 and at most 1
    Source: Holtzman et al. (2020), "The curious case of neural text degeneration".
    """
    like = {"device": logits.device, "dtype": torch.float32}
    masses = torch.softmax(logits / torch.as_tensor(list(temperatures), **like)[:, None], 1)
    wanted = torch.as_tensor(list(shares), device=logits.device, dtype=torch.float64)
    likeliest = torch.topk(masses, min(_NUCLEUS, masses.shape[1])).values
    least = _least_kept(likeliest, wanted)
    flat = torch.nonzero(likeliest.sum(1, dtype=torch.float64) < wanted)[:, 0]
    if len(flat):
        least[flat] = _least_kept(torch.sort(masses[flat], descending=True).values, wanted[flat])
    logits.masked_fill_(masses < least[:, None], float("-inf"))


def _least_kept(likeliest: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The mass of the last token that is needed to hold the share: float32 [N].

    likeliest  float32 [N, K] masses, descending; wanted: float64 [N]
    """
    before = likeliest.cumsum(1, dtype=torch.float64) - likeliest
    last = (before < wanted[:, None]).sum(1, keepdim=True) - 1
    return likeliest.gather(1, last)[:, 0]


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
