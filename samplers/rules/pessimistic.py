"""Pessimistic best-of-k: the draw is tilted no further than the candidates cover, so that more of them do no harm."""

from __future__ import annotations

import numpy as np

from samplers.rule import Drawn, positive, rule


@rule("pessimistic")
class Pessimistic:
    """p_i = c_i·max(0, (r_i - λ)/beta), λ such that they sum to 1: the maximiser of the mean reward less beta/2·χ²(p ‖ c).

    Against the softmax of the KL penalty no candidate gets more than (max r - λ)/beta times its own share: a judge that is
    wrong on a few draws is not followed to them alone.

    beta  above 0, in units of the reward: near 0 the highest reward wins, and large beta leaves the draws as they are
    Source: Huang et al. (2025), "Is best-of-N the best of them? Coverage, scaling, and optimality in inference-time
    alignment", arXiv 2503.21878, algorithm 1.
    """

    takes_temperature = False

    def __init__(self, beta: float) -> None:
        self._beta = positive(beta, "rule pessimistic: beta")

    def log_weights(self, drawn: Drawn) -> np.ndarray:
        shares, usable = drawn.shares, drawn.usable
        if not usable.any():
            return np.full(len(shares), -np.inf)
        rewards = np.where(usable, drawn.rewards, -np.inf)
        excess = np.zeros(len(shares))
        excess[usable] = np.maximum(rewards[usable] - threshold(rewards[usable], shares[usable], self._beta), 0.0)
        with np.errstate(divide="ignore"):
            return np.log(shares) + np.log(excess)


def threshold(rewards: np.ndarray, shares: np.ndarray, beta: float) -> float:
    """λ with Σ shares·max(0, rewards - λ) = beta, exactly: that sum is linear between two neighbouring rewards.

    rewards, shares  float64 [k], shares sum to 1
    """
    order = np.argsort(-rewards, kind="stable")
    mass, sums = shares[order].cumsum(), (shares * rewards)[order].cumsum()
    # With the m highest above it λ = (Σ shares·r - beta)/Σ shares; it is the one that lies between the m-th and the next.
    candidates = (sums - beta) / mass
    below = np.append(rewards[order][1:], -np.inf)
    return float(candidates[np.flatnonzero(candidates >= below)[0]])
