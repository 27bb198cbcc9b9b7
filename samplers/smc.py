"""Sequential Monte Carlo as a decision: weights in, ancestors out.

    for each step:  w_n <- w_n * increment_n
                    if ESS(w * phi) < threshold * N:  draw ancestors in proportion to w * phi;  w <- mean(w * phi) / phi
A text that has ended is worth more than its weight while others go on: those may never end within their bound. So the ended ones
never all go. Where they would get less than one place of N, one is drawn among them that keeps the weight of all of them, and
the other N - 1 places share that of the others: proper as well, since each part is drawn in proportion to its own weights.
The engine (a table in tests, vLLM's scheduler in earnest) makes the increments and copies the particles.
Source: Del Moral, Doucet & Jasra (2006), "Sequential Monte Carlo samplers"; twists as in Whiteley & Lee (2014).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from grammars.errors import RequestError
from samplers import resampling as schemes
from samplers.population import Population, effective_sample_size, log_sum_exp, normalise
from samplers.randomness import MAX_SEED, Purpose, uniforms

_STEPS = 16


@dataclass(frozen=True)
class SMC:
    """When to resample, and whom. Stateless: the same population, increments and seed give the same ancestors.

    num_particles   N
    ess_threshold   resample when ESS < threshold * N; 0 never does: importance sampling; 1 does at any inequality
    resampling      systematic, stratified, residual or multinomial
    seed            0 to 2^64 - 1; resampling at step t uses the uniforms of (seed, step t), apart from those of tokens
    resample_every  also resample whenever this many steps are done, whatever the ESS
    """

    num_particles: int
    ess_threshold: float = 0.5
    resampling: str = "systematic"
    seed: int = 0
    resample_every: int | None = None

    def __post_init__(self) -> None:
        if not _is_int(self.num_particles) or self.num_particles < 1:
            raise RequestError(
                f"num_particles={self.num_particles!r} must be a whole number of at least 1; 1 runs a single particle."
            )
        threshold = self.ess_threshold
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0.0 <= threshold <= 1.0:
            raise RequestError(
                f"ess_threshold={threshold!r} must be a number from 0 (never resample) to 1 (at any inequality); "
                "0.5 is usual."
            )
        schemes.scheme(self.resampling)
        if not _is_int(self.seed) or not 0 <= self.seed <= MAX_SEED:
            raise RequestError(f"seed={self.seed!r} must be a whole number from 0 to 2**64 - 1.")
        every = self.resample_every
        if every is not None and (not _is_int(every) or every < 1):
            raise RequestError(f"resample_every={every!r} must be None or a whole number of steps of at least 1.")

    def start(self, log_twists: np.ndarray | None = None) -> Population:
        """N particles of weight 1, before any step.

        log_twists  float64 [N], zeros if None
        """
        zeros = np.zeros(self.num_particles)
        return Population(zeros, zeros if log_twists is None else _finite_or_dead(log_twists))

    def step(
        self,
        population: Population,
        increments: np.ndarray,
        log_twists: np.ndarray | None = None,
        done: np.ndarray | None = None,
    ) -> tuple[Population, np.ndarray | None]:
        """Charge one step's weights, and resample if that pays.

        increments  float64 [N]  log weights of this step; 0 for a particle that had finished before. A NaN or +inf is
                                 no weight: that particle dies, the others go on.
        log_twists  float64 [N]  log phi of the new prefixes, in place of the old ones; the old ones stay if None.
                                 -inf says that no continuation has positive potential: the particle dies. A particle
                                 that has just finished is charged its potential in `increments`, for good, and has
                                 twist 0 from then on.
        done        bool [N]     finished particles: they take part in resampling, one stays in any case, and once all
                                 that live are done none is needed
        returns     the new population and, if it was resampled, ancestors int64 [N] in which every survivor keeps its
                    own slot
        """
        twists = population.log_twists if log_twists is None else _finite_or_dead(log_twists)
        log_weights = population.log_weights + _finite_or_dead(increments)
        log_weights = np.where(twists == -math.inf, -math.inf, log_weights)
        stepped = Population(log_weights, twists, population.step + 1)
        ended = np.zeros(self.num_particles, dtype=bool) if done is None else done & ~stepped.dead
        if not self._resamples(stepped, ended):
            return stepped, None
        ancestors, log_masses = self._draw(stepped, ended)
        return stepped.resample(ancestors, log_masses), ancestors

    def _resamples(self, population: Population, ended: np.ndarray) -> bool:
        going_on = ~ended & ~population.dead
        if self.num_particles == 1 or not going_on.any():
            return False
        if self.resample_every is not None and population.step % self.resample_every == 0:
            return True
        twisted, count = population.twisted, self.num_particles
        if ended.sum() == 1 and _places(twisted, ended) < 1.0:
            # It stays as it is: whether it pays is the others' affair.
            twisted, count = twisted[~ended], count - 1
        # Equal weights have ESS = N up to rounding: they are not worth a draw.
        return effective_sample_size(twisted) < self.ess_threshold * count * (1.0 - 1e-12)

    def _draw(self, population: Population, ended: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Ancestors int64 [N], every survivor in its own slot, and the log twisted mass of each copy; None where it is the mean."""
        twisted, count = population.twisted, self.num_particles
        numbers = _uniforms_of_steps(self.seed, population.step // _STEPS, count + 1)[population.step % _STEPS]
        scheme = schemes.scheme(self.resampling)
        if not ended.any():
            return schemes.keep_in_place(scheme(normalise(twisted), numbers[:count])), None
        places = _places(twisted, ended)
        kept = 1 if places < 1.0 else min(schemes.rounded(places, numbers[-1]), count)
        drawn = [
            np.flatnonzero(part)[scheme(normalise(twisted[part]), some)]
            for part, some in ((ended, numbers[:kept]), (~ended, numbers[kept:count]))
            if len(some)
        ]
        ancestors = schemes.keep_in_place(np.concatenate(drawn))
        if places >= 1.0:
            return ancestors, None
        of_others = log_sum_exp(twisted[~ended]) - math.log(count - 1)
        return ancestors, np.where(ended[ancestors], log_sum_exp(twisted[ended]), of_others)


def _places(twisted: np.ndarray, some: np.ndarray) -> float:
    """How many of N places the weights of some particles are worth."""
    return len(twisted) * math.exp(log_sum_exp(twisted[some]) - log_sum_exp(twisted))


@lru_cache(maxsize=64)
def _uniforms_of_steps(seed: int, block: int, count: int) -> np.ndarray:
    """What resampling draws from at steps block * _STEPS and after: made for several at once, a call costs the same.

    returns  float64 [_STEPS, count], read-only
    """
    steps = np.arange(block * _STEPS, (block + 1) * _STEPS)
    numbers = uniforms(np.full(_STEPS, seed, dtype=np.uint64), np.zeros_like(steps), steps, 0, count, Purpose.RESAMPLE)
    numbers.flags.writeable = False
    return numbers


def _finite_or_dead(log_values: np.ndarray) -> np.ndarray:
    """float64 [N] with NaN and +inf, which are no weights, turned into -inf."""
    values = np.asarray(log_values, dtype=np.float64)
    return np.where(values < math.inf, values, -math.inf)


def _is_int(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
