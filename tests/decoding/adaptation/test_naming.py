"""Whom a text names: by whole words as a reader sees them, however tokens cut them."""

from __future__ import annotations

import pytest

from decoding.adaptation.lexicons import axis_of
from decoding.adaptation.naming import Naming, named_first
from grammars.vocabulary import Vocabulary

TOKENS = (
    b"",
    b" he",
    b"he",
    b" she",
    b"She",
    b"s",
    b" ",
    b'"',
    b"\n",
    b" wait",
    b"er",
    b" waiter",
    b"\xc3\xa9",
    b" queens",
)
VOCABULARY = Vocabulary(TOKENS, (0,), len(TOKENS))
AXIS = axis_of({"name": "gender", "groups": {"female": ["she", "waitress", "queens"], "male": ["he", "waiter"]}})


def ids(*texts: bytes) -> list[int]:
    return [TOKENS.index(text) for text in texts]


@pytest.mark.parametrize(
    ("texts", "in_a_word", "group"),
    [
        ([b" she", b" he"], False, "female"),
        ([b"She"], False, "female"),
        ([b"She"], True, None),
        ([b'"', b"he"], True, "male"),
        ([b"s", b"he"], False, None),
        ([b"\xc3\xa9", b"he"], False, None),
        ([b"\n", b"he", b" she"], True, "male"),
        ([b" ", b"he"], True, "male"),
        ([b" wait", b"er"], False, None),
        ([b" waiter"], False, "male"),
        ([], False, None),
    ],
)
def test_a_word_names_where_it_stands_alone(texts: list[bytes], in_a_word: bool, group: str | None):
    axes = [("gender", AXIS.tokens(VOCABULARY))]
    naming = Naming(axes, VOCABULARY, in_a_word)
    for token in ids(*texts):
        naming.advance([token])
    assert naming.first == {"gender": group}


@pytest.mark.parametrize(
    ("text", "before", "group"),
    [
        (" she and he", "", "female"),
        (" the waitress", "", "female"),
        ("HE is", "", "male"),
        ('H-e, "he"', "", "male"),
        ("the sheath of héhe", "", None),
        ("he", "s", "female"),
        ("he", "t", None),
        (" he", "she", "male"),
        ("", "she", None),
    ],
)
def test_a_finished_text_names_by_its_words(text: str, before: str, group: str | None):
    lexicons = {"gender": dict(AXIS.groups), "other": {"a": ["and"]}}
    found = named_first([text, "and"], lexicons, before)
    assert found["gender"] == (group, None) and found["other"][1] == ("a" if not before else None)


def test_most_of_a_word_is_not_the_word():
    """ " wait" is two thirds of a waiter, and begins no waitress either; " queens" and "She" are whole."""
    tokens = AXIS.tokens(VOCABULARY)
    assert tokens == {
        "female": (tuple(ids(b" she", b" queens")), tuple(ids(b"She"))),
        "male": (tuple(ids(b" he", b" waiter")), tuple(ids(b"he"))),
    }
