"""From the weighted draws of one group to one choice: which particle, its weight, why it ended, what it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from decoding.request import finite_or_none, num_tokens
from samplers.population import effective_sample_size, log_mean_exp, normalise
from samplers.posterior import draw_one, posterior

if TYPE_CHECKING:
    from decoding.request import Result, TraceStep

ENDED = ("stop", "stop_string")
# What OpenAI's clients take for "as good as impossible": JSON has no infinity.
LEAST_LOGPROB = -9999.0


@dataclass(frozen=True)
class Answer:
    """One choice.

    particle     the index of the selected one
    log_weights  float64 [N] of the particles that could be selected, -inf for the others: where any text has come to its end
                 within max_tokens these are the ended ones (the target is conditioned on ending), otherwise the cut ones
    charged      float64 [N] log_weights with the rewards in them, up to a constant: what the selection goes by
    """

    result: Result
    particle: int
    log_weights: np.ndarray
    charged: np.ndarray

    @property
    def text(self) -> str:
        return self.result.texts[self.particle]

    @property
    def complete(self) -> bool:
        """Whether the text has come to its own end: it is then a member of the constraint, if no stop string cut it."""
        return self.result.finish_reasons[self.particle] == "stop"

    @property
    def finish_reason(self) -> str:
        return "stop" if self.result.finish_reasons[self.particle] in ENDED else "length"

    @cached_property
    def log_z(self) -> float:
        """Log of the estimated normaliser: with exp, unbiased for the mass of what could be selected."""
        return log_mean_exp(self.log_weights)

    @cached_property
    def weights(self) -> np.ndarray:
        """float64 [N] that sum to 1: the law the particle was selected by."""
        return normalise(self.charged)

    @property
    def ess(self) -> float:
        return effective_sample_size(self.charged)

    def extras(self, particles: bool) -> dict[str, Any]:
        """What a choice carries beside OpenAI's keys. particles: whether all of them are told of."""
        told: dict[str, Any] = {
            "log_weight": finite_or_none(self.log_weights[self.particle]),
            "weight": float(self.weights[self.particle]),
            "log_z": finite_or_none(self.log_z),
            "ess": self.ess,
        }
        rewards = self.result.rewards
        if rewards is not None:
            told["reward"] = finite_or_none(rewards[self.particle])
        steered = self.result.adaptation
        if steered is not None:
            told["adaptation"] = {
                **steered.of(self.particle),
                "is_proposal": steered.is_proposal,
                "group_shares": steered.group_shares,
                "named_by_prompt": list(steered.named_by_prompt),
            }
        verdicts = self.result.verdicts
        if verdicts is not None and (verdict := verdicts[self.particle]) is not None:
            told["verdict"] = verdict.as_dict()
        if particles:
            result = self.result
            told["particles"] = [
                {
                    "text": text,
                    "log_weight": finite_or_none(log_weight),
                    "weight": float(weight),
                    "finish_reason": reason,
                }
                for text, log_weight, weight, reason in zip(
                    result.texts, self.log_weights, self.weights, result.finish_reasons, strict=True
                )
            ]
            if rewards is not None:
                for one, reward in zip(told["particles"], rewards, strict=True):
                    one["reward"] = finite_or_none(reward)
            if steered is not None:
                for k, one in enumerate(told["particles"]):
                    one["adaptation"] = steered.of(k)
            for one, verdict in zip(told["particles"], verdicts or (), strict=False):
                one["verdict"] = None if verdict is None else verdict.as_dict()
            told["ess_history"] = list(result.stats.ess_history)
            told["ancestry"] = [[step, parents] for step, parents in result.ancestry]
        if self.result.waves:
            told["waves"], told["stopped"] = list(self.result.waves), self.result.stopped
        return told

    def steps(self) -> Sequence[TraceStep]:
        """The steps of the selected particle, where log-probabilities were asked for."""
        assert self.result.trace is not None
        return self.result.trace[self.particle]


def answer_of(result: Result, select: str) -> Answer:
    """Select a particle. select: "sample" draws it in proportion to its weight, "best" takes the likeliest text.

    Where the result has rewards, each weight is multiplied by exp(reward / temperature).
    Raises the result's own error where it has one.
    """
    result.raise_for_error()
    ended = np.array([reason in ENDED for reason in result.finish_reasons])
    log_weights = np.where(ended, result.log_weights, -np.inf)
    if not np.any(log_weights > -np.inf):
        log_weights = np.asarray(result.log_weights)
    charged = log_weights if result.rewards is None else result.charged(log_weights)
    if select == "best":
        best = next(iter(posterior(result.texts, charged)))
        particle = next(i for i, text in enumerate(result.texts) if text == best and charged[i] > -math.inf)
    else:
        drawn = draw_one(charged, result.seed)
        assert drawn is not None, "a result without an error has a particle that lives"
        particle = drawn
    return Answer(result, particle, log_weights, charged)


def usage(answers: Sequence[Answer]) -> dict[str, Any]:
    """Tokens: the prompt's once; of the choices; and, beside OpenAI's keys, of all particles."""
    prompt = answers[0].result.usage.prompt_tokens
    completion = sum(
        num_tokens(answer.result.tokens[answer.particle], answer.result.finish_reasons[answer.particle])
        for answer in answers
    )
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "sampled_tokens": sum(answer.result.usage.sampled_tokens for answer in answers),
        "judge_tokens": sum(answer.result.usage.judge_tokens for answer in answers),
    }


def totals(answers: Sequence[Answer]) -> dict[str, Any]:
    """What a response carries beside OpenAI's keys: one group's estimates, or the choices' together."""
    checks = sum(answer.result.stats.checks for answer in answers)
    masks = sum(answer.result.stats.masks for answer in answers)
    sampled = max(sum(answer.result.stats.sampled_tokens for answer in answers), 1)
    return {
        "log_z": finite_or_none(log_mean_exp(np.array([answer.log_z for answer in answers]))),
        "ess": sum(answer.ess for answer in answers),
        "reweigh": {
            "seed": answers[0].result.seed,
            "particles": len(answers[0].result.texts),
            "checks_per_token": checks / sampled,
            "masks_per_token": masks / sampled,
            "resamplings": sum(answer.result.stats.resamplings for answer in answers),
            "queued_s": max(answer.result.stats.queued_s for answer in answers),
            "wall_s": max(answer.result.stats.wall_s for answer in answers),
        },
    }


def logprob(value: float) -> float:
    return max(float(value), LEAST_LOGPROB) if not math.isnan(value) else LEAST_LOGPROB
