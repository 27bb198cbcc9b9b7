"""What a particle saw in one step, for `trace=True`: the candidates it tested, and the likeliest tokens with their verdicts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from grammars.constraint import ConstraintState
from samplers.candidates import Candidates

LIKELIEST = 8


@dataclass(frozen=True, slots=True)
class Seen:
    """One step, plain data. Tokens are ids; a proposal is (token, log p, accepted).

    tested      candidates in the order the constraint judged them; empty where an exact mask needed no test
    likeliest   the likeliest tokens of p, whatever the sampler did, and whether the constraint lets them come next
    """

    token: int
    logprob: float
    log_weight: float
    tested: tuple[tuple[int, float, bool], ...]
    likeliest: tuple[tuple[int, float, bool], ...]


def likeliest(logprobs: np.ndarray, state: ConstraintState | None) -> tuple[tuple[int, float, bool], ...]:
    """The likeliest tokens of a row with their verdicts. logprobs  float64 [V]"""
    best = np.argpartition(-logprobs, LIKELIEST)[:LIKELIEST] if len(logprobs) > LIKELIEST else np.arange(len(logprobs))
    best = best[np.argsort(-logprobs[best], kind="stable")]
    best = best[logprobs[best] > -np.inf]
    verdicts = np.ones(len(best), dtype=bool) if state is None else state.accepts(best)
    return tuple(zip(best.tolist(), logprobs[best].tolist(), verdicts.tolist(), strict=True))


@dataclass
class Watch:
    """Notes what one particle draws and what becomes of it. Both sides go on as they are."""

    logprobs: dict[int, float] = field(default_factory=dict)
    verdicts: dict[int, bool] = field(default_factory=dict)

    def tested(self) -> tuple[tuple[int, float, bool], ...]:
        return tuple((token, self.logprobs.get(token, -np.inf), passed) for token, passed in self.verdicts.items())


class WatchedCandidates:
    """`Candidates` whose draws are noted."""

    def __init__(self, candidates: Candidates, watch: Watch) -> None:
        self._candidates = candidates
        self._watch = watch

    @property
    def log_remaining(self) -> float:
        return self._candidates.log_remaining

    def draw(self) -> tuple[int, float]:
        token, logprob = self._candidates.draw()
        self._watch.logprobs[token] = logprob
        return token, logprob

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        tokens, logprobs = self._candidates.top(k)
        self._watch.logprobs.update(zip(tokens.tolist(), logprobs.tolist(), strict=True))
        return tokens, logprobs

    def keep(self, bitmask: np.ndarray) -> None:
        self._candidates.keep(bitmask)

    def remaining(self) -> tuple[np.ndarray, np.ndarray]:
        return self._candidates.remaining()

    def random(self) -> float:
        return self._candidates.random()


class WatchedState:
    """A constraint's state whose verdicts are noted."""

    def __init__(self, state: ConstraintState, watch: Watch) -> None:
        self._state = state
        self._watch = watch

    @property
    def is_complete(self) -> bool:
        return self._state.is_complete

    @property
    def mask_is_exact(self) -> bool:
        return self._state.mask_is_exact

    def bitmask(self) -> np.ndarray | None:
        return self._state.bitmask()

    def accepts(self, tokens: np.ndarray, masked: bool = False) -> np.ndarray:
        verdicts = self._state.accepts(tokens, masked)
        self._watch.verdicts.update(zip(tokens.tolist(), verdicts.tolist(), strict=True))
        return verdicts

    def advance(self, token: int) -> ConstraintState:
        return self._state.advance(token)
