"""States of a predicate that is shown whole texts: the characters so far, and what it said of their continuations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from grammars.errors import PredicateError, Unsatisfiable
from grammars.predicate_judge import Judge
from grammars.vocabulary import Vocabulary

REMEMBERED_VERDICTS = 4096


class PredicateConstraint:
    can_mask = False

    def __init__(self, judge: Judge, vocabulary: Vocabulary) -> None:
        self.judge = judge
        self.vocabulary = vocabulary

    def start(self) -> PredicateState:
        start = PredicateState(self, "", b"")
        if not self.judge.ask([""], False)[0] and not start.is_complete:
            raise Unsatisfiable(
                f"{self.judge} refuses the empty text even as a prefix, so no text at all; with complete=False return True "
                "for every text that can still become a member"
            )
        return start


class PredicateState:
    """The characters written so far, and the bytes of one begun."""

    __slots__ = ("_constraint", "_pending", "_refused", "_text", "_verdicts")

    mask_is_exact = False

    def __init__(self, constraint: PredicateConstraint, text: str, pending: bytes) -> None:
        self._constraint = constraint
        self._text = text
        self._pending = pending
        # Continuation -> whether it may come. Under "", which is none, whether the text so far is a member.
        self._verdicts: dict[str, bool] = {}
        self._refused = False  # whether any of them was

    @property
    def is_complete(self) -> bool:
        if self._pending:
            return False
        verdict = self._verdicts.get("")
        if verdict is None:
            verdict = self._verdicts[""] = self._constraint.judge.ask([self._text], True)[0]
        return verdict

    def bitmask(self) -> None:
        return None

    def accepts(self, tokens: np.ndarray, masked: bool = False) -> np.ndarray:
        vocabulary, known, pending = self._constraint.vocabulary, self._verdicts, self._pending
        verdicts: list[Any] = []  # a bool, or the continuation that is still to be asked for
        missing: dict[str, None] = {}
        for t in tokens.tolist():
            written = vocabulary.bytes_of(t)
            if not written:
                verdicts.append(t == vocabulary.eos and self.is_complete)
                continue
            try:
                added = (pending + written).decode()
            except UnicodeDecodeError as error:
                if error.reason != "unexpected end of data":
                    verdicts.append(False)
                    continue
                added = (pending + written)[: error.start].decode()
            # Without a whole character more nothing is asked: this text was found good before.
            verdict = known.get(added) if added else True
            if verdict is None:
                missing[added] = None
            verdicts.append(added if verdict is None else verdict)
        if missing:
            self._ask([*missing])
            verdicts = [self._verdicts[v] if isinstance(v, str) else v for v in verdicts]
        return np.array(verdicts, dtype=bool)

    def _ask(self, texts: list[str]) -> None:
        known = self._verdicts
        if len(known) > REMEMBERED_VERDICTS:
            self._verdicts = known = {"": known[""]} if "" in known else {}
            self._refused = False
        judge = self._constraint.judge
        if self._text:
            verdicts = judge.ask([self._text + added for added in texts], False)
        else:
            verdicts = judge.ask(texts, False)
        known.update(zip(texts, verdicts))
        self._refused = self._refused or not all(verdicts)
        if self._refused:
            for added, verdict in zip(texts, verdicts):
                if verdict:
                    check_consistent(judge, added, lambda prefix: known.get(prefix) is False, self._text)

    def advance(self, token: int) -> PredicateState:
        if token == self._constraint.vocabulary.eos:
            return self
        added, pending = split_characters(self._pending + self._constraint.vocabulary.bytes_of(token))
        return PredicateState(self._constraint, self._text + added, pending)


def check_consistent(judge: Any, added: str, refused: Callable[[str], bool], text: str = "") -> None:
    """PredicateError where a continuation was accepted, and another one that it goes on from is known to be refused."""
    for k in range(1, len(added)):
        if refused(added[:k]):
            raise PredicateError(
                f"{judge} contradicts itself: it refuses {text + added[:k]!r} as a prefix and accepts {text + added!r}, which "
                "begins with it; refuse a prefix only when nothing that begins with it is a member "
                "(check_constraint of grammars.check finds such cases)"
            )


def split_characters(data: bytes) -> tuple[str, bytes]:
    """Whole characters, and the bytes at the end that begin another. UnicodeDecodeError where no text goes on like this."""
    try:
        return data.decode(), b""
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            raise
        return data[: error.start].decode(), data[error.start :]
