"""A language model as judge of pairs: each asked in both orders, and length alone wins nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from grammars.errors import RequestError
from samplers.judge import Question, Reading, Reply, Verdict, check_least_mass, checked_template, filled, read
from samplers.reward import Candidate, reward

TEMPLATE = """\
{criteria} Compare two answers to a question. Reply with a single digit, and nothing else:
1 if answer A is much better, 2 if answer A is slightly better, 3 if they are equally good, 4 if answer B is slightly better, \
5 if answer B is much better.

[Question]
{prompt}

[Answer A]
{first}

[Answer B]
{second}

[Digit]"""
CRITERIA = "Judge which answer is better: correct, complete, and to the point."
ANSWERS = ("1", "2", "3", "4", "5")
# What each answer is worth to answer A, with a slight win of either side counted or taken for a tie.
_WORTH = (1.0, 0.5, 0.0, -0.5, -1.0)
_SLIGHT_A, _SLIGHT_B = 1, 3


@reward("pairwise_judge")
class PairwiseJudge:
    """How a text fares against the others, -1 to 1: the mean, over its rivals and both orders, of the judge's expected preference.

    The preference is read from the likelihood of five answers, much better to much worse. A slight win counts as a tie when the
    winner is more than `longer` characters longer. A comparison that cannot be read in both orders is left out; a text none
    of whose comparisons can be read, or that is empty, cannot be judged. A text without rivals has reward 0.
    This reward depends on what else was drawn: selection by it is a tournament, not a draw from p·exp(r/T).

    criteria    what to look at
    rivals      how many others each text is compared with, its neighbours in the order of the draws; an odd number is rounded up
    longer      characters
    least_mass  probability that the five answers together must have
    template    the whole question, with {criteria}, {prompt}, {first} and {second} in it
    Source: both orders as in Zheng et al. (2023), "Judging LLM-as-a-judge", arXiv 2306.05685; the rule on length follows the
    five-grade comparisons of WildBench, arXiv 2406.04770.
    """

    # A text's reward is about the texts it was drawn with: rewards of two batches cannot be compared.
    relative = True

    def __init__(
        self,
        criteria: str = CRITERIA,
        rivals: int = 8,
        longer: int = 500,
        least_mass: float = 0.001,
        template: str = TEMPLATE,
    ) -> None:
        if not isinstance(criteria, str):
            raise RequestError(f"pairwise_judge: criteria={criteria!r:.80}: a text was wanted")
        for name, value, least in (("rivals", rivals, 1), ("longer", longer, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise RequestError(
                    f"pairwise_judge: {name}={value!r:.80}: a whole number of at least {least} was wanted"
                )
        check_least_mass(least_mass, "pairwise_judge")
        places = ("criteria", "prompt", "first", "second")
        self._template = checked_template(template, places, ("first", "second"), "pairwise_judge")
        self._criteria, self._rivals, self._longer, self._least_mass = criteria, rivals, longer, least_mass

    def __repr__(self) -> str:
        return "reward pairwise_judge"

    def questions(self, candidates: Sequence[Candidate]) -> list[Question]:
        return [
            Question(self._asked(candidates[first], candidates[second]), ANSWERS)
            for pair in self._pairs(candidates)
            for first, second in (pair, pair[::-1])
        ]

    def _asked(self, first: Candidate, second: Candidate) -> str:
        return filled(
            self._template, criteria=self._criteria, prompt=first.prompt, first=first.text, second=second.text
        )

    def _pairs(self, candidates: Sequence[Candidate]) -> list[tuple[int, int]]:
        """Who meets whom: everyone everyone, or as many neighbours around a circle as there are rivals."""
        those = [k for k, one in enumerate(candidates) if one.text.strip()]
        count = len(those)
        if count - 1 <= self._rivals:
            return [(those[i], those[j]) for i in range(count) for j in range(i + 1, count)]
        return [
            (those[i], those[(i + step) % count])
            for step in range(1, (self._rivals + 1) // 2 + 1)
            for i in range(count)
        ]

    def verdicts(self, candidates: Sequence[Candidate], replies: Sequence[Reply]) -> list[Verdict]:
        found: list[list[Reading]] = [[] for _ in candidates]
        problems = ["" if one.text.strip() else "the text is empty" for one in candidates]
        for (first, second), one, other in zip(self._pairs(candidates), replies[::2], replies[1::2], strict=True):
            # What each reply says for its own answer A.
            for_first = self._read(one, candidates[first], candidates[second])
            for_second = self._read(other, candidates[second], candidates[first])
            if problem := for_first.problem or for_second.problem:
                problems[first] = problems[first] or problem
                problems[second] = problems[second] or problem
                continue
            found[first] += [for_first, replace(for_second, mean=-for_second.mean)]
            found[second] += [replace(for_first, mean=-for_first.mean), for_second]
        return [_verdict(readings, problem) for readings, problem in zip(found, problems, strict=True)]

    def _read(self, reply: Reply, a: Candidate, b: Candidate) -> Reading:
        """The preference for the answer that was shown as A."""
        worth = list(_WORTH)
        if len(a.text) - len(b.text) > self._longer:
            worth[_SLIGHT_A] = 0.0
        elif len(b.text) - len(a.text) > self._longer:
            worth[_SLIGHT_B] = 0.0
        return read(reply, worth, self._least_mass)


def _verdict(readings: Sequence[Reading], problem: str) -> Verdict:
    if not readings:
        return Verdict.none(problem) if problem else Verdict(0.0)
    return Verdict(
        math.fsum(one.mean for one in readings) / len(readings),
        float(np.mean([one.variance for one in readings])),
        max(one.outside for one in readings),
    )
