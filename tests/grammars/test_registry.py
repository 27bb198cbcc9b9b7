"""Languages from specs and from the Python API's arguments; compiled once."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import pydantic
import pytest

from grammars import registry
from grammars.choice import Choice
from grammars.constraint import Constraint, Language
from grammars.errors import GrammarError
from grammars.json_schema import JsonSchema
from grammars.lark_grammar import Lark
from grammars.predicate import Predicate
from grammars.regex import Regex
from grammars.registry import compile_cached, language_from_arguments, language_from_spec, names
from grammars.vocabulary import Vocabulary
from tests.grammars.small import SMALL


class Model(pydantic.BaseModel):
    a: int


@dataclass
class Data:
    a: int


def test_names_are_all_registered():
    assert {"all", "any", "choice", "json_schema", "lark", "predicate", "regex", "then"} <= set(names())
    assert names() == sorted(names())


def test_a_language_is_loaded_when_it_is_asked_for():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, grammars.registry as r; r.language_from_spec({'choice': ['a']}); "
         "assert 'grammars.choice' in sys.modules and not {'grammars.sql', 'grammars.json_schema', 'regex'} & sys.modules.keys()"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, type(None)),
        ({"regex": "a"}, Regex),
        ({"json_schema": {"type": "integer"}}, JsonSchema),
        ({"json_schema": Model}, JsonSchema),
        ({"lark": 'start: "a"'}, Lark),
        ({"choice": ["a"]}, Choice),
        ({"predicate": str.isdigit}, Predicate),
        ({"constraint": Regex("a")}, Regex),
        ({"constraint": {"regex": "a"}}, Regex),
        ({"constraint": {"json_schema": True, "whitespace": "compact"}}, JsonSchema),
        ({"constraint": re.compile("a")}, Regex),
        ({"constraint": Model}, JsonSchema),
        ({"constraint": Data}, JsonSchema),
        ({"constraint": Literal["a", 1]}, JsonSchema),
        ({"constraint": list[int]}, JsonSchema),
        ({"constraint": int}, JsonSchema),
        ({"constraint": lambda text: True}, Predicate),
    ],
)
def test_one_argument_makes_one_language(arguments, expected):
    assert isinstance(language_from_arguments(**arguments), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"regex": "a", "choice": ["a"]}, "regex= and choice= were given; give one, or combine languages with &"),
        ({"constraint": "a+"}, "'a\\+' is of type str; .*regex="),
        ({"constraint": {"regexp": "a"}}, "exactly one of the keys all, any, choice, json_schema"),
        ({"constraint": {"type": "integer"}}, "exactly one of the keys"),
        ({"constraint": {"regex": "a", "choice": ["a"]}}, "exactly one of the keys"),
        ({"constraint": {"regex": "a", "limit": 3}}, "'regex' has no option 'limit'; "),
        ({"constraint": {"all": {"regex": "a"}}}, '"all" takes a list'),
        ({"constraint": {"all": ["a"]}}, "'a' must be an object"),
        ({"constraint": {"all": []}}, "at least one part"),
        ({"constraint": {"regex": 3}}, "regex must be a str"),
        ({"predicate": "unheard of"}, "register it by name"),
        ({"regex": ["a", "b"]}, r"each prompt with constraint=\[\{\"regex\": \.\.\.\}, \.\.\.\], or allow any"),
        ({"json_schema": [{"type": "integer"}]}, r"is a list, .*constraint=\[\{\"json_schema\": \.\.\.\}"),
        ({"lark": ('start: "a"',)}, "is a tuple, but lark= is one constraint, of every prompt"),
        ({"predicate": [str.isdigit]}, r"constraint=\[\{\"predicate\": "),
    ],
)
def test_anything_else_is_refused_with_what_to_write(arguments, message):
    with pytest.raises(GrammarError, match=message):
        language_from_arguments(**arguments)


@pytest.mark.parametrize("spec", [None, 3, "regex", [], {}])
def test_specs_are_objects(spec):
    with pytest.raises(GrammarError, match="must be an object"):
        language_from_spec(spec)


def test_constraints_are_compiled_once_for_a_vocabulary(monkeypatch):
    first = compile_cached(Regex("once+"), SMALL)
    assert compile_cached(Regex("once+"), SMALL) is first
    other = Vocabulary(SMALL.tokens, SMALL.eos_ids, SMALL.size)
    assert compile_cached(Regex("once+"), other) is not first
    # The order of properties is part of a schema's meaning.
    ab, ba = ({"properties": {name: {"type": "integer"} for name in order}} for order in ("ab", "ba"))
    assert compile_cached(JsonSchema(ab), SMALL) is not compile_cached(JsonSchema(ba), SMALL)

    monkeypatch.setattr(registry, "CACHED_CONSTRAINTS", 3)
    kept = [compile_cached(Regex(f"kept{k}"), SMALL) for k in range(4)]
    assert compile_cached(Regex("kept3"), SMALL) is kept[3]
    assert compile_cached(Regex("kept0"), SMALL) is not kept[0]


def test_many_threads_may_compile():
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda k: compile_cached(Regex(f"t{k % 3}"), SMALL), range(60)))
    assert all(constraint.start().accepts is not None for constraint in made)


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, grammars.registry as r, grammars.vocabulary; r.names(); "
        "print([m for m in ('torch', 'transformers', 'vllm', 'pydantic', 'jsonschema', 'llguidance', 'lark') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() in ("[]", "['llguidance']")


def test_a_compile_in_python_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch):
    @dataclass(frozen=True)
    class Endless(Language):
        @property
        def spec(self) -> dict[str, Any]:
            return {"endless": 1}

        def compile(self, vocabulary: Vocabulary) -> Constraint:
            while True:
                pass

    monkeypatch.setenv("REWEIGH_COMPILE_TIMEOUT_S", "0.2")
    begin = time.monotonic()
    with pytest.raises(GrammarError, match=r"not compiled within 0\.2 s"):
        compile_cached(Endless(), SMALL)
    assert time.monotonic() - begin < 5.0


def test_constraints_that_were_dropped_are_collected_soon(monkeypatch: pytest.MonkeyPatch):
    """They refer to themselves and hold memory that Python's collector does not see: it is not left to chance when they go."""
    monkeypatch.setattr(registry, "CACHED_CONSTRAINTS", 3)
    monkeypatch.setattr(registry, "DROPPED_BEFORE_TRIM", 4)
    gc.disable()
    try:
        made = []
        for k in range(16):
            constraint = registry.compile_spec(json.dumps({"json_schema": {"const": k, "title": "dropped"}}), SMALL)
            constraint.start()
            made.append(weakref.ref(constraint))
            del constraint
        assert sum(one() is not None for one in made) <= 3 + 4
    finally:
        gc.enable()
