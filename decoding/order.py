"""One group's order, as it travels to the engine inside `SamplingParams.extra_args`: plain data, JSON-able."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grammars.errors import RequestError
from samplers.smc import SMC
from samplers.token_samplers import token_sampler

KEY = "reweigh"
# Logits divided by less leave the range of float32.
LEAST_TEMPERATURE = 1e-4


@dataclass(frozen=True)
class Order:
    """What a group of particles is to draw: one vLLM request carries it, and so does every row the scheduler adds to it.

    constraint     the language's spec as JSON text, or None for no constraint: a text is copied and compared for nothing
    sampler        name or options of a token sampler
    temperature    p is softmax(logits / temperature); temperature > 0
    top_p          below 1, p is cut at every step to the fewest likeliest tokens that hold this share of it: the target's p
    max_tokens     tokens of a text, its EOS included
    truncate       False: the target is conditioned on ending within max_tokens (EOS is forced at the last place).
                   True: a text that reaches max_tokens is kept as it stands, a viable prefix
    stop           texts that end a text where they occur
    stream         new tokens of a single particle, or the progress of several, come back at every step
    adapt          fields of an `Adaptation`: how the rows' laws are steered; None: not at all
    prepare        the constraint may not be compiled yet where the model runs: that is done first, beside the others' steps
    trace          True: what each particle tested, and the likeliest tokens with their verdicts, come back with the result
    answers        groups of token ids: the log of the mass that p's first token has on each comes back with the result
    certainty      True: the sum over its tokens of KL(uniform ‖ p) comes back for every particle
    potential      a reward on partial text: its handle, which this process alone can resolve, or its name where the scheduler runs
    row            the row of the group this copy stands for; the request as it comes is row 0
    history        how many tokens at the end of the engine's prompt were generated (set when the row was forked)
    parent         the row it was forked from
    """

    group: str
    num_particles: int
    constraint: str | None
    sampler: str | dict[str, Any]
    temperature: float
    seed: int
    max_tokens: int
    top_p: float = 1.0
    truncate: bool = False
    ess_threshold: float = 0.5
    resampling: str = "systematic"
    resample_every: int | None = None
    stream: bool = False
    trace: bool = False
    stop: Sequence[str] = ()
    answers: Sequence[Sequence[int]] = ()
    certainty: bool = False
    potential: str | Mapping[str, Any] | None = None
    adapt: Mapping[str, Any] | None = None
    prepare: bool = False
    row: int = 0
    history: int = 0
    parent: int | None = None

    def extra_args(self) -> dict[str, Any]:
        return {KEY: {name: getattr(self, name) for name in self.__dataclass_fields__}}

    def forked(self, row: int, history: int, parent: int) -> Order:
        return replace(self, row=row, history=history, parent=parent)

    @property
    def streams_tokens(self) -> bool:
        return self.stream and self.num_particles == 1

    @property
    def smc(self) -> SMC:
        return SMC(
            num_particles=self.num_particles,
            ess_threshold=self.ess_threshold,
            resampling=self.resampling,
            seed=self.seed,
            resample_every=self.resample_every,
        )

    @classmethod
    def of(cls, sampling_params: Any) -> Order | None:
        """The order a request's sampling parameters carry; None for a request that is none of ours."""
        extra = getattr(sampling_params, "extra_args", None)
        payload = extra.get(KEY) if extra else None
        if payload is None:
            return None
        if not isinstance(payload, Mapping):
            raise RequestError(
                f"extra_args[{KEY!r}] is {type(payload).__name__}; a mapping made by Order.extra_args() was wanted"
            )
        try:
            return cls(**payload)
        except TypeError as error:
            raise RequestError(f"extra_args[{KEY!r}] does not fit: {error}; make it with Order.extra_args()") from error

    def check(self) -> None:
        """Raise RequestError naming the field that is out of range."""
        temperature = self.temperature
        if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not math.isfinite(temperature):
            raise RequestError(f"temperature={temperature!r}: a finite number was wanted")
        if temperature < LEAST_TEMPERATURE:
            raise RequestError(
                f"temperature={temperature!r} is below {LEAST_TEMPERATURE}: the target is p at that temperature, and there is none "
                "at 0. For the most likely text take `best` of several particles"
            )
        share = self.top_p
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 < share <= 1.0:
            raise RequestError(f"top_p={share!r:.80}: a number above 0 and at most 1 was wanted")
        if self.max_tokens < 1:
            raise RequestError(f"max_tokens={self.max_tokens}: at least 1 was wanted, the text's end included")
        if self.num_particles < 1:
            raise RequestError(f"num_particles={self.num_particles}: at least 1 was wanted")
        token_sampler(self.sampler)
        _ = self.smc
