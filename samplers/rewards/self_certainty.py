"""How far the model's laws are from uniform along a text: needs no judge."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from samplers.reward import Candidate, reward


@reward("self_certainty")
class SelfCertainty:
    """Σ KL(uniform ‖ p_t) / tokens, nats, over the laws the text was drawn from, its end included: 0 where all are flat.

    p_t is the model's own law at the request's temperature, before any constraint. `generate` has it computed where this reward
    is asked for.
    Source: Kang, Zhao & Song (2025), "Scalable best-of-N selection for large language models via self-certainty", arXiv
    2502.18581.
    """

    wants_certainty = True

    def score(self, candidates: Sequence[Candidate]) -> np.ndarray:
        return np.array([
            math.nan if one.certainty is None or not one.num_tokens else one.certainty / one.num_tokens
            for one in candidates
        ])  # fmt: skip
