"""A language model as judge by a checklist: the share of its points that a text meets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from grammars.errors import RequestError
from samplers.judge import Question, Reply, Verdict, check_least_mass, checked_template, filled, read
from samplers.reward import Candidate, reward

TEMPLATE = """\
Check one point of an answer to a question. Reply with Yes or No, and nothing else.

[Question]
{prompt}

[Answer]
{answer}

[Point to check]
{item}

[Yes or No]"""
ANSWERS = ("Yes", "No")


@reward("rubric_judge")
class RubricJudge:
    """Σ w_i·P(Yes) / Σ |w_i| over the points of a checklist, each asked for itself: 0 to 1 where no weight is negative.

    P(Yes) is Yes against No as the judge's next token. A text that is empty, or one of whose points has less than `least_mass`
    on Yes and No together, cannot be judged.

    items       what is checked, as statements or questions; or {item: weight}, with negative weights for faults
    least_mass  see above
    template    the whole question, with {prompt}, {answer} and {item} in it
    """

    def __init__(
        self, items: Sequence[str] | Mapping[str, float], least_mass: float = 0.001, template: str = TEMPLATE
    ) -> None:
        if isinstance(items, Mapping):
            weights = dict(items)
        elif isinstance(items, Sequence) and not isinstance(items, str):
            weights = dict.fromkeys(items, 1.0)
        else:
            raise RequestError(
                f"rubric_judge: items={items!r:.80}: a list of texts, or an object text -> weight, was wanted"
            )
        if not weights or not all(isinstance(item, str) and item.strip() for item in weights):
            raise RequestError(
                f"rubric_judge: items={items!r:.80}: at least one text was wanted, and none that is empty"
            )
        for item, weight in weights.items():
            if (
                isinstance(weight, bool)
                or not isinstance(weight, int | float)
                or not math.isfinite(weight)
                or not weight
            ):
                raise RequestError(
                    f"rubric_judge: the weight of {item!r:.80} is {weight!r:.80}: a finite number other than 0 was wanted"
                )
        total = math.fsum(map(abs, weights.values()))
        self._shares = {item: weight / total for item, weight in weights.items()}
        check_least_mass(least_mass, "rubric_judge")
        self._least_mass = least_mass
        self._template = checked_template(template, ("prompt", "answer", "item"), ("answer", "item"), "rubric_judge")

    def __repr__(self) -> str:
        return "reward rubric_judge"

    def questions(self, candidates: Sequence[Candidate]) -> list[Question]:
        return [
            Question(filled(self._template, prompt=one.prompt, answer=one.text, item=item), ANSWERS)
            for one in candidates
            if one.text.strip()
            for item in self._shares
        ]

    def verdicts(self, candidates: Sequence[Candidate], replies: Sequence[Reply]) -> list[Verdict]:
        each = len(self._shares)
        coming = (replies[start : start + each] for start in range(0, len(replies), each))
        return [
            self._verdict(next(coming)) if one.text.strip() else Verdict.none("the text is empty") for one in candidates
        ]

    def _verdict(self, replies: Sequence[Reply]) -> Verdict:
        readings = [read(reply, (1.0, 0.0), self._least_mass) for reply in replies]
        outside = max(one.outside for one in readings)
        for item, reading in zip(self._shares, readings, strict=True):
            if reading.problem:
                return Verdict.none(f"on {item!r:.80}: {reading.problem}", outside)
        shares = list(self._shares.values())
        return Verdict(
            math.fsum(share * one.mean for share, one in zip(shares, readings, strict=True)),
            math.fsum(share**2 * one.variance for share, one in zip(shares, readings, strict=True)),
            outside,
        )
