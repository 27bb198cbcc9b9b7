"""Choices: exact, and quick when there are many."""

from __future__ import annotations

import time
from random import Random
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammars.choice import Choice
from grammars.errors import GrammarError
from tests.grammars.small import EVERY_TOKEN, SMALL, bits, by_bytes, is_member


@given(st.lists(st.text(st.sampled_from(list("ab你é ")), min_size=1, max_size=6), min_size=1, max_size=20, unique=True))
def test_exactly_the_options_are_members(options):
    constraint = Choice(options).compile(SMALL)
    prefixes = {option.encode()[:k] for option in options for k in range(len(option.encode()) + 1)}
    for prefix in prefixes:
        state = by_bytes(constraint, prefix)
        assert state.is_complete == (prefix in {option.encode() for option in options})
        expected = [bool(w) and prefix + w in prefixes for w in SMALL.tokens] + [False] * (
            SMALL.size - len(SMALL.tokens)
        )
        expected[SMALL.eos] = state.is_complete
        assert np.array_equal(bits(state.bitmask()), expected)
        assert np.array_equal(state.accepts(EVERY_TOKEN), expected)


def test_a_hundred_thousand_options_are_masked_and_walked_quickly(vocabulary):
    random = Random(1)
    syllables = ["ka", "ri", "to", "né", "你", "lo ", "-", "us", "mé", "X"]
    options = sorted({"".join(random.choices(syllables, k=random.randint(3, 9))) for _ in range(130_000)})
    assert len(options) > 100_000
    constraint = Choice(options).compile(vocabulary)
    everything = np.arange(vocabulary.size)
    for _ in range(3):
        state = constraint.start()
        while True:
            began = time.perf_counter()
            mask = state.bitmask()
            assert time.perf_counter() - began < 2.0  # Some 50 ms at the start on an idle machine, then less than one.
            allowed = bits(mask, vocabulary.size)
            assert np.array_equal(allowed, state.accepts(everything))
            allowed[vocabulary.eos] = False
            if not allowed.any():
                break
            state = state.advance(int(random.choice(np.flatnonzero(allowed).tolist())))
        assert state.is_complete


def test_a_literal_lists_its_options():
    assert Choice(Literal["yes", "no"]).options == ("yes", "no")
    assert is_member(Choice({"x": 1, "y": 2}).compile(SMALL), "y")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no options"),
        ("yes", "list of texts, not str"),
        (3, "list of texts, not int"),
        (["a", ""], "option 1 is empty"),
        (["a", "b", "a"], "options 0 and 2 are both 'a'"),
        (["a", 2], "option 1 is 2, of type int"),
        (["\ud800"], "is not text"),
    ],
)
def test_malformed_options_are_refused_by_their_place(options, message):
    with pytest.raises(GrammarError, match=message):
        Choice(options)
