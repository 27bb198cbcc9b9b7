"""What a body says of selection by a reward: `reweigh.best_of`, and of rewards on partial text: `reweigh.partial_reward`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from decoding.potentials import NamedPotential
from decoding.rewarding import UNJUDGED
from grammars.errors import RequestError
from samplers.inference_scaling_profile import loaded
from samplers.judge import Judge, is_judge
from samplers.named import name_and_options
from samplers.reward import Reward, reward_named
from samplers.rule import Rule, rule_of
from samplers.rules.softmax import Softmax
from samplers.stopping import Stop, stop_of
from server.api_constraints import Names
from server.api_errors import bad
from server.api_numbers import count, number, short

MOST_PARTICLES = 1024
MOST_WAVES = 64
# The rule `mbr` compares every two candidates.
MOST_COMPARED = 256
_FIELDS = (
    "k", "reward", "temperature", "profile", "rule", "until", "wave", "token_budget", "judge_budget", "judge", "unjudged",
)  # fmt: skip
# Rewards whose options may come in a body: cheap ones, and a model as a judge. JSON is better asked for as a constraint.
_REWARDS = (
    "mean_logprob", "self_certainty", "exact_match", "numeric_match", "judge", "pairwise_judge", "rubric_judge",
)  # fmt: skip


@dataclass(frozen=True)
class InWaves:
    """Draw so many at a time until it is enough.

    token_budget  of all draws; judge_budget: candidates that are judged. None: k alone bounds them
    """

    until: Stop
    wave: int
    token_budget: int | None
    judge_budget: int | None


@dataclass(frozen=True)
class BestOf:
    """Selection by a reward among the candidates of a choice: by default in proportion to weight times exp(reward / temperature).

    reward       the operator's, by its name, or one that was made as the request says; None: the weights alone select
    k            candidates at most
    temperature  in units of the reward; 0 takes the highest
    rule         what the rewards do to the weights
    waves        how they are drawn, where that is not all at once
    judge        the operator's name of the model that judges; None is the served one
    unjudged     "error", or "drop": whether a text that the judge cannot judge ends the request or is left out
    """

    reward: str | Reward | Judge | None
    k: int
    temperature: float
    rule: Rule
    waves: InWaves | None
    judge: str | None
    unjudged: str = "error"


def best_of(own: Mapping[str, Any], names: Names) -> BestOf | None:
    """Read the best_of of a body's `reweigh` object; ApiError (400) names the field."""
    given, place = own.get("best_of"), "reweigh.best_of"
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise bad(
            f'{place} is {short(given)}: an object with "reward", "k" and others of {", ".join(_FIELDS)} was wanted',
            place,
        )
    if unknown := sorted(map(str, given.keys() - set(_FIELDS))):
        raise bad(
            f"{place}.{unknown[0]:.80} is not known; there are {', '.join(_FIELDS)}",
            f"{place}.{unknown[0]:.80}",
            "unknown_field",
        )
    given = _with_profile({name: value for name, value in given.items() if value is not None}, names, place)
    k = count(given, "k", 1, MOST_PARTICLES, f"{place}.k") if "k" in given else own.get("particles")
    if own.get("particles") is not None and own["particles"] != k:
        raise bad(
            f"{place}.k is {k} and reweigh.particles {short(own['particles'])}: they are one number", f"{place}.k"
        )
    if k is None:
        raise bad(f"{place}.k: how many to select from was wanted", f"{place}.k")
    k = count({"k": k}, "k", 1, MOST_PARTICLES, "reweigh.particles")
    waves = _waves(given, k, place)
    if "reward" not in given:
        for name in ("temperature", "rule", "judge", "judge_budget", "unjudged"):
            if name in given:
                raise bad(f"{place}.{name} is about a reward, and there is none", f"{place}.{name}")
        if waves is None or waves.until.needs_rewards:
            raise bad(f"{place}.reward: what to select by was wanted", f"{place}.reward")
        return BestOf(None, k, 1.0, Softmax(), waves, None)
    reward, judge = _reward(given, names, place)
    if waves is not None and getattr(reward, "relative", False):
        raise bad(
            f"{place}.reward compares the texts of one batch, and waves are several: leave out until", f"{place}.reward"
        )
    rule = _rule(given, k, place)
    temperature = number(given, "temperature", 1.0, 0.0, 1e12, f"{place}.temperature")
    unjudged = given.get("unjudged", "error")
    if unjudged not in UNJUDGED:
        raise bad(f"{place}.unjudged is {short(unjudged)}: error or drop was wanted", f"{place}.unjudged")
    return BestOf(reward, k, temperature, rule, waves, judge, unjudged)


def partial_reward(own: Mapping[str, Any], names: Names) -> NamedPotential | None:
    """Read the partial_reward of a body's `reweigh` object; ApiError (400) names the field."""
    given, place = own.get("partial_reward"), "reweigh.partial_reward"
    if given is None:
        return None
    fields = {"name": given} if isinstance(given, str) else given
    if not isinstance(fields, Mapping) or "name" not in fields:
        raise bad(
            f'{place} is {short(given)}: a name, or {{"name": ..., "temperature": ..., "every": ...}} was wanted', place
        )
    if unknown := sorted(map(str, fields.keys() - {"name", "temperature", "every"})):
        raise bad(
            f"{place}.{unknown[0]:.80} is not known; there are name, temperature, every",
            f"{place}.{unknown[0]:.80}",
            "unknown_field",
        )
    name = fields["name"]
    if not isinstance(name, str) or name not in names.partial_rewards:
        listed = ", ".join(sorted(names.partial_rewards)) or "none"
        raise bad(
            f"{place}: {short(name)} is no reward on partial text that the operator has set up "
            f"(--partial-reward name=module:object); there are: {listed}",
            place,
        )
    temperature = number(fields, "temperature", 1.0, 1e-9, 1e12, f"{place}.temperature")
    return NamedPotential(name, temperature, count(fields, "every", 1, 1 << 20, f"{place}.every"))


def _with_profile(given: Mapping[str, Any], names: Names, place: str) -> Mapping[str, Any]:
    """The selection with k and temperature from its profile, if it has one: an operator's by its name, or its content."""
    profile = given.get("profile")
    if profile is None:
        return given
    for name in ("k", "temperature", "rule", "until"):
        if name in given:
            raise bad(
                f"{place}.{name} beside a profile, which says k and the temperature: give one of them",
                f"{place}.{name}",
            )
    if isinstance(profile, str) and profile in names.profiles:
        found = names.profiles[profile]
    elif not isinstance(profile, Mapping):
        listed = ", ".join(sorted(names.profiles)) or "none"
        raise bad(
            f"{place}.profile is {short(profile)}: the object that `reweigh calibrate --save` writes was wanted, or a name of the "
            f"operator's (--profile name=file); there are: {listed}",
            f"{place}.profile",
        )
    else:
        try:
            found = loaded(json.dumps(profile))
        except RequestError as error:
            raise bad(f"{place}.profile: {error}", f"{place}.profile") from None
    return {**given, "k": found.k, "temperature": found.select_temperature}


def _waves(given: Mapping[str, Any], k: int, place: str) -> InWaves | None:
    if "until" not in given:
        for name in ("wave", "token_budget", "judge_budget"):
            if name in given:
                raise bad(f"{place}.{name} is about drawing in waves: give until as well", f"{place}.{name}")
        return None
    try:
        until = stop_of(given["until"])
    except RequestError as error:
        raise bad(f"{place}.until: {error}", f"{place}.until") from None
    wave = count(given, "wave", 1, k, f"{place}.wave") if "wave" in given else min(4, k)
    if -(-k // wave) > MOST_WAVES:
        raise bad(f"{place}.wave is {wave}: {k} candidates are more than {MOST_WAVES} waves of it", f"{place}.wave")
    tokens, judged = (
        count(given, name, 1, 1 << 30, f"{place}.{name}") if name in given else None
        for name in ("token_budget", "judge_budget")
    )
    return InWaves(until, wave, tokens, judged)


def _rule(given: Mapping[str, Any], k: int, place: str) -> Rule:
    if "rule" not in given:
        return Softmax()
    try:
        rule = rule_of(given["rule"]) if isinstance(given["rule"], str | Mapping) else None
    except RequestError as error:
        raise bad(f"{place}.rule: {error}", f"{place}.rule") from None
    if rule is None:
        raise bad(f"{place}.rule is {short(given['rule'])}: a name, or {{name: options}} was wanted", f"{place}.rule")
    if "temperature" in given and not rule.takes_temperature:
        raise bad(
            f"{place}.temperature: the rule {short(given['rule'])} has none: leave it out", f"{place}.temperature"
        )
    named = name_and_options(given["rule"])
    if named is not None and named[0] == "mbr" and k > MOST_COMPARED:
        raise bad(
            f"{place}.k is {k}: the rule mbr compares every two, at most {MOST_COMPARED} are served", f"{place}.k"
        )
    return rule


def _reward(given: Mapping[str, Any], names: Names, place: str) -> tuple[str | Reward | Judge, str | None]:
    """The reward, and the operator's name of the model that judges, if one other than the served one does."""
    reward, judge = given["reward"], given.get("judge")
    if judge is not None and (not isinstance(judge, str) or judge not in names.judges):
        listed = ", ".join(sorted(names.judges)) or "none"
        raise bad(
            f"{place}.judge: {short(judge)} is no judge that the operator has set up (--judge name=URL); there are: {listed}",
            f"{place}.judge",
        )
    if isinstance(reward, str) and reward in names.rewards:
        if judge is not None:
            raise bad(f"{place}.judge: the reward {reward!r} asks no model that a request may choose", f"{place}.judge")
        return reward, None
    if isinstance(reward, str) and reward in names.judges:
        # A judge's name alone: the ordinary question, put to that model.
        if judge not in (None, reward):
            raise bad(f"{place}.judge: {reward!r} is one already: leave it out", f"{place}.judge")
        reward, judge = "judge", reward
    kind = next(iter(reward), None) if isinstance(reward, Mapping) else reward
    if kind not in _REWARDS:
        listed = ", ".join(sorted({*names.rewards, *names.judges, *_REWARDS}))
        raise bad(f"{place}.reward: {short(reward)} is none; there are {listed}", f"{place}.reward")
    try:
        made = reward_named(reward)
    except RequestError as error:
        raise bad(f"{place}.reward: {error}", f"{place}.reward") from None
    if judge is not None and not is_judge(made):
        raise bad(f"{place}.judge: the reward {kind!r} asks no model", f"{place}.judge")
    return made, judge
