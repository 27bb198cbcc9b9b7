"""What is asked of the engine, and what comes back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from grammars.constraint import Language
from grammars.errors import ParseError, ReweighError
from samplers.judge import Verdict
from samplers.population import effective_sample_size, log_mean_exp, normalise
from samplers.posterior import draw_one, posterior
from samplers.rule import Drawn, Rule
from samplers.rules.softmax import Softmax
from samplers.selection import expectation, weighted_vote


@dataclass(frozen=True)
class Request:
    """One prompt, its constraint, and how to sample: everything that decides the result, the seed included.

    prompt        token ids
    constraint    the language every finished text belongs to; None leaves p as it is. spec: the same as JSON text
    particles     N, run side by side in one batch
    sampler       auto, masked, awrs, lcd or a dict of options; see samplers.token_samplers
    ess_threshold resample when ESS < threshold * N; 0 is importance sampling
    temperature   the target's p is softmax(logits / temperature)
    top_p         below 1, the target's p is at every step cut to the fewest likeliest tokens that hold this share
    max_tokens    tokens of a text, its end included
    truncate      False conditions the target on ending within max_tokens; True keeps a text that has not ended, as a prefix
    trace         whether the result says what every particle tested
    stop          texts that end a text where they occur, whatever the constraint would still want
    potential     a reward on partial text (a TextPotential or NamedPotential), or None: a factor of the target, in log_weights
    adapt         how the law of every token is steered, `settle`d for this prompt, or None
    certainty     whether the result says how far from uniform the laws were that each text was drawn from
    """

    prompt: tuple[int, ...]
    constraint: Language | None
    spec: str | None
    particles: int
    sampler: str | dict[str, Any]
    ess_threshold: float
    resampling: str
    temperature: float
    max_tokens: int
    seed: int
    truncate: bool = False
    resample_every: int | None = None
    trace: bool = False
    stop: tuple[str, ...] = ()
    certainty: bool = False
    potential: Any = None
    top_p: float = 1.0
    adapt: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Usage:
    """Tokens: prompt_tokens once; completion_tokens of the returned texts; sampled_tokens of all particles, replaced ones too;
    judge_tokens of the questions to a model that judged, with one each for its answer."""

    prompt_tokens: int
    completion_tokens: int
    sampled_tokens: int
    judge_tokens: int = 0


@dataclass(frozen=True)
class Stats:
    """Work and time of one request.

    checks, masks   candidates tested over all particles; bitmasks computed, one for particles with equal texts
    computed_rows   rows of logits the model was asked for: at most one a token, since equal texts share one
    wall_s          from submission to the last token, seconds; queued_s of these before the first token
    ess_history     ESS after every step [steps]; ancestry: (step, parent of each particle) at every resampling
    """

    steps: int
    checks: int
    masks: int
    resamplings: int
    wall_s: float
    queued_s: float
    ess_history: tuple[float, ...] = ()
    sampled_tokens: int = 0
    computed_rows: int = 0

    @property
    def checks_per_token(self) -> float:
        return self.checks / max(self.sampled_tokens, 1)

    @property
    def masks_per_token(self) -> float:
        return self.masks / max(self.sampled_tokens, 1)


@dataclass(frozen=True)
class Proposal:
    """A candidate for the next token. text: its bytes as text, "" for the end; accepted: the constraint's verdict."""

    text: str
    logprob: float
    accepted: bool


@dataclass(frozen=True)
class TraceStep:
    """One step of one particle, with `trace=True`.

    prefix       the text before it
    token        what was chosen; "" is the end of the text
    log_weight   log of the factor it brought to the weight: an estimate of the mass the constraint allows here
    tested       candidates in the order the constraint judged them; empty where an exact mask needed no test
    likeliest    the likeliest tokens of p, and whether the constraint lets them come next: where the mass went
    """

    prefix: str
    token: str
    logprob: float
    log_weight: float
    tested: tuple[Proposal, ...]
    likeliest: tuple[Proposal, ...]


@dataclass(frozen=True)
class Steered:
    """What detoxifying and debiasing did to the texts' laws. T_n counts a text's tokens, its end included.

    kl_tokens    [N][T_n] KL(b ‖ p) + KL(q ‖ b) of every token, nats: 0 where no gate was open
    log_ratios   [N][T_n] log q(token) / p(token)
    is_proposal  True: the texts are draws from q, and only their weights tell of the target; False: SMC has resampled by them
    named        axis -> [N] the group that each text names first, or None; of the axes of `debias` that the prompt leaves open
    group_shares axis -> group -> its share of the weight of the texts that name somebody
    named_by_prompt  axes of `debias` that are not balanced, since the prompt names somebody itself
    """

    kl_tokens: tuple[tuple[float, ...], ...]
    log_ratios: tuple[tuple[float, ...], ...]
    is_proposal: bool
    named: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    group_shares: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    named_by_prompt: Sequence[str] = ()

    @property
    def kl(self) -> np.ndarray:
        """float64 [N]: nats spent on every text."""
        return np.array([sum(one) for one in self.kl_tokens])

    @property
    def kl_per_token(self) -> float:
        """nats, over the tokens of all texts."""
        return float(self.kl.sum()) / max(sum(map(len, self.kl_tokens)), 1)

    def of(self, particle: int) -> dict[str, Any]:
        """What was done to one text, as plain data."""
        kl = self.kl_tokens[particle]
        return {
            "kl": sum(kl),
            "kl_tokens": list(kl),
            "log_ratios": list(self.log_ratios[particle]),
            "named": {axis: groups[particle] for axis, groups in self.named.items()},
        }

    def as_dict(self) -> dict[str, Any]:
        return {
            "kl": self.kl.tolist(),
            "kl_per_token": self.kl_per_token,
            "kl_tokens": [list(one) for one in self.kl_tokens],
            "log_ratios": [list(one) for one in self.log_ratios],
            "is_proposal": self.is_proposal,
            "named": {axis: list(groups) for axis, groups in self.named.items()},
            "group_shares": {axis: dict(groups) for axis, groups in self.group_shares.items()},
            "named_by_prompt": list(self.named_by_prompt),
        }


@dataclass(frozen=True)
class Result:
    """Weighted draws from p(x | prompt) * 1[x in C], and the estimate of that target's normaliser.

    texts         [N] in the particles' order; a dead particle's text is what it had when it died
    tokens        [N] token ids, EOS left out
    log_weights   float64 [N], unnormalised; -inf for a dead particle. E[sum_n w_n f(x_n) / N] = sum_x target(x) f(x)
    log_probs     float64 [N], log p(text | prompt) at the request's temperature, the text's end included if it has ended
    finish_reasons [N] stop; stop_string: one of `stop` ended it, and is cut off; length; or dead
    log_z         log of the mean weight; exp(log_z) is an unbiased estimate of the probability that p satisfies C
    trace         [N] the steps of every particle, with `trace=True`
    certainties   float64 [N], the sum over a text's tokens of KL(uniform ‖ p), where a reward wants it
    rewards       float64 [N] with `reward=...`, NaN for the dead and those left out: the target is then p·1[C]·exp(reward / T), T
                  the select_temperature; `posterior()`, `best` and `ess` are of that target, log_weights and log_z without it
    verdicts      [N] what a model that judged says of each text: its variance and the mass out of range; None for the dead
    select        how `best` is chosen: "argmax", the likeliest text, or "sample", one drawn in proportion (by the seed)
    rule          what the rewards do to the weights: by default the softmax, whose target is named above
    waves         particles of each wave, where they were drawn in waves; log_z is then no longer unbiased: what was drawn decided
                  how much more was. stopped: "until", "k", "token_budget", "judge_budget" or "error"
    adaptation    what steering did to the texts' laws, where it was asked for
    error         why there is no answer (every particle died, a predicate raised, ...); `best`, `parsed` and `posterior()` raise it
    """

    texts: list[str]
    tokens: list[list[int]]
    log_weights: np.ndarray
    log_probs: np.ndarray
    finish_reasons: list[str]
    usage: Usage
    stats: Stats
    seed: int
    ancestry: list[tuple[int, list[int]]] = field(default_factory=list)
    constraint: Language | None = None
    error: ReweighError | None = None
    trace: list[list[TraceStep]] | None = None
    rewards: np.ndarray | None = None
    verdicts: list[Verdict | None] | None = None
    certainties: np.ndarray | None = None
    select_temperature: float = 1.0
    select: str = "argmax"
    rule: Rule = field(default_factory=Softmax)
    waves: tuple[int, ...] = ()
    stopped: str = ""
    adaptation: Steered | None = None

    @property
    def log_z(self) -> float:
        return log_mean_exp(self.log_weights)

    @cached_property
    def weights(self) -> np.ndarray:
        """float64 [N], sum 1; all 0 when every particle is dead."""
        return normalise(self.log_weights)

    @cached_property
    def selection_weights(self) -> np.ndarray:
        """float64 [N], sum 1: the weights with the rewards in them; without rewards the weights themselves."""
        return normalise(self._charged)

    @cached_property
    def _charged(self) -> np.ndarray:
        if self.rewards is None:
            return self.log_weights
        return self.charged(self.log_weights)

    def charged(self, log_weights: np.ndarray) -> np.ndarray:
        """Selection weights with the rewards in them, from other proper weights than the result's own.

        log_weights  float64 [N]; returns float64 [N], unnormalised
        """
        assert self.rewards is not None
        return self.rule.log_weights(Drawn(self.texts, self.rewards, log_weights, self.select_temperature))

    @property
    def ess(self) -> float:
        """Effective sample size of `selection_weights`, 0 (all dead) to N."""
        return effective_sample_size(self._charged)

    @property
    def kl_bound(self) -> float:
        """The most that selection among N can part the text's law from the one it was drawn from, nats: log N - (N - 1) / N.

        Source: Beirami et al., arXiv 2401.01879.
        """
        count = len(self.texts)
        return math.log(count) - (count - 1) / count

    def posterior(self) -> dict[str, float]:
        """The estimated law of the text: text -> probability, likeliest first; equal texts are one entry."""
        self.raise_for_error()
        return posterior(self.texts, self._charged)

    def n_best(self, n: int) -> list[tuple[str, float]]:
        """The n likeliest texts with their probabilities."""
        return list(self.posterior().items())[:n]

    @property
    def best(self) -> str:
        """The likeliest text under `posterior()`; with select="sample" one drawn from it, by the seed."""
        likeliest = next(iter(self.posterior()))
        if self.select == "argmax":
            return likeliest
        drawn = draw_one(self._charged, self.seed)
        assert drawn is not None, "a posterior that is not empty has a particle that lives"
        return self.texts[drawn]

    def vote(self, extract: Callable[[str], Any] = str) -> dict[Any, float]:
        """The weighted vote: each answer's share of the selection weights, largest first. Without rewards: self-consistency.

        extract  text -> its answer, something to hash; None abstains
        """
        self.raise_for_error()
        return weighted_vote(self.selection_weights, [extract(text) for text in self.texts])

    def expectation(self, value: Callable[[str], float]) -> float:
        """The mean of a function of the text under the selection weights: an estimate of its mean under the target."""
        self.raise_for_error()
        weights = self.selection_weights
        values = [value(text) if weight > 0.0 else 0.0 for text, weight in zip(self.texts, weights, strict=True)]
        return expectation(weights, np.array(values))

    @property
    def parsed(self) -> Any:
        """`best` as the value it stands for: JSON as Python data (or the Pydantic object), otherwise the text.

        Raises ParseError where it stands for none: cut at max_tokens, or refused by a model's own validator.
        """
        return self._parse(self.best)

    @cached_property
    def values(self) -> list[Any]:
        """Every text as the value it stands for; None for one that is dead or stands for none."""
        return [
            None if weight == -math.inf else self._value(text)
            for text, weight in zip(self.texts, self.log_weights, strict=True)
        ]

    def _value(self, text: str) -> Any:
        try:
            return self._parse(text)
        except ParseError:
            return None

    def _parse(self, text: str) -> Any:
        if self.constraint is None:
            return text
        try:
            return self.constraint.parse(text)
        except ValueError as error:
            raise ParseError(f"{text!r:.200} stands for no value: {error}") from error

    def raise_for_error(self) -> None:
        """Raises what went wrong, if anything did; the error has the result."""
        if self.error is not None:
            if self.error.result is None:
                self.error.result = self
            raise self.error

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: no -inf, no NaN (a dead particle's log_weight is null)."""
        return {
            "texts": self.texts,
            "log_weights": [finite_or_none(x) for x in self.log_weights],
            "log_probs": [finite_or_none(x) for x in self.log_probs],
            "weights": self.weights.tolist(),
            **(
                {}
                if self.rewards is None
                else {
                    "rewards": [finite_or_none(x) for x in self.rewards],
                    "selection_weights": self.selection_weights.tolist(),
                    **(
                        {}
                        if self.verdicts is None
                        else {"verdicts": [None if one is None else one.as_dict() for one in self.verdicts]}
                    ),
                }
            ),
            **({} if self.adaptation is None else {"adaptation": self.adaptation.as_dict()}),
            **({"waves": list(self.waves), "stopped": self.stopped} if self.waves else {}),
            "finish_reasons": self.finish_reasons,
            "best": None if self.error else self.best,
            "parsed": None if self.error else jsonable(self._value(self.best)),
            "posterior": {} if self.error else self.posterior(),
            "log_z": finite_or_none(self.log_z),
            "ess": self.ess,
            "seed": self.seed,
            "usage": vars(self.usage),
            "stats": {**vars(self.stats), "ess_history": list(self.stats.ess_history)},
            "ancestry": [[step, parents] for step, parents in self.ancestry],
            "error": None if self.error is None else {"type": type(self.error).__name__, "message": str(self.error)},
        }


@dataclass(frozen=True)
class Chunk:
    """What `stream` yields: new text of a single particle, or progress of several, and the result in the last one.

    text    new text, never retracted; "" while several particles are under way
    step    tokens sampled so far by each particle; live: particles still running; ess: effective sample size
    """

    text: str = ""
    step: int = 0
    live: int = 0
    ess: float = 0.0
    result: Result | None = None


def num_tokens(tokens: Sequence[int], finish_reason: str) -> int:
    """Tokens of a text, its end included where it has come to one."""
    return len(tokens) + (finish_reason == "stop")


def finished_text(text: str, stops: Sequence[str]) -> str:
    """A text up to the first stop string in it."""
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]


def trace_of(steps: Sequence[Any], decode: Any) -> list[TraceStep]:
    """One particle's steps, as the engine sends them, with texts for tokens.

    decode  token ids -> bytes; the end of the text writes none
    """
    made: list[TraceStep] = []
    ids: list[int] = []
    for token, logprob, log_weight, tested, best in steps:
        prefix = decode(ids).decode("utf-8", errors="replace")
        proposals = [
            tuple(Proposal(decode([t]).decode("utf-8", errors="replace"), lp, ok) for t, lp, ok in group)
            for group in (tested, best)
        ]
        text = decode([token]).decode("utf-8", errors="replace")
        made.append(TraceStep(prefix, text, logprob, log_weight, *proposals))
        ids.append(token)
    return made


def finite_or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def jsonable(value: Any) -> Any:
    """A parsed value as JSON data: models, dataclasses and enumerations as their fields and values."""
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value)


def texts_of(tokens: Sequence[Sequence[int]], decode: Any) -> list[str]:
    """[N] token ids as text; bytes that are no UTF-8 (a particle that died inside a character) show as U+FFFD."""
    return [decode(list(ids)).decode("utf-8", errors="replace") for ids in tokens]
