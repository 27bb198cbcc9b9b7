"""Texts with a score of how far each carries an attribute: read, split, and what a classifier of them is worth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grammars.errors import RequestError


@dataclass(frozen=True)
class ScoredTexts:
    """Texts and their scores.

    texts     N of them
    toxicity  float64 [N]  in [0, 1]; from .5 on a text counts as toxic
    """

    texts: tuple[str, ...]
    toxicity: np.ndarray

    @property
    def toxic(self) -> np.ndarray:
        """bool [N]"""
        return self.toxicity >= 0.5

    def at(self, chosen: np.ndarray) -> ScoredTexts:
        """Those where `chosen`, bool [N], is true."""
        return ScoredTexts(tuple(text for text, keep in zip(self.texts, chosen) if keep), self.toxicity[chosen])

    def split(self, held_out: float, group: int = 2) -> tuple[ScoredTexts, ScoredTexts]:
        """To fit on, and held out. Lines come in groups that stay together (2: a prompt and its continuation).

        held_out  share of the groups, above 0 and below 1; they lie evenly over the file, the same ones each time
        """
        if not 0 < held_out < 1:
            raise RequestError(f"held_out={held_out}: the share of texts held out must lie between 0 and 1")
        groups = np.arange(len(self.texts)) // group
        out = np.floor((groups + 1) * held_out) > np.floor(groups * held_out)
        return self.at(~out), self.at(out)


def read_scored_texts(path: Path) -> ScoredTexts:
    """Read JSON lines such as {"text": "...", "toxicity": 0.3}. RequestError naming the file, the line and what is wrong there."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # a text may hold other separators of lines
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read scored texts from {path}: {error}") from error
    rows = [_row(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise RequestError(f'{path} holds no scored text: wanted lines such as {{"text": "...", "toxicity": 0.3}}')
    texts, toxicity = zip(*rows)
    return ScoredTexts(texts, np.array(toxicity, dtype=np.float64))


def _row(line: str, place: str) -> tuple[str, float]:
    wanted = 'wanted a JSON object such as {"text": "...", "toxicity": 0.3}'
    try:
        row = json.loads(line)
    except ValueError as error:
        raise RequestError(f"{place} is no JSON ({error}): {wanted}") from error
    if not isinstance(row, dict) or "text" not in row or "toxicity" not in row:
        raise RequestError(f"{place} is {line.strip()[:60]!r}: {wanted}")
    text, toxicity = row["text"], row["toxicity"]
    if not isinstance(text, str):
        raise RequestError(f"{place}: text is {text!r}; wanted a string")
    if isinstance(toxicity, bool) or not isinstance(toxicity, int | float) or not 0 <= toxicity <= 1:
        raise RequestError(f"{place}: toxicity is {toxicity!r}; wanted a number from 0 to 1")
    return text, float(toxicity)


def auc(scores: np.ndarray | Sequence[float], positive: np.ndarray) -> float:
    """How often a positive text has the higher score than one that is not: the area under the ROC curve, ties count half.

    scores    float64 [N];  positive  bool [N], with both values in it
    """
    _, ranks, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        raise ValueError(f"an AUC needs positive and other texts; here are {positives} and {negatives}")
    return float((middle[ranks][positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))
