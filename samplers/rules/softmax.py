"""The rule of the target p·1[C]·exp(r/T): reward-weighted best-of-k."""

from __future__ import annotations

import numpy as np

from samplers.potential import charge
from samplers.rule import Drawn, rule


@rule("softmax")
class Softmax:
    """c_i·exp((r_i - max r)/T); at T = 0 the highest reward. Source: arXiv 2512.19905, section 2."""

    takes_temperature = True

    def log_weights(self, drawn: Drawn) -> np.ndarray:
        return charge(drawn.log_weights, drawn.rewards, drawn.temperature)
