"""Disjunction: what some part accepts, and the parts that are out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from grammars.any_of import AnyOf
from grammars.choice import Choice
from grammars.errors import GrammarError, Unsatisfiable
from grammars.json_schema import JsonSchema
from grammars.predicate import Predicate
from grammars.regex import Regex
from grammars.registry import language_from_spec
from tests.grammars.small import EVERY_TOKEN, SMALL, after, bits, by_bytes, is_member

A, B, AB = (SMALL.tokens.index(piece) for piece in (b"a", b"b", b"ab"))


def written(mask: np.ndarray) -> set[bytes]:
    return {SMALL.bytes_of(t) for t in np.flatnonzero(bits(mask))}


def test_masks_are_united_and_exact_where_theirs_are():
    constraint = (Regex("ab+") | Choice(["aé", "x"]) | Regex("(aa)*")).compile(SMALL)
    state = constraint.start()
    assert constraint.can_mask and state.mask_is_exact and state.is_complete
    assert written(state.bitmask()) == {b"", b"a", b"ab", b"aa", b"x"} | {b"a\xc3"} & set(SMALL.tokens)
    assert np.array_equal(bits(state.bitmask()), state.accepts(EVERY_TOKEN))
    assert state.accepts(np.array([A, AB]), masked=True).all()


def test_a_part_that_refused_is_out_for_good():
    constraint = (Regex("a*") | Regex("(ab)*")).compile(SMALL)
    assert is_member(constraint, "aaa") and is_member(constraint, "abab")
    assert not is_member(constraint, "aab") and not is_member(constraint, "abaa")


def test_the_last_part_left_goes_on_alone_with_its_mask():
    constraint = (Predicate(lambda text, complete: text in ("", "b")) | Regex("a+")).compile(SMALL)
    state = constraint.start()
    assert not constraint.can_mask and state.bitmask() is None and not state.mask_is_exact
    assert written(after(constraint, [A]).bitmask()) == {b"", b"a", b"aa"}
    assert after(constraint, [B]).bitmask() is None and after(constraint, [B]).is_complete


def test_a_mask_that_is_too_wide_is_tested_part_by_part():
    """A token in the union may lie in the mask of one part and be refused by its test."""
    narrow = Regex("[ab]+") & Predicate(lambda text, complete: "b" not in text)
    state = (narrow | Regex("ab")).compile(SMALL).start()
    assert not state.mask_is_exact
    assert b"b" in written(state.bitmask())
    assert state.accepts(np.array([A, B, AB]), masked=True).tolist() == [True, False, True]


def test_unsatisfiable_parts_are_left_out_until_none_is_left():
    never = Regex("a+b") & Regex("a+c")
    assert is_member((never | Regex("x")).compile(SMALL), "x")
    with pytest.raises(Unsatisfiable, match="no part of the constraint accepts any text"):
        (never | never).compile(SMALL).start()
    with pytest.raises(Unsatisfiable, match="no part"):
        (Choice(["a"]) & Regex("b") | Choice(["a"]) & Regex("c")).compile(SMALL).start()


def test_a_text_is_parsed_by_the_part_that_accepts_it():
    language = JsonSchema({"type": "integer"}) | Choice(["none", "12"]) | Predicate(lambda text: text == "[1]")
    assert language.parse("12") == 12
    assert language.parse("none") == "none"
    assert language.parse("[1]") == "[1]"
    assert (Choice(["12"]) | JsonSchema({"type": "integer"})).parse("12") == "12"
    with pytest.raises(ValueError, match="no part of the constraint accepts it"):
        language.parse("non")


def test_parts_of_parts_are_taken_out_and_specs_travel():
    a, b, c = Regex("a"), Regex("b"), Choice(["c"])
    assert ((a | b) | c).parts == (a | (b | c)).parts == (a, b, c)
    mixed = a & b | c
    assert isinstance(mixed, AnyOf) and language_from_spec(json.loads(json.dumps(mixed.spec))) == mixed


def test_only_languages_combine():
    with pytest.raises(GrammarError, match="not a str: wrap it"):
        Regex("a") | "b"  # type: ignore[operator]
    with pytest.raises(GrammarError, match="at least one part"):
        AnyOf(())
    with pytest.raises(GrammarError, match='"any" takes a list'):
        language_from_spec({"any": {"regex": "a"}})


def test_eos_adds_no_text_in_any_part():
    state = (Regex("a*") | Regex("a*b*")).compile(SMALL).start().advance(A).advance(SMALL.eos)
    assert state.is_complete and state.accepts(np.array([B]))[0]
    assert by_bytes((Regex("a") | Regex("b")).compile(SMALL), b"c") is None
