"""Which of k candidates is the answer? Rules over the weights w_i ∝ c_i·exp((r_i - max r) / T).

    r_i  the reward of candidate i, higher is better      T  the selection temperature, in units of the reward
    c_i  its proper weight for p(x)·1[x in C]; equal for plain draws
Drawing by these weights is self-normalised importance sampling of p(x)·1[x in C]·exp(r(x) / T). At T = 0 only the
candidates of the highest reward have weight. Ties are settled once for all rules: the heavier candidate, then the first.
Source: arXiv 2512.19905, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TypeVar

import numpy as np

from grammars.errors import RequestError
from samplers.population import effective_sample_size, normalise
from samplers.posterior import draw_one
from samplers.potential import charge

Answer = TypeVar("Answer", bound=Hashable)


def log_selection_weights(rewards: np.ndarray, temperature: float, log_weights: np.ndarray | None = None) -> np.ndarray:
    """Log of c_i·exp((r_i - max r) / T), the weights every rule below goes by.

    rewards      float64 [k], k >= 1, finite for every candidate whose weight is not zero
    temperature  T >= 0, finite
    log_weights  float64 [k], -inf for a candidate that is dead or could not be judged; zeros if None
    returns      float64 [k], unnormalised
    Raises RequestError naming the argument and the candidate.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    if rewards.ndim != 1 or not len(rewards):
        raise RequestError(f"rewards of shape {rewards.shape}: one number for each of k >= 1 candidates was wanted")
    check_temperature(temperature)
    log_weights = np.zeros(len(rewards)) if log_weights is None else np.asarray(log_weights, dtype=np.float64)
    if log_weights.shape != rewards.shape:
        raise RequestError(f"log_weights of shape {log_weights.shape} for {len(rewards)} rewards: one each was wanted")
    if not (log_weights < math.inf).all():
        at = int(np.flatnonzero(~(log_weights < math.inf))[0])
        raise RequestError(f"log_weights[{at}] is {log_weights[at]}: a number was wanted, or -inf for a dead candidate")
    living = log_weights > -math.inf
    if not living.any():
        raise RequestError(f"all of {len(rewards)} candidates have weight 0: there is none to select")
    if not np.isfinite(rewards[living]).all():
        at = int(np.flatnonzero(living & ~np.isfinite(rewards))[0])
        raise RequestError(
            f"rewards[{at}] is {rewards[at]}: a finite number was wanted; give a candidate that could not be judged "
            "log_weights -inf to leave it out"
        )
    return charge(log_weights, rewards, temperature)


def check_temperature(temperature: float) -> None:
    """Raises RequestError where it is no selection temperature."""
    if (
        isinstance(temperature, bool)
        or not isinstance(temperature, int | float | np.number)
        or not 0 <= temperature < math.inf
    ):
        raise RequestError(
            f"temperature={temperature!r}: a finite number of at least 0 was wanted, in units of the reward; "
            "0 takes the highest reward"
        )


def selection_weights(rewards: np.ndarray, temperature: float, log_weights: np.ndarray | None = None) -> np.ndarray:
    """The probabilities p_i of selection. Arguments and errors as in `log_selection_weights`.

    returns  float64 [k], sum to 1
    """
    return normalise(log_selection_weights(rewards, temperature, log_weights))


def argmax(weights: np.ndarray) -> int:
    """The candidate of the largest weight; ties go to the first.

    weights  float64 [k], sum to 1, or log weights
    """
    return int(np.argmax(weights))


def sample(weights: np.ndarray, seed: int) -> int:
    """A candidate drawn in proportion to its weight, by the one uniform that belongs to the seed.

    weights  float64 [k], sum to 1
    """
    with np.errstate(divide="ignore"):
        drawn = draw_one(np.log(weights), seed)
    assert drawn is not None, "normalised weights have a positive one"
    return drawn


def expectation(weights: np.ndarray, values: np.ndarray) -> float:
    """The mean value under the weights: the answer where answers are numbers. No candidate of weight 0 counts.

    weights  float64 [k], sum to 1
    values   float64 [k]
    """
    counted = weights > 0.0
    return float(weights[counted] @ np.asarray(values, dtype=np.float64)[counted])


def weighted_vote(weights: np.ndarray, answers: Sequence[Answer | None]) -> dict[Answer, float]:
    """Each answer's share of the weight, largest first; ties go to the answer that comes first.

    A candidate that gives no answer (None) abstains: the shares are of those that do. Empty where all abstain.

    weights  float64 [k], sum to 1
    answers  [k], what was extracted from each candidate
    """
    shares: dict[Answer, float] = {}
    for answer, weight in zip(answers, weights.tolist(), strict=True):
        if answer is not None and weight > 0.0:
            shares[answer] = shares.get(answer, 0.0) + weight
    total = math.fsum(shares.values())
    # Shares that differ by rounding are a tie: which came first must not depend on the order of a sum.
    return {
        answer: share / total for answer, share in sorted(shares.items(), key=lambda item: -round(item[1] / total, 12))
    }


def self_consistency(answers: Sequence[Answer | None], log_weights: np.ndarray | None = None) -> dict[Answer, float]:
    """The vote without a reward: every candidate counts by its proper weight alone.

    answers      [k], k >= 1
    log_weights  float64 [k], zeros if None
    Source: Wang et al. (2023), "Self-consistency improves chain of thought reasoning in language models".
    """
    return weighted_vote(selection_weights(np.zeros(len(answers)), 1.0, log_weights), answers)


def selection_ess(weights: np.ndarray) -> float:
    """Effective number of candidates the selection is among, 1 to k.

    weights  float64 [k], sum to 1
    """
    with np.errstate(divide="ignore"):
        return effective_sample_size(np.log(weights))


def kl_bound(k: int) -> float:
    """The most, in nats, that selection among k draws can part the law of the answer from that of one draw.

    Source: Beirami et al., arXiv 2401.01879, for best-of-k; a softer rule parts them less.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise RequestError(f"k={k!r}: a whole number of at least 1 was wanted, how many candidates there are")
    return math.log(k) - (k - 1) / k
