"""Groups of words as a request gives them: what is looked for, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

from decoding.adaptation.lexicons import LONGEST_WORD, MOST_GROUPS, MOST_WORDS, axis_of
from decoding.adaptation.settings import MOST_AXES, adaptation_of
from grammars.errors import RequestError


def groups(count: int) -> dict[str, list[str]]:
    return {f"g{k}": [f"word{k}"] for k in range(count)}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"a": ["x" * (LONGEST_WORD + 1)], "b": ["y"]}, f"has {LONGEST_WORD + 1} letters; at most {LONGEST_WORD}"),
        ({"a": ["x" * 4_000_000], "b": ["y"]}, f"has 4000000 letters; at most {LONGEST_WORD}"),
        (groups(MOST_GROUPS + 1), f"{MOST_GROUPS + 1} groups; at most {MOST_GROUPS}"),
        ({"a": [f"x{k}" for k in range(MOST_WORDS + 1)], "b": ["y"]}, f"{MOST_WORDS + 1} words; at most {MOST_WORDS}"),
    ],
    ids=["a long word", "a very long word", "groups", "words"],
)
def test_a_lexicon_that_would_hold_the_server_up_is_refused(given: Any, told: str):
    with pytest.raises(RequestError, match=re.escape(told)):
        axis_of(given)


def test_what_is_just_within_the_limits_is_taken():
    assert len(axis_of(groups(MOST_GROUPS)).groups) == MOST_GROUPS
    assert axis_of({"a": ["x" * LONGEST_WORD], "b": ["y"]}).groups[0] == ("a", ("x" * LONGEST_WORD,))


def test_so_many_axes_are_balanced_and_no_more():
    axes = [{"name": f"axis {k}", "groups": groups(2)} for k in range(MOST_AXES + 1)]
    asked = adaptation_of({"debias": axes[:-1]})
    assert asked is not None and len(asked[1]) == MOST_AXES
    with pytest.raises(RequestError, match=f"debias has {MOST_AXES + 1} axes: at most {MOST_AXES}"):
        adaptation_of({"debias": axes})
