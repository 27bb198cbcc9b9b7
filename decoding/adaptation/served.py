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
    gram = (design @ design.T).double()
    ridge = RIDGE * gram.diagonal().mean().clamp_min(1e-12)
    # float64: in float32 a thousand candidates cost three digits.
    solved = torch.linalg.solve(gram + ridge * torch.eye(len(gram)).to(gram), wanted.double())
    return design.T @ solved.to(design)


@dataclass(frozen=True)
class Change:
    """What is done to one row's law: some tokens are moved against all others.

    tokens    int64 [K], ascending, each of mass above 0
    shifts    float64 [K]: added to their log p; the others keep theirs
    masses    float64 [K]: what they hold in q
    log_norm  log of what all masses then sum to, natural: taken from every log p. Where no other token has mass it is in the
              shifts, and 0 here
    kl        KL(q ‖ p), nats
    """

    tokens: np.ndarray
    shifts: np.ndarray
    masses: np.ndarray
    log_norm: float
    kl: float

    def log_ratio(self, token: int) -> float:
        """log q(token) / p(token)."""
        place = int(np.searchsorted(self.tokens, token))
        moved = place < len(self.tokens) and self.tokens[place] == token
        return (float(self.shifts[place]) if moved else 0.0) - self.log_norm

    @classmethod
    def of(cls, tokens: np.ndarray, masses: np.ndarray, rest: float, shifts: np.ndarray) -> Change:
        """tokens int64 [K], ascending; masses float64 [K], of p; rest: the mass of all other tokens; shifts float64 [K]"""
        # Those that cannot come (cut by top_p, or too unlikely for float32) do not count.
        there = masses > 0
        tokens, masses, shifts = tokens[there], masses[there], shifts[there]
        # The largest exponent taken out: a shift of 100 nats is no infinity.
        top = max(float(shifts.max(initial=-math.inf)), 0.0 if rest > 0 else -math.inf)
        moved = masses * np.exp(shifts - top)
        total = float(moved.sum()) + (rest * math.exp(-top) if rest > 0 else 0.0)
        # float32 masses sum to 1 only up to rounding.
        before = float(masses.sum()) + rest
        log_norm = math.log(total / before) + top
        kl = max(float(moved @ shifts) / total - log_norm, 0.0)
        # Where these are all there is, tokens without mass keep their part: they have no share in what is taken from all.
        taken = 0.0 if rest > 0 else log_norm
        return cls(tokens, shifts - taken, moved * (before / total), log_norm - taken, kl)


def within_budget(tokens: np.ndarray, masses: np.ndarray, rest: float, shifts: np.ndarray, budget: float) -> Change:
    """The change by the largest multiple of the shifts, at most 1, whose KL(q ‖ p) is no more than the budget, in nats."""
    whole = Change.of(tokens, masses, rest, shifts)
    if whole.kl <= budget:
        return whole
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if Change.of(tokens, masses, rest, middle * shifts).kl <= budget:
            low = middle
        else:
            high = middle
    return Change.of(tokens, masses, rest, low * shifts)
