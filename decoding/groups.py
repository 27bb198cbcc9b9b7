"""One group of particles: what each has generated, which row computes for it, and what the SMC decision means for the engine.

Particles with equal texts ride on one row of the batch: the model is asked once for each distinct text. Pure bookkeeping
between `samplers.smc` (which decides) and `vllm_scheduler` (which carries out); no model, no vLLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np

from decoding.order import Order
from decoding.potentials import TextPotential, potential_of
from decoding.row_sampler import Post
from decoding.trace import Seen
from grammars.errors import RewardError
from samplers.population import Population

T = TypeVar("T")


class Status(StrEnum):
    """What became of a particle."""

    LIVE = "live"
    STOP = "stop"  # ended by EOS
    STOP_STRING = "stop_string"  # ended by one of the request's stop strings
    LENGTH = "length"  # cut at max_tokens, where the request allows it
    DEAD = "dead"  # weight zero


@dataclass(frozen=True, slots=True)
class Fork:
    """A new row for a text that no row goes on with: the parent's, with its newest token replaced."""

    row: int
    parent: int
    token: int


@dataclass(frozen=True, slots=True)
class Step:
    """What the engine has to do after a commit.

    forks      rows to be added; a parent may be among the retired: its blocks are wanted until the fork has them
    retired    rows nobody rides on any more
    """

    forks: tuple[Fork, ...]
    retired: tuple[int, ...]


@dataclass
class Group:
    """The particles of one request.

    A group that may resample moves in lockstep: no row samples its token t + 1 before all have theirs at t.
    tokens[i] leaves out the EOS. riders[r] are the live particles whose text row r holds, ascending; all start on row 0.
    answers is what the order asks of p's first token; certainties[i] sums KL(uniform ‖ p) over a particle's tokens, its EOS
    included. steered[i] has (nats spent, log q/p) of each of a particle's tokens, its EOS included, where the order adapts.
    ancestry lists (step, ancestors) for every resampling; ess has one entry a step. sampled counts tokens drawn, one a
    particle and step; computed counts rows the model was asked for. log_probs[i] is log p of a particle's tokens, its EOS
    included.
    """

    order: Order
    tokens: list[list[int]] = field(init=False)
    status: list[Status] = field(init=False)
    riders: dict[int, tuple[int, ...]] = field(init=False)
    population: Population = field(init=False)
    error: tuple[str, str] | None = None
    steps: int = 0
    checks: int = 0
    masks: int = 0
    sampled: int = 0
    computed: int = 0
    ess: list[float] = field(default_factory=list)
    ancestry: list[tuple[int, list[int]]] = field(default_factory=list)
    log_probs: list[float] = field(init=False)
    answers: tuple[float, ...] = ()
    certainties: list[float] = field(init=False)
    steered: list[list[tuple[float, float]]] = field(init=False)

    def __post_init__(self) -> None:
        count = self.order.num_particles
        self.smc = self.order.smc
        self.tokens = [[] for _ in range(count)]
        self.status = [Status.LIVE] * count
        self.log_probs = [0.0] * count
        self.certainties = [0.0] * count
        self.steered = [[] for _ in range(count)]
        self.riders = {0: tuple(range(count))}
        self.population = self.smc.start()
        self.traces: list[list[Seen]] = [[] for _ in range(count)]
        self._potential: TextPotential | None = None
        if self.order.potential is not None:
            try:
                self._potential = potential_of(self.order.potential, self.order.stop)
            except RewardError as error:
                self.error = "RewardError", str(error)
        self.lockstep = count > 1 and (self.smc.ess_threshold > 0 or self.smc.resample_every is not None)
        self._rows_made = 1
        # row -> what its particles drew, and the token it goes on with itself
        self._pending: dict[int, tuple[Sequence[Post], int]] = {}

    @property
    def finished(self) -> bool:
        return self.error is not None or Status.LIVE not in self.status

    @property
    def live(self) -> list[int]:
        return [i for i, status in enumerate(self.status) if status is Status.LIVE]

    def spent(self, row: int) -> float:
        """Nats that steering has spent on a row's text: its riders' texts, and so their costs, are equal."""
        return sum(kl for kl, _ in self.steered[self.riders[row][0]])

    def holds(self, row: int) -> bool:
        """Whether a row has its tokens and must wait for the others."""
        return row in self._pending

    def post(self, row: int, posts: Sequence[Post], kept: int) -> None:
        """Take in what the particles on a row drew.

        kept  the token that the row itself goes on with: one of theirs
        """
        assert row not in self._pending
        assert tuple(post.particle for post in posts) == self.riders[row], "not everyone on the row has drawn"
        assert all(post.position == len(self.tokens[post.particle]) for post in posts), (
            "a token arrived for another place than the next one"
        )
        self._pending[row] = posts, kept

    @property
    def ready(self) -> bool:
        return bool(self._pending) and (not self.lockstep or len(self._pending) == len(self.riders))

    def commit(self) -> Step:
        """Append the pending tokens, multiply the weights in, resample if it is time, and seat everyone on a row."""
        assert self.ready
        increments = np.zeros(len(self.tokens))
        drawn: dict[int, tuple[int, int]] = {}  # particle -> its row and the token it drew there
        for row, (posts, _) in self._pending.items():
            self.computed += 1
            self.masks += max(post.masks for post in posts)
            for post in posts:
                increments[post.particle] = post.log_weight
                drawn[post.particle] = row, post.token
                self._append(post)
        self.steps += 1
        log_twists = None if self._potential is None else self._charge(self._potential, drawn, increments)
        if self.lockstep:
            done = np.array([status is not Status.LIVE for status in self.status])
            self.population, ancestors = self.smc.step(self.population, increments, log_twists, done)
            self.ess.append(self.population.ess)
            if ancestors is not None:
                parents = ancestors.tolist()
                self.ancestry.append((self.steps, parents))
                self.tokens = _inherited(self.tokens, parents)
                self.status = [self.status[parent] for parent in parents]
                self.log_probs = [self.log_probs[parent] for parent in parents]
                self.certainties = [self.certainties[parent] for parent in parents]
                self.traces = _inherited(self.traces, parents)
                self.steered = _inherited(self.steered, parents)
                drawn = {child: drawn[parent] for child, parent in enumerate(parents) if parent in drawn}
        else:
            self.population = replace(self.population, log_weights=self.population.log_weights + increments)
        return self._seat(drawn)

    def _charge(
        self, potential: TextPotential, drawn: dict[int, tuple[int, int]], increments: np.ndarray
    ) -> np.ndarray | None:
        """Charge the texts that have just ended, in `increments`; the twists of the others, where there is resampling.

        Equal texts are looked at once. A text of potential 0 dies; so does a prefix that can only become such.
        returns  float64 [N]
        """
        log_twists = self.population.log_twists.copy()
        known: dict[tuple[int, int, bool], float] = {}
        for particle, (row, token) in drawn.items():
            status, tokens = self.status[particle], self.tokens[particle]
            if status is Status.DEAD:
                continue
            ended = status is not Status.LIVE
            if not ended and not (self.lockstep and len(tokens) % potential.every == 0):
                continue
            place = row, token, ended
            if place not in known:
                try:
                    known[place] = potential.log_phi(tokens, ended)
                except RewardError as error:
                    self.error = "RewardError", str(error)
                    return None
            if ended:
                increments[particle] += known[place]
            log_twists[particle] = 0.0 if ended else known[place]
            if known[place] == -np.inf:
                self.status[particle] = Status.DEAD
                increments[particle], log_twists[particle] = -np.inf, 0.0
        return log_twists

    def _append(self, post: Post) -> None:
        self.sampled += 1
        self.checks += post.checks
        particle = post.particle
        self.log_probs[particle] += post.logprob
        self.certainties[particle] += post.certainty
        self.answers = self.answers or post.answers
        if post.error is not None:
            self.error = post.error
        if self.order.adapt is not None:
            self.steered[particle].append((post.kl, post.log_ratio))
        if post.seen is not None:
            self.traces[particle].append(post.seen)
        if post.log_weight == -np.inf or np.isnan(post.log_weight):
            self.status[particle] = Status.DEAD
        elif post.is_eos:
            self.status[particle] = Status.STOP
        else:
            self.tokens[particle].append(post.token)
            if post.is_stop:
                self.status[particle] = Status.STOP_STRING
            elif len(self.tokens[particle]) >= self.order.max_tokens:
                self.status[particle] = Status.LENGTH

    def _seat(self, drawn: dict[int, tuple[int, int]]) -> Step:
        """Live particles with equal texts share a row: the one they came from where it kept their token, a fork of it elsewhere."""
        texts: dict[tuple[int, int], list[int]] = {}
        for particle in sorted(drawn):
            if self.status[particle] is Status.LIVE:
                texts.setdefault(drawn[particle], []).append(particle)
        pending, self._pending = self._pending, {}
        for row in pending:
            del self.riders[row]
        forks = []
        for (row, token), particles in texts.items():
            if token != pending[row][1]:
                forks.append(Fork(self._rows_made, row, token))
                row = self._rows_made
                self._rows_made += 1
            self.riders[row] = tuple(particles)
        return Step(tuple(forks), tuple(row for row in pending if row not in self.riders))

    def summary(self) -> dict[str, Any]:
        """What the client needs to know of the group, as plain data."""
        return {
            "tokens": self.tokens,
            "log_probs": self.log_probs,
            "log_weights": self.population.log_weights.tolist(),
            "log_z": self.population.log_z,
            "ess": self.population.ess,
            "ess_history": self.ess,
            "ancestry": self.ancestry,
            "status": [str(status) for status in self.status],
            "steps": self.steps,
            "sampled_tokens": self.sampled,
            "computed_rows": self.computed,
            "checks": self.checks,
            "masks": self.masks,
            "error": self.error,
            "answers": list(self.answers),
            "certainties": self.certainties if self.order.certainty else None,
            "steered": self.steered if self.order.adapt is not None else None,
            "traces": [[astuple(seen) for seen in trace] for trace in self.traces] if self.order.trace else None,
        }


def _inherited(lists: Sequence[list[T]], parents: Sequence[int]) -> list[list[T]]:
    """The parents' lists: a survivor, which keeps its slot, goes on with its own; every other particle gets a copy.

    parents  with parents[i] == i for every i among them
    """
    return [lists[parent] if parent == child else list(lists[parent]) for child, parent in enumerate(parents)]
