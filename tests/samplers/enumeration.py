"""Walk every branch of a sampler's random choices: exact laws instead of averages.

`branches(run)` calls run(choice) again and again with scripted choices until no branch is left; `choice(probabilities)`
picks one of several ways on. Tokens are drawn by `TreeRow`, whose draws are such choices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np

from samplers import trials
from samplers.token_sampler import Draw, TokenSampler
from samplers.token_samplers import geometric, masked, topk_residual

Choice = Callable[[np.ndarray], int]


def branches(run: Callable[[Choice], Any]) -> Iterator[tuple[float, Any]]:
    """Every outcome of run with its probability: depth first, by running it again with other scripted choices."""
    script: list[list[Any]] = []  # [index, probabilities] of each choice on the present branch
    while True:
        depth = 0

        def choice(probabilities: np.ndarray) -> int:
            nonlocal depth
            if depth == len(script):
                ways = [float(p) for p in probabilities]
                script.append([next(i for i, p in enumerate(ways) if p > 0.0), ways])
            depth += 1
            return int(script[depth - 1][0])

        outcome = run(choice)
        assert depth == len(script), "a run must make the same choices when they are scripted alike"
        yield math.prod(ways[index] for index, ways in script), outcome
        while script:
            index, ways = script[-1]
            further = next((i for i in range(index + 1, len(ways)) if ways[i] > 0.0), None)
            if further is not None:
                script[-1][0] = further
                break
            script.pop()
        if not script:
            return


@dataclass
class TreeRow:
    """Candidates whose draws are choices of the tree. Masses are float64, sums taken over what remains."""

    probs: np.ndarray
    choice: Choice
    left: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.left = np.array(self.probs, dtype=np.float64)

    @property
    def log_remaining(self) -> float:
        total = math.fsum(self.left)
        return math.log(total) if total > 0.0 else -math.inf

    def draw(self) -> tuple[int, float]:
        assert self.left.any()
        token = self.choice(self.left / math.fsum(self.left))
        log_prob = math.log(self.left[token])
        self.left[token] = 0.0
        return token, log_prob

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        order = np.lexsort((np.arange(len(self.left)), -self.left))[:k]
        tokens = order[self.left[order] > 0.0]
        log_probs = np.log(self.left[tokens])
        self.left[tokens] = 0.0
        return tokens, log_probs

    def keep(self, bitmask: np.ndarray) -> None:
        allowed = np.unpackbits(bitmask.view(np.uint8), bitorder="little")[: len(self.left)].astype(bool)
        self.left[~allowed] = 0.0

    def remaining(self) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.flatnonzero(self.left)
        log_probs = np.log(self.left[tokens])
        self.left[tokens] = 0.0
        return tokens, log_probs

    def random(self) -> float:
        return 0.5  # only what `scripted` replaces uses it


@dataclass(frozen=True)
class FixedMask:
    """A constraint state of one step over V tokens. EOS, the last token, is allowed when `complete`.

    allowed    bool [V]
    superset   bool [V]: what its bitmask says; None for a test-only constraint; `allowed` itself for an exact one
    """

    allowed: np.ndarray
    superset: np.ndarray | None = None
    calls: list[int] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        return bool(self.allowed[-1])

    @property
    def mask_is_exact(self) -> bool:
        return self.superset is not None and bool(np.array_equal(self.superset, self.allowed))

    def bitmask(self) -> np.ndarray | None:
        return None if self.superset is None else pack(self.superset)

    def accepts(self, tokens: np.ndarray, masked: bool = False) -> np.ndarray:
        assert tokens.dtype == np.int64 and tokens.ndim == 1
        assert len(set(tokens.tolist())) == len(tokens)
        assert not masked or (self.superset is not None and self.superset[tokens].all())
        self.calls.append(len(tokens))
        return self.allowed[tokens]

    def advance(self, token: int) -> FixedMask:
        assert self.allowed[token]
        return self


def pack(allowed: np.ndarray) -> np.ndarray:
    """bool [V] -> int32 [ceil(V / 32)]"""
    bits = np.zeros((len(allowed) + 31) // 32 * 32, dtype=bool)
    bits[: len(allowed)] = allowed
    return np.packbits(bits, bitorder="little").view(np.int32)


@dataclass(frozen=True)
class Law:
    """The exact law of a sampler on one row.

    mean    float64 [V]  E[w * 1{token = x}]
    square  float64 [V]  E[w^2 * 1{token = x}]
    checks  E[checks]
    dead    P(the row dies)
    """

    mean: np.ndarray
    square: np.ndarray
    checks: float
    dead: float

    @property
    def cv(self) -> float:
        """Coefficient of variation of the weight."""
        mean = self.mean.sum()
        return math.sqrt(max(self.square.sum() / mean**2 - 1.0, 0.0))


def law(sampler: TokenSampler, probs: np.ndarray, state: FixedMask, premask: bool = False, **lengths: int) -> Law:
    """Walk all branches. `lengths` shortens the runs in `trials` (SINGLES, _LONGEST_RUN): few tokens then see them all."""
    mean, square = np.zeros(len(probs)), np.zeros(len(probs))
    total = checks = dead = 0.0

    def run(choice: Choice) -> tuple[Draw, float, float]:
        row = TreeRow(probs, choice)
        if premask:
            bitmask = state.bitmask()
            assert bitmask is not None
            row.keep(bitmask)
        mass = math.fsum(row.left)
        with scripted(choice, lengths) as phantoms:
            draw = sampler.draw(row, state, premask)
        if not phantoms or draw.log_weight == -math.inf:
            weight = math.exp(draw.log_weight)
            return draw, weight, weight**2
        # The run saw no phantoms: its weight is mass * (k-1)/c. Put in their law: E[1/(c + S)] and E[1/(c + S)^2].
        scale = (sampler.rounds - 1) * mass  # type: ignore[attr-defined]
        least = round(scale / math.exp(draw.log_weight))
        first, second = inverse_moments(least, np.array(phantoms))
        return draw, scale * first, scale**2 * second

    for probability, (draw, weight, weight_squared) in branches(run):
        total += probability
        checks += probability * draw.checks
        if draw.log_weight == -math.inf:
            assert draw.token == -1 and draw.logprob == -math.inf
            dead += probability
            continue
        assert draw.token >= 0 and math.isclose(draw.logprob, math.log(probs[draw.token]), rel_tol=1e-12, abs_tol=1e-12)
        mean[draw.token] += probability * weight
        square[draw.token] += probability * weight_squared
    assert math.isclose(total, 1.0, rel_tol=1e-9)
    return Law(mean, square, checks, dead)


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)


def inverse_moments(least: int, successes: np.ndarray) -> tuple[float, float]:
    """E[1/(c + S)] and E[1/(c + S)^2], S the sum of independent Geometric(s_i) - 1 variates.

    1/(c+S) is the integral of t^(c+S-1) over (0, 1), and E[t^(G-1)] = s / (1 - (1-s) t); for the square there is a
    factor -ln t. With t = exp(-exp(y)) both are smooth and decay at both ends.
    """
    low, high = -40.0, 6.0
    y = (high - low) / 2 * _NODES + (high + low) / 2
    measure = (high - low) / 2 * _WEIGHTS * np.exp(y)
    t = np.exp(-np.exp(y))
    generating = np.prod([s / (s + (1 - s) * -np.expm1(-np.exp(y))) for s in successes], axis=0)
    integrand = measure * t**least * generating
    return float(integrand.sum()), float((integrand * np.exp(y)).sum())


@contextmanager
def scripted(choice: Choice, lengths: dict[str, int]) -> Iterator[list[float]]:
    """Make the choices that samplers take from uniforms choices of the tree; collects the chances of phantom counts.

    What is replaced (`choose`, `_again`, `_log_phantoms`, `_in_order`) has tests of its own.
    """
    phantoms: list[float] = []

    def choose(_row: Any, _tokens: np.ndarray, log_masses: np.ndarray) -> tuple[int, float]:
        masses = np.exp(log_masses)
        return choice(masses / masses.sum()), math.log(masses.sum())

    def again(_uniform: float, log_share: float) -> bool:
        share = min(math.exp(log_share), 1.0)
        return choice(np.array([1.0 - share, share])) == 1

    def log_phantoms(_uniform: float, log_success: float) -> float:
        phantoms.append(min(math.exp(log_success), 1.0))
        return -math.inf

    def in_order(row: TreeRow) -> tuple[list[int], list[float], list[float]]:
        tokens, log_probs, log_before = [], [], []
        while row.log_remaining > -math.inf:
            log_before.append(row.log_remaining)
            token, log_prob = row.draw()
            tokens.append(token)
            log_probs.append(log_prob)
        return tokens, log_probs, log_before

    with (
        mock.patch.object(masked, "choose", choose),
        mock.patch.object(topk_residual, "choose", choose),
        mock.patch.object(geometric, "_again", again),
        mock.patch.object(geometric, "_log_phantoms", log_phantoms),
        mock.patch.object(trials, "_in_order", in_order),
        mock.patch.multiple(trials, **lengths) if lengths else mock.patch.multiple(trials, SINGLES=trials.SINGLES),
    ):
        yield phantoms
