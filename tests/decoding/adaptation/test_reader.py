"""A text read token by token is the text read whole, for every signal, however its tokens cut it."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.adaptation.linear_signal import LinearSignal
from decoding.adaptation.reader import LinearReading, TextReading, reading_of
from grammars.errors import RewardError
from grammars.vocabulary import Vocabulary

WORDS = {"ass": 0, "assisting": 1, "idiot": 2, "kind": 3, "über": 4, "rude": 5}
SIGNAL = LinearSignal(
    "small",
    WORDS,
    idf=np.array([1.0, 2.0, 1.5, 1.2, 1.7, 1.1]),
    coefficients=np.array([[4.0, -1.0, 5.0, -2.0, 1.0, 3.0], [3.0, -2.0, 6.0, -1.0, 2.0, 2.5]]),
    intercepts=np.array([-1.0, -1.5]),
    slopes=np.array([-2.0, -1.5]),
    offsets=np.array([0.5, 0.2]),
)
TOKENS = tuple(
    token if isinstance(token, bytes) else token.encode()
    for token in (
        "", " ass", "ass", "isting", " id", "iot", " kind", " ", "r", "ude", "kind, rude", "-", "ü", b"\xc3", b"\xbc", "ber",
        b"\xbcber", "A", "SS", " an idiot", "é",
    )
)  # fmt: skip
VOCABULARY = Vocabulary(TOKENS, (0,), len(TOKENS) + 2)
PREFIXES = st.lists(st.integers(1, len(TOKENS) - 1), max_size=8)


def whole(tokens: list[int]) -> str:
    # Bytes cut off at the end may still become a letter: they are none yet.
    return VOCABULARY.decode(tokens).decode("utf-8", errors="replace")


@given(PREFIXES)
@settings(max_examples=300, deadline=None)
def test_a_linear_signal_reads_tokens_as_it_reads_the_text(tokens: list[int]):
    reader = LinearReading(SIGNAL, VOCABULARY).start(b"")
    candidates = np.arange(VOCABULARY.size)
    for token in tokens:
        reader = reader.advance(token)
    assert reader.log_odds == pytest.approx(SIGNAL.log_odds([whole(tokens)])[0], abs=1e-9)
    wanted = SIGNAL.log_odds([whole([*tokens, int(token)]) for token in candidates])
    np.testing.assert_allclose(reader.after(candidates), wanted, atol=1e-9)


def test_a_word_is_judged_whole():
    """ "ass" + "isting" is no insult once it is whole."""
    start = LinearReading(SIGNAL, VOCABULARY).start(b"")
    ass, isting = TOKENS.index(b" ass"), TOKENS.index(b"isting")
    insulting = start.advance(ass)
    assert insulting.log_odds > 0 > insulting.advance(isting).log_odds
    assert insulting.after(np.array([isting]))[0] == pytest.approx(insulting.advance(isting).log_odds)


def test_the_prompts_last_letters_count_once_the_text_goes_on_with_them():
    reading = LinearReading(SIGNAL, VOCABULARY)
    given_ass, fresh = reading.start(b"ass"), reading.start(b"")
    assert given_ass.log_odds == fresh.log_odds
    kind, isting = TOKENS.index(b" kind"), TOKENS.index(b"isting")
    assert given_ass.advance(kind).log_odds == fresh.advance(kind).log_odds
    assert given_ass.after(np.array([kind]))[0] == pytest.approx(fresh.after(np.array([kind]))[0])
    assert given_ass.advance(isting).log_odds == pytest.approx(SIGNAL.log_odds(["assisting"])[0])


def test_alarming_tokens_make_a_word_the_signal_objects_to():
    reading = LinearReading(SIGNAL, VOCABULARY)
    start = reading.start(b"")
    alone = SIGNAL.log_odds([token.decode(errors="replace") for token in TOKENS])
    single = {t for t in start.alarming() if len(TOKENS[t].split()) == 1}
    assert single >= {TOKENS.index(b" ass"), TOKENS.index(b"ass")}
    assert all(alone[t] > 0 for t in single)
    assert TOKENS.index(b"iot") in start.advance(TOKENS.index(b" id")).alarming()
    assert TOKENS.index(b"iot") not in start.alarming()
    # Inside a word a token without a space is another word's end.
    assert TOKENS.index(b"ass") not in start.advance(TOKENS.index(b"r")).alarming()


class Counting:
    """log odds: how often the text says "b", less one."""

    name = "counting"

    def log_odds(self, texts):
        return np.array([text.count("b") - 1.0 for text in texts])


def test_any_signal_reads_whole_texts():
    vocabulary = Vocabulary((b"", b"a", b"b"), (0,), 3)
    reader = reading_of(Counting(), vocabulary).start(b"").advance(2)
    assert reader.log_odds == 0.0
    assert reader.after(np.array([0, 1, 2])).tolist() == [0.0, 0.0, 1.0]
    assert reader.alarming() is None


def test_any_signal_reads_the_prompts_last_letters_where_a_text_goes_on_with_them():
    vocabulary = Vocabulary((b"", b"b", b" b", b"."), (0,), 4)
    reader = reading_of(Counting(), vocabulary).start(b"bb")
    assert reader.log_odds == -1.0
    assert reader.after(np.array([0, 1, 2, 3])).tolist() == [-1.0, 2.0, 0.0, -1.0]
    assert reader.advance(1).log_odds == 2.0 and reader.advance(2).advance(1).log_odds == 1.0


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda texts: np.full(len(texts), np.nan), "finite number was wanted"),
        (lambda texts: np.zeros(1 + len(texts)), "one number each"),
        (lambda texts: 1 / 0, "ZeroDivisionError"),
        (lambda texts: sys.exit(3), "SystemExit: 3"),
    ],
)
def test_a_signal_that_answers_nonsense_is_named(answer, said: str):
    signal = Counting()
    signal.log_odds = answer
    with pytest.raises(RewardError, match=said) as caught:
        assert TextReading(signal, Vocabulary((b"", b"a"), (0,), 2)).start(b"").log_odds is None
    assert "counting" in str(caught.value)
