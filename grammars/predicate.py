"""Any Python function as a constraint: it can test a text, and nothing more."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, ClassVar, overload
from weakref import WeakValueDictionary

from grammars.constraint import Constraint, Language
from grammars.errors import GrammarError
from grammars.predicate_incremental import IncrementalConstraint, Stepper, is_incremental
from grammars.predicate_judge import DEFAULT_TIMEOUT_S, Judge
from grammars.predicate_state import PredicateConstraint, split_characters
from grammars.registry import Example, grammar
from grammars.vocabulary import Vocabulary

_NAMED: dict[str, Judge | Stepper] = {}
# Functions in this process by handle, for as long as somebody holds a Predicate of them (or its compiled constraint).
_BY_HANDLE: WeakValueDictionary[str, Judge | Stepper] = WeakValueDictionary()
_PROCESS = f"{os.getpid()}-{secrets.token_hex(4)}"
_COUNTER = itertools.count()


@grammar("predicate")
class Predicate(Language):
    """Texts that a function accepts. It gives no mask, so it is tested on candidates: combine it with & to mask first.

    fn(text, complete)  two parameters (a second required one, or one called `complete`): with complete=False, may this
                        text still become a member; with complete=True, is it one? Once it refuses a prefix it must refuse
                        what goes on from it: a token can write several characters, and only the text after it is asked for.
    fn(text)            one parameter: is this finished text a member? Every prefix is then allowed, so that the particles
                        that go astray are found out only at their end: prefer the first form.
    a state             an object with advance(added) -> its next state or None, and `complete`; or a class of such. For what
                        would take long to find out again from the whole text at each token: see predicate_incremental.

    The text is always whole characters: bytes of a character not yet ended are held back, and a text that ends in such is
    no member. A token that adds no whole character is accepted without asking. The function must depend on its arguments
    alone; its verdicts are remembered. It returns a bool. One that raises, takes longer than its box, returns something
    else, or is seen to accept what goes on from a prefix it refuses ends the request with a PredicateError.

    function   the function or state, or the name it is registered under; the name or handle of a spec
    timeout_s  the longest a call may take, seconds, 1 by default; the very first may take 10: it may have to import
    batched    fn(texts, complete) -> list of bools: it is shown all candidates of a step at once
    processes  run it in so many processes of its own (0: in this one), forked when the predicate is made: then a call that
               hangs anywhere is killed, and one that crashes takes nothing with it. In this process a call that is out of
               time ends when it next runs Python: a loop in Python at once, one in C (time.sleep, a regular expression that
               backtracks for ever, a query) when it returns, and it holds up the whole batch until then.
    """

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"predicate": "example: no vowel twice"}, ("ab", "xyz", "aéö你"), ("", "a", "aa", "éxé")),
        Example({"predicate": "example: palindrome"}, ("", "a", "é你é", "abba"), ("ab", "éa")),
        Example({"predicate": "example: brackets"}, ("", "()", "(é())()"), ("(", ")", "(a))(", "())")),
    )

    handle: str
    judge: Judge | Stepper

    def __init__(
        self,
        function: Any,
        timeout_s: float | None = None,
        batched: bool | None = None,
        processes: int | None = None,
    ) -> None:
        options = {"timeout_s": timeout_s, "batched": batched, "processes": processes}
        given = {name: value for name, value in options.items() if value is not None}
        if isinstance(function, Predicate):
            function = function.handle
        if isinstance(function, str):
            judge = _NAMED.get(function) or _BY_HANDLE.get(function)
            if judge is None:
                raise GrammarError(
                    f"no predicate {function!r} in this process: a function cannot cross to another process; register it by "
                    "name there too, register_predicate('name', fn), and use predicate='name'"
                )
            if given:
                raise GrammarError(f"predicate {function!r} is made already: give {', '.join(given)} where it is")
            self.handle, self.judge = function, judge
            return
        name = next((name for name, judge in _NAMED.items() if judge.function is function), None)
        if name is not None and not given:
            self.handle, self.judge = name, _NAMED[name]
            return
        self.judge = _judge(function, given)
        self.handle = f"{_PROCESS}-{next(_COUNTER)}"
        _BY_HANDLE[self.handle] = self.judge

    def __repr__(self) -> str:
        return repr(self.judge)

    @property
    def function(self) -> Any:
        return self.judge.function

    @property
    def judges_prefixes(self) -> bool:
        return self.judge.judges_prefixes

    @property
    def spec(self) -> dict[str, Any]:
        return {"predicate": self.handle}

    def compile(self, vocabulary: Vocabulary) -> Constraint:
        if isinstance(self.judge, Stepper):
            return IncrementalConstraint(self.judge, vocabulary)
        return PredicateConstraint(self.judge, vocabulary)

    def ask(self, text: str, complete: bool) -> bool:
        """The function's verdict; PredicateError where it has none."""
        return self.judge.ask([text], complete)[0]

    def __call__(self, text: str, complete: bool = True) -> bool:
        return self.ask(text, complete)


def _judge(function: Any, options: dict[str, Any]) -> Judge | Stepper:
    if is_incremental(function):
        if refused := options.keys() - {"timeout_s"}:
            raise GrammarError(
                f"predicate {function!r} has states of its own, which live in this process and go on one by one: leave out "
                f"{' and '.join(sorted(refused))}"
            )
        return Stepper(function, **options)
    if not callable(function):
        raise GrammarError(f"predicate must be a function of the text, not {function!r}")
    return Judge(function, **{"timeout_s": DEFAULT_TIMEOUT_S, "batched": False, "processes": 0, **options})


@overload
def predicate(function: Callable[..., Any], /) -> Predicate: ...
@overload
def predicate(
    *,
    name: str | None = None,
    timeout_s: float | None = None,
    batched: bool | None = None,
    processes: int | None = None,
) -> Callable[[Callable[..., Any]], Predicate]: ...
def predicate(function: Any = None, /, *, name: str | None = None, **options: Any) -> Any:
    """Decorator: the function, or class of states, becomes a constraint, and can still be called.

    name     register it under this name, so that its spec means the same in every process that runs the same module
    options  timeout_s, batched, processes: see Predicate

        @predicate(timeout_s=0.2)
        def even(text: str, complete: bool) -> bool:
            return text.isdigit() and (not complete or int(text) % 2 == 0) or text == "" and not complete

        engine.generate(prompt, constraint=Regex("[0-9]{1,4}") & even)
    """

    def make(function: Any) -> Predicate:
        made = Predicate(function, **options)
        if name is not None:
            register_predicate(name, made)
            made.handle = name
        update_wrapper(made, function, updated=())
        return made

    return make if function is None else make(function)


def register_predicate(name: str, function: Any) -> Any:
    """Give a predicate a name that specs can carry to any process that registers the same. Returns the function.

    function  a function, a state, or a Predicate with its options
    """
    judge = function.judge if isinstance(function, Predicate) else _judge(function, {})
    if name in _NAMED and _NAMED[name].function is not judge.function:
        raise GrammarError(f"another predicate is already registered as {name!r}: choose another name")
    _NAMED.setdefault(name, judge)
    return function


def _vowels_differ(text: str, complete: bool) -> bool:
    vowels = [char for char in text if char in "aeiouéö"]
    return len(set(vowels)) == len(vowels) and (not complete or len(text) >= 2)


def _is_palindrome(text: str) -> bool:
    return text == text[::-1]


class _Brackets:
    """Every bracket closed, none closed before it was opened."""

    def __init__(self, depth: int = 0) -> None:
        self._depth = depth

    def advance(self, added: str) -> _Brackets | None:
        depth = self._depth
        for char in added:
            depth += (char == "(") - (char == ")")
            if depth < 0:
                return None
        return _Brackets(depth)

    @property
    def complete(self) -> bool:
        return self._depth == 0


register_predicate("example: no vowel twice", _vowels_differ)
register_predicate("example: palindrome", _is_palindrome)
register_predicate("example: brackets", _Brackets)

__all__ = ["Predicate", "predicate", "register_predicate", "split_characters"]
