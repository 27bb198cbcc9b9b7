"""A language model as judge, one candidate at a time: the expected score over the score tokens, from one forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grammars.errors import RequestError
from samplers.judge import Question, Reply, Verdict, check_least_mass, checked_template, filled, read, scale_of
from samplers.reward import Candidate, reward

# What all questions have in common stands first: the model computes it once for all candidates.
TEMPLATE = """\
{criteria} Reply with a single {scale}, and nothing else.

[Question]
{prompt}

[Answer]
{answer}

[Score]"""
CRITERIA = "Judge how good the answer to the question is: correct, complete, and to the point."


@reward("judge")
class Judge:
    """The judge's expected score of a text: Σ s·p(s) / Σ p(s) over the answers of the scale, as the next token.

    A text that is empty, or whose scores have less than `least_mass` of the judge's next token, cannot be judged.

    criteria    what to look at
    scale       the lowest and the highest digit, or {answer: value}; answers must differ in their first token
    least_mass  see above
    template    the whole question, with {criteria}, {prompt}, {answer} and {scale} in it
    Source: the expected score over score tokens as in Liu et al. (2023), "G-Eval", arXiv 2303.16634.
    """

    def __init__(
        self,
        criteria: str = CRITERIA,
        scale: Sequence[int] | Mapping[str, float] = (1, 5),
        least_mass: float = 0.001,
        template: str = TEMPLATE,
    ) -> None:
        if not isinstance(criteria, str):
            raise RequestError(f"judge: criteria={criteria!r:.80}: a text was wanted")
        self._criteria = criteria
        self._scale = scale_of(scale, "judge")
        check_least_mass(least_mass, "judge")
        self._least_mass = least_mass
        self._template = checked_template(template, ("criteria", "prompt", "answer", "scale"), ("answer",), "judge")
        by_worth = sorted(self._scale, key=self._scale.__getitem__)
        self._said = (
            f"digit from {by_worth[0]} (worst) to {by_worth[-1]} (best)"
            if not isinstance(scale, Mapping)
            else f"word of: {', '.join(by_worth)} (from worst to best)"
        )

    def __repr__(self) -> str:
        return "reward judge"

    def questions(self, candidates: Sequence[Candidate]) -> list[Question]:
        return [self._question(one) for one in candidates if one.text.strip()]

    def _question(self, one: Candidate) -> Question:
        text = filled(self._template, criteria=self._criteria, prompt=one.prompt, answer=one.text, scale=self._said)
        return Question(text, tuple(self._scale))

    def verdicts(self, candidates: Sequence[Candidate], replies: Sequence[Reply]) -> list[Verdict]:
        coming = iter(replies)
        return [
            self._verdict(next(coming)) if one.text.strip() else Verdict.none("the text is empty") for one in candidates
        ]

    def _verdict(self, reply: Reply) -> Verdict:
        reading = read(reply, list(self._scale.values()), self._least_mass)
        return Verdict(reading.mean, reading.variance, reading.outside, reading.problem)
