"""Drawing in waves: a few candidates at a time, until more are not worth it or a budget is spent."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from decoding.adaptation.population import group_shares
from decoding.asking import WAVES, settings_of
from decoding.request import Result, Stats, Steered, Usage
from decoding.rewarding import taken_k
from grammars.errors import DeadEnd, RequestError, RewardError
from samplers.randomness import derive_seed
from samplers.rule import Drawn
from samplers.stopping import Stop, stop_of

DEFAULT_K = 32
DEFAULT_WAVE = 4
# Prompts under way at once; their waves share the engine's batch.
PROMPTS_AT_ONCE = 64


@dataclass(frozen=True)
class Waves:
    """How one prompt is drawn in waves.

    until         says when it is enough
    k             candidates at most
    wave          of which so many at a time
    token_budget  tokens that may be drawn: a wave is cut to what its candidates can need at most, max_tokens each
    judge_budget  candidates that may be given to the reward
    max_tokens    of a candidate
    """

    until: Stop
    k: int
    wave: int
    token_budget: int | None
    judge_budget: int | None
    max_tokens: int

    def next_wave(self, drawn: int, tokens: int) -> tuple[int, str]:
        """How many to draw next; 0 and the reason where that is none."""
        room = {"k": self.k - drawn}
        if self.token_budget is not None:
            room["token_budget"] = (self.token_budget - tokens) // self.max_tokens
        if self.judge_budget is not None:
            room["judge_budget"] = self.judge_budget - drawn
        reason = min(room, key=room.__getitem__)
        return max(min(self.wave, room[reason]), 0), reason


def waves_of(options: dict[str, Any]) -> Waves | None:
    """Take until, wave, token_budget and judge_budget out of the options, and with them k. None where there is no `until`.

    Raises RequestError naming what is wrong.
    """
    given: dict[str, Any] = {name: options.pop(name) for name in WAVES if name in options}
    if given.get("until") is None:
        if about := [name for name, value in given.items() if value is not None]:
            raise RequestError(f"{about[0]} is about drawing in waves: give until=... as well")
        return None
    if isinstance(own := options.get("adaptation"), Mapping) and own.get("balance") == "population":
        raise RequestError(
            "adaptation.balance='population' balances all texts at once, and until=... draws them in waves: leave one of them out"
        )
    if options.get("profile") is not None:
        raise RequestError(
            "a profile says how many to draw, and until=... is for when that is not known: leave one of them out"
        )
    until = stop_of(given["until"])
    if until.needs_rewards and options.get("reward") is None:
        raise RequestError(f"until={given['until']!r:.80} is about a reward, and there is none: give reward=...")
    if given.get("judge_budget") is not None and options.get("reward") is None:
        raise RequestError("judge_budget is about a reward, and there is none: give reward=...")
    k, particles = taken_k(options), options.pop("particles", None)
    k = particles if k is None else k
    wanted: dict[str, Any] = {"k": DEFAULT_K if k is None else k, "wave": DEFAULT_WAVE, **given}
    for name in ("k", "wave", "token_budget", "judge_budget"):
        value = wanted.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1):
            raise RequestError(f"{name}={value!r:.80}: a whole number of at least 1 was wanted")
    max_tokens = settings_of({"max_tokens": options["max_tokens"]} if "max_tokens" in options else {})["max_tokens"]
    waves = Waves(
        until, int(wanted["k"]), int(wanted["wave"]), wanted.get("token_budget"), wanted.get("judge_budget"), max_tokens
    )
    count, reason = waves.next_wave(0, 0)
    if count == 0:
        raise RequestError(f"{reason}={wanted[reason]} is less than one candidate of max_tokens={max_tokens} can need")
    return waves


def every(draw: Callable[[int], Result], prompts: int) -> list[Result]:
    """The result of every prompt, side by side: each goes on with its own waves while others go on with theirs."""
    with ThreadPoolExecutor(min(max(prompts, 1), PROMPTS_AT_ONCE), "reweigh-waves") as pool:
        return list(pool.map(draw, range(prompts)))


class Drawing:
    """One prompt's candidates so far. Decides what to draw next, and leaves the drawing to who asks."""

    def __init__(self, waves: Waves, seed: int) -> None:
        self._waves, self._seed = waves, seed
        self._parts: list[Result] = []

    @property
    def together(self) -> Result | None:
        """What has been drawn, as one result; None before the first wave."""
        return merged(self._parts, self._seed) if self._parts else None

    def add(self, part: Result) -> None:
        """Take in what a wave has drawn; an error of its draws stands in it."""
        self._parts.append(part)

    def next(self) -> tuple[int, int] | Result:
        """Particles and seed of the next wave; or, where it is enough, what has been drawn."""
        together = self.together
        drawn, tokens = (0, 0) if together is None else (len(together.texts), together.usage.sampled_tokens)
        count, reason = self._waves.next_wave(drawn, tokens)
        if together is not None:
            if isinstance(together.error, RewardError) or not isinstance(together.error, DeadEnd | None):
                return replace(together, stopped="error")
            if _enough(self._waves, together):
                return replace(together, stopped="until")
            if count == 0:
                return replace(together, stopped=reason)
        return count, derive_seed(self._seed, len(self._parts))


def in_waves(
    waves: Waves, seed: int, draw: Callable[[int, int, float | None], Result], timeout_s: float | None
) -> Result:
    """One prompt's candidates, drawn until it is enough.

    draw     (particles, seed, seconds left) -> their result; an error of theirs stands in it
    Raises TimeoutError, with what had been drawn in its `result`.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    drawing = Drawing(waves, seed)
    while not isinstance(wanted := drawing.next(), Result):
        try:
            left = None if deadline is None else max(deadline - time.monotonic(), 1e-3)
            drawing.add(draw(*wanted, left))
        except TimeoutError as error:
            error.result = drawing.together  # type: ignore[attr-defined]
            raise
    return wanted


def _enough(waves: Waves, together: Result) -> bool:
    if together.error is not None:
        return False
    rewards = np.full(len(together.texts), np.nan) if together.rewards is None else together.rewards
    drawn = Drawn(together.texts, rewards, together.log_weights, together.select_temperature)
    return waves.until.enough(drawn, together.rule, waves.wave)


def _adaptation(parts: Sequence[Result]) -> Steered | None:
    told = [one.adaptation for one in parts if one.adaptation is not None]
    if not told:
        return None
    named = {axis: tuple(group for one in told for group in one.named[axis]) for axis in told[0].named}
    groups = {axis: list(shares) for axis, shares in told[0].group_shares.items()}
    return Steered(
        tuple(kl for one in told for kl in one.kl_tokens),
        tuple(ratios for one in told for ratios in one.log_ratios),
        all(one.is_proposal for one in told),
        named,
        group_shares(named, np.concatenate([one.log_weights for one in parts]), groups),
        told[0].named_by_prompt,
    )


def merged(parts: Sequence[Result], seed: int) -> Result:
    """Results of the same request with different seeds as one: the particles of all, side by side.

    Its error is that of the first part that has one other than a dead end; a dead end only where every part has one. An error
    of a reward has the merged result.
    """
    first = parts[0]
    errors = [one.error for one in parts if one.error is not None and not isinstance(one.error, DeadEnd)]
    dead_ends = [one.error for one in parts if isinstance(one.error, DeadEnd)]
    error = errors[0] if errors else dead_ends[0] if len(dead_ends) == len(parts) else None
    judged = [one for one in parts if one.rewards is not None]
    rule = judged[-1] if judged else first
    whole = replace(
        first,
        texts=[text for one in parts for text in one.texts],
        tokens=[tokens for one in parts for tokens in one.tokens],
        finish_reasons=[reason for one in parts for reason in one.finish_reasons],
        log_weights=np.concatenate([one.log_weights for one in parts]),
        log_probs=np.concatenate([one.log_probs for one in parts]),
        usage=_total(
            Usage, [replace(one.usage, prompt_tokens=0) for one in parts], prompt_tokens=first.usage.prompt_tokens
        ),
        stats=_total(
            Stats,
            [one.stats for one in parts],
            ess_history=tuple(ess for one in parts for ess in one.stats.ess_history),
            queued_s=first.stats.queued_s,
        ),
        seed=seed,
        ancestry=_ancestry(parts),
        error=error,
        adaptation=_adaptation(parts),
        trace=None if first.trace is None else [steps for one in parts for steps in one.trace or []],
        certainties=None if first.certainties is None else np.concatenate([_known(one.certainties) for one in parts]),
        rewards=_rewards(parts) if judged else None,
        verdicts=_verdicts(parts) if any(one.verdicts is not None for one in judged) else None,
        select_temperature=rule.select_temperature,
        select=rule.select,
        rule=rule.rule,
        waves=tuple(len(one.texts) for one in parts),
    )
    if isinstance(error, RewardError):
        error.result = replace(whole, error=None)
    return whole


def _total(kind: Any, parts: Sequence[Any], **given: Any) -> Any:
    """The parts' counts and times added up, but for the fields that are given."""
    names = [one.name for one in fields(kind) if one.name not in given]
    return kind(**{name: sum(getattr(part, name) for part in parts) for name in names}, **given)


def _rewards(parts: Sequence[Result]) -> np.ndarray:
    unknown = [np.full(len(one.texts), np.nan) if one.rewards is None else one.rewards for one in parts]
    return np.concatenate(unknown)


def _verdicts(parts: Sequence[Result]) -> list[Any]:
    return [verdict for one in parts for verdict in one.verdicts or [None] * len(one.texts)]


def _known(values: np.ndarray | None) -> np.ndarray:
    assert values is not None, "parts are of one request"
    return values


def _ancestry(parts: Sequence[Result]) -> list[tuple[int, list[int]]]:
    """Every resampling of every wave over all particles: those of other waves stay who they are."""
    count = sum(len(one.texts) for one in parts)
    told, before, steps = [], 0, 0
    for one in parts:
        for step, parents in one.ancestry:
            whole = list(range(count))
            whole[before : before + len(parents)] = [before + parent for parent in parents]
            told.append((steps + step, whole))
        before, steps = before + len(one.texts), steps + one.stats.steps
    return told
