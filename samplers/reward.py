"""What a reward is, and rewards by name: a judge's number for a finished text, higher is better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from grammars.errors import RequestError
from samplers.named import Named

if TYPE_CHECKING:
    from samplers.judge import Judge


@dataclass(frozen=True)
class Candidate:
    """A text to be judged.

    prompt       what it answers, as text
    text         the answer
    log_prob     log p(text, its end included | prompt) at the request's temperature; None where it is not known
    certainty    Σ over its tokens of KL(uniform ‖ p), nats; None where it is not known
    num_tokens   tokens of the text, its end included
    """

    prompt: str
    text: str
    log_prob: float | None = None
    num_tokens: int = 0
    certainty: float | None = None


class Reward(Protocol):
    """Judges texts. Pure: the same candidate has the same reward, whatever stands beside it."""

    def score(self, candidates: Sequence[Candidate]) -> np.ndarray:
        """One number for each candidate, higher is better.

        returns  float64 [K]; NaN says that a candidate cannot be judged
        """


REWARDS: Named[Reward | Judge] = Named("reward", "samplers.rewards", ", or give a function")
reward = REWARDS.register


def reward_names() -> list[str]:
    return REWARDS.names()


def reward_named(spec: str | Mapping[str, Any]) -> Reward | Judge:
    """The reward of a name or of {name: options}, or the judge, whose questions a model has yet to be asked.

    Raises RequestError naming what is wrong.
    """
    return REWARDS.made(spec)


def distinct(candidates: Sequence[Candidate]) -> tuple[list[int], list[int]]:
    """Candidates of one text, after one prompt, are judged once.

    returns  the places of the first of each kind, ascending; [K] for each candidate, which of these it is like
    """
    kinds: dict[tuple[str, str], int] = {}
    firsts: list[int] = []
    like: list[int] = []
    for place, one in enumerate(candidates):
        kind = kinds.setdefault((one.prompt, one.text), len(kinds))
        if kind == len(firsts):
            firsts.append(place)
        like.append(kind)
    return firsts, like


def judged(scores: Any, count: int, who: str) -> np.ndarray:
    """A judge's answer as float64 [count]; RequestError where it is not one finite number (or NaN or None) a candidate."""
    try:
        scores = list(scores)
        if any(isinstance(score, str) for score in scores):
            raise TypeError("text is no number")
        values = np.array([math.nan if score is None else float(score) for score in scores], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise RequestError(f"{who} returned {scores!r:.80}: one number for each candidate was wanted") from error
    if len(values) != count:
        raise RequestError(f"{who} returned {len(values)} numbers for {count} candidates")
    if np.isinf(values).any():
        raise RequestError(
            f"{who} returned an infinite reward for candidate {int(np.flatnonzero(np.isinf(values))[0])}"
        )
    return values
