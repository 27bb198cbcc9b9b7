"""Predicates: whole characters only, asked as they say, and their failures told."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from grammars.errors import GrammarError, PredicateError, Unsatisfiable
from grammars.predicate import Predicate, register_predicate, split_characters
from grammars.registry import compile_cached, language_from_spec
from tests.grammars.small import SMALL, by_bytes

A, EOS = SMALL.tokens.index(b"a"), SMALL.eos


def token(written: bytes) -> int:
    return SMALL.tokens.index(written)


def test_two_parameters_judge_prefixes_and_one_only_ends():
    asked = []

    def both(text: str, complete: bool) -> bool:
        asked.append((text, complete))
        return len(text) < 3

    state = Predicate(both).compile(SMALL).start()
    assert asked == [("", False)]
    assert state.accepts(np.array([A, EOS, token(b"abc")])).tolist() == [True, True, False]
    assert asked[1:] == [("", True), ("a", False), ("abc", False)]

    ends = []
    state = Predicate(lambda text: ends.append(text) or text == "ab").compile(SMALL).start()
    assert state.accepts(np.array([A, token(b"abc"), EOS])).tolist() == [True, True, False]
    assert state.advance(token(b"ab")).is_complete
    assert set(ends) == {"", "ab"}


def test_the_form_is_told_by_the_signature():
    def with_default(text, complete=True):
        return True

    class Judge:
        def __call__(self, text, done):
            return True

        def finished(self, text, *more, limit=3):
            return True

    forms = [(lambda t, c: True, True), (lambda t: True, False), (lambda t, limit=5: True, False), (with_default, True)]
    forms += [
        (str.isdigit, False),
        (Judge(), True),
        (Judge().finished, False),
        (lambda *texts: True, False),
        (bool, False),
    ]
    for function, judges_prefixes in forms:
        assert Predicate(function).judges_prefixes == judges_prefixes, function
    for wrong in (lambda: True, lambda a, b, c: True, lambda a, *, b: True):
        with pytest.raises(GrammarError, match="must take \\(text\\) or \\(text, complete\\)"):
            Predicate(wrong)
    with pytest.raises(GrammarError, match="must be a function"):
        Predicate(3)


def test_only_whole_characters_are_shown():
    shown = set()
    predicate = Predicate(lambda text, complete: not shown.add((text, complete)))
    text = "é你😀"
    state = predicate.compile(SMALL).start()
    complete = []
    for k in range(len(text.encode())):
        state = by_bytes(predicate.compile(SMALL), text.encode()[: k + 1])
        complete.append(state.is_complete)
    assert complete == [False, True, False, False, True, False, False, False, True]
    assert {t for t, _ in shown} == {"", "é", "é你", "é你😀"}


@pytest.mark.parametrize(
    "written", [b"\xff", b"\x80", b"\xc3a", b"\xed\xa0\x80", b"\xe0\x80", b"\xf4\x90", b"a\xc3\xc3"]
)
def test_bytes_that_no_text_has_are_refused(written):
    assert by_bytes(Predicate(lambda text, complete: True).compile(SMALL), written) is None
    with pytest.raises(UnicodeDecodeError):
        split_characters(written)


def test_a_token_that_adds_no_whole_character_is_accepted_unasked():
    state = Predicate(lambda text, complete: text == "" or text == "a").compile(SMALL).start().advance(A)
    assert state.accepts(np.array([token(b"\xc3"), token("é".encode())])).tolist() == [True, False]
    begun = state.advance(token(b"\xc3"))
    assert not begun.is_complete and not begun.accepts(np.array([token(b"\xa9"), EOS])).any()


def test_verdicts_are_remembered_within_a_state():
    calls = []
    state = Predicate(lambda text, complete: not calls.append(text)).compile(SMALL).start()
    for _ in range(5):
        state.accepts(np.array([A, token(b"b"), EOS, A]))
    assert len(calls) == 4  # "" as a prefix at the start, then "a", "b" and "" as a whole.


def test_what_a_predicate_raises_is_told_with_the_text():
    def wrong(text: str, complete: bool) -> bool:
        return text == "" or bool(1 / 0)

    state = Predicate(wrong).compile(SMALL).start()
    with pytest.raises(
        PredicateError, match=r"Predicate\(wrong\) raised ZeroDivisionError: .*'é' \(complete=False\)"
    ) as caught:
        state.accepts(np.array([token("é".encode())]))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("verdict", [None, 1, "yes", np.array([True])])
def test_a_verdict_that_is_no_bool_is_refused(verdict):
    state = Predicate(lambda text: verdict).compile(SMALL).start()
    with pytest.raises(PredicateError, match="return bool"):
        state.accepts(np.array([EOS]))


def test_numpy_bools_are_verdicts():
    assert Predicate(lambda text: np.bool_(True)).compile(SMALL).start().is_complete


def test_a_predicate_that_refuses_every_prefix_is_unsatisfiable():
    with pytest.raises(Unsatisfiable, match="complete=False return True"):
        Predicate(lambda text, complete: False).compile(SMALL).start()
    assert Predicate(lambda text, complete: complete and text == "").compile(SMALL).start().is_complete


def test_specs_find_their_predicate_in_this_process_and_nowhere_else():
    predicate = Predicate(lambda text: True)
    spec = predicate.spec
    assert language_from_spec(spec).function is predicate.function
    constraint = compile_cached(language_from_spec(spec), SMALL)
    assert compile_cached(predicate, SMALL) is constraint
    with pytest.raises(GrammarError, match="cannot cross to another process; register it by name"):
        language_from_spec({"predicate": "0-00000000-0"})


def test_a_handle_lives_as_long_as_its_predicate():
    predicate = Predicate(lambda text: True)
    spec = predicate.spec
    del predicate
    gc.collect()
    with pytest.raises(GrammarError, match="no predicate"):
        language_from_spec(spec)


def test_registered_predicates_travel_by_name():
    def short(text: str) -> bool:
        return len(text) < 4

    register_predicate("short", short)
    register_predicate("short", short)
    assert Predicate(short).spec == {"predicate": "short"} == Predicate("short").spec
    assert language_from_spec({"predicate": "short"}).function is short
    with pytest.raises(GrammarError, match="already registered"):
        register_predicate("short", lambda text: True)


@pytest.mark.parametrize("end", [SystemExit, GeneratorExit, KeyboardInterrupt])
def test_a_predicate_that_exits_is_an_error_of_its_own_request(end: type[BaseException]):
    """Off the main thread, as in an engine, where Ctrl-C never arrives."""

    def leave(text: str, complete: bool) -> bool:
        raise end("bye")

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lambda: Predicate(leave).ask("a", False))
        with pytest.raises(PredicateError, match=f"raised {end.__name__}: bye"):
            asked.result()
