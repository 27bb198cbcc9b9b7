"""Conjunction: mask with what masks, test the rest."""

from __future__ import annotations

import numpy as np
import pytest

from grammars.choice import Choice
from grammars.compose import All
from grammars.errors import GrammarError, Unsatisfiable
from grammars.json_schema import JsonSchema
from grammars.lark_grammar import Lark
from grammars.predicate import Predicate
from grammars.regex import Regex
from tests.grammars.small import EVERY_TOKEN, SMALL, bits, by_bytes, is_member


def test_masks_are_intersected_and_the_rest_is_tested_on_what_they_leave():
    asked = []

    def no_b(text: str, complete: bool) -> bool:
        asked.append(text)
        return "b" not in text

    both = Predicate(no_b) & Regex("[a-c]{1,3}") & Regex("[^c]+")
    constraint = both.compile(SMALL)
    assert constraint.can_mask
    state = constraint.start()
    assert not state.mask_is_exact
    allowed = bits(state.bitmask())
    assert {SMALL.bytes_of(t) for t in np.flatnonzero(allowed)} == {b"a", b"b", b"ab", b"aa"}
    asked.clear()
    accepted = state.accepts(EVERY_TOKEN)
    assert {SMALL.bytes_of(t) for t in np.flatnonzero(accepted)} == {b"a", b"aa"}
    assert set(asked) <= {"a", "b", "ab", "aa"}, "the predicate is asked only what the others allow"
    inside = np.flatnonzero(allowed)
    assert np.array_equal(state.accepts(inside, masked=True), accepted[inside])


def test_of_exact_masks_the_intersection_is_exact_and_of_tests_alone_there_is_none():
    exact = (Regex("[ab]+") & Choice(["ab", "ac"])).compile(SMALL).start()
    assert exact.mask_is_exact and exact.accepts(np.array([0, 5]), masked=True).all()
    tested = (Predicate(lambda t: True) & Predicate(lambda t, c: len(t) < 2)).compile(SMALL)
    assert not tested.can_mask and tested.start().bitmask() is None
    assert is_member(tested, "a") and not is_member(tested, "ab")


def test_eos_needs_every_part_complete():
    constraint = (Regex("a+") & Regex("(aa)+")).compile(SMALL)
    assert [by_bytes(constraint, b"a" * k).is_complete for k in (0, 1, 2, 3)] == [False, False, True, False]


def test_parts_of_parts_are_taken_out():
    a, b, c = Regex("a"), Regex("b"), Regex("c")
    assert ((a & b) & c).parts == (a & (b & c)).parts == (a, b, c)


def test_the_first_part_that_knows_values_parses():
    assert (Regex(r"\d+") & JsonSchema({"type": "integer"})).parse("12") == 12
    assert (Regex(r"\d+") & Predicate(lambda t: True)).parse("12") == "12"


def test_parts_that_exclude_each_other_are_unsatisfiable():
    with pytest.raises(Unsatisfiable, match="no first token suits them all"):
        (Regex("a+") & Lark('start: "b" start | "b"')).compile(SMALL).start()


def test_regexes_are_one_constraint_without_dead_ends():
    """Two that go their own ways only at the end, three together, and one that is no regular pattern beside them."""
    with pytest.raises(Unsatisfiable):
        (Regex("a+b") & Regex("a+c")).compile(SMALL).start()
    both = (Regex("a+(bc|x)") & Regex("[ab]+c")).compile(SMALL)
    state = by_bytes(both, b"a")
    assert {SMALL.bytes_of(t) for t in np.flatnonzero(bits(state.bitmask()))} == {
        b"a",
        b"b",
        b"aa",
        b"ab",
        b"bc",
        b"abc",
    }
    three = (Regex("a*b*") & Regex("(..)*") & Regex(".{3,5}")).compile(SMALL)
    assert [is_member(three, text) for text in ("ab", "aabb", "aaab", "aaabb", "abab")] == [
        False,
        True,
        True,
        False,
        False,
    ]
    backed = (Regex(r"(a|b)c\1") & Regex("a.*") & Regex(".{3}")).compile(SMALL)
    assert is_member(backed, "aca") and not is_member(backed, "bcb") and not is_member(backed, "acb")


def test_of_a_choice_only_texts_that_the_others_accept_are_left():
    schema = JsonSchema({"type": "integer", "minimum": 10})
    constraint = (Choice(["7", "12", "120", "x"]) & schema & Predicate(lambda text, complete: text != "13")).compile(
        SMALL
    )
    state = constraint.start()
    assert {SMALL.bytes_of(t) for t in np.flatnonzero(bits(state.bitmask()))} == {b"1", b"12"}
    assert is_member(constraint, "120") and not is_member(constraint, "7")
    with pytest.raises(Unsatisfiable, match="each text of the choice is refused by another part"):
        (Choice(["7", "x"]) & schema).compile(SMALL)


def test_only_languages_combine():
    with pytest.raises(GrammarError, match="not a str"):
        Regex("a") & "b"  # type: ignore[operator]
    with pytest.raises(GrammarError, match="at least one part"):
        All(())
