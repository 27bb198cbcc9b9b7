"""Prompts, files and objects: what a command reads."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from grammars.errors import GrammarError
from server.cli_constraints import constraint_of, language_of, schema_of
from server.cli_errors import UsageError
from server.cli_inputs import imported, read_prompt
from server.cli_parser import parser


def prompt_with(argument: str | None, piped: bytes | None, monkeypatch: pytest.MonkeyPatch) -> str:
    """The prompt where stdin is a pipe with some bytes in it, or /dev/null."""
    if piped is None:
        reader = os.open(os.devnull, os.O_RDONLY)
    else:
        reader, writer = os.pipe()
        os.write(writer, piped)
        os.close(writer)
    with io.TextIOWrapper(os.fdopen(reader, "rb")) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        return read_prompt(argparse.Namespace(prompt=argument))


@pytest.mark.parametrize(
    ("argument", "piped", "prompt"),
    [
        ("hi", None, "hi"),
        ("hi", b"", "hi"),
        ("hi", b"\n", "hi"),
        (None, b"hi there", "hi there"),
        ("-", "é\n".encode(), "é\n"),
        ("Who wrote this?", b"Dear Ann,\nBye, Bob\n", "Dear Ann,\nBye, Bob\n\nWho wrote this?"),
        (None, b"\xef\xbb\xbfhi", "hi"),
    ],
)
def test_the_prompt_is_the_argument_the_pipe_or_both(
    argument: str | None, piped: bytes | None, prompt: str, monkeypatch: pytest.MonkeyPatch
):
    assert prompt_with(argument, piped, monkeypatch) == prompt


@pytest.mark.parametrize(
    ("argument", "piped", "said"), [(None, b"", "empty"), ("-", None, "empty"), ("-", b"a\xff", "not UTF-8 at byte 1")]
)
def test_no_prompt_is_a_mistake(argument: str | None, piped: bytes | None, said: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UsageError, match=said):
        prompt_with(argument, piped, monkeypatch)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a user's modules, and the current one."""
    (tmp_path / "shop_models.py").write_text(
        "from __future__ import annotations\n"
        "from pydantic import BaseModel\n"
        "class Customer(BaseModel):\n    name: str\n    friends: list[Customer] = []\n"
        "class Outer:\n    Inner = Customer\n"
        'SCHEMA = {"enum": [1]}\n'
        "def even(text): return text.isdigit() and int(text) % 2 == 0\n"
        "nothing = None\n"
    )
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    (tmp_path / "schema.json").write_text('{"type": "boolean"}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    yield tmp_path
    for name in ("shop_models", "broken_module"):
        sys.modules.pop(name, None)


def test_a_schema_comes_in_five_forms(folder: Path):
    assert schema_of("schema.json") == {"type": "boolean"}
    assert schema_of(' {"enum": [2]}') == {"enum": [2]}
    assert schema_of("true") is True
    assert schema_of("shop_models:SCHEMA") == {"enum": [1]}
    assert schema_of("shop_models:Customer") is schema_of("shop_models:Outer.Inner")
    assert schema_of("name, age int")["required"] == ["name", "age"]


@pytest.mark.parametrize("given", ["shop_models:Customer", "shop_models.py:Customer", "./shop_models.py:Customer"])
def test_a_pydantic_class_becomes_the_language_of_its_schema(folder: Path, given: str):
    language = language_of(parser().parse_args(["json", "--schema", given]))
    assert language is not None
    value = language.parse('{"name": "a", "friends": [{"name": "b"}]}')
    assert type(value).__name__ == "Customer" and value.friends[0].name == "b"


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ("no-such.json", UsageError, "no-such.json: there is no such file"),
        ("some/where", UsageError, "there is no such file"),
        ("shop_models:Custommer", UsageError, "Custommer"),
        ("no_such_module:X", UsageError, "no_such_module"),
        ("broken_module:X", UsageError, "ZeroDivisionError"),
        ("no_such.py:X", UsageError, "no such file"),
        ('{"a": }', GrammarError, "line 1, column 7"),
        ("name strr", GrammarError, "character 6"),
    ],
)
def test_a_schema_that_is_not_there_is_named(folder: Path, given: str, error: type[Exception], said: str):
    with pytest.raises(error) as found:
        schema_of(given)
    assert said in str(found.value)


def test_references_are_resolved_from_the_files_given_and_nowhere_else(folder: Path):
    arguments = ["json", "--schema", '{"$ref": "https://example.org/b"}']
    with pytest.raises(GrammarError, match=r"example\.org/b"):
        _compiled(arguments)
    _compiled([*arguments, "--ref", "https://example.org/b=schema.json"])
    with pytest.raises(UsageError, match="URI=FILE"):
        language_of(parser().parse_args([*arguments, "--ref", "schema.json"]))


def _compiled(arguments: list[str]) -> None:
    from grammars.membership import byte_vocabulary

    language = language_of(parser().parse_args(arguments))
    assert language is not None
    language.compile(byte_vocabulary()).start()


def test_a_constraint_is_a_spec_a_file_or_an_object(folder: Path):
    (folder / "rules.json").write_text('{"regex": "a+"}')
    assert constraint_of("rules.json", "--and").spec == constraint_of('{"regex": "a+"}', "--and").spec
    assert constraint_of("shop_models:even", "--and").spec.keys() == {"predicate"}
    assert constraint_of("shop_models:Customer", "--and").spec.keys() == {"json_schema"}
    for given, error in (
        ("shop_models:nothing", UsageError),
        ('{"rejex": "a"}', GrammarError),
        ("no.json", UsageError),
    ):
        with pytest.raises(error):
            constraint_of(given, "--and")


def test_parts_are_added_and_what_comes_first_is_free():
    options = parser().parse_args(
        ["regex", "--pattern", "a+", "--and", '{"regex": ".{2}"}', "--after", "so:", "--max-before", "9"]
    )
    language = language_of(options)
    assert language is not None
    (inner,) = (language.spec[name] for name in language.spec)
    assert inner["marker"] == "so:" and inner["max_free_characters"] == 9
    assert json.dumps(inner["constraint"]).count("regex") == 2
    with pytest.raises(UsageError, match="--after"):
        language_of(parser().parse_args(["text", "--after", "so:"]))
    with pytest.raises(UsageError, match="--max-before"):
        language_of(parser().parse_args(["regex", "--pattern", "a", "--max-before", "3"]))
    assert language_of(parser().parse_args(["text"])) is None


def test_only_names_of_objects_are_imported():
    with pytest.raises(UsageError, match="module:name"):
        imported("os.system('x')", "--function")
