"""One user's function as it is asked: in this process under a watch, or in a pool of processes; verdicts or an error."""

from __future__ import annotations

import inspect
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from grammars.errors import GrammarError, PredicateError
from grammars.predicate_deadline import OutOfTime, each_within

if TYPE_CHECKING:
    from grammars.predicate_pool import Pool

DEFAULT_TIMEOUT_S = 1.0
FIRST_CALL_S = 10.0
MOST_PROCESSES = 64
# The modules through which a user's function is called.
_OURS = {f"grammars.predicate_{name}" for name in ("judge", "deadline", "incremental")}


class Failure(NamedTuple):
    """Why a call has no verdict: an answer that travels from a worker."""

    reason: str


class Judge:
    """A function with the way it is called.

    judges_prefixes  it takes (text, complete); else it judges finished texts only, and every prefix passes
    """

    def __init__(self, function: Callable[..., Any], timeout_s: float, batched: bool, processes: int) -> None:
        _check_options(timeout_s, batched, processes)
        self.function = function
        self.timeout_s = float(timeout_s)
        self.batched = batched
        self.processes = processes
        self.judges_prefixes = takes_complete(function)
        self._fresh = True
        self._pool: Pool | None = None
        if processes:
            # Here, and not at the first call: see predicate_pool.
            from grammars.predicate_pool import Pool

            self._pool = Pool(_Server(function, batched, self.judges_prefixes), processes, self.timeout_s, batched)

    def __repr__(self) -> str:
        return f"Predicate({getattr(self.function, '__name__', type(self.function).__name__)})"

    def ask(self, texts: Sequence[str], complete: bool) -> list[bool]:
        """A verdict for every text; PredicateError where one has none."""
        if not texts or (not complete and not self.judges_prefixes):
            return [True] * len(texts)
        if self._pool is not None:
            return self._ask_pool(texts, complete)
        # What one call is shown: all texts, or one.
        shown: Sequence[Any] = [list(texts)] if self.batched else texts
        calls = [(each, complete) for each in shown] if self.judges_prefixes else [(each,) for each in shown]
        returned = self._call(calls)
        if self.batched:
            return self._checked(_verdicts(returned[0], len(texts)), texts)
        if not all(verdict is True or verdict is False for verdict in returned):
            return [self._checked(_verdict(verdict), [text])[0] for verdict, text in zip(returned, texts)]
        return returned

    def _call(self, calls: list[tuple[Any, ...]]) -> list[Any]:
        """Ask in this process, each call in its box."""
        # The very first may have to import what the function needs.
        box = max(FIRST_CALL_S, self.timeout_s) if self._fresh else self.timeout_s
        which, self._fresh = " in its first call, which may import," if self._fresh else "", False
        returned: list[Any] = []
        try:
            return each_within(box, self.function, calls, returned)
        except OutOfTime:
            raise PredicateError(
                f"{self} took longer than {box:g} s{which} for {self._asked(calls, returned)}; make it quicker, "
                "raise timeout_s, or give processes=1: what hangs in C can only be ended with its process"
            ) from None
        except BaseException as error:  # a sys.exit() of the user's must not end the engine
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise  # Ctrl-C
            raise PredicateError(f"{self} {told(error)}, for {self._asked(calls, returned)}") from error

    def _asked(self, calls: list[tuple[Any, ...]], returned: list[Any]) -> str:
        """The call that failed, after those that returned."""
        shown, *more = calls[min(len(returned), len(calls) - 1)]
        return f"{_these(shown if self.batched else [shown])} (complete={more[0] if more else True})"

    def _checked(self, verdicts: list[bool] | Failure, texts: Sequence[str]) -> list[bool]:
        if isinstance(verdicts, Failure):
            raise PredicateError(f"{self} {verdicts.reason}, for {_these(texts)}")
        return verdicts

    def _ask_pool(self, texts: Sequence[str], complete: bool) -> list[bool]:
        from grammars.predicate_pool import CallLost

        assert self._pool is not None
        try:
            answers = self._pool.ask(texts, complete)
        except CallLost as error:
            raise PredicateError(f"{self} {error} (complete={complete})") from error
        for text, answer in zip(texts, answers):
            if isinstance(answer, Failure):
                raise PredicateError(f"{self} {answer.reason}, for the text {text!r} (complete={complete})")
        return answers


class _Server:
    """The worker's side: an answer for every text, a bool or a Failure."""

    def __init__(self, function: Callable[..., Any], batched: bool, judges_prefixes: bool) -> None:
        self.function, self.batched, self.judges_prefixes = function, batched, judges_prefixes

    def __call__(self, texts: list[str], complete: bool) -> Iterator[bool | Failure]:
        more = (complete,) if self.judges_prefixes else ()
        if self.batched:
            answers: list[bool] | Failure
            try:
                answers = _verdicts(self.function(texts, *more), len(texts))
            except Exception as error:
                answers = Failure(told(error))
            yield from [answers] * len(texts) if isinstance(answers, Failure) else answers
            return
        for text in texts:
            try:
                answer = _verdict(self.function(text, *more))
            except Exception as error:
                answer = Failure(told(error))
            yield answer if isinstance(answer, Failure) else answer[0]


def told(error: BaseException) -> str:
    """What the user's code raised, and its line: the traceback stays in the process where it happened.

    Of the calls that led there it is the last one in the file of the user's function. The file's folder is nobody's affair.
    """
    frames = [
        (frame.f_code.co_filename, line)
        for frame, line in walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__") not in _OURS
    ]
    own = [(file, line) for file, line in frames if file == frames[0][0]]
    place = f" ({os.path.basename(own[-1][0])}, line {own[-1][1]})" if own else ""
    return f"raised {type(error).__name__}: {error}{place}"


def _verdict(returned: Any) -> list[bool] | Failure:
    if isinstance(returned, bool | np.bool_):
        return [bool(returned)]
    return Failure(f"returned {returned!r:.80}, of type {type(returned).__name__}; return bool(...)")


def _verdicts(returned: Any, number: int) -> list[bool] | Failure:
    if not isinstance(returned, list | tuple | np.ndarray):
        return Failure(f"returned a {type(returned).__name__}; being batched it must return a list of {number} bools")
    if len(returned) != number:
        return Failure(
            f"returned {len(returned)} verdicts for {number} texts; return one bool for each, in their order"
        )
    for k, verdict in enumerate(returned):
        if not isinstance(verdict, bool | np.bool_):
            return Failure(
                f"returned {verdict!r:.80}, of type {type(verdict).__name__}, as verdict {k}; return bool(...)"
            )
    return [bool(verdict) for verdict in returned]


def _these(texts: Sequence[str]) -> str:
    return f"the text {texts[0]!r}" if len(texts) == 1 else f"{len(texts)} texts, the first of them {texts[0]!r}"


def takes_complete(function: Callable[..., Any]) -> bool:
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


def check_timeout(timeout_s: Any) -> None:
    number = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
    if not number or not 0 < timeout_s < math.inf:
        raise GrammarError(f"timeout_s={timeout_s!r}: the longest a call may take, in seconds, was wanted: above 0")


def _check_options(timeout_s: Any, batched: Any, processes: Any) -> None:
    check_timeout(timeout_s)
    if not isinstance(batched, bool):
        raise GrammarError(f"batched={batched!r}: True or False was wanted")
    if isinstance(processes, bool) or not isinstance(processes, int) or not 0 <= processes <= MOST_PROCESSES:
        raise GrammarError(f"processes={processes!r}: a whole number from 0 to {MOST_PROCESSES} was wanted")
