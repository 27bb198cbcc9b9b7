"""Rewards on partial text: a twist inside SMC while a text is written, and a factor of the target once it is whole.

    target(x)  ∝  p(x)·1[x in C]·exp(r(x)/T)
Of a prefix, exp(r/T) only steers which particles are copied, and is taken out again at the next step; of a finished text it is
charged for good. So a poor guess at a prefix costs variance, never truth. Runs where the scheduler does, between two steps, as
a predicate does: a slow function slows the batch.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from decoding.request import finished_text
from grammars.errors import RequestError, RewardError
from grammars.places import object_at
from grammars.predicate_pool import Pool

_COUNTER = itertools.count()
# Potentials in this process by handle, for as long as somebody holds them.
_BY_HANDLE: WeakValueDictionary[str, TextPotential] = WeakValueDictionary()
# What an operator has set up, by name, with what turns token ids into text.
_BY_NAME: dict[str, tuple[Boxed, Callable[[list[int]], bytes]]] = {}


class PartialReward:
    """A function as a reward on partial text.

    function     (text, complete) -> reward, higher is better; complete says that the text will not go on. -inf kills the particle:
                 of a prefix it promises -inf for all that it can become. None and NaN are errors
    temperature  T above 0, in units of the reward
    every        tokens between two looks at a prefix
    """

    def __init__(self, function: Callable[[str, bool], float], temperature: float = 1.0, every: int = 1) -> None:
        if not callable(function):
            raise RequestError(f"partial_reward={function!r:.80}: a function (text, complete) -> number was wanted")
        if (
            isinstance(temperature, bool)
            or not isinstance(temperature, int | float | np.number)
            or not 0 < temperature < math.inf
        ):
            raise RequestError(f"partial_reward: temperature={temperature!r:.80}: a finite number above 0 was wanted")
        if isinstance(every, bool) or not isinstance(every, int | np.integer) or every < 1:
            raise RequestError(
                f"partial_reward: every={every!r:.80}: a whole number of tokens of at least 1 was wanted"
            )
        self.function, self.temperature, self.every = function, float(temperature), int(every)

    def __repr__(self) -> str:
        return f"partial_reward {getattr(self.function, '__qualname__', repr(self.function))}"

    def log_phi(self, text: str, complete: bool) -> float:
        """r/T. Raises RewardError where the function raises, or returns what is no reward."""
        try:
            reward = float(self.function(text, complete))
        except Exception as error:  # whatever the user's function does
            raise RewardError(f"{self!r} failed on {text!r:.80}: {type(error).__name__}: {error}") from error
        if not reward < math.inf:
            raise RewardError(f"{self!r} returned {reward} for {text!r:.80}: a number was wanted, or -inf to end it")
        return reward / self.temperature


@dataclass(frozen=True)
class NamedPotential:
    """A reward on partial text that goes by a name in the scheduler's process, `register_partial`."""

    name: str
    temperature: float = 1.0
    every: int = 1

    @property
    def handle(self) -> dict[str, Any]:
        return {"named": self.name, "temperature": self.temperature, "every": self.every}


class TextPotential:
    """A reward on partial text as a group of particles asks for it: of token ids.

    decode  token ids -> bytes; stops: texts at which a text is cut off
    """

    def __init__(self, reward: PartialReward, decode: Callable[[list[int]], bytes], stops: Sequence[str] = ()) -> None:
        self._reward, self._decode, self._stops = reward, decode, tuple(stops)
        self.every = reward.every
        self.handle = f"{os.getpid()}-{next(_COUNTER)}"
        _BY_HANDLE[self.handle] = self

    def log_phi(self, tokens: Sequence[int], complete: bool) -> float:
        text = finished_text(self._decode(list(tokens)).decode("utf-8", errors="replace"), self._stops)
        return self._reward.log_phi(text, complete)


def partial_reward_of(given: Any) -> PartialReward | None:
    """What `partial_reward=` stands for. Raises RequestError."""
    return given if given is None or isinstance(given, PartialReward) else PartialReward(given)


class Boxed:
    """A function in a process of its own: a call that hangs, or ends its process, is an error of that call alone.

    timeout_s  for every call
    """

    def __init__(self, function: Callable[[str, bool], float], timeout_s: float = 1.0) -> None:
        self.__qualname__ = getattr(function, "__qualname__", repr(function))

        def serve(texts: list[str], complete: bool) -> Iterator[float | str]:
            for text in texts:
                try:
                    yield float(function(text, complete))
                except Exception as error:  # whatever the operator's function does
                    yield f"{type(error).__name__}: {error}"

        self._pool = Pool(serve, 1, timeout_s, batched=False)

    def __call__(self, text: str, complete: bool) -> float:
        (answer,) = self._pool.ask([text], complete)
        if isinstance(answer, str):
            raise RewardError(answer)
        return float(answer)


def register_partial(places: Mapping[str, str], decode: Callable[[list[int]], bytes]) -> None:
    """Let rewards on partial text go by names in this process, each in a process of its own.

    places  name -> module:object, a function (text, complete) -> number
    Raises RewardError for one that cannot be imported.
    """
    for name, place in places.items():
        _BY_NAME[name] = Boxed(partial_at(name, place)), decode


def partial_at(name: str, place: str) -> Callable[[str, bool], float]:
    """The function that stands at `module:object`. Raises RewardError where there is none."""
    function: Callable[[str, bool], float] = object_at(place, f"partial reward {name!r}", RewardError)
    if not callable(function):
        raise RewardError(f"partial reward {name!r}: {place} is no function (text, complete) -> number")
    return function


def potential_of(handle: str | Mapping[str, Any], stops: Sequence[str] = ()) -> TextPotential:
    """The potential of a handle. stops: of the order, for one that goes by a name.

    Raises RewardError in another process than the one that made it, and for a name that this one does not have.
    """
    if isinstance(handle, Mapping):
        name, temperature, every = handle["named"], handle["temperature"], handle["every"]
        if name not in _BY_NAME:
            raise RewardError(f"there is no partial reward named {name!r} where the scheduler runs")
        function, decode = _BY_NAME[name]
        return TextPotential(PartialReward(function, temperature, every), decode, stops)
    found = _BY_HANDLE.get(handle)
    if found is None:
        raise RewardError("the partial reward lives in another process than the scheduler, or is gone")
    return found
