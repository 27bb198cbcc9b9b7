"""Lark grammars: llguidance's dialect, and errors that name the line."""

from __future__ import annotations

from random import Random

import pytest
from lark.load_grammar import load_grammar
from lark.tree import Tree

from grammars.errors import GrammarError, Unsatisfiable
from grammars.lark_grammar import Lark
from grammars.lark_productive import unproductive
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


@pytest.mark.parametrize(
    ("grammar", "endless"),
    [
        ('start: "a" start', "`start`"),
        ('start: start "a"', "`start`"),
        ('start: "a" b\nb: "b" start | "c" b', "`start`, `b`"),
        ('start: a\na: ("x" a)+', "`start`, `a`"),
        ('start: a{2}\na: "x" a{1,3}', "`start`, `a`"),
        (
            'start: /s/i (a | b)\na[capture]: "t" b -> first\n  | a // "z"\n\n  | b\nb: %json {"a": ["}"]} a',
            "`start`, `a`, `b`",
        ),
        ("%import common.INT\n%ignore /[ ]+/\nstart: INT start", "`start`"),
    ],
)
def test_a_grammar_that_cannot_end_is_unsatisfiable(grammar, endless):
    with pytest.raises(Unsatisfiable, match=f"since {endless} cannot end"):
        Lark(grammar).compile(SMALL)


@pytest.mark.parametrize(
    ("grammar", "text"),
    [
        ('start: "a" start | "b"', "aab"),
        ('start: "a" start |', "aa"),
        ('start: "a" start?', "aa"),
        ('start: "a" start*', "aa"),
        ('start: "a" [start]', "aa"),
        ('start: "a" start{0,1}', "aa"),
        ('start: "a" start{,2}', "aa"),
        ('start: "a" b\nb: "b" start | C\nC: "c" D\nD: /d/', "abacd"),
        ('start: "a" ("b" start | "c"+)+', "acc"),
        ('%import common.INT\nstart: INT | "-" start', "--12"),
        ('start: "a" b\nb: %json {"type": "null"} | %lark {\n start: "x" start | "y"\n}', "axy"),
        # One rule that cannot end beside ways that do: its texts are dead ends, not the grammar.
        ('start: "a" | "b" c\nc: "c" c', "a"),
        ('start: "(: start" | "a" start // start: start\n', "a(: start"),
    ],
)
def test_a_grammar_with_one_way_out_is_not(grammar, text):
    assert is_member(Lark(grammar).compile(SMALL), text)


def test_unproductive_rules_are_those_of_larks_own_reading_of_random_grammars():
    random, names = Random(5), ["start", "b", "_c", "d"]

    def part(depth: int) -> str:
        value = random.choice([*names, *names, *names, '"x"', "/y/"])
        if depth < 2 and random.random() < 0.4:
            opening, closing = random.choice(["()", "()", "[]"])
            value = f"{opening}{body(depth + 1)}{closing}"
            if opening == "[":
                return value
        return value + random.choice(["", "", "", "", "?", "*", "+", "~2", "~0..2", "~1..2"])

    def body(depth: int) -> str:
        return " | ".join(
            " ".join(part(depth) for _ in range(random.randint(1, 3))) for _ in range(random.randint(1, 2))
        )

    def derives(tree: Tree, known: set[str]) -> bool:
        match tree.data:
            case "expansions":
                return any(derives(each, known) for each in tree.children)
            case "expansion":
                return all(derives(each, known) for each in tree.children)
            case "maybe":
                return True
            case "expr":
                value, operator, *bounds = tree.children
                return operator in ("?", "*") or (bool(bounds) and int(bounds[0]) == 0) or derives(value, known)
            case "value":
                value = tree.children[0]
                return isinstance(value, Tree) or value.is_term or value.name in known
        raise AssertionError(tree)

    kinds = set()
    for _ in range(300):
        grammar = "\n".join(f"{name}: {body(0)}" for name in names)
        trees = {str(name): tree for name, _, tree, _ in load_grammar(grammar, "<random>", [], False)[0].rule_defs}
        known: set[str] = set()
        while found := {name for name in trees if name not in known and derives(trees[name], known)}:
            known |= found
        assert unproductive(grammar) == [name for name in names if name not in known], grammar
        kinds.add("start" in known)
    assert kinds == {True, False}
