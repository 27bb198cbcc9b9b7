"""Rewards asked for: functions of the user's own as rewards, every text judged once, and what to do with one that cannot be."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from decoding.asking import SELECTION
from decoding.judging import Asker, JudgeReward, JudgeTimeout, waited_for
from decoding.own_thread import in_own_thread
from decoding.request import Result, num_tokens
from grammars.errors import RequestError, RewardError
from samplers.inference_scaling_profile import Profile, loaded
from samplers.judge import Judge, Judgement, is_judge
from samplers.reward import REWARDS, Candidate, Reward, distinct, judged, reward_named
from samplers.rule import Rule, rule_of
from samplers.rules.softmax import Softmax

REWARDS.add_package("decoding.rewards")

UNJUDGED = ("error", "drop")
SELECT = ("sample", "argmax")


@dataclass(frozen=True)
class Selecting:
    """How texts are selected by a reward. The arguments of `generate`, checked."""

    reward: Reward
    temperature: float
    select: str
    unjudged: str
    rule: Rule = field(default_factory=Softmax)


def selecting_of(options: dict[str, Any], asker: Asker) -> Selecting | None:
    """Take reward, select_temperature, select, unjudged, rule, profile and k out of the options.

    k is `particles` by another name; a profile says both k and the temperature.

    asker  the model that answers a judge which brings none of its own

    Raises RequestError.
    """
    profile = profile_of(options.pop("profile", None))
    if profile is not None:
        _take_profile(profile, options)
    k = taken_k(options)
    if k is not None:
        options["particles"] = k
    given = {name: options.pop(name) for name in SELECTION if name in options}
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
    rule = rule_of("softmax" if given.get("rule") is None else given["rule"])
    if "select_temperature" in given and not rule.takes_temperature:
        raise RequestError(f"select_temperature={temperature!r}: the rule {given['rule']!r:.80} has none: leave it out")
    return Selecting(reward_of(given["reward"], asker), float(temperature), select, unjudged, rule)


def taken_k(options: dict[str, Any]) -> int | None:
    """Take k, which is particles by another name, out of the options. Raises RequestError."""
    k = options.pop("k", None)
    if k is None:
        return None
    if options.get("particles") not in (k, None):
        raise RequestError(f"k={k} and particles={options['particles']} are one number: give one of them")
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise RequestError(f"k={k!r}: a whole number of at least 1 was wanted, how many texts to select from")
    return int(k)


def profile_of(given: Any) -> Profile | None:
    """What `profile=` stands for: a file that `reweigh calibrate --save` wrote, its content as an object, or a Profile.

    Raises RequestError.
    """
    if given is None or isinstance(given, Profile):
        return given
    if isinstance(given, Mapping):
        return loaded(json.dumps(given, default=repr))
    if not isinstance(given, str | os.PathLike):
        raise RequestError(f"profile={given!r:.80}: a file of `reweigh calibrate --save`, or its content, was wanted")
    try:
        text = Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"profile={os.fspath(given)!r:.200} cannot be read: {error}") from error
    return loaded(text)


def _take_profile(profile: Profile, options: dict[str, Any]) -> None:
    for name in ("k", "particles", "select_temperature", "rule"):
        if options.get(name) is not None:
            raise RequestError(f"{name}={options[name]!r:.80} beside a profile, which says k and T: give one of them")
    if options.get("reward") is None:
        raise RequestError("profile is about a reward, and there is none: give reward=...")
    options["k"], options["select_temperature"] = profile.k, profile.select_temperature


def wants_certainty(selecting: Selecting | None) -> bool:
    """Whether the reward looks at how far from uniform the laws were that a text was drawn from."""
    return selecting is not None and bool(getattr(selecting.reward, "wants_certainty", False))


def with_rewards(result: Result, prompt: str, selecting: Selecting, timeout_s: float | None = None) -> Result:
    """The result with its living texts judged. An error of the judge stands in the result's `error`, and has the result."""
    return begin_rewards(result, prompt, selecting, timeout_s)(timeout_s)


def begin_rewards(
    result: Result, prompt: str, selecting: Selecting, timeout_s: float | None = None
) -> Callable[[float | None], Result]:
    """Begin to judge the living texts of a result; the function returned is `with_rewards` from there on.

    A judge that asks a model has asked it then; any other reward has been had, or its time, timeout_s, is up.
    """
    if result.error is not None:
        return lambda timeout_s: result
    living = np.flatnonzero(result.log_weights > -np.inf)
    candidates = [
        Candidate(
            prompt,
            result.texts[i],
            float(result.log_probs[i]),
            num_tokens(result.tokens[i], result.finish_reasons[i]),
            None if result.certainties is None else float(result.certainties[i]),
        )
        for i in living
    ]
    try:
        collect = judging(selecting.reward, candidates, selecting.unjudged, timeout_s)
    except RewardError as error:
        failed = _failed(result, error, selecting)
        return lambda timeout_s: failed

    def collected(timeout_s: float | None) -> Result:
        try:
            judgement = collect(timeout_s)
            if np.isnan(judgement.rewards).all():
                raise _costing(
                    judgement, f"{selecting.reward!r} could judge none of {len(candidates)} texts{_reason(judgement)}"
                )
        except RewardError as error:
            return _failed(result, error, selecting)
        rewards = np.full(len(result.texts), np.nan)
        rewards[living] = judgement.rewards
        verdicts = None
        if judgement.verdicts is not None:
            by_place = dict(zip(living.tolist(), judgement.verdicts, strict=True))
            verdicts = [by_place.get(place) for place in range(len(result.texts))]
        usage = replace(result.usage, judge_tokens=judgement.tokens)
        return replace(_ruled(result, selecting), rewards=rewards, verdicts=verdicts, usage=usage)

    return collected


def _ruled(result: Result, selecting: Selecting) -> Result:
    return replace(result, select_temperature=selecting.temperature, select=selecting.select, rule=selecting.rule)


def _failed(result: Result, error: RewardError, selecting: Selecting) -> Result:
    """The result without rewards; its error has what was drawn."""
    error.result = replace(result, usage=replace(result.usage, judge_tokens=error.judge_tokens))
    return replace(_ruled(error.result, selecting), error=error)


def _costing(judgement: Judgement, message: str) -> RewardError:
    """An error that tells what the judgement has cost."""
    error = RewardError(message)
    error.judge_tokens = judgement.tokens
    return error


def _reason(judgement: Judgement) -> str:
    """Why a model that judged could not judge the first such candidate."""
    return next((f": {one.problem}" for one in (judgement.verdicts or ()) if one.problem), "")[:400]


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
        self.asynchronous = inspect.iscoroutinefunction(function)

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
    if named := [one.name for one in kinds if one.kind is one.KEYWORD_ONLY and one.default is one.empty]:
        raise RequestError(
            f"reward {function!r:.80} has to be given {named[0]!r} too: (text) or (prompt, text) was wanted"
        )
    if not needed and any(one.kind is one.VAR_POSITIONAL for one in kinds):
        return 1
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


def reward_of(given: Any, asker: Asker | None = None) -> Reward:
    """What `reward=` stands for: a name, {name: options}, a function, a judge, or an object with `score`. Raises RequestError.

    asker  the model that answers a judge's questions
    """
    if isinstance(given, str | Mapping):
        given = reward_named(given)
    if is_judge(given):
        judge: Judge = given
        if asker is None:
            raise RequestError(
                f"{given!r:.80} needs a model to ask: give it to generate(), or JudgeReward(judge, asker)"
            )
        return JudgeReward(judge, asker)
    if hasattr(given, "score"):
        _check_score(given)
        scoring: Reward = given
        return scoring
    return FunctionReward(given)


def _check_score(given: Any) -> None:
    """Raises RequestError where an object's `score` cannot be called with the candidates alone."""
    if isinstance(given, type):
        raise RequestError(f"reward={given!r:.80} is a class: give an object of it")
    try:
        inspect.signature(given.score).bind([])
    except TypeError as error:
        raise RequestError(
            f"reward={given!r:.80}: score(candidates) was wanted, which returns a number for each (samplers.reward.Candidate: "
            f"its prompt, text, log_prob, num_tokens and certainty); here {error}"
        ) from error
    except ValueError:  # a builtin that does not tell
        return


def _scores(reward: Reward, candidates: Sequence[Candidate]) -> Any:
    return _awaited([reward.score(candidates)])[0]


def judging(
    reward: Reward, candidates: Sequence[Candidate], unjudged: str, timeout_s: float | None = None
) -> Callable[[float | None], Judgement]:
    """Begin to judge; the function returned waits, where there is something to wait for, and hands the judgement over.

    Candidates of the same text are judged once.
    unjudged   what becomes of a candidate the judge cannot judge: "error" raises, "drop" lets its NaN stand
    timeout_s  seconds for a reward that asks no model; None: it runs in the caller's thread until it is done
    Both raise RewardError where the judge raises, or answers what is no reward.
    """
    with _named(reward):
        if isinstance(reward, JudgeReward):
            waiting = reward.begin(candidates)
        else:
            firsts, like = distinct(candidates)
            few = [candidates[k] for k in firsts]

            def judgement(scores: Any) -> Judgement:
                return Judgement(judged(scores, len(few), repr(reward))[like])

            if getattr(reward, "asynchronous", inspect.iscoroutinefunction(reward.score)):
                # Its event loop is its own: those of other prompts need not wait for it.
                scores = _started(reward, few)
                waiting = lambda timeout_s: judgement(_waited(scores, timeout_s, reward, few))  # noqa: E731
            else:
                ready = judgement(
                    _scores(reward, few)
                    if timeout_s is None
                    else _waited(_started(reward, few), timeout_s, reward, few)
                )
                waiting = lambda timeout_s: ready  # noqa: E731

    def collect(timeout_s: float | None) -> Judgement:
        with _named(reward):
            judgement = waiting(timeout_s)
        unknown = np.flatnonzero(np.isnan(judgement.rewards))
        if unjudged == "error" and len(unknown):
            problem = "" if judgement.verdicts is None else f" ({judgement.verdicts[unknown[0]].problem})"
            raise _costing(
                judgement,
                f"{reward!r} cannot judge {candidates[unknown[0]].text!r:.80}{problem}: have it return a number, or leave such "
                'texts out, unjudged="drop"',
            )
        return judgement

    return collect


def _started(reward: Reward, candidates: Sequence[Candidate]) -> Future[Any]:
    """The reward's scores to come."""
    return in_own_thread(partial(_scores, reward, candidates))


def _waited(scores: Future[Any], timeout_s: float | None, reward: Reward, candidates: Sequence[Candidate]) -> Any:
    """What came of it; JudgeTimeout when its time is up."""
    try:
        return waited_for(scores, math.inf if timeout_s is None else time.monotonic() + timeout_s)
    except TimeoutError as error:
        if scores.done():  # the reward's own
            raise
        raise JudgeTimeout(
            f"{reward!r} had not judged {len(candidates)} texts in time ({timeout_s:.3g} s more)"
        ) from error


@contextmanager
def _named(reward: Reward) -> Iterator[None]:
    """Whatever the user's judge raises, as a RewardError that names the judge."""
    try:
        yield
    except RewardError:
        raise
    except Exception as error:
        raise RewardError(f"{reward!r} failed: {type(error).__name__}: {error}") from error
