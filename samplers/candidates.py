"""One row of next-token probabilities, as a token sampler sees it: tokens drawn without replacement, masses exact."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Candidates(Protocol):
    """The untested part of one row. Masses are of p itself: a masked row starts with `log_remaining` = log Z of its mask.

    The remaining mass is always a sum over the tokens that remain, never 1 minus what was drawn.
    """

    @property
    def log_remaining(self) -> float:
        """Log mass of the tokens not drawn yet; -inf when none with positive mass is left."""

    def draw(self) -> tuple[int, float]:
        """Remove and return one token, in proportion to p among those that remain, with its log p.

        Only called while log_remaining > -inf.
        """

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Remove and return the (at most) k likeliest tokens that remain.

        returns  int64 [<=k] tokens and float64 [<=k] log p, likeliest first, only tokens of positive mass
        """

    def keep(self, bitmask: np.ndarray) -> None:
        """Drop every remaining token outside a bitmask, as if it had been drawn and rejected.

        bitmask  int32 [ceil(V / 32)]
        """

    def remaining(self) -> tuple[np.ndarray, np.ndarray]:
        """All tokens that remain, removed at once: int64 [R] and float64 [R] log p, any order."""

    def random(self) -> float:
        """The row's next uniform in [0, 1): the same counter-based stream that `draw` uses."""
