"""Hostile grammars: a clear error in bounded time, whatever they do to the native compiler; this process lives on."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time

import pytest

from grammars import llguidance_probe
from grammars.cpu_time import CLOCK_PER_CPU, cpu_s_of_process, cpu_waits
from grammars.errors import GrammarError
from grammars.lark_grammar import Lark
from grammars.llguidance_probe import PROBE_FROM, TIMEOUT_VARIABLE
from grammars.predicate_deadline import OutOfTime, within
from grammars.regex import Regex
from grammars.vocabulary import Vocabulary
from tests.grammars.small import SMALL

CHAIN = "start: r0\n" + "\n".join(f'r{i}: r{i + 1} r{i + 1} | "x{i}"' for i in range(3000)) + '\nr3000: "z"'
LONG = "start: /" + "a?" * 20_000 + "a" * 20_000 + "/"


def test_a_grammar_that_crashes_the_compiler_is_an_error_here(vocabulary: Vocabulary):
    with pytest.raises(GrammarError, match="nest its rules less deeply"):
        Lark(CHAIN).compile(vocabulary)
    Lark('start: "a" start | "b"').compile(vocabulary)


def test_a_compile_that_takes_too_long_is_stopped(vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(TIMEOUT_VARIABLE, "0.5")
    begin = time.monotonic()
    with pytest.raises(GrammarError, match=rf"0\.5 s.*{TIMEOUT_VARIABLE}"):
        Lark(LONG).compile(vocabulary)
    # The child's own start, some tenths of a second, is not the grammar's.
    assert time.monotonic() - begin < 30.0
    child = llguidance_probe._child
    assert child._process is None


def test_the_child_ends_where_the_callers_own_time_is_up(vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch):
    """Both clocks run: whichever ends first, the child is killed, and its late answer is not taken for the next one's."""
    Lark('start: "a" ' + "//" * PROBE_FROM).compile(vocabulary)
    child = llguidance_probe._child._process
    assert child is not None
    monkeypatch.setenv(TIMEOUT_VARIABLE, "0.5")
    with pytest.raises(OutOfTime):
        within(0.2, lambda: Lark(LONG).compile(vocabulary))
    assert child.poll() is not None
    monkeypatch.delenv(TIMEOUT_VARIABLE)
    with pytest.raises(GrammarError, match="nest its rules less deeply"):
        Lark(CHAIN).compile(vocabulary)


def test_a_large_grammar_that_compiles_is_tried_out_first_and_works(vocabulary: Vocabulary):
    names = [f"name {k:05d}" for k in range(2000)]
    grammar = "start: " + " | ".join(f'"{name}"' for name in names)
    assert len(grammar) > PROBE_FROM
    start = Lark(grammar).compile(vocabulary).start()
    child = llguidance_probe._child._process
    assert child is not None and child.poll() is None
    assert start.bitmask().any()
    Lark(grammar.replace("00001", "x0001")).compile(vocabulary)
    assert llguidance_probe._child._process is child, "one child serves many grammars"


def test_an_error_of_a_large_grammar_is_the_ordinary_one(vocabulary: Vocabulary):
    with pytest.raises(GrammarError, match="nowhere"):
        Lark("start: nowhere\n" + "// a long comment\n" * 300).compile(vocabulary)


@pytest.mark.parametrize(
    "pattern", ["(a{1,100}){1,100}", ".*a.{20}", "((a{1,100}){1,100}){1,100}", "(ab|cd){10000000}"]
)
def test_small_patterns_that_explode_elsewhere_end_quickly(pattern: str, vocabulary: Vocabulary):
    begin = time.monotonic()
    with contextlib.suppress(GrammarError):
        Regex(pattern).compile(vocabulary).start().bitmask()
    assert time.monotonic() - begin < 10.0


@pytest.mark.parametrize(
    ("grammar", "named"),
    [
        ("", "start"),
        ("start: start", None),
        ("start: a\na: a", None),
        ("start: b", "b"),
    ],
)
def test_empty_left_recursive_and_undefined_grammars_are_told(grammar: str, named: str | None):
    with pytest.raises(GrammarError) as caught:
        Lark(grammar).compile(SMALL).start()
    assert named is None or named in str(caught.value)


def test_an_ambiguous_grammar_is_no_trouble():
    start = Lark('start: e\ne: e e | "a" | ').compile(SMALL).start()
    assert start.is_complete and start.bitmask().any()


def test_the_limit_has_to_be_a_number(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(TIMEOUT_VARIABLE, "soon")
    with pytest.raises(GrammarError, match="seconds above 0"):
        llguidance_probe.timeout_s()


def test_a_process_is_waited_for_until_its_cpu_time_is_used_up():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as works:
        wait = cpu_waits(works.pid, 0.3)
        assert next(wait) > 0.2
        while (left := next(wait)) > 0.0:
            time.sleep(left)
        assert cpu_s_of_process(works.pid) >= 0.25
        works.kill()
    assert next(cpu_waits(works.pid, 0.3)) == 0.0, "nobody waits for a process that is gone"
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as sleeps:
        began = time.monotonic()
        for left in cpu_waits(sleeps.pid, 0.2):
            if left == 0.0:
                break
            time.sleep(left)
        assert time.monotonic() - began >= 0.2 * CLOCK_PER_CPU - 0.01
        sleeps.kill()
