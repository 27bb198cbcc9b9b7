"""JSON Schemas: where they come from, how white space goes, and errors that name keyword and place."""

from __future__ import annotations

import enum
import json
import typing
from dataclasses import dataclass

import pydantic
import pytest

from grammars.errors import GrammarError, Unsatisfiable
from grammars.json_schema import JsonSchema
from tests.grammars.small import SMALL, is_member


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Move(typing.TypedDict):
    to: str
    steps: typing.NotRequired[list[int]]


@dataclass
class Point:
    x: int
    y: float = 1.5


class Person(pydantic.BaseModel):
    name: str
    colour: Colour = Colour.RED
    born: typing.Annotated[int, pydantic.Field(ge=1900, le=2030)] | None = None
    friends: list[Person] = []


@pytest.mark.parametrize(
    ("given", "text", "value"),
    [
        (Colour, '"red"', Colour.RED),
        (Move, '{"to": "é","steps":[1, 2]}', {"to": "é", "steps": [1, 2]}),
        (Move, '{"to": "é"}', {"to": "é"}),
        (Point, '{"x": 1, "y": -2.5}', Point(1, -2.5)),
        (
            Person,
            '{"name": "你", "born": 1999, "friends": [{"name": "b"}]}',
            Person(name="你", born=1999, friends=[Person(name="b")]),
        ),
        (typing.Literal["yes", 2, None], "2", 2),
        (list[int] | None, "[1, 2]", [1, 2]),
        (tuple[int, str], '[1, "a"]', (1, "a")),
        (dict[str, bool], '{"a": true}', {"a": True}),
        ({"type": "integer"}, "12", 12),
        ('{"type": "integer"}', "12", 12),
        (True, '{"a": [null]}', {"a": [None]}),
        ({}, '"x"', "x"),
    ],
)
def test_schemas_come_from_types_and_values_go_back_to_them(given, text, value):
    language = JsonSchema(given)
    assert is_member(language.compile(SMALL), text)
    assert not is_member(language.compile(SMALL), "[[{}]]x")
    assert language.parse(text) == value
    assert type(language.parse(text)) is type(value)
    # What travels is the schema, which parses to plain JSON values.
    again = JsonSchema(language.spec["json_schema"])
    assert is_member(again.compile(SMALL), text)
    assert again.parse(text) == json.loads(text)


@pytest.mark.parametrize(
    ("whitespace", "accepted"),
    [
        ("compact", {'{"a":[1,2]}'}),
        ("spaced", {'{"a": [1, 2]}'}),
        ("bounded", {'{"a":[1,2]}', '{"a": [1, 2]}', '{"a": [1,2]}'}),
        ("flexible", {'{"a":[1,2]}', '{"a": [1, 2]}', '{"a": [1,2]}', '{\n  "a":  [1\t,2]\r\n}', '{"a":[ 1,2 ]}'}),
    ],
)
def test_white_space_goes_where_it_was_asked_for(whitespace, accepted):
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}, "required": ["a"]}
    constraint = JsonSchema(schema, whitespace=whitespace).compile(SMALL)
    texts = [
        '{"a":[1,2]}',
        '{"a": [1, 2]}',
        '{"a": [1,2]}',
        '{\n  "a":  [1\t,2]\r\n}',
        '{"a":[ 1,2 ]}',
        ' {"a":[1]}',
        '{"a":[1]} ',
    ]
    assert {text for text in texts if is_member(constraint, text)} == accepted


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (
            {"properties": {"age": {"if": {"type": "integer"}}}},
            "keyword 'if' at /properties/age is not supported; use 'anyOf'",
        ),
        ({"properties": {"if": {"not": {}}}}, "keyword 'not' at /properties/if"),
        ({"items": {"anyOf": [{"uniqueItems": True}]}}, "keyword 'uniqueItems' at /items/anyOf/0"),
        ({"contains": {}}, "keyword 'contains' at / is not supported; remove it"),
        ({"enum": [{"not": 1}], "dependentRequired": {}}, "keyword 'dependentRequired' at /"),
        ({"properties": {"a": {"type": "string", "format": "zzz"}}}, "format 'zzz' at /properties/a"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "keyword 'oneOf' at /: its cases may overlap"),
        ({"type": "string", "pattern": "a(?=b)"}, "pattern at / is not supported: .*look-around"),
        ({"$ref": "#/$defs/nope"}, "'/\\$defs/nope' does not exist"),
        ({"x-guidance": {"lenient": True}}, "keyword 'x-guidance'"),
        ({"properties": {"a": {"type": "foo"}}}, "malformed at /properties/a/type: 'foo'"),
        ({"minimum": "3"}, "malformed at /minimum"),
        ("{", "not JSON: .*line 1 column 2"),
        ("3", "object or a type, not 3"),
        ([], "object or a type"),
        ({"enum": [{1, 2}]}, "not JSON data"),
        ({"minimum": float("nan")}, "not JSON data"),
        (set[int], "keyword 'uniqueItems'"),
        (typing.Callable, "no JSON Schema can be made"),
    ],
)
def test_what_is_not_supported_is_named_with_its_place(schema, message):
    with pytest.raises(GrammarError, match=message):
        JsonSchema(schema).compile(SMALL)


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"enum": []},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
    ],
)
def test_schemas_that_nothing_satisfies_are_unsatisfiable(schema):
    with pytest.raises(Unsatisfiable):
        JsonSchema(schema).compile(SMALL).start()


def test_white_space_must_be_one_of_the_four():
    with pytest.raises(GrammarError, match="compact, spaced, bounded, flexible"):
        JsonSchema({}, whitespace="none")


def test_a_schema_changed_afterwards_changes_nothing():
    schema = {"type": "integer"}
    language = JsonSchema(schema)
    schema["type"] = "string"
    assert is_member(language.compile(SMALL), "1")
