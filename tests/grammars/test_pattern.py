"""Patterns mean what the `regex` module's fullmatch means, every prefix of a match can be reached, and what cannot be is said."""

from __future__ import annotations

import itertools
import json
from random import Random

import numpy as np
import pytest
import regex

from grammars.errors import GrammarError, PredicateError, Unsatisfiable
from grammars.pattern import Pattern
from grammars.patterns.mask import superset
from grammars.patterns.partial import compile_partial
from grammars.registry import language_from_spec
from tests.grammars.small import SMALL, bits, by_bytes, is_member, walk

PIECES = (
    "a", "b", ".", "[ab]", "[^a]", "(?i:A)", "(?s:.)", r"\b", r"\B", r"\m", r"\M", "^", "$", r"\A", r"\Z", "(?m:^)", "(?m:$)",
    "(?=X)", "(?!X)", "(?<=X)", "(?<!X)", r"(X)\1", "(?>X)", "(?:X)?", "(?:X)*", "(?:X)+", "(?:X)*?", "(?:X){2}", "(?:X)++",
    "(?:X)*+", "(?:X|X)", "(?>X|X)", "(X)?(?(1)X|X)", "(?(?=X)X|X)", "(?(?<=X)X|X)", "(?|(X)|(X))", "(a(?1)?b)", r"\w", r"\p{Z}",
)  # fmt: skip
TEXTS = ["".join(text) for length in range(5) for text in itertools.product("ab \n", repeat=length)]


def random_pattern(random: Random, depth: int) -> str:
    written = ""
    for _ in range(random.choice([1, 1, 2, 2, 3])):
        piece = random.choice(PIECES if depth else PIECES[:5])
        while "X" in piece:
            piece = piece.replace("X", random_pattern(random, depth - 1), 1)
        written += piece
    return written


def random_patterns(seed: int, count: int) -> list[tuple[str, set[str]]]:
    """Patterns with the texts of TEXTS that they match."""
    random, found = Random(seed), []
    while len(found) < count:
        pattern = random_pattern(random, 2)
        try:
            compiled = regex.compile(pattern)
        except regex.error:
            continue
        try:
            found.append((pattern, {text for text in TEXTS if compiled.fullmatch(text, timeout=5)}))
        except MemoryError:
            # A group that calls itself without end.
            continue
    return found


def test_every_prefix_of_a_match_is_viable():
    """By brute force; the module's own partial matching fails this for one pattern in forty."""
    blind = 0
    for pattern, members in random_patterns(1, 500):
        compiled, own = compile_partial(pattern), regex.compile(pattern)
        assert members == {text for text in TEXTS if compiled.fullmatch(text)}, pattern
        prefixes = {text[:k] for text in members for k in range(len(text) + 1)}
        for prefix in prefixes:
            assert compiled.fullmatch(prefix, partial=True), (pattern, prefix)
        blind += any(own.fullmatch(prefix, partial=True) is None for prefix in prefixes)
    assert blind, "these patterns are too easy to tell"


@pytest.mark.parametrize(
    ("pattern", "prefix", "whole"),
    [
        (r"\b.", "", "a"),
        (r"a\B.", "a", "ab"),
        ("[^aeiou]++(?<!x)", "x", "xy"),
        (".*?(?<=ab)", "a", "ab"),
        ("(?<!$)aa", "", "aa"),
    ],
)
def test_partial_matching_without_its_blind_spots(pattern, prefix, whole):
    assert bool(regex.fullmatch(pattern, whole)) and compile_partial(pattern).fullmatch(prefix, partial=True)


def test_members_are_exactly_the_full_matches():
    exact, random = 0, Random(2)
    for pattern, members in random_patterns(2, 250):
        try:
            constraint = Pattern(pattern).compile(SMALL)
            constraint.start()
        except Unsatisfiable:
            assert not members, pattern
            continue
        exact += constraint.start().mask_is_exact
        for text in {*random.sample(TEXTS, 25), *random.sample(sorted(members), min(10, len(members)))}:
            assert is_member(constraint, text) == (text in members), (pattern, text)
    assert exact > 50


def test_a_mask_that_claims_to_be_exact_leads_to_members_only():
    random = Random(3)
    for pattern in (
        r"\b\w+(?<!ing|ed)\b",
        r"(?!.*ab)[ab]{2,4}(?=c|$)c?",
        r"(?<=\A|x)y?(?!z)[yz]",
        r"(?(?=\d)\d\d|[a-c]+)\M",
    ):
        assert superset(pattern).exact
        constraint = Pattern(pattern).compile(SMALL)
        ends = 0
        for _ in range(25):
            tokens, finished = walk(constraint, random, 12)
            if finished:
                ends += 1
                assert regex.fullmatch(pattern, SMALL.decode(tokens).decode())
        assert ends


@pytest.mark.parametrize(
    ("pattern", "members"),
    [
        (r"(a|b(?1)?c)", 4),
        (r"(?<x>a*|b(?&x)(?&x))c", 11),
        (r"(?:ab|a)(?<g>\((?&g)*\)|b?)", 6),
        (r"(?<u>a(?&u))|b(?&u)?", 1),
        (r"(?i)(a|b(?1)c)+", 7),
        (r"(?<a>a(?&b)?)(?<b>b(?&a)|c)", 5),
        (r"(ab?)(?1)*?(?:(?R)|c)", 6),
        (r"^(?(DEFINE)(?<d>a|b(?&d)))(?&d)(?&d)$", 6),
        (r"(?(DEFINE)(?<d>ab?))(?&d)(?&d)\b", 4),
    ],
)
def test_groups_that_call_groups_are_a_mask_of_exactly_the_matches(pattern, members):
    constraint = Pattern(pattern).compile(SMALL)
    assert constraint.start().mask_is_exact
    letters = "ab()" if r"\(" in pattern else "abc"
    texts = ["".join(text) for length in range(5) for text in itertools.product(letters, repeat=length)]
    found = [text for text in texts if is_member(constraint, text)]
    assert found == [text for text in texts if regex.fullmatch(pattern, text)]
    assert len(found) == members


def test_a_call_that_the_module_would_follow_for_ever_is_a_rule_like_any_other():
    """Partial matching of sums takes the module seconds from some twenty brackets on, and (?&e)b|a is left-recursive."""
    sums = r"(?<expr>(?&term)(?:[+\-](?&term))*)(?<term>(?&factor)(?:[*/](?&factor))*)(?<factor>\d+|\((?&expr)\))"
    constraint = Pattern(sums).compile(SMALL)
    assert constraint.start().mask_is_exact
    assert is_member(constraint, "46*45" * 3 + "(" * 40 + "1" + ")" * 40)
    assert not is_member(constraint, "(" * 40 + "1" + ")" * 39)
    left = Pattern("(?<e>(?&e)b|a)").compile(SMALL)
    assert is_member(left, "abbb") and not is_member(left, "b")
    with pytest.raises(Unsatisfiable, match="matches no text"):
        Pattern("a(?R)").compile(SMALL)


def test_what_has_more_than_calls_is_tested_still():
    for pattern in (r"^(<<(?R)*>>|a+)$", r"(?:((.)(?1)\2)|.)", r"(a)?(?(1)b(?:c|(?1))|d)", r"(?>a(?R)?|b)"):
        assert not Pattern(pattern).compile(SMALL).start().mask_is_exact


def test_all_patterns_of_the_awrs_paper_work(data, vocabulary):
    """Each of the 227 compiles with a mask that leaves some first token, and accepts what the module matches of its walks."""
    random, regular = Random(4), 0
    rows = [json.loads(line) for line in (data / "regex" / "patterns.jsonl").read_text().splitlines()]
    assert len(rows) == 227
    for row in rows:
        pattern = row["pattern"]
        constraint = language_from_spec({"regex": pattern}).compile(vocabulary)
        state = constraint.start()
        regular += state.mask_is_exact
        text = b""
        for _ in range(6):
            mask = bits(state.bitmask(), vocabulary.size)
            mask[vocabulary.eos] = False
            candidates = np.array(
                random.sample(np.flatnonzero(mask).tolist(), min(20, int(mask.sum()))), dtype=np.int64
            )
            if not candidates.size or not (passed := candidates[state.accepts(candidates, masked=True)]).size:
                break
            text += vocabulary.bytes_of(int(passed[0]))
            state = state.advance(int(passed[0]))
            assert not state.is_complete or regex.fullmatch(pattern, text.decode()), (pattern, text)
    assert regular >= 140


def test_characters_may_be_split_over_tokens():
    constraint = Pattern(r"(\p{L})\1(?!b)").compile(SMALL)
    assert not constraint.start().mask_is_exact
    state = by_bytes(constraint, "é".encode() + "é".encode()[:1])
    assert state is not None and not state.is_complete
    assert by_bytes(constraint, "éé".encode()).is_complete
    assert by_bytes(constraint, "é".encode() + "è".encode()) is None
    assert by_bytes(constraint, b"\xff") is None


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"(.)\1", "é"),
        (r"(.)\1", "x"),
        (r"(\w)(?!\1).", "é"),
        (r"(?i)(.)\1", "É"),
        (r"(?i)(.)(?:[a-zß]|\1)", "ſ"),
        (r"(?if)(ss|.)\1", "ß"),
        (r"(\d)(?<=[٠-٩])\1\w", "٣٣"),
        (r"(a)?(?(1)[б-д]|\s)", "a"),
        (r"(a)?(?(1)[б-д]|\s)", ""),
        (r"(.)\X\B(?<!é)\1", "é"),
        (r"(.)\b[^\W\d]\1", " "),
    ],
)
def test_a_token_may_end_within_a_character_just_where_one_that_begins_so_may_come(pattern, text):
    """By brute force over all characters that begin with a byte, or with two of three."""
    constraint, compiled = Pattern(pattern).compile(SMALL), compile_partial(pattern)
    assert not constraint.start().mask_is_exact
    written, ids = SMALL.by_bytes
    state = by_bytes(constraint, text.encode())
    assert state is not None
    allowed = {
        chr(code).encode()[:k]
        for code in [*range(0x80, 0xD800), *range(0xE000, 0x10000)]
        if compiled.fullmatch(text + chr(code), partial=True)
        for k in range(1, len(chr(code).encode()))
    }
    for lead in range(0xC2, 0xF0):
        token = ids[written.index(bytes([lead]))]
        assert state.accepts(np.array([token]))[0] == (bytes([lead]) in allowed), hex(lead)
        if lead < 0xE0 or bytes([lead]) not in allowed:
            continue
        further = state.advance(token)
        for second in range(0x80, 0xC0):
            token = ids[written.index(bytes([second]))]
            assert further.accepts(np.array([token]))[0] == (bytes([lead, second]) in allowed), (hex(lead), hex(second))


def test_walks_do_not_end_within_a_character(data, vocabulary):
    """Patterns with back-references of the set above, at random among what is accepted, characters in pieces before others."""
    random = np.random.default_rng(5)
    pieces = np.array(
        [t for t in range(vocabulary.size) if vocabulary.bytes_of(t) and not is_whole(vocabulary.bytes_of(t))]
    )
    assert len(pieces) > 200
    cut = 0
    for pattern in (r"^(.)\1*$", r"(\w)\1", r"^(.)(.)(?:\1\2)+$", r"(\d\d)?(?(1)\w|\s)", r"((\w)\2)\1"):
        constraint = language_from_spec({"regex": pattern}).compile(vocabulary)
        for _ in range(5):
            state, text = constraint.start(), b""
            for _ in range(8):
                mask = bits(state.bitmask(), vocabulary.size)
                mask[vocabulary.eos] = False
                tried = random.permutation(pieces[mask[pieces]])[:20]
                if not (passed := tried[state.accepts(tried, masked=True)]).size:
                    allowed = np.flatnonzero(mask)
                    tried = random.permutation(allowed)[:20] if is_whole(text) else allowed
                    passed = tried[state.accepts(tried, masked=True)]
                assert passed.size or is_whole(text), (pattern, text)
                if not passed.size:
                    break
                text += vocabulary.bytes_of(int(passed[0]))
                cut += not is_whole(text)
                state = state.advance(int(passed[0]))
    assert cut > 30


def is_whole(data: bytes) -> bool:
    return data.decode(errors="ignore").encode() == data


def test_catastrophic_backtracking_ends_with_an_error_that_names_the_pattern():
    constraint = Pattern(r"((a|aa)+)+(\d)\3", timeout_s=0.05).compile(SMALL)
    assert is_member(constraint, "aaa11")
    with pytest.raises(PredicateError, match=r"took longer than 0.05 s on a text of \d+ characters.*possessive"):
        is_member(constraint, "a" * 60 + "12")


def test_a_pattern_without_a_match_is_unsatisfiable():
    with pytest.raises(Unsatisfiable, match="matches no text at all"):
        Pattern(r"a(?<=b)").compile(SMALL)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a(b", r"malformed at position 3: missing \)"),
        ("a**", "malformed at position 2: multiple repeat"),
        (r"\p{Foo}", "malformed at position 7: unknown property"),
        (r"(?&x)", "malformed at position 2: invalid group reference"),
        (r"(a)\2", "malformed at position 5: invalid group reference"),
        ("(?:a){e<=1}", "approximate matching"),
        (r"\L<names>", "malformed"),
        ("(?r)ab", "flag r"),
        (r"(?w)a\b", "flag w"),
        ("(?L)a", "malformed|flag L"),
        ("(" * 3000 + ")" * 3000, "nested"),
        (b"a", "not bytes"),
        (None, "not NoneType"),
    ],
)
def test_bad_patterns_are_refused_with_their_place(pattern, message):
    with pytest.raises(GrammarError, match=message):
        Pattern(pattern)


@pytest.mark.parametrize("timeout_s", [0, -1, True, "1", 1e9])
def test_a_time_limit_is_a_number_of_seconds(timeout_s):
    with pytest.raises(GrammarError, match="timeout_s"):
        Pattern("a", timeout_s=timeout_s)
