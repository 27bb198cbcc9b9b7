"""Lark grammars: llguidance's dialect, and errors that name the line."""

from __future__ import annotations

import pytest

from grammars.errors import GrammarError
from grammars.lark_grammar import Lark
from tests.grammars.small import SMALL, is_member


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ('start: a\na: "x" foo', 'line 2, column 4: unknown name: "foo"'),
        ('start: "a', "line 1, column 10: lexer error"),
        ("start: /a(?=b)/", "line 1, column 8: .*look-around"),
        ('\nstart: "a"\nb: [', "line 3, column"),
        ('x: "a"', "no start rule found; it needs a rule `start`"),
        ("", "no start rule"),
        ('start: "a"\nb: <[5]>', "line 2: a special token is not supported"),
        ("start: <|im_end|>", "line 1: a special token is not supported"),
        ("start: a\na[max_tokens=3]: /a+/", "line 2: max_tokens is not supported"),
        ("start: a\na[temperature = 0.5]: /a+/", "line 2: temperature is not supported; set the request's"),
        ('start: a "b"\na[stop="b"]: /.+/', "line 2: stop is not supported; use suffix="),
        ('%llguidance {"allow_invalid_utf8": true}\nstart: "a"', "line 1: texts are UTF-8"),
        (3, "not int"),
    ],
)
def test_malformed_grammars_are_refused_by_their_line(grammar, message):
    with pytest.raises(GrammarError, match=message):
        Lark(grammar).compile(SMALL)


def test_texts_patterns_and_comments_may_hold_anything():
    grammar = """
    // a comment with <[5]> and max_tokens=3
    start: "<[5]>" | /stop=<x>\\/\\/ ?/ | stop  # temperature=1
    stop: "temperature=" %json {"enum": ["<|x|>"]}
    """
    constraint = Lark(grammar).compile(SMALL)
    for text in ("<[5]>", "stop=<x>// ", 'temperature="<|x|>"'):
        assert is_member(constraint, text), text


def test_white_space_may_be_ignored():
    constraint = Lark('start: "a" "b"\n%ignore /[ \\n]+/').compile(SMALL)
    assert is_member(constraint, "a \n b") and not is_member(constraint, "aa")


def test_a_grammar_without_a_last_line_end_is_whole():
    assert is_member(Lark('start: A // end\nA: "x"').compile(SMALL), "x")
    assert is_member(Lark('start: "x" // end').compile(SMALL), "x")
