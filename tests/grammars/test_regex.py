"""Regexes mean what Python's re means."""

from __future__ import annotations

import re
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grammars.errors import GrammarError
from grammars.regex import Regex, to_rust
from tests.grammars.small import SMALL, is_member

ATOMS = [
    "a",
    "b",
    "é",
    "你",
    ".",
    " ",
    "/",
    r"\d",
    r"\D",
    r"\s",
    r"\S",
    r"\w",
    r"\W",
    r"\x61",
    r"\u4f60",
    r"\n",
    r"\.",
    r"\]",
]
ATOMS += ["[ab]", "[^ab]", r"[\da-]", r"[^\wé]", "[a&&b]", "[[]", r"[\]^-]"]
PATTERNS = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{,2}", "{1,}", "*?", "{0,2}?"])).map(
            lambda pair: f"({pair[0]}){pair[1]}"
        ),
        inner.map(lambda one: f"(?i:{one})"),
        inner.map(lambda one: f"(?s:{one})"),
        inner.map(lambda one: f"(?a:{one})"),
    ),
    max_leaves=6,
)
TEXTS = st.text(st.sampled_from(list("abABé你 \n\t/.-[]&^19_x½٣\x1c")), max_size=5)


@settings(max_examples=300)
@given(PATTERNS, st.lists(TEXTS, min_size=1, max_size=8))
def test_members_are_exactly_the_full_matches(pattern, texts):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        compiled = re.compile(pattern)
    constraint = Regex(pattern).compile(SMALL)
    for text in texts:
        assert is_member(constraint, text) == bool(compiled.fullmatch(text)), (pattern, text)


@pytest.mark.parametrize("pattern", ["^a+$", r"\Aa+\Z", "(^a+)$", "^(?:a|^aa+$)$", "^$|a+|^b$", "(?m)^a$", "(?:)a+"])
def test_anchors_at_the_ends_change_nothing(pattern):
    constraint = Regex(pattern).compile(SMALL)
    for text in ("", "a", "aa", "a\n", "b", "ba"):
        assert is_member(constraint, text) == bool(re.fullmatch(pattern, text)), text


def test_flags_of_a_compiled_pattern_count():
    constraint = Regex(re.compile("a.b # c", re.IGNORECASE | re.DOTALL | re.VERBOSE)).compile(SMALL)
    assert is_member(constraint, "A\nB") and not is_member(constraint, "a.b # c")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a(b", "malformed at position 1: missing \\)"),
        ("a**", "malformed at position 2"),
        (r"\q", "malformed at position 0: bad escape"),
        (r"(a)\2", "malformed at position 4: invalid group reference 2"),
        ("\ud800", "lone surrogate U\\+D800"),
        ("(" * 5000 + ")" * 5000, "nested or repeated too deeply|malformed"),
        (b"a", "not bytes"),
        (None, "not NoneType"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_its_reason(pattern, message):
    with pytest.raises(GrammarError, match=message):
        Regex(pattern)


@pytest.mark.parametrize(
    ("pattern", "accepts", "rejects"),
    [
        (r"\p{Lu}+", ("É", "AB"), ("a", "")),
        ("a(?=b)[bc]", ("ab",), ("ac", "a")),
        ("(?<!a)b", ("b",), ("ab",)),
        (r"(a|é)\1", ("aa", "éé"), ("aé", "a")),
        (r"a\b.*", ("a", "a b"), ("ab",)),
        ("(?>a+)b", ("aab",), ("aa",)),
        ("a*+a", (), ("a", "aa", "")),
        ("(a)?(?(1)b|c)", ("ab", "c"), ("b", "ac")),
        (r"(\((?1)*\))", ("()", "(()())"), ("", "(()", "())")),
    ],
)
def test_what_is_not_regular_is_a_pattern(pattern, accepts, rejects):
    constraint = Regex(pattern).compile(SMALL)
    assert constraint.can_mask
    for text in accepts:
        assert is_member(constraint, text), text
    for text in rejects:
        assert not is_member(constraint, text), text


def test_nested_repetitions_are_followed_to_their_end():
    """(a{1,100}){1,100} is a{1,10000}: as it stands the lexer gives up after a hundred letters."""
    constraint = Regex("(a{1,100}){1,100}").compile(SMALL)
    assert is_member(constraint, "a" * 10_000)
    assert not is_member(constraint, "a" * 10_001) and not is_member(constraint, "")


def test_nested_repetitions_become_one_only_where_the_counts_leave_no_gap():
    counts = ("*", "+", "?", "{0}", "{2}", "{3}", "{0,2}", "{2,3}", "{2,4}", "{3,}")
    for inner in counts:
        for middle in counts:
            for outer in counts:
                pattern = f"((?:a{inner}){middle}){outer}"
                written = re.compile(to_rust(pattern))
                differ = [
                    n for n in range(30) if bool(re.fullmatch(pattern, "a" * n)) != bool(written.fullmatch("a" * n))
                ]
                assert differ == [], (pattern, written.pattern)


def test_a_lexer_that_met_its_limit_is_an_error_and_no_refusal():
    constraint = Regex("(ab?){1,300}(a{1,50}b?){1,300}").compile(SMALL)
    with pytest.raises(GrammarError, match="too costly"):
        is_member(constraint, "a" * 2_000)


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("(?r)ab", "the flag r"),
        (r"(?w)\b\w+\b", "the flag w"),
        ("(foo){e<=1}", "approximate"),
    ],
)
def test_what_the_regex_module_reads_and_we_do_not_is_refused_by_its_name(pattern: str, what: str):
    with pytest.raises(GrammarError, match=f"is not supported: it has {what}"):
        Regex(pattern)


def test_braces_that_are_text_to_both_are_text():
    for pattern, text in ((r"(foo)\{e<=1\}", "foo{e<=1}"), (r"\{ids\}[0-9]{2}", "{ids}12")):
        assert is_member(Regex(pattern).compile(SMALL), text)


def test_with_the_flag_f_a_letter_may_stand_for_two():
    constraint = Regex("(?if)strasse[0-9]").compile(SMALL)
    assert all(is_member(constraint, text) for text in ("strasse1", "STRASSE2"))
    assert is_member(constraint, "straße3") and not is_member(constraint, "strase4")
