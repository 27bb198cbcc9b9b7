"""One group of particles: what each has generated, who waits for whom, and what the SMC decision means for the engine.

Pure bookkeeping between `samplers.smc` (which decides) and `vllm_scheduler` (which carries out); no model, no vLLM.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np

from decoding.member import Member
from decoding.row_sampler import Post
from samplers.population import Population


class Status(StrEnum):
    """What became of a particle."""

    LIVE = "live"
    STOP = "stop"  # ended by EOS
    LENGTH = "length"  # cut at max_tokens, where the request allows it
    DEAD = "dead"  # weight zero


@dataclass(frozen=True, slots=True)
class Step:
    """What the engine has to do after a commit.

    retired   particles whose rows end here
    forks     (child, parent) pairs: the child goes on from the parent's text; both are live afterwards
    """

    retired: tuple[int, ...]
    forks: tuple[tuple[int, int], ...]


@dataclass
class Group:
    """The particles of one request.

    A group that may resample moves in lockstep: no particle samples its token t + 1 before all have theirs at t.
    tokens[i] leaves out the EOS. ancestry lists (step, ancestors) for every resampling; ess has one entry a step.
    """

    first: Member
    tokens: list[list[int]] = field(init=False)
    status: list[Status] = field(init=False)
    population: Population = field(init=False)
    pending: dict[int, Post] = field(default_factory=dict)
    error: tuple[str, str] | None = None
    steps: int = 0
    checks: int = 0
    masks: int = 0
    sampled: int = 0
    ess: list[float] = field(default_factory=list)
    ancestry: list[tuple[int, list[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = self.first.num_particles
        self.smc = self.first.smc
        self.tokens = [[] for _ in range(count)]
        self.status = [Status.LIVE] * count
        self.population = self.smc.start()
        self.lockstep = count > 1 and (self.smc.ess_threshold > 0 or self.smc.resample_every is not None)

    @property
    def finished(self) -> bool:
        return self.error is not None or Status.LIVE not in self.status

    @property
    def live(self) -> list[int]:
        return [i for i, status in enumerate(self.status) if status is Status.LIVE]

    def holds(self, particle: int) -> bool:
        """Whether a particle has its token and must wait for the others."""
        return self.lockstep and particle in self.pending

    def post(self, particle: int, post: Post) -> None:
        """Take in what a live particle sampled."""
        assert self.status[particle] is Status.LIVE and particle not in self.pending
        assert post.position == len(self.tokens[particle]), "a token arrived for another place than the next one"
        self.pending[particle] = post

    @property
    def ready(self) -> bool:
        return bool(self.pending) and (not self.lockstep or len(self.pending) == len(self.live))

    def commit(self) -> Step:
        """Append the pending tokens, multiply the weights in, resample if it is time."""
        assert self.ready
        before = list(self.status)
        increments = np.zeros(len(self.tokens))
        for particle, post in self.pending.items():
            increments[particle] = post.log_weight
            self._append(particle, post)
        self.sampled += len(self.pending)
        self.pending = {}
        self.steps += 1
        ancestors: np.ndarray | None = None
        if self.lockstep:
            done = np.array([status is not Status.LIVE for status in self.status])
            self.population, ancestors = self.smc.step(self.population, increments, done=done)
            self.ess.append(self.population.ess)
        else:
            self.population = replace(self.population, log_weights=self.population.log_weights + increments)
        forks: tuple[tuple[int, int], ...] = ()
        if ancestors is not None:
            self.ancestry.append((self.steps, ancestors.tolist()))
            moved = [(child, parent) for child, parent in enumerate(ancestors.tolist()) if child != parent]
            for child, parent in moved:
                self.tokens[child] = list(self.tokens[parent])
                self.status[child] = self.status[parent]
            forks = tuple((child, parent) for child, parent in moved if self.status[child] is Status.LIVE)
        retired = tuple(
            i for i, status in enumerate(self.status) if before[i] is Status.LIVE and status is not Status.LIVE
        )
        return Step(retired, forks)

    def _append(self, particle: int, post: Post) -> None:
        self.checks += post.checks
        self.masks += post.masks
        if post.error is not None:
            self.error = post.error
        if post.log_weight == -np.inf or np.isnan(post.log_weight):
            self.status[particle] = Status.DEAD
        elif post.is_eos:
            self.status[particle] = Status.STOP
        else:
            self.tokens[particle].append(post.token)
            if len(self.tokens[particle]) >= self.first.max_tokens:
                self.status[particle] = Status.LENGTH

    def summary(self) -> dict[str, Any]:
        """What the client needs to know of the group, as plain data."""
        return {
            "log_weights": self.population.log_weights.tolist(),
            "log_z": self.population.log_z,
            "ess": self.population.ess,
            "ess_history": self.ess,
            "ancestry": self.ancestry,
            "status": [str(status) for status in self.status],
            "steps": self.steps,
            "sampled_tokens": self.sampled,
            "checks": self.checks,
            "masks": self.masks,
            "error": self.error,
        }
