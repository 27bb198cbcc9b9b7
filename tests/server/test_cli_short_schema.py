"""The one-line schema: what it means, and where it is wrong."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from grammars.errors import GrammarError
from server.cli_short_schema import schema_from_short_form


def members(text: str) -> dict[str, Any]:
    return schema_from_short_form(text)["properties"]


def test_names_types_lists_and_optional_members():
    assert schema_from_short_form("name, age int, tags list[str], email str?") == {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "email": {"type": "string"},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        ("x float", {"type": "number"}),
        ("x number: in metres", {"type": "number", "description": "in metres"}),
        ("x: the name", {"type": "string", "description": "the name"}),
        ("x?: maybe", {"type": "string", "description": "maybe"}),
        ('x "S"|"M"|"L"', {"enum": ["S", "M", "L"]}),
        ("x 0 | 2 | 4", {"enum": [0, 2, 4]}),
        ('x "a, b: c"', {"const": "a, b: c"}),
        ("x int | null", {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        ("x date", {"type": "string", "format": "date"}),
        ("x list", {"type": "array", "items": {}}),
        (
            "x map[list[int]]",
            {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "integer"}}},
        ),
        ("x any", {}),
        ("x true | 1", {"enum": [True, 1]}),
    ],
)
def test_a_type_means(text: str, schema: dict[str, Any]):
    assert members(text)["x"] == schema


def test_objects_nest_and_names_may_be_quoted_or_of_any_script():
    schema = schema_from_short_form(
        'home {street, zip int: code, geo {lat float, lon float}?}, "due date" date, größe int'
    )
    assert schema["required"] == ["home", "due date", "größe"]
    home = schema["properties"]["home"]
    assert home["required"] == ["street", "zip"] and home["properties"]["zip"]["description"] == "code"
    assert home["properties"]["geo"]["required"] == ["lat", "lon"]


def test_lines_let_descriptions_hold_commas():
    schema = schema_from_short_form("\n  name: first, then last\n  age int: in years\n")
    assert schema["properties"]["name"]["description"] == "first, then last"
    assert schema["properties"]["age"] == {"type": "integer", "description": "in years"}


def test_a_list_may_stand_alone():
    schema = schema_from_short_form("list[{name, age int}]")
    jsonschema.validate([{"name": "a", "age": 1}], schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate([{"name": "a"}], schema)


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a int?, b",
        'k "x"|1|null',
        "a {b {c}}, d list[{e}]",
        "a: b\nc: d",
        "a email, b uri, c uuid, d datetime, e time",
    ],
)
def test_every_schema_made_is_a_valid_one(text: str):
    schema = schema_from_short_form(text)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(schema)) == schema


@pytest.mark.parametrize(
    ("text", "character", "said"),
    [
        ("name, age intt", 11, "no type 'intt'"),
        ("name age int", 6, "no type 'age'"),
        ("tags list[str", None, "a ] was wanted"),
        ("a, a int", 4, "'a' is there already"),
        ("a int b int", 7, "a comma was wanted"),
        ("", None, "a field was wanted"),
        ("1 int", 1, "a field's name was wanted"),
        ("a {}", 4, "a field was wanted"),
        ("a int |", None, "a type was wanted"),
        ("a list[]", 8, "a type was wanted"),
        ("a, !", 4, "a field's name was wanted"),
        ("a {b, c", None, "a } was wanted"),
        ('a "x', 3, "a type was wanted"),
    ],
)
def test_a_mistake_is_placed(text: str, character: int | None, said: str):
    with pytest.raises(GrammarError) as found:
        schema_from_short_form(text)
    place = "at its end" if character is None else f"at character {character},"
    assert place in str(found.value) and said in str(found.value), found.value
