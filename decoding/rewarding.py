"""Rewards asked for: functions of the user's own as rewards, every text judged once, and what to do with one that cannot be."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from decoding.request import Result, num_tokens
from grammars.errors import RequestError, RewardError
from samplers.reward import Candidate, Reward, judged, reward_named

UNJUDGED = ("error", "drop")
SELECT = ("sample", "argmax")


@dataclass(frozen=True)
class Selecting:
    """How texts are selected by a reward. The arguments of `generate`, checked."""

    reward: Reward
    temperature: float
    select: str
    unjudged: str


def selecting_of(options: dict[str, Any]) -> Selecting | None:
    """Take reward, select_temperature, select, unjudged and k out of the options; k is `particles` by another name.

    Raises RequestError.
    """
    if "k" in options:
        k = options.pop("k")
        if options.get("particles", k) != k:
            raise RequestError(f"k={k} and particles={options['particles']} are one number: give one of them")
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise RequestError(f"k={k!r}: a whole number of at least 1 was wanted, how many texts to select from")
        options["particles"] = k
    given = {
        name: options.pop(name) for name in ("reward", "select_temperature", "select", "unjudged") if name in options
    }
    if given.get("reward") is None:
        about = [name for name in given if name != "reward" and given[name] is not None]
        if about:
            raise RequestError(f"{about[0]} is about a reward, and there is none: give reward=...")
        return None
    temperature = given.get("select_temperature", 1.0)
    if isinstance(temperature, bool) or not isinstance(temperature, int | float | np.number) or not temperature >= 0:
        raise RequestError(
            f"select_temperature={temperature!r}: a number of at least 0 was wanted, in units of the reward"
        )
    for name, known, value in (
        ("select", SELECT, select := given.get("select", "sample")),
        ("unjudged", UNJUDGED, unjudged := given.get("unjudged", "error")),
    ):
        if value not in known:
            raise RequestError(f"{name}={value!r:.80}: one of {', '.join(known)} was wanted")
    return Selecting(reward_of(given["reward"]), float(temperature), select, unjudged)


def with_rewards(result: Result, prompt: str, selecting: Selecting) -> Result:
    """The result with its living texts judged. An error of the judge stands in the result's `error`, and has the result."""
    if result.error is not None:
        return result
    living = np.flatnonzero(result.log_weights > -np.inf)
    candidates = [
        Candidate(
            prompt,
            result.texts[i],
            float(result.log_probs[i]),
            num_tokens(result.tokens[i], result.finish_reasons[i]),
        )
        for i in living
    ]
    rewards = np.full(len(result.texts), np.nan)
    error: RewardError | None = None
    try:
        rewards[living] = rewards_for(selecting.reward, candidates, selecting.unjudged)
        if np.isnan(rewards).all():
            error = RewardError(f"{selecting.reward!r} could judge none of {len(candidates)} texts")
    except RewardError as failure:
        error = failure
    if error is not None:
        error.result = result
    return replace(
        result,
        rewards=None if error is not None else rewards,
        select_temperature=selecting.temperature,
        select=selecting.select,
        error=error,
    )


class FunctionReward:
    """A Python function as a reward.

    fn(text) -> number, or fn(prompt, text); None or NaN says that it cannot judge the text. It may be a coroutine function:
    all candidates are then asked at once.
    batched   fn(texts) -> numbers, or fn(prompts, texts): one call for all candidates
    """

    def __init__(self, function: Callable[..., Any], batched: bool = False) -> None:
        if not callable(function):
            raise RequestError(
                f"reward={function!r:.80} is no function: give one, a reward's name, or an object with score()"
            )
        self._function, self._batched = function, batched
        self._with_prompt = _parameters(function) == 2

    def __repr__(self) -> str:
        return f"reward {getattr(self._function, '__qualname__', repr(self._function))}"

    def score(self, candidates: Sequence[Candidate]) -> np.ndarray:
        if not candidates:
            return np.empty(0)
        texts, prompts = [one.text for one in candidates], [one.prompt for one in candidates]
        if self._batched:
            scores = self._function(prompts, texts) if self._with_prompt else self._function(texts)
            return judged(_awaited([scores])[0], len(candidates), repr(self))
        calls = [
            self._function(prompt, text) if self._with_prompt else self._function(text)
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        return judged(_awaited(calls), len(candidates), repr(self))


def _parameters(function: Callable[..., Any]) -> int:
    """How many arguments a function has to be given: 1 or 2."""
    try:
        kinds = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin that does not tell
        return 1
    needed = [
        one
        for one in kinds
        if one.default is one.empty and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    if len(needed) not in (1, 2):
        raise RequestError(
            f"reward {function!r:.80} takes {len(needed)} arguments: (text) or (prompt, text) was wanted"
        )
    return len(needed)


def _awaited(values: list[Any]) -> list[Any]:
    """Values, those that are coroutines run side by side in an event loop of their own."""
    if not any(inspect.isawaitable(value) for value in values):
        return values

    async def one(value: Any) -> Any:
        return await value if inspect.isawaitable(value) else value

    async def every() -> list[Any]:
        return list(await asyncio.gather(*map(one, values)))

    return asyncio.run(every())


def reward_of(given: Any) -> Reward:
    """What `reward=` stands for: a name, {name: options}, a function, or an object with `score`. Raises RequestError."""
    if isinstance(given, str | Mapping):
        return reward_named(given)
    if hasattr(given, "score"):
        scoring: Reward = given
        return scoring
    return FunctionReward(given)


def rewards_for(reward: Reward, candidates: Sequence[Candidate], unjudged: str) -> np.ndarray:
    """Every candidate's reward; equal texts are judged once, by their first.

    unjudged  what becomes of a candidate the judge cannot judge: "error" raises, "drop" lets its NaN stand
    returns   float64 [K]
    Raises RewardError where the judge raises, or answers what is no reward.
    """
    firsts = {one.text: k for k, one in reversed(list(enumerate(candidates)))}
    order = sorted(firsts.values())
    try:
        scores = judged(reward.score([candidates[k] for k in order]), len(order), repr(reward))
    except Exception as error:  # whatever the user's judge does
        raise RewardError(f"{reward!r} failed: {type(error).__name__}: {error}") from error
    place = {k: n for n, k in enumerate(order)}
    rewards = scores[[place[firsts[one.text]] for one in candidates]]
    if unjudged == "error" and np.isnan(rewards).any():
        text = candidates[int(np.flatnonzero(np.isnan(rewards))[0])].text
        raise RewardError(
            f'{reward!r} cannot judge {text!r:.80}: have it return a number, or leave such texts out, unjudged="drop"'
        )
    return rewards
