"""Any Python function as a constraint: it can test a text, and nothing more."""

from __future__ import annotations

import inspect
import itertools
import os
import secrets
from collections.abc import Callable
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import numpy as np

from grammars.constraint import Language
from grammars.errors import GrammarError, PredicateError, Unsatisfiable
from grammars.registry import Example, grammar
from grammars.vocabulary import Vocabulary

REMEMBERED_VERDICTS = 4096

_NAMED: dict[str, Callable[..., Any]] = {}
# Predicates in this process by handle, for as long as somebody holds the Predicate (or its compiled constraint).
_BY_HANDLE: WeakValueDictionary[str, Predicate] = WeakValueDictionary()
_PROCESS = f"{os.getpid()}-{secrets.token_hex(4)}"
_COUNTER = itertools.count()


def register_predicate(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a predicate a name that specs can carry to any process that registers the same. Returns the function."""
    if _NAMED.get(name, function) is not function:
        raise GrammarError(f"another predicate is already registered as {name!r}: choose another name")
    _NAMED[name] = function
    return function


def _vowels_differ(text: str, complete: bool) -> bool:
    vowels = [char for char in text if char in "aeiouéö"]
    return len(set(vowels)) == len(vowels) and (not complete or len(text) >= 2)


def _is_palindrome(text: str) -> bool:
    return text == text[::-1]


register_predicate("example: no vowel twice", _vowels_differ)
register_predicate("example: palindrome", _is_palindrome)


@grammar("predicate")
class Predicate(Language):
    """Texts that a function accepts. It gives no mask, so it is tested on candidates: combine it with & to mask first.

    fn(text, complete)  two parameters (a second required one, or one called `complete`): with complete=False, may this
                        text still become a member; with complete=True, is it one? Once it refuses a prefix it must refuse
                        what goes on from it: a token can write several characters, and only the text after it is asked for.
    fn(text)            one parameter: is this finished text a member? Every prefix is then allowed, so that the particles
                        that go astray are found out only at their end: prefer the first form.

    The text is always whole characters: bytes of a character not yet ended are held back, and a text that ends in such is
    no member. A token that adds no whole character is accepted without asking. The function must depend on its arguments
    alone; its verdicts are remembered. It returns a bool; if it raises, the request ends with a PredicateError.

    function  the function, or the name it is registered under; the name or handle of a spec
    """

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"predicate": "example: no vowel twice"}, ("ab", "xyz", "aéö你"), ("", "a", "aa", "éxé")),
        Example({"predicate": "example: palindrome"}, ("", "a", "é你é", "abba"), ("ab", "éa")),
    )

    function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any] | str) -> None:
        if isinstance(function, str):
            handle = function
            held = _BY_HANDLE.get(handle)
            if held is None and handle not in _NAMED:
                raise GrammarError(
                    f"no predicate {handle!r} in this process: a function cannot cross to another process; register it by "
                    "name there too, register_predicate('name', fn), and use predicate='name'"
                )
            self.function = _NAMED[handle] if held is None else held.function
        elif not callable(function):
            raise GrammarError(f"predicate must be a function of the text, not {function!r}")
        else:
            names = [name for name, named in _NAMED.items() if named is function]
            handle = names[0] if names else f"{_PROCESS}-{next(_COUNTER)}"
            self.function = function
        self.handle = handle
        self.judges_prefixes = _takes_complete(self.function)
        if handle not in _NAMED:
            _BY_HANDLE.setdefault(handle, self)

    def __repr__(self) -> str:
        return f"Predicate({getattr(self.function, '__name__', self.handle)})"

    @property
    def spec(self) -> dict[str, Any]:
        return {"predicate": self.handle}

    def compile(self, vocabulary: Vocabulary) -> PredicateConstraint:
        # The language that the handle stands for lives as long as the constraint.
        return PredicateConstraint(_BY_HANDLE.get(self.handle, self), vocabulary)

    def ask(self, text: str, complete: bool) -> bool:
        """The function's verdict; PredicateError where it has none."""
        if not complete and not self.judges_prefixes:
            return True
        try:
            verdict = self.function(text, complete) if self.judges_prefixes else self.function(text)
        except Exception as error:
            raise PredicateError(
                f"{self} raised {type(error).__name__}: {error}, for the text {text!r} (complete={complete})"
            ) from error
        if not isinstance(verdict, bool | np.bool_):
            raise PredicateError(
                f"{self} returned {verdict!r}, of type {type(verdict).__name__}, for the text {text!r}; return bool(...)"
            )
        return bool(verdict)


def _takes_complete(function: Callable[..., Any]) -> bool:
    """Whether to call fn(text, complete): by its second required parameter, or one called `complete`."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False  # A builtin without a signature.
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    takes_more = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if len(required) > 2 or keywords or not (positional or takes_more):
        raise GrammarError(
            f"predicate {function!r} must take (text) or (text, complete), not {inspect.signature(function)}: wrap it in a lambda"
        )
    return len(required) == 2 or (len(positional) >= 2 and positional[1].name == "complete")


class PredicateConstraint:
    can_mask = False

    def __init__(self, predicate: Predicate, vocabulary: Vocabulary) -> None:
        self.predicate = predicate
        self.vocabulary = vocabulary

    def start(self) -> PredicateState:
        start = PredicateState(self, "", b"")
        if not self.predicate.ask("", False) and not start.is_complete:
            raise Unsatisfiable(
                f"{self.predicate} refuses the empty text even as a prefix, so no text at all; with complete=False return True "
                "for every text that can still become a member"
            )
        return start


class PredicateState:
    """The characters written so far, and the bytes of one begun."""

    __slots__ = ("_constraint", "_pending", "_text", "_verdicts")

    mask_is_exact = False

    def __init__(self, constraint: PredicateConstraint, text: str, pending: bytes) -> None:
        self._constraint = constraint
        self._text = text
        self._pending = pending
        self._verdicts: dict[str, bool] = {}

    @property
    def is_complete(self) -> bool:
        # "" is no continuation that `_may_go_on` asks about: under it the verdict on the finished text is kept.
        return not self._pending and self._remembered("", True)

    def bitmask(self) -> None:
        return None

    def accepts(self, tokens: np.ndarray, masked: bool = False) -> np.ndarray:
        vocabulary = self._constraint.vocabulary
        eos = vocabulary.eos
        verdicts = []
        for t in tokens.tolist():
            written = vocabulary.bytes_of(t)
            verdicts.append(self._may_go_on(written) if written else t == eos and self.is_complete)
        return np.array(verdicts, dtype=bool)

    def _may_go_on(self, written: bytes) -> bool:
        try:
            added, _ = split_characters(self._pending + written)
        except UnicodeDecodeError:
            return False
        # No whole character more: this text was found good before.
        return not added or self._remembered(added, False)

    def _remembered(self, added: str, complete: bool) -> bool:
        verdict = self._verdicts.get(added)
        if verdict is None:
            if len(self._verdicts) >= REMEMBERED_VERDICTS:
                self._verdicts.clear()
            verdict = self._verdicts[added] = self._constraint.predicate.ask(self._text + added, complete)
        return verdict

    def advance(self, token: int) -> PredicateState:
        if token == self._constraint.vocabulary.eos:
            return self
        added, pending = split_characters(self._pending + self._constraint.vocabulary.bytes_of(token))
        return PredicateState(self._constraint, self._text + added, pending)


def split_characters(data: bytes) -> tuple[str, bytes]:
    """Whole characters, and the bytes at the end that begin another. UnicodeDecodeError where no text goes on like this."""
    try:
        return data.decode(), b""
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            raise
        return data[: error.start].decode(), data[error.start :]
