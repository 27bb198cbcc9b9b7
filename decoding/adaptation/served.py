"""Detoxifying and debiasing in closed form: what is added to a row's logits, and what that does to the law.

Three laws of the next token, each a function of the text so far alone:
    p   the model's, tempered and truncated as the request says
    b   p with the groups of every axis at equal mass: the nearest such law, argmin KL(b ‖ p)
    q   b tilted by exp(y), y_v = β·(log ψ(text + v) - log ψ(text)) with ψ = p(wanted | text), or its natural-gradient
        offset: the d for which W(h + d) comes nearest to it in the Fisher metric of p
Drawn is from q; the target is b·1[C]·ψ(text)^β, so a token brings the weight b(x)·exp(y_x) / q(x), whatever q is.
Sources: Yang et al. (2023), UDDIA, arXiv 2210.04492, whose objective this solves; Csiszár (1975) for the I-projection.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

# Of the trace of A·Aᵀ: what keeps directions out that a handful of candidates do not tell.
RIDGE = 0.01
BISECTIONS = 20


def log_wanted(log_odds: np.ndarray | float) -> np.ndarray:
    """log p(wanted | text) of log p(unwanted)/p(wanted). float64, any shape"""
    return -np.logaddexp(0.0, log_odds)


def equalising(masses: Sequence[float], strength: float = 1.0) -> np.ndarray:
    """What to add to the log mass of each group so that all get the same: the I-projection of p.

    Among laws q with equal q(g), KL(q ‖ p) is least where q is p·exp(-λ_g) on group g with Σ λ_g = 0, that is with masses in
    proportion to the geometric mean.

    masses    [G], above 0, of disjoint groups
    strength  1 equal masses; 0 nothing; between, that part of the way in log mass
    returns   float64 [G]
    """
    logs = np.log(np.asarray(masses, dtype=np.float64))
    return strength * (logs.mean() - logs)


def natural_offset(rows: torch.Tensor, masses: torch.Tensor, twists: torch.Tensor) -> torch.Tensor:
    """The offset d of the final hidden state for which rows·d fits the twists best, by weighted least squares.

    It is the step of natural gradient on E_q[twist] - KL(q ‖ p) at d = 0, the Fisher matrix taken over the candidates.

    rows     float32 [K, D], the candidates' rows of the unembedding; masses float32 [K], of p; twists float32 [K]
    returns  float32 [D]
    """
    weights = masses / masses.sum()
    root = weights.sqrt()
    design = root[:, None] * (rows - weights @ rows)
    wanted = root * (twists - weights @ twists)
    gram = design @ design.T
    ridge = RIDGE * gram.diagonal().mean().clamp_min(1e-12)
    return design.T @ torch.linalg.solve(gram + ridge * torch.eye(len(gram), device=gram.device), wanted)


@dataclass(frozen=True)
class Change:
    """What is done to one row's law.

    shift      float32 [V]: added to log p, up to a constant; log_norm at tokens of mass 0, which keep their part
    log_norm   log Σ p·exp(shift), natural
    kl         KL(q ‖ p), nats
    """

    shift: torch.Tensor
    log_norm: float
    kl: float

    def log_ratio(self, token: int) -> float:
        """log q(token) / p(token)."""
        return float(self.shift[token]) - self.log_norm

    @classmethod
    def of(cls, masses: torch.Tensor, shift: torch.Tensor) -> Change:
        """masses  float32 [V], of p"""
        # The largest exponent taken out: a shift of 100 nats is no infinity. Tokens that cannot come (cut by top_p, or too
        # unlikely for float32) do not count: with them all others may vanish, and 0 times infinity is no law.
        there = masses > 0
        top = float(torch.where(there, shift, -math.inf).max())
        changed = masses * torch.exp(torch.where(there, shift - top, 0.0))
        total = float(changed.sum(dtype=torch.float64))
        # float32 masses sum to 1 only up to rounding.
        log_norm = math.log(total / float(masses.sum(dtype=torch.float64))) + top if total > 0 else -math.inf
        kl = float((changed * shift).sum(dtype=torch.float64)) / total - log_norm if total > 0 else math.inf
        return cls(torch.where(there, shift, log_norm), log_norm, max(kl, 0.0))


def within_budget(masses: torch.Tensor, shift: torch.Tensor, budget: float) -> Change:
    """The change by the largest multiple of a shift, at most 1, whose KL(q ‖ p) is no more than the budget, in nats."""
    whole = Change.of(masses, shift)
    if whole.kl <= budget:
        return whole
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if Change.of(masses, middle * shift).kl <= budget:
            low = middle
        else:
            high = middle
    return Change.of(masses, low * shift)
