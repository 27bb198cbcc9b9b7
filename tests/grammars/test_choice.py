"""Closed sets: exact, and quick when there are many."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from itertools import count
from random import Random
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoding.table_model import TableModel
from grammars import choice, choice_names
from grammars.choice import Choice
from grammars.choice_trie import ByteTrie
from grammars.errors import GrammarError
from grammars.registry import compile_cached, compile_spec, language_from_arguments, language_from_spec
from tests.grammars.small import EVERY_TOKEN, SMALL, bits, by_bytes, is_member

SYLLABLES = ["ka", "ri", "to", "né", "你", "lo ", "-", "us", "mé", "X"]


def made_up(number: int, seed: int = 1) -> list[str]:
    """Different names that share beginnings."""
    random = Random(seed)
    found: dict[str, None] = {}
    while len(found) < number:
        found["".join(random.choices(SYLLABLES, k=random.randint(3, 9)))] = None
    return list(found)


FEW_LETTERS = st.text(st.sampled_from("\0ab"), min_size=1, max_size=20).map(str.encode)


@given(st.lists(st.binary(min_size=1, max_size=6) | FEW_LETTERS, min_size=1, max_size=30))
def test_a_trie_holds_the_set_and_nothing_else(strings):
    trie = ByteTrie.of(strings)
    assert list(trie) == sorted(set(strings)) and len(trie) == len(set(strings))
    for prefix in {string[:k] for string in strings for k in range(len(string) + 1)}:
        node = trie.after(0, prefix)
        assert trie.is_end(node) == (prefix in strings)
        for byte in range(256):
            longer = prefix + bytes([byte])
            assert (trie.after(node, bytes([byte])) >= 0) == any(string.startswith(longer) for string in strings)


def test_a_trie_of_long_strings_in_any_order():
    """Many strings end where others, which have eight bytes and more in common, go on."""
    random = Random(4)
    for _ in range(60):
        strings = ["".join(random.choices("ab", k=random.choice([8, 8, 9, 16, 17, 25]))).encode() for _ in range(300)]
        trie = ByteTrie.of(strings)
        assert list(trie) == sorted(set(strings))
        assert all((node := trie.after(0, string)) >= 0 and trie.is_end(node) for string in strings)


@given(st.lists(st.text(st.sampled_from(list("ab你é ")), min_size=1, max_size=6), min_size=1, max_size=20))
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
    options = made_up(100_000)
    random = Random(1)
    constraint = Choice(options).compile(vocabulary)
    everything = np.arange(vocabulary.size)
    known = set(options)
    for _ in range(5):
        state, text = constraint.start(), b""
        while True:
            began = time.perf_counter()
            mask = state.bitmask()
            assert time.perf_counter() - began < 0.5  # Some 2 ms at the start on an idle machine, then less than one.
            allowed = bits(mask, vocabulary.size)
            assert np.array_equal(allowed, state.accepts(everything))
            assert state.is_complete == allowed[vocabulary.eos]
            allowed[vocabulary.eos] = False
            if not allowed.any():
                break
            token = int(random.choice(np.flatnonzero(allowed).tolist()))
            state, text = state.advance(token), text + vocabulary.bytes_of(token)
        assert state.is_complete and text.decode() in known


def test_posterior_over_200_names_equals_the_one_summed_over_their_tokenisations():
    """The masks lead to every way of writing every name, once: total mass by name, walked under the masks and by hand."""
    names = made_up(200, seed=5)
    rng = np.random.default_rng(3)
    law, start = rng.dirichlet(np.full(SMALL.size, 0.3), SMALL.size), rng.dirichlet(np.full(SMALL.size, 0.3))
    model = TableModel.markov(SMALL, start, law)

    by_hand = {}
    for name in names:
        text = name.encode()
        # mass[k][t]: of all ways to write the first k bytes, the last token t
        mass = [dict.fromkeys((), 0.0) for _ in range(len(text) + 1)]
        for k in range(len(text)):
            for token, written in enumerate(SMALL.tokens):
                if written and text.startswith(written, k):
                    before = start[token] if k == 0 else sum(m * law[last, token] for last, m in mass[k].items())
                    there = mass[k + len(written)]
                    there[token] = there.get(token, 0.0) + before
        by_hand[name] = sum(m * law[last, SMALL.eos] for last, m in mass[-1].items())

    walked: dict[str, float] = {}
    stack = [((), Choice(names).compile(SMALL).start(), 0.0)]
    while stack:
        tokens, state, log_mass = stack.pop()
        logprobs = model.next_logprobs(tokens)
        for token in np.flatnonzero(bits(state.bitmask())).tolist():
            longer = log_mass + logprobs[token]
            if token == SMALL.eos:
                text = SMALL.decode(list(tokens)).decode()
                walked[text] = walked.get(text, 0.0) + math.exp(longer)
            else:
                stack.append(((*tokens, token), state.advance(token), longer))
    assert walked.keys() == by_hand.keys()
    total_walked, total = math.fsum(walked.values()), math.fsum(by_hand.values())
    for name, mass in by_hand.items():
        assert math.isclose(walked[name] / total_walked, mass / total, rel_tol=1e-9)


def test_a_literal_lists_its_options():
    assert Choice(Literal["yes", "no"]).options == ("yes", "no")


def test_a_text_given_twice_counts_once():
    assert Choice(["a", "b", "a"]).spec == {"choice": ["a", "b"]}


def test_iterators_are_read_to_their_end():
    language = language_from_arguments(choice=(f"name {k}" for k in range(30_000)))
    constraint = language.compile(SMALL)
    assert is_member(constraint, "name 29999") and not is_member(constraint, "name 30000")
    assert len(language.options) == 30_000


# Files


def test_a_file_has_one_name_a_line(tmp_path):
    file = tmp_path / "names.txt"
    file.write_bytes("\ufeffOslo\r\n New York \n\n  \nOslo\nTromsø".encode())
    for language in (
        Choice(file),
        Choice({"file": str(file)}),
        language_from_arguments(choice=file),
        language_from_spec({"choice": {"file": str(file)}}),
    ):
        assert language.options == (" New York ", "Oslo", "Tromsø")
        assert is_member(language.compile(SMALL), "Tromsø")
        assert language.spec == Choice(file).spec == language_from_spec(language.spec).spec
    assert language.spec["choice"]["file"] == str(file) and len(language.spec["choice"]["sha256"]) == 64


def test_another_process_reads_the_file_itself_and_only_that_content(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("\n".join(made_up(2_000)))
    spec = json.dumps(Choice(file).spec)
    code = (
        "import sys; from grammars.registry import compile_spec; from tests.grammars.small import SMALL, is_member\n"
        "print(is_member(compile_spec(sys.argv[1], SMALL), sys.argv[2]))"
    )

    def elsewhere() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, spec, made_up(2_000)[7]]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": "."}
        )

    assert elsewhere().stdout.strip() == "True"
    file.write_text("another")
    assert "is not the one that was meant: its SHA-256 is" in elsewhere().stderr


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(tmp_path, monkeypatch):
    file = tmp_path / "names.txt"
    file.write_text("a\nb")
    first = Choice(file)
    monkeypatch.setattr(choice_names, "ByteTrie", None)  # Nothing is built again.
    assert Choice(file).trie is first.trie
    monkeypatch.undo()
    file.write_text("a\nb\nc")
    assert Choice(file).options == ("a", "b", "c")
    with pytest.raises(GrammarError, match="is not the one that was meant"):
        language_from_spec(first.spec)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no names: write one a line"),
        (b"\n \r\n", "has no names"),
        (b"one\ntw\xffo\n", "not UTF-8 in line 2: invalid start byte"),
        (b"a\n" + b"x" * 20_000, "name 1 has 20000 bytes, more than 16384"),
    ],
)
def test_malformed_files_are_refused(tmp_path, content, message):
    file = tmp_path / "names.txt"
    file.write_bytes(content)
    with pytest.raises(GrammarError, match=message):
        Choice(file)


def test_files_that_are_none_are_refused(tmp_path, monkeypatch):
    for wrong, message in [
        (tmp_path / "missing.txt", "cannot be read: .*No such file"),
        (tmp_path, "not a regular file"),
        ({"file": "/dev/zero"}, "not a regular file"),
        ({"file": "a\0b"}, "cannot be read: .*null"),
        ({"file": 3}, "must be a path, not 3"),
        ({"file": str(tmp_path), "sha256": 3}, "must be a text in hexadecimal"),
        ({"file": "x", "lines": 3}, r"takes \"file\" and \"sha256\", not \['lines'\]"),
    ]:
        with pytest.raises(GrammarError, match=message):
            Choice(wrong)
    huge = tmp_path / "huge.txt"
    with huge.open("wb") as file:
        file.truncate(300 << 20)  # Sparse: nothing is written.
    with pytest.raises(GrammarError, match="has 300 MiB, more than 256"):
        Choice(huge)


# Many texts in memory


def test_many_texts_go_by_a_handle_that_equal_sets_share(monkeypatch):
    monkeypatch.setattr(choice, "MAX_SPEC_BYTES", 1000)
    names = made_up(500)
    language = Choice(names)
    text = json.dumps(language.spec)
    assert len(text) < 200
    assert Choice(reversed(names)).spec == language.spec, "the same set is compiled once"
    assert compile_spec(text, SMALL) is compile_cached(language, SMALL)
    assert Choice(names[1:]).spec != language.spec
    assert is_member(compile_spec(text, SMALL), names[3])
    assert sorted(language.options) == sorted(names)


def test_a_handle_without_its_texts_is_refused_with_what_to_do():
    with pytest.raises(GrammarError, match=r"cannot cross to another process.*write the texts to a file"):
        language_from_spec({"choice": {"memory": "0" * 64}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no options"),
        (iter([]), "no options"),
        ("yes", "list of texts, not str: .*pathlib.Path"),
        (b"yes", "list of texts, not bytes"),
        ({"x": 1}, "list of texts, not dict"),
        (3, "list of texts, not int"),
        (["a", ""], "option 1 is empty"),
        (["a", 2], "option 1 is 2, of type int"),
        (["a", None], "option 1 is None"),
        (["\ud800"], "is not text"),
        (["a", "x" * 20_000], "option 1 has 20000 bytes, more than 16384"),
    ],
)
def test_malformed_options_are_refused_by_their_place(options, message):
    with pytest.raises(GrammarError, match=message):
        Choice(options)


def test_an_endless_iterator_is_given_up(monkeypatch):
    monkeypatch.setattr(choice_names, "MAX_BYTES", 1 << 20)
    with pytest.raises(GrammarError, match="more than 1 MiB of options in the first"):
        Choice(map(str, count()))
