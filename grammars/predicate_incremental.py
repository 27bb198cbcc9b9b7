"""A user's own state as a constraint: what was found out about a text is kept, and not found out again at each token."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from grammars.errors import GrammarError, PredicateError, Unsatisfiable
from grammars.predicate_deadline import OutOfTime, within
from grammars.predicate_judge import DEFAULT_TIMEOUT_S, FIRST_CALL_S, check_timeout, told
from grammars.predicate_state import check_consistent, split_characters
from grammars.vocabulary import Vocabulary

REMEMBERED_STATES = 1024


def is_incremental(value: Any) -> bool:
    """Whether it is a state, or a class of states: it has `advance` and `complete`."""
    return callable(getattr(value, "advance", None)) and (isinstance(value, type) or hasattr(value, "complete"))


class Stepper:
    """A start state, and its two questions asked under a watch.

    start  an object with advance(added) -> the state after some more characters, or None where no text goes on like this, and
           `complete`, an attribute, a property or a method: whether the text so far is a member. Or a class that makes one
           without arguments. `advance` must leave the state it is asked of as it was: others go on from there.
    """

    judges_prefixes = True

    def __init__(self, start: Any, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        check_timeout(timeout_s)
        self.function = start
        self.timeout_s = float(timeout_s)
        name = start.__name__ if isinstance(start, type) else type(start).__name__
        self._name = f"Predicate({name})"

    def __repr__(self) -> str:
        return self._name

    def start(self) -> Any:
        state = self.function
        if isinstance(state, type):
            state = self._within(state, "making the state before any text", max(FIRST_CALL_S, self.timeout_s))
            if not is_incremental(state):
                raise GrammarError(f"{self} makes a {type(state).__name__} that has no `advance` or no `complete`")
        return state

    def advance(self, state: Any, added: str) -> Any:
        """The state after some more characters; None where they are refused."""
        after = self._within(lambda: state.advance(added), f"advance({added!r})")
        if after is not None and not is_incremental(after):
            raise PredicateError(
                f"{self} returned {after!r:.80} from advance({added!r}); return the next state, or None where the text is refused"
            )
        return after

    def is_complete(self, state: Any) -> bool:
        def ask() -> Any:
            complete = state.complete
            return complete() if callable(complete) else complete

        verdict = self._within(ask, "complete")
        if not isinstance(verdict, bool | np.bool_):
            raise PredicateError(
                f"{self} gave {verdict!r:.80}, of type {type(verdict).__name__}, as `complete`; give a bool"
            )
        return bool(verdict)

    def ask(self, texts: list[str], complete: bool) -> list[bool]:
        """A verdict for whole texts, from the start."""
        verdicts = []
        for text in texts:
            state = self.start()
            after = self.advance(state, text) if text else state
            verdicts.append(after is not None and (not complete or self.is_complete(after)))
        return verdicts

    def _within(self, call: Any, what: str, timeout_s: float | None = None) -> Any:
        box = timeout_s or self.timeout_s
        try:
            return within(box, call)
        except OutOfTime:
            raise PredicateError(
                f"{self} took longer than {box:g} s in {what}; make it quicker, or raise timeout_s"
            ) from None
        except BaseException as error:  # a sys.exit() of the user's must not end the engine
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise  # Ctrl-C
            raise PredicateError(f"{self} {told(error)}, in {what}") from error


class IncrementalConstraint:
    can_mask = False

    def __init__(self, stepper: Stepper, vocabulary: Vocabulary) -> None:
        self.stepper = stepper
        self.vocabulary = vocabulary

    def start(self) -> IncrementalState:
        inner = self.stepper.start()
        if inner is None:
            raise Unsatisfiable(f"{self.stepper} has no start state: it refuses every text")
        return IncrementalState(self, inner, b"")


class IncrementalState:
    """The user's state after the whole characters, and the bytes of one begun."""

    __slots__ = ("_after", "_complete", "_constraint", "_inner", "_pending")

    mask_is_exact = False

    def __init__(self, constraint: IncrementalConstraint, inner: Any, pending: bytes) -> None:
        self._constraint = constraint
        self._inner = inner
        self._pending = pending
        self._after: dict[str, Any] = {}
        self._complete: bool | None = None

    @property
    def is_complete(self) -> bool:
        if self._pending:
            return False
        if self._complete is None:
            self._complete = self._constraint.stepper.is_complete(self._inner)
        return self._complete

    def bitmask(self) -> None:
        return None

    def accepts(self, tokens: np.ndarray, masked: bool = False) -> np.ndarray:
        vocabulary = self._constraint.vocabulary
        verdicts = []
        for t in tokens.tolist():
            written = vocabulary.bytes_of(t)
            verdicts.append(self._may_go_on(written) if written else t == vocabulary.eos and self.is_complete)
        return np.array(verdicts, dtype=bool)

    def _may_go_on(self, written: bytes) -> bool:
        try:
            added, _ = split_characters(self._pending + written)
        except UnicodeDecodeError:
            return False
        return self._next(added) is not None

    def _next(self, added: str) -> Any:
        if not added:
            return self._inner
        if added not in self._after:
            if len(self._after) >= REMEMBERED_STATES:
                self._after.clear()
            after = self._after[added] = self._constraint.stepper.advance(self._inner, added)
            if after is not None:
                check_consistent(self._constraint.stepper, added, lambda prefix: self._after.get(prefix, self) is None)
        return self._after[added]

    def advance(self, token: int) -> IncrementalState:
        if token == self._constraint.vocabulary.eos:
            return self
        added, pending = split_characters(self._pending + self._constraint.vocabulary.bytes_of(token))
        inner = self._next(added)
        assert inner is not None, f"token {token} is not accepted here"
        return IncrementalState(self._constraint, inner, pending)
