"""The losses of UDDIA, one number a row. Pure functions of a row's law and hidden states.

Source: Yang, Yi, Li, Liu & Xie (2023), "Unified detoxifying and debiasing in language generation via inference-time adaptive
optimization", arXiv 2210.04492, and its released code.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def detox_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of a text that is wanted: -log p(wanted | text).

    logits   [B], log odds of unwanted against wanted
    returns  [B], nats
    """
    return functional.softplus(logits)


def debias_costs(in_context: Tensor, alone: Tensor) -> Tensor:
    """What each next token costs: KL(p(a | x, c) ‖ p(a | x)) + (1 / A) Σ_a p(a | x) log(A p(a | x)).

    in_context  [B, V, A], p(a | x, c), the groups' shares once token x has been added to the context c
    alone       [V, A], p(a | x), the token's own
    returns     [B, V], nats, not negative
    """
    groups = alone.shape[-1]
    divergence = (in_context * (in_context / alone).log()).sum(dim=-1)
    return divergence + (alone * (groups * alone).log()).sum(dim=-1) / groups


def debias_loss(logprobs: Tensor, costs: Tensor) -> Tensor:
    """The expected cost of the next token: Σ_x q(x) cost(x).

    logprobs  [B, V], log q
    costs     [B, V]
    returns   [B], nats
    """
    return (logprobs.exp() * costs).sum(dim=-1)


def hellinger_gap(logprobs: Tensor, groups: Tensor) -> Tensor:
    """How unequally far a law is from the laws of the groups: the greatest difference of two Hellinger distances.

    The distance is √(1 - Σ_x √(p(x) p(x | a))).
    logprobs  [B, V], log p
    groups    [V, A], p(x | a)
    returns   [B], 0 to 1
    """
    overlap = (0.5 * logprobs).exp() @ groups.sqrt()
    distances = (1 - overlap).clamp_min(0).sqrt()
    return distances.amax(dim=-1) - distances.amin(dim=-1)


def kl_loss(logprobs: Tensor, base: Tensor) -> Tensor:
    """KL(q ‖ p).

    logprobs, base  [B, V], log q and log p
    returns         [B], nats
    """
    difference = torch.where(base > -torch.inf, logprobs - base, 0.0)
    return (logprobs.exp() * difference).sum(dim=-1)
