"""Texts as weighted words: term frequency times inverse document frequency, of length 1."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

# Words of two or more characters.
WORD = re.compile(r"\b\w\w+\b")
Cut = Callable[[str], Iterable[str]]


def words_of(text: str) -> list[str]:
    """The words of a text in order, in lower case, as scikit-learn's TfidfVectorizer cuts them by default."""
    return WORD.findall(text.lower())


def vocabulary_of(texts: Sequence[str], least: int, cut: Cut = words_of) -> tuple[dict[str, int], np.ndarray]:
    """The terms that stand in `least` texts or more, in alphabetical order, with their smooth inverse document frequency.

    returns  term -> column; float64 [W]: log((1 + texts) / (1 + texts with the term)) + 1
    """
    found: Counter[str] = Counter()
    for text in texts:
        found.update(set(cut(text)))
    kept = sorted(term for term, count in found.items() if count >= least)
    idf = np.log((1 + len(texts)) / (1 + np.array([found[term] for term in kept], dtype=np.float64))) + 1
    return {term: column for column, term in enumerate(kept)}, idf


def tfidf(
    texts: Sequence[str], terms: Mapping[str, int], idf: np.ndarray, cut: Cut = words_of
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The entries other than zero of a matrix with a row of Euclidean length 1 for each text (0 where no term is known).

    terms    term -> column, 0 to W-1;  idf  float64 [W]
    returns  rows int64 [E], ascending; columns int64 [E]; values float64 [E]
    """
    rows: list[int] = []
    columns: list[int] = []
    counts: list[int] = []
    for row, text in enumerate(texts):
        for term, count in Counter(cut(text)).items():
            if (column := terms.get(term)) is not None:
                rows.append(row)
                columns.append(column)
                counts.append(count)
    of, at = np.array(rows, dtype=np.int64), np.array(columns, dtype=np.int64)
    values = np.array(counts, dtype=np.float64) * idf[at]
    norms = np.sqrt(np.bincount(of, values**2, minlength=len(texts)))
    return of, at, values / norms[of]
