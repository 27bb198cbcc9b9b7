"""check_constraint: sound constraints pass, each planted fault is found and named."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from grammars.check import check_constraint, vocabulary_for
from grammars.choice import Choice
from grammars.compose import All
from grammars.constraint import Language
from grammars.json_schema import JsonSchema
from grammars.predicate import Predicate, predicate
from grammars.regex import Regex
from grammars.then import Then


@predicate
def even(text: str, complete: bool) -> bool:
    if not complete:
        return len(text) < 4 and (text == "" or text.isdecimal())
    return text.isdecimal() and int(text) % 2 == 0


@pytest.mark.parametrize(
    ("constraint", "accepts", "rejects"),
    [
        (Regex("a+(b|é)?"), ["a", "aaé"], ["", "b", "ab你", "é"]),
        ({"choice": ["New York", "New", "Oslo"]}, ["New", "New York"], ["New Yor", "york", ""]),
        (JsonSchema({"type": "array", "items": {"enum": ["{}", "é"]}}), ['["{}"]', "[]"], ["[", '["x"]', "{}"]),
        (even, ["2", "10"], ["", "3", "x", "2x"]),
        (Regex("[0-9]+") & even, ["20"], ["21", "x"]),
        (Regex("[a-c]{2}") | Choice(["no"]), ["ab", "no"], ["n", "abc"]),
        (Then(5, "=>", Regex("[0-9]+")), ["so=>12", "=>1"], ["12", "so long=>1", "so=>"]),
        (lambda text: text.endswith("."), ["a.", "."], ["", "a"]),
        (int, ["12", "-3"], ["1.5", "x"]),
    ],
)
def test_sound_constraints_pass(constraint, accepts, rejects):
    check_constraint(
        constraint, accepts=accepts, rejects=rejects, allow_dead_ends=isinstance(constraint, Predicate | All)
    )


def test_texts_on_the_wrong_side_are_told():
    with pytest.raises(AssertionError, match="'3' should be accepted, but is not complete at its end"):
        check_constraint(even, accepts=["2", "3"])
    with pytest.raises(AssertionError, match="'2x4' should be accepted, but after '2' 'x' is refused"):
        check_constraint(even, accepts=["2x4"])
    with pytest.raises(AssertionError, match="'2' should be rejected, but is accepted"):
        check_constraint(even, rejects=["x", "2"])


def test_a_predicate_that_contradicts_itself_is_told():
    def tidy(text: str, complete: bool) -> bool:
        return text == text.strip()

    with pytest.raises(AssertionError, match="'a b' should be accepted, but after 'a' ' ' is refused"):
        check_constraint(tidy, accepts=["a b"])

    def fickle(text: str, complete: bool) -> bool:
        return text != "é"

    with pytest.raises(AssertionError, match=r"Predicate\(fickle\) refuses 'é' as a prefix and accepts 'ée'"):
        check_constraint(Predicate(fickle) & Regex("x"), accepts=["x"], rejects=["ée"])
    # Where no text was given that shows it, the walks may still meet it.
    with pytest.raises(AssertionError, match="contradicts itself: it refuses 'é' as a prefix and accepts 'éa'"):
        check_constraint(fickle, accepts=["ab"], vocabulary=vocabulary_for(["éa"]))

    def never_written(text: str, complete: bool) -> bool:
        return text == "ab" if complete else text in ("", "a", "c")

    with pytest.raises(AssertionError, match="accepts 'ab' as complete, but refuses 'ab' as a prefix: so it is never"):
        check_constraint(never_written, rejects=["ab"])


def test_dead_ends_are_told_unless_allowed():
    def short_words(text: str, complete: bool) -> bool:
        return len(text) <= 3 and (not complete or text in ("abc", "b"))

    with pytest.raises(AssertionError, match=r"dead end after .*: nothing may follow, and it is not complete"):
        check_constraint(short_words, accepts=["abc"])
    check_constraint(short_words, accepts=["abc"], allow_dead_ends=True)


# Faults planted in a sound constraint's states


@dataclass(frozen=True)
class Faulty(Language):
    """A choice whose states have one fault."""

    fault: str

    @property
    def spec(self) -> dict[str, Any]:
        return {"faulty": self.fault}

    def compile(self, vocabulary: Any) -> Any:
        return FaultyConstraint(self.fault, Choice(["abab", "abc", "é", "éé"]).compile(vocabulary), vocabulary)


@dataclass(frozen=True)
class FaultyConstraint:
    fault: str
    inner: Any
    vocabulary: Any
    can_mask = True

    def start(self) -> Any:
        return FaultyState(self, self.inner.start(), 0)


@dataclass
class FaultyState:
    constraint: FaultyConstraint
    inner: Any
    steps: int
    asked: int = 0

    @property
    def fault(self) -> str:
        return self.constraint.fault

    @property
    def mask_is_exact(self) -> bool:
        return True

    @property
    def is_complete(self) -> bool:
        return self.inner.is_complete or (self.fault == "complete too soon" and self.steps == 1)

    def bitmask(self) -> np.ndarray:
        mask = self.inner.bitmask()
        x = self.constraint.vocabulary.tokens.index(b"x")
        a = self.constraint.vocabulary.tokens.index(b"a")
        if self.fault == "mask too wide":
            mask = mask.copy()
            mask[x // 32] |= np.int32(1 << x % 32)
        if self.fault == "mask too narrow":
            mask = mask.copy()
            mask[a // 32] &= np.int32(~(1 << a % 32))
        if self.fault == "mask of another shape":
            mask = mask[:-1]
        if self.fault == "mask writable":
            return mask.copy()
        mask.flags.writeable = False
        return mask

    def accepts(self, tokens: np.ndarray, masked: bool = False) -> np.ndarray:
        self.asked += 1
        verdicts = self.inner.accepts(tokens)
        vocabulary = self.constraint.vocabulary
        sizes = np.array([len(vocabulary.bytes_of(t)) for t in tokens.tolist()])
        if self.fault == "only single bytes at the start" and self.steps == 0:
            return verdicts & (sizes < 2)
        if self.fault == "only long tokens at the start" and self.steps == 0:
            return verdicts & (sizes != 1)
        if self.fault == "counts tokens" and self.steps >= 2:
            return verdicts & (tokens == vocabulary.eos)
        if self.fault == "silent ids":
            return verdicts | (tokens >= vocabulary.size - 3)
        if self.fault == "tires":
            return verdicts & (self.asked < 12)
        return verdicts

    def advance(self, token: int) -> FaultyState:
        if self.fault == "changes in place" and token != self.constraint.vocabulary.eos:
            self.inner = self.inner.advance(token)
            return self
        return FaultyState(self.constraint, self.inner.advance(token), self.steps + 1)


FAULTS = [
    ("none", None),
    ("mask too wide", r"after '' the mask, said to be exact, has token \d+ \('x'\), which `accepts` refuses"),
    ("mask too narrow", r"`accepts` takes token \d+ \('a'\), which the mask lacks"),
    ("mask of another shape", "the mask is int32"),
    ("mask writable", "the mask can be written to"),
    ("complete too soon", "is_complete is True, but the end is refused"),
    ("only single bytes at the start", "'abab' should be accepted, but after '' 'abab' is refused"),
    ("only long tokens at the start", "'abab' should be accepted, but after '' 'a' is refused"),
    ("counts tokens", "should be accepted, but after"),
    ("silent ids", r"is accepted, which writes nothing|which the mask lacks"),
    ("tires", "is refused|otherwise|lacks|refuses|something else|changed the verdict"),
    ("changes in place", "answers otherwise|should be accepted|dead end"),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_planted_faults_are_found(fault, message):
    texts = ["abab", "abc", "é", "éé"]
    if message is None:
        check_constraint(Faulty(fault), accepts=texts, rejects=["ab", "x"])
        return
    with pytest.raises(AssertionError, match=message):
        check_constraint(Faulty(fault), accepts=texts)


def test_states_that_change_while_they_are_asked_are_found():
    class Mutable:
        def __init__(self) -> None:
            self.text = ""

        def advance(self, added: str) -> Any:
            self.text += added
            return self if len(self.text) < 500 else None

        complete = True

    with pytest.raises(AssertionError, match=r"otherwise|hangs on"):
        check_constraint(Predicate(Mutable))


def test_the_vocabulary_cuts_characters_and_writes_some_bytes_twice():
    vocabulary = vocabulary_for(["你好 é", "abc"])
    pieces = [w for w in vocabulary.tokens if len(w) > 1]
    assert any(w[:1] in b"\xbd\xa0\xe4" for w in pieces) and b"abc" in pieces
    assert len(set(vocabulary.tokens)) < len(vocabulary.tokens) and vocabulary.size > len(vocabulary.tokens)
    check_constraint(Choice(["你好 é"]), accepts=["你好 é"], vocabulary=replace(vocabulary))
