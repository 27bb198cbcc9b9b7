"""How likely the model itself finds a text, for each of its tokens: needs no judge."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from samplers.reward import Candidate, reward


@reward("mean_logprob")
class MeanLogprob:
    """log p(text | prompt) / tokens, natural log; the end of the text is one of its tokens."""

    def score(self, candidates: Sequence[Candidate]) -> np.ndarray:
        return np.array([
            math.nan if one.log_prob is None or not one.num_tokens else one.log_prob / one.num_tokens
            for one in candidates
        ])  # fmt: skip
