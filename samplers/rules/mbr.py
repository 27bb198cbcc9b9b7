"""Regularised best-of-k: a reward that is high for a text unlike all others is not believed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from grammars.errors import RequestError
from samplers.potential import charge
from samplers.rule import Drawn, positive, rule

_LONGEST_GRAM = 6
Utility = Callable[[str, str], float]


@rule("mbr")
class Mbr:
    """The softmax rule with r_i + beta·Σ_j c_j u(y_i, y_j) in place of r_i: the reward, and how like the others a text is.

    The second term is the objective of minimum Bayes risk decoding, an estimate of how far y_i is from the model's own law; with
    beta large it decides alone.

    beta     above 0, in units of the reward for a text that is like all others
    utility  (text, another) -> likeness, 1 for the same text; by default the F1 of shared character n-grams, n = 1 to 6
    Source: Jinnai et al. (2024), "Regularized best-of-N sampling with minimum Bayes risk objective", arXiv 2404.01054.
    """

    takes_temperature = True

    def __init__(self, beta: float, utility: Utility | None = None) -> None:
        self._beta = positive(beta, "rule mbr: beta")
        if utility is not None and not callable(utility):
            raise RequestError(f"rule mbr: utility={utility!r:.80}: a function of two texts was wanted")
        self._utility = utility

    def log_weights(self, drawn: Drawn) -> np.ndarray:
        likeness = self.likeness(drawn)
        return charge(drawn.log_weights, drawn.rewards + self._beta * likeness, drawn.temperature)

    def likeness(self, drawn: Drawn) -> np.ndarray:
        """float64 [k]: the mean utility of each text against the empirical law; 0 for those that law does not have."""
        shares = drawn.shares
        usable = np.flatnonzero(shares > 0.0).tolist()
        texts = list(dict.fromkeys(drawn.texts[k] for k in usable))
        place = {text: n for n, text in enumerate(texts)}
        mass = np.zeros(len(texts))
        for k in usable:
            mass[place[drawn.texts[k]]] += shares[k]
        means = utilities(texts, self._utility) @ mass
        likeness = np.zeros(len(drawn.texts))
        for k in usable:
            likeness[k] = means[place[drawn.texts[k]]]
        return likeness


def utilities(texts: list[str], utility: Utility | None) -> np.ndarray:
    """float64 [k, k], the utility of every text against every other. Raises RequestError where one is no finite number."""
    count = len(texts)
    if utility is None:
        grams = [_grams(text) for text in texts]
        table = np.eye(count)
        for i in range(count):
            for j in range(i):
                table[i, j] = table[j, i] = _f1(grams[i], grams[j])
        return table
    table = np.array([[float(utility(one, other)) for other in texts] for one in texts]).reshape(count, count)
    if not np.isfinite(table).all():
        i, j = np.argwhere(~np.isfinite(table))[0]
        raise RequestError(f"rule mbr: the utility of {texts[i]!r:.60} and {texts[j]!r:.60} is {table[i, j]}")
    return table


def _grams(text: str) -> list[Counter[str]]:
    return [Counter(text[k : k + n] for k in range(len(text) - n + 1)) for n in range(1, _LONGEST_GRAM + 1)]


def _f1(one: list[Counter[str]], other: list[Counter[str]]) -> float:
    """Mean over n of 2·shared/(grams of one + grams of the other), over those n that either text has grams of."""
    scores = [
        2.0 * (mine & theirs).total() / (mine.total() + theirs.total())
        for mine, theirs in zip(one, other, strict=True)
        if mine or theirs
    ]
    return sum(scores) / len(scores) if scores else 1.0
