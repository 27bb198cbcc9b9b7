"""What a judge is that asks a language model: the questions it poses, and what it reads from the answers.

A judge never calls a model. Every question is one forward pass, all of them are independent, and what comes back is how likely
each of the answers is as the model's next token: a distribution is read, no text is parsed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from grammars.errors import RequestError
from samplers.reward import Candidate

_PLACE = re.compile(r"\{([a-z]+)\}")


def is_judge(given: Any) -> bool:
    """Whether an object poses questions and reads the answers, as a `Judge` does."""
    return hasattr(given, "questions") and hasattr(given, "verdicts")


@dataclass(frozen=True)
class Question:
    """One user's message to the model that judges, and the answers whose likelihood is wanted.

    answers  words that differ in their first token; white space around a token does not count
    """

    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Reply:
    """What came of a question.

    log_probs  float64 [answers], log p of each as the model's next token; -inf where it has no mass, or none that is known
    tokens     what the question and the token after it came to
    otherwise  what the model would rather have said, where that is known: shown to the user if the answers have no mass
    problem    why the question was not asked, "" where it was
    """

    log_probs: np.ndarray
    tokens: int
    otherwise: str = ""
    problem: str = ""

    @staticmethod
    def none(problem: str, answers: int) -> Reply:
        return Reply(np.full(answers, -math.inf), 0, problem=problem)


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one candidate.

    reward    higher is better; NaN where it cannot be judged
    variance  of the value under the judge's own distribution, in units of the reward squared
    outside   probability the judge gave to anything but the answers, 0 to 1; the most over the candidate's questions
    problem   why it cannot be judged, "" where it can
    """

    reward: float
    variance: float = 0.0
    outside: float = 0.0
    problem: str = ""

    @staticmethod
    def none(problem: str, outside: float = 1.0) -> Verdict:
        return Verdict(math.nan, math.nan, outside, problem)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: null where there is no number."""
        numbers = {"reward": self.reward, "variance": self.variance, "outside": self.outside}
        plain = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        return {**plain, **({"problem": self.problem} if self.problem else {})}


@dataclass(frozen=True, eq=False)
class Judgement:
    """What is known of K candidates once they are judged.

    rewards   float64 [K], NaN for one that cannot be judged
    verdicts  [K] where a model judged, None where something else did
    tokens    what was asked of the model that judges, in its tokens
    """

    rewards: np.ndarray
    verdicts: tuple[Verdict, ...] | None = None
    tokens: int = 0


class Judge(Protocol):
    """Poses questions about candidates and reads the replies. Pure."""

    def questions(self, candidates: Sequence[Candidate]) -> list[Question]:
        """All that is to be asked of these candidates, which have different texts."""

    def verdicts(self, candidates: Sequence[Candidate], replies: Sequence[Reply]) -> list[Verdict]:
        """One for each candidate. replies: one for each of `questions(candidates)`, in their order."""


@dataclass(frozen=True)
class Reading:
    """The distribution over some values that a reply comes to: mean and variance given an answer, and the mass outside.

    problem  why there is none, "" where there is one; mean and variance are NaN then
    """

    mean: float
    variance: float
    outside: float
    problem: str = ""


def read(reply: Reply, values: Sequence[float], least_mass: float) -> Reading:
    """The expected value Σ s·p(s) / Σ p(s) over the answers.

    values      [answers], what each answer is worth
    least_mass  probability that all answers together must have: with less, the model has not answered
    """
    probs = np.exp(reply.log_probs)
    mass = float(probs.sum())
    problem = reply.problem
    if not problem and not (mass >= least_mass and mass > 0.0):
        rather = f"; it would rather say {reply.otherwise}" if reply.otherwise else ""
        problem = f"the judge gives its answers a probability of {mass:.2g} together, at least {least_mass:g} was wanted{rather}"
    if problem:
        return Reading(math.nan, math.nan, 1.0 - mass, problem)
    worth = np.asarray(values, dtype=np.float64)
    mean = float(probs @ worth) / mass
    variance = float(probs @ (worth - mean) ** 2) / mass
    return Reading(mean, variance, max(1.0 - mass, 0.0))


def scale_of(scale: Sequence[int] | Mapping[str, float], who: str) -> dict[str, float]:
    """Answer -> value, of a pair (lowest, highest) of digits, or of a mapping. Raises RequestError."""
    if isinstance(scale, Mapping):
        values = {str(answer): value for answer, value in scale.items()}
    elif (
        isinstance(scale, Sequence)
        and len(scale) == 2
        and all(isinstance(end, int) and not isinstance(end, bool) for end in scale)
        and 0 <= scale[0] < scale[1] <= 9
    ):
        values = {str(digit): float(digit) for digit in range(scale[0], scale[1] + 1)}
    else:
        raise RequestError(
            f"{who}: scale={scale!r:.80}: two digits, the lowest and the highest, were wanted, or an object answer -> value"
        )
    if len(values) < 2 or any(not answer or answer != answer.strip() for answer in values):
        raise RequestError(
            f"{who}: scale={scale!r:.80}: at least two answers were wanted, none empty or with outer spaces"
        )
    for answer, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise RequestError(f"{who}: scale: {answer!r} is worth {value!r:.80}: a finite number was wanted")
    return {answer: float(value) for answer, value in values.items()}


def check_least_mass(least_mass: float, who: str) -> None:
    if isinstance(least_mass, bool) or not isinstance(least_mass, int | float) or not 0.0 <= least_mass <= 1.0:
        raise RequestError(f"{who}: least_mass={least_mass!r:.80}: a probability from 0 to 1 was wanted")


def checked_template(template: str, places: Sequence[str], needed: Sequence[str], who: str) -> str:
    """The template, if it has the places it needs and no unknown one. Raises RequestError."""
    if not isinstance(template, str):
        raise RequestError(f"{who}: template={template!r:.80}: a text was wanted")
    found = set(_PLACE.findall(template))
    for name in needed:
        if name not in found:
            raise RequestError(f"{who}: the template has no {{{name}}}: the judge would not see it")
    for name in sorted(found - set(places)):
        raise RequestError(f"{who}: the template has {{{name}}}; there are {', '.join(places)}")
    return template


def filled(template: str, **texts: str) -> str:
    """The template with its places filled, all at once: what a text itself holds is never taken for a place."""
    return _PLACE.sub(lambda place: texts.get(place[1], place[0]), template)
