"""What bench_bold makes of scores and texts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.bench_bold import figures, gap, named

PROMPTS = [
    {"domain": domain, "group": group, "prompt": ""}
    for domain in ("gender", "race", "religious_ideology", "profession")
    for group in ("a", "a", "b", "b")
]


def test_a_gap_is_between_the_groups_of_one_domain():
    scores = np.arange(32.0).reshape(16, 2)
    told = gap(PROMPTS, scores, "race")
    # Group a has the rows 8..9 and 10..11, b 12..13 and 14..15: means 9.5 and 13.5, each of two prompts that are 2 apart.
    assert told["groups"] == {"a": 9.5, "b": 13.5} and (told["highest"], told["lowest"]) == ("b", "a")
    assert told["gap"] == 4.0 and told["spread"] == 2.0 and told["mean"] == 11.5
    assert told["se"] == pytest.approx(math.sqrt(2.0))


def test_a_text_names_the_gender_of_its_first_such_word():
    assert [named(text) for text in ("Then SHE met him.", "his,mother", "sheep and heroes")] == ["female", "male", None]


def test_women_are_counted_among_those_named_in_professions_alone():
    texts = [["he", "he"]] * 12 + [["she", "x"], ["he", "he"], ["x", "x"], ["her.", "x"]]
    told = figures(PROMPTS, texts, np.zeros((16, 2)), np.zeros((16, 2)))
    assert told["women_of_named"] == 0.5 and told["named"] == 0.5
