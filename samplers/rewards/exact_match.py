"""Whether a text is the one that was wanted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grammars.errors import RequestError
from samplers.reward import Candidate, reward


@reward("exact_match")
class ExactMatch:
    """1 where the text equals the reference, white space around both and runs of it inside apart; otherwise 0.

    reference    the text, or several of which any will do
    ignore_case  whether upper and lower case are the same
    """

    def __init__(self, reference: str | Sequence[str], ignore_case: bool = False) -> None:
        given = [reference] if isinstance(reference, str) else reference
        if (
            not isinstance(given, list | tuple | set | frozenset)
            or not given
            or not all(isinstance(one, str) for one in given)
        ):
            raise RequestError(f"exact_match: reference={reference!r:.80}: a text was wanted, or a list of texts")
        self._ignore_case = ignore_case
        self._wanted = frozenset(map(self._plain, given))

    def score(self, candidates: Sequence[Candidate]) -> np.ndarray:
        return np.array([float(self._plain(one.text) in self._wanted) for one in candidates])

    def _plain(self, text: str) -> str:
        text = " ".join(text.split())
        return text.casefold() if self._ignore_case else text
