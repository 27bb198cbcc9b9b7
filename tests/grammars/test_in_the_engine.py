"""Own functions, unions and thoughts inside the engine: what fails fails alone, what is drawn belongs to its language."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from grammars.choice import Choice
from grammars.errors import PredicateError
from grammars.predicate import predicate
from grammars.regex import Regex
from grammars.then import Then

pytestmark = pytest.mark.engine


def test_predicates_that_hang_end_their_own_request_and_no_other(engine):
    @predicate(timeout_s=0.2)
    def loops(text: str, complete: bool) -> bool:
        while len(text) > 2:
            pass
        return True

    @predicate(timeout_s=0.2, processes=1)
    def backtracks(text: str, complete: bool) -> bool:
        return len(text) <= 2 or re.match("(a+)+b", "a" * 60) is None

    @predicate(batched=True, processes=2)
    def short(texts: list[str], complete: bool) -> list[bool]:
        return [len(text) < 3 for text in texts]

    looped, backtracked, number = engine.generate(
        ["One, two,", "One, two,", "My number is "],
        constraint=[loops, backtracks, Regex("[0-9]+") & short],
        particles=2,
        max_tokens=12,
        seed=1,
        progress=False,
    )
    assert isinstance(looped.error, PredicateError) and "took longer than 0.2 s for the text" in str(looped.error)
    assert isinstance(backtracked.error, PredicateError) and "and was killed" in str(backtracked.error)
    number.raise_for_error()
    assert all(re.fullmatch("[0-9]{1,2}", text) for text in number.texts)


def test_names_from_a_file_unions_and_thoughts_are_drawn_from_their_languages(engine, tmp_path: Path):
    file = tmp_path / "names.txt"
    names = [f"{first} {last}" for first in ("Ada", "Alan", "Grace") for last in ("Hopper", "Lovelace", "Turing")]
    file.write_text("\n".join(names))
    colour = Choice(["red", "blue"]) | Regex("[0-9]{2}")
    named, coloured, thought = engine.generate(
        ["The programmer was ", "Pick: ", "Think, then answer. "],
        constraint=[Choice(file), colour, Then(12, "=>", colour)],
        particles=3,
        max_tokens=32,
        seed=2,
        progress=False,
    )
    assert set(named.texts) <= set(names) and len(json.dumps(named.constraint.spec)) < 300
    assert all(re.fullmatch("red|blue|[0-9]{2}", text) for text in coloured.texts)
    for text in thought.texts:
        free, _, answer = text.partition("=>")
        assert len(free) <= 12 and re.fullmatch("red|blue|[0-9]{2}", answer), text
    assert thought.parsed in {text.partition("=>")[2] for text in thought.texts}
