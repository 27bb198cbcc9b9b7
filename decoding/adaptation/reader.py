"""A text as a signal reads it while it is written: one token more, or one of many candidates, without reading it all again."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np

from decoding.adaptation.linear_signal import LinearSignal
from decoding.adaptation.naming import WORD, is_of_a_word
from decoding.adaptation.signal import Signal
from grammars.errors import RewardError
from grammars.vocabulary import Vocabulary

# Words of more letters are read at their start alone: no vocabulary holds them.
LONGEST_WORD = 64
NONE, SEVERAL = -1, -2
_UTF8 = codecs.getincrementaldecoder("utf-8")


class Reader(Protocol):
    """One text's place in a signal; a value, so that forks share it."""

    @property
    def log_odds(self) -> float:
        """Of the text so far."""

    def after(self, tokens: np.ndarray) -> np.ndarray:
        """Of the text with one token more.

        tokens   int64 [K]
        returns  float64 [K]
        """

    def advance(self, token: int) -> Reader: ...

    def alarming(self) -> np.ndarray | None:
        """Tokens that make, here, a word the signal objects to: int64 [A]. None: only reading the candidates can tell."""


class Reading(Protocol):
    """A signal made ready for one vocabulary."""

    def start(self, tail: bytes) -> Reader:
        """Before the first token. tail: letters at the end of the prompt, which a text may go on with."""


def reading_of(signal: Signal, vocabulary: Vocabulary) -> Reading:
    """How a signal reads: word by word where it is linear in words, otherwise whole texts each time."""
    return LinearReading(signal, vocabulary) if isinstance(signal, LinearSignal) else TextReading(signal, vocabulary)


class TextReading:
    """Any signal: every candidate's whole text is read again."""

    def __init__(self, signal: Signal, vocabulary: Vocabulary) -> None:
        self.signal, self.vocabulary = signal, vocabulary

    def start(self, tail: bytes) -> TextReader:
        return TextReader(self, tail, b"")

    def odds(self, texts: list[bytes]) -> np.ndarray:
        """float64 [len(texts)]. Raises RewardError where the signal raises, or answers what is no number."""
        read = [text.decode("utf-8", errors="replace") for text in texts]
        name = getattr(self.signal, "name", repr(self.signal))
        try:
            odds = np.asarray(self.signal.log_odds(read), dtype=np.float64)
        except (Exception, SystemExit) as error:  # whatever the user's signal does
            raise RewardError(f"signal {name!r} failed: {type(error).__name__}: {error}") from error
        if odds.shape != (len(texts),):
            raise RewardError(
                f"signal {name!r} answered {odds.shape} for {len(texts)} texts: one number each was wanted"
            )
        if not np.isfinite(odds).all():
            place = int(np.flatnonzero(~np.isfinite(odds))[0])
            raise RewardError(
                f"signal {name!r} answered {odds[place]} for {read[place]!r:.80}: a finite number was wanted"
            )
        return odds


class TextReader:
    """The text so far; it is read when somebody asks, not for every token of a history that is taken up again.

    tail  letters before it, which are read with it where it goes on with their word
    """

    def __init__(self, reading: TextReading, tail: bytes, text: bytes) -> None:
        self.reading, self.tail, self.text = reading, tail, text

    def _as_read(self, more: bytes = b"") -> bytes:
        text = self.text + more
        return self.tail + text if text and is_of_a_word(text[0]) else text

    @cached_property
    def log_odds(self) -> float:
        return float(self.reading.odds([self._as_read()])[0])

    def after(self, tokens: np.ndarray) -> np.ndarray:
        bytes_of = self.reading.vocabulary.bytes_of
        return self.reading.odds([self._as_read(bytes_of(int(token))) for token in tokens])

    def advance(self, token: int) -> TextReader:
        return TextReader(self.reading, self.tail, self.text + self.reading.vocabulary.bytes_of(token))

    def alarming(self) -> None:
        return None


class LinearReading:
    """A linear signal: of a text its sums over whole words are kept, and the letters of a word that may still go on.

    leads   bool [V]: the token's text begins with a letter, so that it goes on with a word if there is one
    single  int64 [V]: the signal's index of the only word that the token's text is; NONE: it has no word the signal knows;
            SEVERAL: look at its text
    """

    def __init__(self, signal: LinearSignal, vocabulary: Vocabulary) -> None:
        self.signal, self.vocabulary = signal, vocabulary
        self.texts = [token.decode("utf-8", errors="replace") for token in vocabulary.tokens]
        self.leads = np.zeros(vocabulary.size, dtype=bool)
        self.single = np.full(vocabulary.size, NONE, dtype=np.int64)
        for token, text in enumerate(self.texts):
            runs = WORD.findall(text)
            # A byte from inside a character may belong to a letter.
            self.leads[token] = text.startswith(("\ufffd", *runs[:1]))
            if len(runs) == 1:
                self.single[token] = signal.words.get(runs[0].lower(), NONE)
            elif runs:
                self.single[token] = SEVERAL
        self.charges = signal.coefficients * signal.idf
        nothing = Sums(np.zeros(len(signal.coefficients)), 0.0, {})
        known = self.single >= 0
        alone = self.odds_with(nothing, np.arange(len(signal.idf)))
        self._bad_words = frozenset(np.flatnonzero(alone > 0.0).tolist())
        # A token that stands for a word of its own, wherever that begins.
        self.alarming = np.flatnonzero(known & np.isin(self.single, list(self._bad_words)))
        self.alarming_apart = self.alarming[~self.leads[self.alarming]]
        self._ids = {text: token for token, text in enumerate(self.texts) if text}
        self._bad_texts = [word for word, index in signal.words.items() if index in self._bad_words]
        self.goes_on = lru_cache(maxsize=4096)(self._goes_on)

    def start(self, tail: bytes) -> LinearReader:
        sums = Sums(np.zeros(len(self.signal.coefficients)), 0.0, {})
        return LinearReader(self, sums, tail[-LONGEST_WORD:], given=True)

    def _goes_on(self, letters: str) -> np.ndarray:
        """Tokens that make of a word's first letters one the signal objects to. int64 [A]"""
        low = letters.lower()
        ends = {word[len(low) :] for word in self._bad_texts if word.startswith(low) and len(word) > len(low)}
        return np.array(
            sorted({self._ids[form] for end in ends for form in (end, end.upper()) if form in self._ids}),
            dtype=np.int64,
        )

    def word(self, letters: str) -> int:
        return self.signal.words.get(letters.lower(), NONE)

    def odds(self, sums: Sums) -> float:
        """log odds of a bag: `odds_with` no word more, at a third of its cost, since every row asks for it at every token."""
        norm = sums.squares**0.5 if sums.squares > 0.0 else 1.0
        return float(self.signal.log_odds_of(sums.numerators / norm + self.signal.intercepts))

    def odds_with(self, sums: Sums, words: np.ndarray) -> np.ndarray:
        """log odds of a bag with one word more.

        words    int64 [K], NONE for no word
        returns  float64 [K]
        """
        there = words >= 0
        places = np.where(there, words, 0)
        numerators = sums.numerators[:, None] + self.charges[:, places] * there
        before = np.array([sums.counts.get(word, 0) for word in places.tolist()]) if sums.counts else 0
        squares = sums.squares + self.signal.idf[places] ** 2 * (2 * before + 1) * there
        norm = np.sqrt(np.where(squares > 0.0, squares, 1.0))
        return self.signal.log_odds_of(numerators / norm + self.signal.intercepts[:, None])


@dataclass(frozen=True)
class Sums:
    """A bag of words as a linear signal with L2 norm needs it.

    numerators  float64 [heads], sum of count * idf * coefficient; squares: sum of (count * idf)²; counts: word -> count
    """

    numerators: np.ndarray
    squares: float
    counts: Mapping[int, int]

    def with_words(self, words: list[int], reading: LinearReading) -> Sums:
        numerators, squares, counts = self.numerators, self.squares, self.counts
        words = [word for word in words if word != NONE]
        if not words:
            return self
        for word in words:
            before = counts.get(word, 0)
            numerators = numerators + reading.charges[:, word]
            squares += float(reading.signal.idf[word]) ** 2 * (2 * before + 1)
            counts = {**counts, word: before + 1}
        return Sums(numerators, squares, counts)


@dataclass(frozen=True)
class LinearReader:
    """A text's place in a linear signal.

    sums   over the words that are closed
    tail   the bytes of the word the text ends in, b"" if it ends in none
    given  the tail is all the prompt's: it counts as a word once the text has gone on with it
    """

    reading: LinearReading
    sums: Sums
    tail: bytes
    given: bool = False

    @cached_property
    def log_odds(self) -> float:
        return self.reading.odds(self._closed)

    @cached_property
    def _closed(self) -> Sums:
        """As if the word that the text ends in went on no further."""
        return self.sums.with_words([self._open_word], self.reading)

    @property
    def _open_word(self) -> int:
        return NONE if self.given else self.reading.word(self._letters)

    @property
    def _letters(self) -> str:
        return self.tail.decode("utf-8", errors="replace").rstrip("\ufffd")

    def after(self, tokens: np.ndarray) -> np.ndarray:
        reading = self.reading
        words = reading.single[tokens]
        goes_on = reading.leads[tokens] if self.tail else np.zeros(len(tokens), dtype=bool)
        hard = goes_on | (words == SEVERAL)
        odds = np.empty(len(tokens))
        odds[~hard] = reading.odds_with(self._closed, words[~hard])
        # Bags that get one word more, most often the same: by identity, each with its places and their words.
        bags: dict[int, tuple[Sums, list[int], list[int]]] = {}
        for place in np.flatnonzero(hard).tolist():
            token = int(tokens[place])
            if goes_on[place]:
                text = (self.tail + reading.vocabulary.bytes_of(token)).decode("utf-8", errors="replace")
                sums = self.sums
            else:
                text, sums = reading.texts[token], self._closed
            runs = [reading.word(run) for run in WORD.findall(text)] or [NONE]
            sums = sums.with_words(runs[:-1], reading)
            _, places, last = bags.setdefault(id(sums), (sums, [], []))
            places.append(place)
            last.append(runs[-1])
        for sums, places, last in bags.values():
            odds[places] = reading.odds_with(sums, np.array(last))
        return odds

    def advance(self, token: int) -> LinearReader:
        text = self.tail + self.reading.vocabulary.bytes_of(token)
        decoder = _UTF8(errors="replace")
        read = decoder.decode(text)
        # A character that is cut off at the end may yet turn out to be a letter.
        cut, _ = decoder.getstate()
        runs = list(WORD.finditer(read))
        open_run = bool(runs) and runs[-1].end() == len(read)
        start = runs[-1].start() if open_run else len(read)
        closed = [self.reading.word(run.group()) for run in (runs[:-1] if open_run else runs)]
        tail = read[start:].encode() + cut
        if self.given:
            if text == self.tail:
                return self
            if closed and runs[0].group() == self._letters:
                closed[0] = NONE
        return LinearReader(self.reading, self.sums.with_words(closed, self.reading), tail[:LONGEST_WORD])

    def alarming(self) -> np.ndarray:
        if not self.tail:
            return self.reading.alarming
        return np.concatenate([self.reading.alarming_apart, self.reading.goes_on(self._letters)])
