"""Scored texts are read with care, split by pairs, and an AUC is the share of pairs in the right order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoding.adaptation.scored_texts import ScoredTexts, auc, read_scored_texts
from grammars.errors import RequestError


def written(folder: Path, text: str) -> Path:
    path = folder / "scored.jsonl"
    path.write_text(text, encoding="utf-8")
    return path


def test_texts_and_scores_are_read_in_order(tmp_path: Path):
    path = written(tmp_path, '{"text": "a\u2028b", "toxicity": 0.5}\n\n{"toxicity": 0, "text": "", "more": 1}\n')
    found = read_scored_texts(path)
    assert found.texts == ("a\u2028b", "")
    assert found.toxicity.tolist() == [0.5, 0.0] and found.toxic.tolist() == [True, False]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{text: 1}", r"line 2 is no JSON"),
        ("[1]", r"line 2 is '\[1\]': wanted a JSON object"),
        ('{"text": "a"}', "line 2 is .*wanted a JSON object"),
        ('{"text": 3, "toxicity": 0}', "line 2: text is 3; wanted a string"),
        ('{"text": "a", "toxicity": 1.5}', "line 2: toxicity is 1.5; wanted a number from 0 to 1"),
        ('{"text": "a", "toxicity": NaN}', "line 2: toxicity is nan"),
        ('{"text": "a", "toxicity": true}', "line 2: toxicity is True"),
        ('{"text": "a", "toxicity": "high"}', "line 2: toxicity is 'high'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, says: str):
    path = written(tmp_path, '{"text": "a", "toxicity": 0.5}\n' + line + "\n")
    with pytest.raises(RequestError, match=rf"scored\.jsonl, {says}"):
        read_scored_texts(path)


def test_a_file_with_nothing_in_it_and_one_that_is_not_there_are_named(tmp_path: Path):
    with pytest.raises(RequestError, match="holds no scored text"):
        read_scored_texts(written(tmp_path, "\n"))
    with pytest.raises(RequestError, match=r"cannot read scored texts from .*none\.jsonl"):
        read_scored_texts(tmp_path / "none.jsonl")


@given(st.integers(10, 80), st.sampled_from([0.1, 0.2, 0.4, 0.5]))
def test_pairs_stay_together_and_every_text_is_on_one_side(pairs: int, share: float):
    texts = ScoredTexts(tuple(str(n) for n in range(2 * pairs)), np.zeros(2 * pairs))
    fitted, out = texts.split(share)
    assert sorted(map(int, fitted.texts + out.texts)) == list(range(2 * pairs))
    assert {int(text) // 2 for text in fitted.texts}.isdisjoint(int(text) // 2 for text in out.texts)
    assert abs(len(out.texts) / 2 - share * pairs) <= 1


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_that_leaves_one_side_empty_is_refused(share: float):
    with pytest.raises(RequestError, match="between 0 and 1"):
        ScoredTexts(("a", "b"), np.zeros(2)).split(share)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[int, bool]]):
    scores, positive = np.array([score for score, _ in rows]), np.array([is_positive for _, is_positive in rows])
    if positive.all() or not positive.any():
        with pytest.raises(ValueError, match="positive and other texts"):
            auc(scores, positive)
        return
    difference = scores[positive][:, None] - scores[~positive]
    assert auc(scores, positive) == pytest.approx(((difference > 0) + 0.5 * (difference == 0)).mean())
