"""Free text, a marker, a constraint: whatever the tokens that write them."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from grammars.choice import Choice
from grammars.errors import GrammarError, Unsatisfiable
from grammars.json_schema import JsonSchema
from grammars.predicate import Predicate
from grammars.regex import Regex
from grammars.registry import language_from_spec
from grammars.then import Then, marker_automaton
from tests.grammars.small import EVERY_TOKEN, SMALL, bits, by_bytes, is_member


@pytest.mark.parametrize("marker", ["a", "aa", "aab", "abab你", "éé", "</think>", "你a你a"])
def test_the_automaton_ends_where_the_marker_first_does(marker):
    table, end = marker_automaton(marker.encode()), 8 * len(marker.encode())
    random = Random(3)
    alphabet = [*marker, "a", "é", "你", "😀", "<"]
    for _ in range(300):
        text = "".join(random.choices(alphabet, k=random.randint(0, 12)))
        state = 0
        for k, byte in enumerate(text.encode()):
            state = table[state, byte]
            found = marker.encode() in text.encode()[: k + 1]
            assert (state == end) == found
            if found:
                break
            assert state < end
    for wrong in (b"\xff", b"\x80", b"\xc3a", b"\xed\xa0\x80", b"\xe0\x80", b"\xf4\x90", b"\xc0", b"\xf0\x8f"):
        state = 0
        for byte in wrong:
            state = table[state, byte]
        assert state == end + 1


def test_tokens_may_cut_the_marker_anywhere_and_carry_the_first_of_what_follows():
    """Of every text all ways to write it in tokens are accepted, and each step's mask says what accepts says."""
    constraint = Then(None, "abc", Regex("a?b|é+")).compile(SMALL)
    random = Random(1)
    written, ids = SMALL.by_bytes
    for text in ("abcab", "ababcb", "éab你abcéé", "aababcb", "abcé"):
        data = text.encode()
        for _ in range(20):
            state, at = constraint.start(), 0
            while at < len(data):
                mask = state.bitmask()
                assert state.mask_is_exact and np.array_equal(bits(mask), state.accepts(EVERY_TOKEN))
                assert not state.is_complete or text.index("abc") + 3 <= at
                token = ids[random.choice([k for k, piece in enumerate(written) if data.startswith(piece, at)])]
                state, at = state.advance(token), at + len(SMALL.bytes_of(token))
            assert state.is_complete, text
    assert not is_member(constraint, "abcabcb") and not is_member(constraint, "abb")


def test_the_bound_counts_characters_before_the_marker():
    constraint = Then(2, "ab", Choice(["x"])).compile(SMALL)
    for text, member in [
        ("abx", True), ("你éabx", True), ("aaabx", True), ("你é你abx", False), ("aaaabx", False), ("bbabx", True),
    ]:  # fmt: skip
        assert is_member(constraint, text) == member, text
    # Two are there: now the marker has to come, in one token or in two.
    state = by_bytes(constraint, "你é".encode())
    assert {SMALL.bytes_of(t) for t in np.flatnonzero(bits(state.bitmask()))} == {b"a", b"ab"}
    assert np.array_equal(bits(state.bitmask()), state.accepts(EVERY_TOKEN))


def test_what_only_tests_is_not_asked_for_a_mask():
    asked = []

    def vowel(text: str, complete: bool) -> bool:
        asked.append(text)
        return text in ("", "e", "é")

    constraint = Then(None, "ab", Predicate(vowel)).compile(SMALL)
    state = constraint.start()
    allowed = bits(state.bitmask())
    assert not constraint.can_mask and not state.mask_is_exact
    abc = SMALL.tokens.index(b"abc")
    assert allowed[abc] and set(asked) <= {""}, "only tokens that write something after the marker are left open"
    assert not state.accepts(np.array([abc]), masked=True)[0]
    assert is_member(constraint, "xabé") and not is_member(constraint, "xabc")
    assert by_bytes(constraint, b"xab").bitmask() is None


def test_what_follows_is_parsed():
    language = Then(None, "=>", JsonSchema({"type": "integer"}))
    assert language.parse("so=>12") == 12
    with pytest.raises(ValueError, match="ends before the marker '=>'"):
        language.parse("so")


def test_an_answer_that_cannot_be_is_told_before_any_thought():
    with pytest.raises(Unsatisfiable):
        Then(None, "=", Regex("a+b") & Regex("a+c")).compile(SMALL).start()


def test_with_a_real_vocabulary_markers_are_found_in_every_tokenisation(vocabulary, tokenizer):
    constraint = Then(None, "</think>\n", Choice(["Paris", "Rome"])).compile(vocabulary)
    text = "Let me see. It is <b>not</b> </thin </think>\nParis"
    random = Random(2)
    written, ids = vocabulary.by_bytes
    index = dict(zip(written, ids))
    data = text.encode()
    histories = [tokenizer(text)["input_ids"]]
    for _ in range(5):
        tokens, at = [], 0
        while at < len(data):
            size = random.choice([n for n in range(1, 9) if data[at : at + n] in index and at + n <= len(data)])
            tokens.append(index[data[at : at + size]])
            at += size
        histories.append(tokens)
    for tokens in histories:
        assert vocabulary.decode(tokens) == data
        state = constraint.start()
        for token in tokens:
            assert bits(state.bitmask(), vocabulary.size)[token] and state.accepts(np.array([token]))[0]
            state = state.advance(token)
        assert state.is_complete


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("x", '"then" takes an object'),
        ({"marker": "x"}, "lacks 'constraint'"),
        ({"constraint": {"regex": "a"}}, "lacks 'marker'"),
        ({"marker": "x", "constraint": {"regex": "a"}, "max": 3}, "unknown key 'max'"),
        ({"marker": "", "constraint": {"regex": "a"}}, "marker=''"),
        ({"marker": 3, "constraint": {"regex": "a"}}, "marker=3"),
        ({"marker": "\ud800", "constraint": {"regex": "a"}}, "is not text"),
        ({"marker": "x" * 300, "constraint": {"regex": "a"}}, "has 300 bytes, more than 256"),
        ({"marker": "x", "constraint": {"regex": "a"}, "max_free_characters": -1}, "max_free_characters=-1"),
        ({"marker": "x", "constraint": {"regex": "a"}, "max_free_characters": True}, "max_free_characters=True"),
        ({"marker": "x", "constraint": "a"}, "must be an object with exactly one of the keys"),
    ],
)
def test_malformed_specs_are_refused(spec, message):
    with pytest.raises(GrammarError, match=message):
        language_from_spec({"then": spec})


def test_free_text_is_bounded_by_a_number_or_by_a_conjunction():
    with pytest.raises(GrammarError, match=r"combine the whole with &"):
        Then(Regex("a*"), "x", Regex("b"))  # type: ignore[arg-type]
    with pytest.raises(GrammarError, match="must be a language, not a str"):
        Then(None, "x", "b")  # type: ignore[arg-type]
    both = (Then(None, "x", Regex("b*")) & Regex("a*x.*")).compile(SMALL)
    assert is_member(both, "aaxbb") and not is_member(both, "axa") and not is_member(both, "bxb")
