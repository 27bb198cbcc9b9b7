"""Whether a text comes to the right number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

import numpy as np

from grammars.errors import RequestError
from samplers.reward import Candidate, reward

_NUMBER = re.compile(r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3})?|[-+−]?\.\d+")
_ANSWER = re.compile(r"####\s*(.*)|(?:answer|result)\s*(?:is|:|=)\s*(.*)", re.IGNORECASE)
_LONGEST = 400


@reward("numeric_match")
class NumericMatch:
    """1 where the number a text comes to equals the reference, otherwise 0; a text without a number is wrong, so 0.

    The number is the first after the last "####" or "answer is", or else the last in the text. Thousands may be separated by
    commas; a percent sign, a unit or a currency beside it does not count.

    reference  a number, or a text with one
    tolerance  how far off it may be, relative to the reference
    """

    def __init__(self, reference: float | str, tolerance: float = 0.0) -> None:
        wanted = number_of(str(reference))
        if wanted is None:
            raise RequestError(f"numeric_match: reference={reference!r:.80}: a number was wanted")
        if not 0.0 <= tolerance < 1.0:
            raise RequestError(f"numeric_match: tolerance={tolerance!r}: a number from 0 to 1 was wanted")
        self._wanted = wanted
        self._margin = abs(wanted) * Decimal(str(tolerance))

    def score(self, candidates: Sequence[Candidate]) -> np.ndarray:
        found = [number_of(one.text) for one in candidates]
        return np.array([float(one is not None and abs(one - self._wanted) <= self._margin) for one in found])


def number_of(text: str) -> Decimal | None:
    """The number that a text comes to; None where it has none."""
    answers = [next(filter(None, found.groups()), "") for found in _ANSWER.finditer(text)]
    for part, which in (*((answer, 0) for answer in reversed(answers)), (text, -1)):
        numbers = [one for one in _NUMBER.findall(part) if len(one) <= _LONGEST]
        if numbers:
            try:
                return Decimal(numbers[which].replace(",", "").replace("−", "-"))
            except InvalidOperation:
                return None
    return None
