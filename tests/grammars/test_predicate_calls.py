"""How a user's function is called: in a box of time, in batches, in processes of its own, state by state."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest

from grammars.constraint import Language
from grammars.cpu_time import CLOCK_PER_CPU, cpu_s_of_thread
from grammars.errors import GrammarError, PredicateError, Unsatisfiable
from grammars.predicate import Predicate, predicate, register_predicate
from grammars.predicate_deadline import OutOfTime, within
from grammars.regex import Regex
from grammars.registry import compile_cached, language_from_arguments, language_from_spec
from tests.grammars.small import EVERY_TOKEN, SMALL, by_bytes, is_member

A, AB, EOS = SMALL.tokens.index(b"a"), SMALL.tokens.index(b"ab"), SMALL.eos


def accepts(language: Language, *tokens: int) -> list[bool]:
    return language.compile(SMALL).start().accepts(np.array(tokens)).tolist()


def for_ever(text: str, complete: bool) -> bool:
    while text:
        pass
    return True


# The decorator


def test_the_decorator_makes_a_constraint_that_can_still_be_called():
    @predicate
    def short(text: str, complete: bool) -> bool:
        """At most two characters."""
        return len(text) <= 2

    @predicate(timeout_s=0.5)
    def even(text: str) -> bool:
        return len(text) % 2 == 0

    assert isinstance(short, Language) and short("ab") is True and short("abc", complete=False) is False
    assert short.__name__ == "short" and short.__doc__ == "At most two characters."
    assert repr(even) == "Predicate(even)"
    both = (Regex("a*") & short & even).compile(SMALL)
    assert [is_member(both, "a" * k) for k in range(5)] == [True, False, True, False, False]
    assert language_from_arguments(constraint=short) is short
    assert language_from_arguments(predicate=short).judge is short.judge
    assert compile_cached(language_from_spec(short.spec), SMALL) is compile_cached(short, SMALL)


def test_a_name_goes_with_the_options():
    @predicate(name="test: shouts", batched=True)
    def shouts(texts: list[str], complete: bool) -> list[bool]:
        return [text == text.upper() for text in texts]

    assert shouts.spec == {"predicate": "test: shouts"}
    assert language_from_spec(shouts.spec).judge is shouts.judge
    assert is_member(Predicate("test: shouts").compile(SMALL), "AB 1")
    with pytest.raises(GrammarError, match="already registered"):
        register_predicate("test: shouts", str.isupper)
    with pytest.raises(GrammarError, match="is made already: give timeout_s where it is"):
        Predicate("test: shouts", timeout_s=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout_s": 0}, "timeout_s=0: the longest"),
        ({"timeout_s": float("inf")}, "timeout_s=inf"),
        ({"timeout_s": "1"}, "timeout_s='1'"),
        ({"timeout_s": True}, "timeout_s=True"),
        ({"batched": 1}, "batched=1: True or False"),
        ({"processes": -1}, "processes=-1: a whole number from 0 to 64"),
        ({"processes": 2.0}, "processes=2.0"),
        ({"processes": 65}, "processes=65"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(GrammarError, match=re.escape(message)):
        Predicate(lambda text: True, **options)


# The box


def test_a_loop_without_end_costs_its_box_and_no_more():
    language = Predicate(for_ever, timeout_s=0.1)
    state = language.compile(SMALL).start()
    began = time.perf_counter()
    with pytest.raises(PredicateError, match=r"Predicate\(for_ever\) took longer than 0.1 s for the text 'a'"):
        state.accepts(np.array([A]))
    assert time.perf_counter() - began < 2.0
    # The thread is sound: nothing lands later.
    assert Predicate(lambda text, complete: True, timeout_s=0.1).ask("a", False)
    time.sleep(0.2)


def test_a_box_of_cpu_time_ends_what_works_at_once_and_what_waits_by_the_clock():
    def works() -> None:
        while True:
            pass

    def waits() -> None:
        while True:
            time.sleep(0.01)

    used = cpu_s_of_thread(threading.get_ident())
    with pytest.raises(OutOfTime):
        within(0.2, works, cpu=True)
    assert cpu_s_of_thread(threading.get_ident()) - used >= 0.2
    began = time.monotonic()
    with pytest.raises(OutOfTime):
        within(0.1, waits, cpu=True)
    assert time.monotonic() - began >= 0.1 * CLOCK_PER_CPU
    with pytest.raises(OutOfTime):  # and the next box is one of the clock again
        within(0.05, waits)


def test_what_hangs_in_c_is_told_when_it_returns():
    def sleeps(text: str, complete: bool) -> bool:
        time.sleep(0.3 if text else 0.0)
        return True

    with pytest.raises(PredicateError, match=r"took longer than 0.05 s.*give processes=1"):
        accepts(Predicate(sleeps, timeout_s=0.05), A)


def test_a_function_that_swallows_every_exception_is_ended_all_the_same():
    def stubborn(text: str, complete: bool) -> bool:
        for _ in range(3):
            try:
                while text:
                    pass
            except BaseException:
                pass
        return True

    with pytest.raises(PredicateError, match=r"took longer than 0.05 s"):
        accepts(Predicate(stubborn, timeout_s=0.05), A)


def test_a_box_shuts_on_its_own_call_only():
    """Calls that last about as long as their box, in several threads: each ends well or out of time, and nothing else."""
    outcomes: list[str] = []

    def work(seed: int) -> None:
        random = Random(seed)
        for _ in range(150):
            end = time.monotonic() + random.uniform(0.001, 0.008)

            def busy(end: float = end) -> int:
                while time.monotonic() < end:
                    pass
                return 7

            try:
                assert within(0.004, busy) == 7
                outcomes.append("done")
            except OutOfTime:
                outcomes.append("out of time")

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 300 and set(outcomes) == {"done", "out of time"}


def test_a_timeout_error_of_the_function_is_its_own():
    def query(text: str, complete: bool) -> bool:
        raise TimeoutError("the database is slow")

    with pytest.raises(PredicateError, match="raised TimeoutError: the database is slow"):
        Predicate(query).ask("a", True)


def test_the_first_call_may_import():
    def slow_at_first(text: str, complete: bool) -> bool:
        time.sleep(0.2 if text == "" and not complete else 0)
        return True

    assert accepts(Predicate(slow_at_first, timeout_s=0.1), A) == [True]


# Contradictions


def test_a_predicate_that_contradicts_itself_is_told_where_it_shows():
    fickle = Predicate(lambda text, complete: text != "a")
    message = "contradicts itself: it refuses 'a' as a prefix and accepts 'ab', which begins with it"
    for order in ([A, AB], [AB, A]):
        state = fickle.compile(SMALL).start()
        with pytest.raises(PredicateError, match=message):
            state.accepts(np.array(order))
    state = fickle.compile(SMALL).start()
    assert state.accepts(np.array([A])).tolist() == [False]
    with pytest.raises(PredicateError, match=message):
        state.accepts(np.array([AB]))


# Batches


def test_a_batched_predicate_sees_all_candidates_of_a_step_at_once():
    asked = []

    def batch(texts: list[str], complete: bool) -> list[bool]:
        asked.append((sorted(texts), complete))
        return [len(text) < 3 for text in texts]

    language = Predicate(batch, batched=True)
    assert accepts(language, A, EOS, AB, A) == [True, True, True, True]
    assert asked == [([""], False), ([""], True), (["a", "ab"], False)]
    assert not is_member(language.compile(SMALL), "abc")

    ends = Predicate(lambda texts: np.array([text == "ab" for text in texts]), batched=True)
    assert is_member(ends.compile(SMALL), "ab") and not is_member(ends.compile(SMALL), "a")


@pytest.mark.parametrize("processes", [0, 1])
@pytest.mark.parametrize(
    ("verdicts", "message"),
    [
        (lambda texts, complete: True, "returned a bool; being batched it must return a list of 2 bools"),
        (lambda texts, complete: [True], "returned 1 verdicts for 2 texts"),
        (lambda texts, complete: [True, 1], "returned 1, of type int, as verdict 1"),
        (lambda texts, complete: [] if len(texts) < 2 else 1 / 0, "raised ZeroDivisionError: division by zero"),
    ],
)
def test_batches_of_another_shape_are_refused(verdicts, message, processes):
    language = Predicate(verdicts, batched=True, processes=processes)
    with pytest.raises(PredicateError, match=message):
        language.judge.ask(["a", "b"], True)


# Processes


def test_functions_of_any_kind_run_in_processes():
    limit = 3  # A closure cannot be imported anywhere.

    def short(text: str, complete: bool) -> bool:
        return len(text) < limit

    language = Predicate(short, processes=3)
    texts = ["", "é", "ab", "abc", "你好", "abcd", "x" * 100_000]
    assert language.judge.ask(texts, False) == [len(text) < 3 for text in texts]
    constraint = language.compile(SMALL)
    expected = Predicate(short).compile(SMALL).start().accepts(EVERY_TOKEN)
    assert np.array_equal(constraint.start().accepts(EVERY_TOKEN), expected)
    assert is_member(constraint, "你好") and not is_member(constraint, "abc")


def test_processes_work_side_by_side():
    def slow(text: str) -> bool:
        time.sleep(0.15 if text else 0)
        return True

    language = Predicate(slow, processes=4)
    language.judge.ask(["a", "b", "c", "d"], True)
    began = time.perf_counter()
    language.judge.ask(["e", "f", "g", "h"], True)
    assert time.perf_counter() - began < 0.45


@pytest.mark.parametrize("batched", [False, True])
def test_a_call_that_hangs_in_c_is_killed_and_its_process_replaced(batched):
    def hangs(text: str) -> bool:
        if text == "hang":
            re.match("(a+)+b", "a" * 60)
        return True

    function: Callable[..., Any] = (lambda texts: [hangs(text) for text in texts]) if batched else hangs
    language = Predicate(function, processes=2, timeout_s=0.3, batched=batched)
    assert language.judge.ask(["x", "y", "z"], True) == [True] * 3
    began = time.perf_counter()
    with pytest.raises(PredicateError, match=r"took longer than 0.3 s and was killed, for .*'hang' \(complete=True\)"):
        language.judge.ask(["x", "hang"], True)
    assert time.perf_counter() - began < 3
    assert language.judge.ask(["x", "y", "z"], True) == [True] * 3


def test_a_process_that_dies_is_told_and_replaced():
    def crashes(text: str) -> bool:
        if text == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        return text != ""

    language = Predicate(crashes, processes=1)
    with pytest.raises(PredicateError, match="the process that ran it died, for the text 'crash'"):
        language.judge.ask(["x", "crash"], True)
    assert language.judge.ask(["x", ""], True) == [True, False]


@pytest.mark.parametrize("options", [{}, {"processes": 1}, {"batched": True}, {"batched": True, "processes": 1}])
def test_the_line_that_raised_is_told_from_every_process(options: dict[str, Any]):
    """The user's own line, also where it calls a helper beside it, and that one a library."""

    def parsed(text: Any) -> Any:
        return json.loads(text if isinstance(text, str) else text[0])

    def judged(text: Any) -> Any:
        return bool(parsed(text)) if isinstance(text, str) else [bool(parsed(text))]

    line = parsed.__code__.co_firstlineno + 1
    with pytest.raises(PredicateError, match="raised JSONDecodeError") as raised:
        Predicate(judged, **options).judge.ask(["{"], True)
    assert f"(test_predicate_calls.py, line {line}), for the text" in str(raised.value)


def test_what_raises_without_a_line_of_python_has_no_place():
    with pytest.raises(
        PredicateError, match=r"raised ValueError: invalid literal for int\(\) with base 10: 'x', for the text"
    ):
        Predicate(int).ask("x", True)


def test_what_a_process_raises_is_told_with_its_text():
    def wrong(text: str, complete: bool) -> bool:
        return {"a": True, "b": 1}[text] if text else True  # type: ignore[return-value]

    language = Predicate(wrong, processes=2)
    with pytest.raises(
        PredicateError,
        match=r"Predicate\(wrong\) raised KeyError: 'c' \(test_predicate_calls.py, line \d+\), for the text 'c'",
    ):
        language.judge.ask(["a", "c"], True)
    with pytest.raises(PredicateError, match=r"returned 1, of type int; return bool\(...\), for the text 'b'"):
        language.judge.ask(["a", "b"], True)
    assert language.judge.ask(["a"], True) == [True]


def test_without_the_process_that_forks_workers_there_are_no_new_ones():
    language = Predicate(lambda text: True, processes=2)
    assert language.judge.ask(["a"], True) == [True]
    os.kill(language.judge._pool._nursery_pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(PredicateError, match="forked from has died: make the predicate again"):
            language.judge.ask(["a", "b"], True)


def test_processes_end_with_their_predicate():
    pids = []

    def made() -> None:
        language = Predicate(lambda text: True, processes=2)
        language.judge.ask(["a", "b"], True)
        pids.extend(worker.pid for worker in language.judge._pool._workers)

    made()
    gc.collect()
    deadline = time.monotonic() + 5
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(pids) == 2 and not any(os.path.exists(f"/proc/{pid}") for pid in pids)


# States


class Counter:
    """As many b's as a's, after them."""

    def __init__(self, seen: str = "", asked: list[str] | None = None) -> None:
        self.seen, self.asked = seen, [] if asked is None else asked

    def advance(self, added: str) -> Counter | None:
        self.asked.append(added)
        seen = self.seen + added
        fits = re.fullmatch("a*b*", seen) and seen.count("b") <= seen.count("a")
        return Counter(seen, self.asked) if fits else None

    def complete(self) -> bool:
        return 2 * self.seen.count("b") == len(self.seen) > 0


def test_a_state_is_asked_only_for_what_is_added():
    start = Counter()
    constraint = Predicate(start).compile(SMALL)
    state = constraint.start()
    for token in [A, A, AB]:
        assert state.accepts(np.array([token])).all()
        state = state.advance(token)
    assert start.asked == ["a", "a", "ab"]
    assert not state.is_complete
    assert is_member(constraint, "aabb") and not is_member(constraint, "aab") and not is_member(constraint, "ba")
    # A class, decorated or not, makes its own start.
    assert is_member(predicate(Counter).compile(SMALL), "ab")
    assert predicate(timeout_s=2)(Counter)("aabb")


def test_states_see_whole_characters():
    start = Counter()
    assert by_bytes(Predicate(start).compile(SMALL), "é".encode()) is None
    assert start.asked == ["é"]


def test_states_that_are_none_are_refused():
    class Wrong:
        complete = "yes"

        def advance(self, added: str) -> Any:
            match added:
                case "a":
                    return False
                case "b":
                    raise ValueError("no b")
            while True:
                pass

    state = Predicate(Wrong, timeout_s=0.1).compile(SMALL).start()
    with pytest.raises(PredicateError, match=r"returned False from advance\('a'\); return the next state, or None"):
        state.accepts(np.array([A]))
    with pytest.raises(PredicateError, match=r"raised ValueError: no b \(test_pred.*, line \d+\), in advance\('b'\)"):
        state.accepts(np.array([SMALL.tokens.index(b"b")]))
    with pytest.raises(PredicateError, match=r"took longer than 0.1 s in advance"):
        state.accepts(np.array([AB]))
    with pytest.raises(PredicateError, match="gave 'yes', of type str, as `complete`"):
        _ = state.is_complete
    for options in ({"batched": True}, {"processes": 2}):
        with pytest.raises(GrammarError, match=f"leave out {next(iter(options))}"):
            Predicate(Wrong, **options)


def test_states_that_contradict_themselves_are_told():
    class Fickle:
        complete = True

        def advance(self, added: str) -> Any:
            return None if added == "a" else self

    with pytest.raises(PredicateError, match="contradicts itself: it refuses 'a'"):
        accepts(Predicate(Fickle), A, AB)


def test_an_unfounded_start_is_told():
    class Halved:
        complete = True

        def __new__(cls) -> Any:
            return None

        def advance(self, added: str) -> Any:
            return self

    with pytest.raises((Unsatisfiable, GrammarError), match="has no `advance`"):
        Predicate(Halved).compile(SMALL).start()
