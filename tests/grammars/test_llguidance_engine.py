"""The bridge to llguidance: real vocabularies, long histories, threads and limits."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from random import Random

import numpy as np
import pytest
from llguidance import LLParserLimits

from grammars import llguidance_engine
from grammars.errors import GrammarError, Unsatisfiable
from grammars.lark_grammar import Lark
from grammars.regex import Regex
from grammars.registry import language_from_spec
from tests.grammars.small import EVERY_TOKEN, SMALL, after, bits, by_bytes

SPECS = {
    "regex": {"regex": r"(?:\w{1,12}[ ,.]|\d+é?|[^\x00-\x7f]){1,30}"},
    "json": {"json_schema": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "array"}}}},
    "lark": {"lark": 'start: "SELECT " item (", " item)* " FROM " item\nitem: /[a-z]{1,9}/ | "(" start ")"'},
    "choice": {"choice": ["Paris", "Paris, France", "naïve café", "你好世界", "Lyon 🎉"]},
}


@pytest.mark.parametrize("name", SPECS)
def test_on_the_embedded_model_the_mask_is_what_accepts_says(vocabulary, name):
    """Over all of 49,152 tokens, whatever slices llguidance uses to be quick."""
    constraint = language_from_spec(SPECS[name]).compile(vocabulary)
    random, everything = Random(1), np.arange(vocabulary.size)
    for _ in range(3):
        state = constraint.start()
        for _ in range(8):
            accepted = state.accepts(everything)
            assert np.array_equal(bits(state.bitmask(), vocabulary.size), accepted)
            accepted[vocabulary.eos] = False
            if not accepted.any():
                break
            state = state.advance(int(random.choice(np.flatnonzero(accepted).tolist())))


def test_on_the_embedded_model_every_tokenisation_of_a_forced_text_is_allowed(tokenizer, vocabulary):
    """llguidance would force the usual tokens: the mask would then cut off the others' share of the target."""
    text = "The answer is 42"
    constraint = Regex(text).compile(vocabulary)
    mask = bits(constraint.start().bitmask(), vocabulary.size)
    prefixes = [t for t in range(vocabulary.size) if (w := vocabulary.bytes_of(t)) and text.encode().startswith(w)]
    assert np.flatnonzero(mask).tolist() == prefixes and len(prefixes) > 2


def test_older_states_go_on_after_newer_ones():
    constraint = Regex("[ab]{0,300}c").compile(SMALL)
    written, ids = SMALL.by_bytes
    a, b, c = (ids[written.index(text)] for text in (b"a", b"b", b"c"))
    state, kept = constraint.start(), []
    for k in range(300):
        kept.append(state)
        state = state.advance(a if k % 2 else b)
    assert state.accepts(np.array([a, c])).tolist() == [False, True]
    for k in (299, 150, 3, 0):
        assert kept[k].accepts(np.array([a, b, c])).all()
        assert kept[k].advance(c).is_complete
        assert after(constraint, [a] * k).advance(b).accepts(np.array([a]))[0] == (k < 299)


def test_a_refused_token_leaves_the_state_as_it_was():
    state = by_bytes(Regex("ab+").compile(SMALL), b"ab")
    before = state.accepts(EVERY_TOKEN)
    for token in (SMALL.tokens.index(b"a"), SMALL.size - 1, SMALL.eos_ids[1]):
        with pytest.raises(AssertionError):
            state.advance(token)
    assert np.array_equal(state.accepts(EVERY_TOKEN), before)
    assert np.array_equal(bits(state.bitmask()), before)


def test_a_dead_end_is_an_empty_mask_and_spoils_no_other_state():
    constraint = Lark('start: A D | "ab"\nA: "a"\nD: /[^\\s\\S]/').compile(SMALL)
    start = constraint.start()
    dead = Lark('start: "x" D\nD: /[^\\s\\S]/').compile(SMALL).start().advance(SMALL.tokens.index(b"x"))
    assert not dead.bitmask().any() and not dead.accepts(EVERY_TOKEN).any() and not dead.is_complete
    assert not dead.accepts(EVERY_TOKEN).any()
    assert by_bytes(constraint, b"ab").is_complete and not start.is_complete


def test_a_complete_text_that_cannot_go_on_allows_only_eos():
    state = by_bytes(Regex("ab").compile(SMALL), b"ab")
    assert np.flatnonzero(bits(state.bitmask())).tolist() == [SMALL.eos]


def test_a_language_without_texts_is_unsatisfiable():
    for pattern in (r"[^\s\S]", r"a[^\s\S]|[^\s\S]b"):
        with pytest.raises(Unsatisfiable):
            Regex(pattern).compile(SMALL).start()
    assert Regex("").compile(SMALL).start().is_complete


def test_states_may_be_used_from_many_threads():
    constraint = language_from_spec(SPECS["json"]).compile(SMALL)
    shared = by_bytes(constraint, b'{"a": "')

    def work(seed: int) -> list[bytes]:
        random, texts = Random(seed), []
        for _ in range(20):
            state, text = shared, b""
            for _ in range(10):
                allowed = bits(state.bitmask())
                assert np.array_equal(state.accepts(EVERY_TOKEN), allowed)
                token = int(random.choice(np.flatnonzero(allowed).tolist()))
                state, text = state.advance(token), text + SMALL.bytes_of(token)
            texts.append(text)
        return texts

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, range(4)))
    assert together == [work(seed) for seed in range(4)]


def test_fuel_is_given_back_and_the_lexer_renewed(monkeypatch):
    """A regex whose automaton has 2^25 states, tested but never masked: the fuel of one lexer would not last."""
    monkeypatch.setattr(llguidance_engine, "RENEW_ADVANCES", 1 << 14)
    constraint = Regex("(?s:.*)(?:a|b)[a-z]{25}").compile(SMALL)
    random = Random(1)
    choices = [t for t, written in enumerate(SMALL.tokens) if re.fullmatch(b"[abc]+", written)]
    for _ in range(40):
        state = constraint.start()
        for _ in range(1000):
            token = random.choice(choices)
            assert state.accepts(np.array([token]))[0]
            state = state.advance(token)


def test_a_grammar_past_its_limits_is_an_error_and_the_next_sequence_starts_afresh(monkeypatch):
    """Recursion that is ambiguous at every level: the parser's rows outgrow their limit."""
    monkeypatch.setattr(llguidance_engine, "LIMITS", LLParserLimits(max_items_in_row=60, verbose_errors=False))
    constraint = Lark('start: e\ne: e "+" e | "a"').compile(SMALL)
    written, ids = SMALL.by_bytes
    a, plus = (ids[written.index(text)] for text in (b"a", b"+"))

    def grow() -> None:
        state = constraint.start()
        for _ in range(100):
            state = state.advance(a).advance(plus)

    with pytest.raises(GrammarError, match=r"too costly to follow .*row.*; bound its repetitions"):
        grow()
    assert by_bytes(constraint, b"a+a+a").is_complete


def test_one_trie_serves_all_constraints_of_a_vocabulary():
    first = llguidance_engine._tokenizer(SMALL)
    Regex("a").compile(SMALL)
    assert llguidance_engine._tokenizer(SMALL) is first
