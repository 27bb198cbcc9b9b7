"""Regularised best-of-k: a reward that is high for a text unlike all others is not believed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from grammars.errors import RequestError
from samplers.potential import charge
from samplers.rule import Drawn, positive, rule

_LONGEST_GRAM = 6
_PAIRS_AT_ONCE = 1 << 20
# Grams that so many texts have are counted by a product of matrices, the others pair by pair.
_COMMON = 48
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
        return _f1(texts)
    table = np.array([[float(utility(one, other)) for other in texts] for one in texts]).reshape(count, count)
    if not np.isfinite(table).all():
        i, j = np.argwhere(~np.isfinite(table))[0]
        raise RequestError(f"rule mbr: the utility of {texts[i]!r:.60} and {texts[j]!r:.60} is {table[i, j]}")
    return table


def _f1(texts: list[str]) -> np.ndarray:
    """Mean over n of 2·shared/(grams of one + grams of the other), over those n that either text has grams of: [k, k]."""
    count = len(texts)
    table, counted = np.zeros((count, count)), np.zeros((count, count))
    for n in range(1, _LONGEST_GRAM + 1):
        grams = [Counter(text[k : k + n] for k in range(len(text) - n + 1)) for text in texts]
        totals = np.array([one.total() for one in grams])
        both = totals[:, None] + totals
        table += np.divide(2.0 * _shared(grams), both, out=np.zeros_like(table), where=both > 0)
        counted += both > 0
    return np.divide(table, counted, out=np.ones_like(table), where=counted > 0)


def _shared(grams: list[Counter[str]]) -> np.ndarray:
    """How many grams every two texts share: int64 [k, k]. A gram that a text has twice is two, (gram, 1) and (gram, 2)."""
    count = len(grams)
    numbers: dict[tuple[str, int], int] = {}
    pairs = [
        (numbers.setdefault((gram, copy), len(numbers)), k)
        for k, one in enumerate(grams)
        for gram, copies in one.items()
        for copy in range(copies)
    ]
    shared = np.zeros(count * count, dtype=np.int64)
    if not pairs:
        return shared.reshape(count, count)
    number, text = np.array(sorted(pairs), dtype=np.int64).T
    starts = np.flatnonzero(np.r_[True, number[1:] != number[:-1]])
    spread = np.diff(np.r_[starts, len(number)])  # in how many texts each is
    block = max(_PAIRS_AT_ONCE // count, 1)
    common = np.flatnonzero(spread >= _COMMON)
    for some in (common[k : k + block] for k in range(0, len(common), block)):
        has = np.zeros((count, len(some)), dtype=np.float32)
        for column, k in enumerate(some):
            has[text[starts[k] : starts[k] + spread[k]], column] = 1.0
        shared += (has @ has.T).astype(np.int64).ravel()
    for many in np.unique(spread[spread < _COMMON]):
        rows = text[starts[spread == many, None] + np.arange(many)]  # [grams, texts that have it]
        step = max(_PAIRS_AT_ONCE // int(many) ** 2, 1)
        for some in (rows[k : k + step] for k in range(0, len(rows), step)):
            shared += np.bincount((some[:, :, None] * count + some[:, None, :]).ravel(), minlength=count * count)
    return shared.reshape(count, count)
