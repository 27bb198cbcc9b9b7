"""A language model that is a table of probabilities, and SMC run on it step by step: exact tests without a GPU.

The very same SMC object and token samplers decide here and inside vLLM's scheduler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from decoding.model import LanguageModel
from grammars.constraint import Constraint, ConstraintState
from grammars.vocabulary import Vocabulary
from samplers.population import Population
from samplers.randomness import Stream
from samplers.smc import SMC
from samplers.token_sampler import TokenSampler
from samplers.token_samplers import draw_row, row_of


@dataclass(frozen=True, eq=False)
class TableModel:
    """p(next | prefix) given by a function of the prefix.

    rule  prefix -> float64 [V], sums to 1
    """

    vocabulary: Vocabulary
    rule: Callable[[tuple[int, ...]], np.ndarray]

    @staticmethod
    def markov(vocabulary: Vocabulary, start: np.ndarray, transitions: np.ndarray) -> TableModel:
        """The next token depends on the last one only.

        start        float64 [V], sums to 1: the first token's law
        transitions  float64 [V, V], rows sum to 1: the law after each token
        """
        return TableModel(vocabulary, lambda prefix: transitions[prefix[-1]] if prefix else start)

    def next_logprobs(self, prefix: Sequence[int]) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return np.log(np.asarray(self.rule(tuple(prefix)), dtype=np.float64))


def letters(text: str) -> Vocabulary:
    """A vocabulary of single characters, with EOS after them."""
    tokens = tuple(letter.encode() for letter in text)
    return Vocabulary((*tokens, b""), (len(tokens),), len(tokens) + 1)


@dataclass(frozen=True, eq=False)
class Rollout:
    """N weighted texts.

    tokens      generated ids of each particle, EOS not included
    population  their weights; a particle that did not finish is dead
    ancestry    for each step None, or the ancestors int64 [N] it was resampled with
    """

    tokens: tuple[tuple[int, ...], ...]
    population: Population
    ancestry: tuple[np.ndarray | None, ...]
    checks: int = 0
    masks: int = 0

    @property
    def log_weights(self) -> np.ndarray:
        """float64 [N]"""
        return self.population.log_weights

    @property
    def log_z(self) -> float:
        return self.population.log_z


@dataclass
class _Particle:
    """One sequence under way; replaced, never shared, when it is copied."""

    state: ConstraintState
    tokens: tuple[int, ...] = field(default=())
    done: bool = False


def rollout(
    model: LanguageModel,
    constraint: Constraint,
    smc: SMC,
    sampler: TokenSampler,
    max_tokens: int,
    prompt: Sequence[int] = (),
    temperature: float = 1.0,
    log_potential: Callable[[tuple[int, ...], bool], float] | None = None,
) -> Rollout:
    """Run SMC over tokens: draws from p(x | prompt) * 1[x in C] * Phi(x), x of at most max_tokens tokens, EOS included.

    At the last slot EOS is forced, with weight p(EOS) * 1[complete]: the target is conditioned on the length.

    log_potential  (tokens so far, finished) -> log Phi. Of a prefix it is the twist, a guess that only steers
                   resampling; of a finished text it is charged for good. -inf of a prefix promises -inf of all it can
                   become.
    """
    assert max_tokens >= 1 and temperature > 0.0
    eos = model.vocabulary.eos
    particles = [_Particle(constraint.start()) for _ in range(smc.num_particles)]
    population = smc.start()
    ancestry: list[np.ndarray | None] = []
    checks = masks = 0
    for position in range(max_tokens):
        increments, log_twists = np.zeros(smc.num_particles), np.zeros(smc.num_particles)
        for n, particle in enumerate(particles):
            if particle.done or population.log_weights[n] == -math.inf:
                continue
            logprobs = _tempered(model.next_logprobs((*prompt, *particle.tokens)), temperature)
            if position == max_tokens - 1:
                token, log_weight = eos, float(logprobs[eos]) if particle.state.is_complete else -math.inf
            else:
                draw = draw_row(sampler, row_of(logprobs, Stream(smc.seed, n, position)), particle.state)
                token, log_weight = draw.token, draw.log_weight
                checks, masks = checks + draw.checks, masks + draw.masks
            increments[n] = log_weight
            if log_weight == -math.inf:
                continue
            if token == eos:
                particle.done = True
                if log_potential is not None:
                    increments[n] += log_potential(particle.tokens, True)
            else:
                particles[n] = _Particle(particle.state.advance(token), (*particle.tokens, token))
                if log_potential is not None:
                    log_twists[n] = log_potential(particles[n].tokens, False)
        done = np.array([particle.done for particle in particles])
        population, ancestors = smc.step(population, increments, log_twists, done)
        ancestry.append(ancestors)
        if ancestors is not None:
            particles = [_Particle(p.state, p.tokens, p.done) for p in (particles[a] for a in ancestors.tolist())]
        if np.all(done | population.dead):
            break
    return Rollout(tuple(p.tokens for p in particles), population, tuple(ancestry), checks, masks)


def _tempered(logprobs: np.ndarray, temperature: float) -> np.ndarray:
    """log of p^(1/temperature), normalised.

    logprobs  float64 [V]
    """
    if temperature == 1.0:
        return logprobs
    scaled = logprobs / temperature
    largest = scaled.max()
    tempered: np.ndarray = scaled - (largest + math.log(float(np.exp(scaled - largest).sum())))
    return tempered
