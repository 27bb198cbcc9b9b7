"""JSON Schemas: where they come from, how white space goes, and errors that name keyword and place."""

from __future__ import annotations

import enum
import json
import random
import time
import typing
from dataclasses import dataclass
from typing import Any

import jsonschema
import pydantic
import pytest

from grammars.errors import GrammarError, Unsatisfiable
from grammars.json_schema import JsonSchema
from tests.grammars.small import SMALL, by_bytes, is_member, walk
from tests.grammars.test_json_machine import random_schema, random_value

PRETTY = json.dumps({"a": [1, 2]}, indent=2)


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
        ("pretty", {PRETTY}),
        (
            "flexible",
            {PRETTY, '{"a":[1,2]}', '{"a": [1, 2]}', '{"a": [1,2]}', '{\n  "a":  [1\t,2]\r\n}', '{"a":[ 1,2 ]}'},
        ),
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
        PRETTY,
        PRETTY.replace("    1", "   1"),
        PRETTY.replace(": [", ":["),
        ' {"a":[1]}',
        '{"a":[1]} ',
    ]
    if whitespace == "flexible":
        accepted = accepted | {PRETTY.replace("    1", "   1"), PRETTY.replace(": [", ":[")}
    assert {text for text in texts if is_member(constraint, text)} == accepted


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "string", "pattern": "a("}, "pattern 'a\\(' at / is malformed: missing \\)"),
        (
            {"properties": {"a": {"patternProperties": {"[": {}}}}},
            "pattern '\\[' at /properties/a/patternProperties is malformed",
        ),
        ({"$ref": "#/$defs/nope"}, "'/\\$defs/nope' does not exist"),
        ({"items": {"$ref": "#nope"}}, "'#nope' at /items cannot be resolved: there is no anchor 'nope'"),
        ({"$ref": "https://example.com/a.json"}, "neither the schema nor the registry; nothing is fetched"),
        ({"x-guidance": {"lenient": True}}, "keyword 'x-guidance'"),
        ({"properties": {"a": {"type": "foo"}}}, "malformed at /properties/a/type: 'foo'"),
        ({"minimum": "3"}, "malformed at /minimum"),
        ({"$defs": {"a": {"anyOf": []}}}, "malformed at /\\$defs/a/anyOf"),
        ({"multipleOf": 0}, "malformed at /multipleOf: 0 is not a number above 0"),
        ({"$schema": "http://json-schema.org/draft-03/schema#"}, "draft 3 is not supported"),
        ("{", "not JSON: .*line 1 column 2"),
        ("3", "object or a type, not 3"),
        ([], "object or a type"),
        ({"enum": [{1, 2}]}, "not JSON data"),
        ({"minimum": float("nan")}, "not JSON data"),
        (typing.Callable, "no JSON Schema can be made"),
    ],
)
def test_what_is_wrong_with_a_schema_is_named_with_its_place(schema, message):
    with pytest.raises(GrammarError, match=message):
        JsonSchema(schema).compile(SMALL)


@pytest.mark.parametrize(
    ("schema", "accepted", "refused"),
    [
        ({"not": {"type": "string"}}, ("1", "[]"), ('"a"',)),
        ({"if": {"type": "integer"}, "then": {"minimum": 3}, "else": {"type": "null"}}, ("3", "null"), ("2", '"a"')),
        (set[int], ("[1, 2]", "[]"), ("[1, 1]", '["a"]')),
        ({"oneOf": [{"type": "integer"}, {"minimum": 2}]}, ("1", "2.5"), ("2", "1.5")),
        ({"contains": {"const": 1}, "minContains": 2, "type": "array"}, ("[1,1]", "[0,1,1]"), ("[1]", "[]")),
        ({"type": "string", "pattern": "a(?=b)"}, ('"xab"',), ('"a"', '"ac"')),
        ({"type": "object", "propertyNames": {"maxLength": 1}}, ('{"a":1}', "{}"), ('{"ab":1}',)),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, ('{"b":1}', '{"a":1,"b":1}'), ('{"a":1}',)),
        (
            {"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": False, "type": "object"},
            ('{"a":1}',),
            ('{"b":1}',),
        ),
        ({"type": "string", "format": "zzz"}, ('"a"',), ("1",)),
        ({"type": "string", "format": "email"}, ('"a@b.com"',), ('"a"', '"@b"')),
        (
            {"$schema": "http://json-schema.org/draft-04/schema#", "maximum": 3, "exclusiveMaximum": True},
            ("2",),
            ("3",),
        ),
    ],
)
def test_keywords_beyond_the_mask_are_enforced(schema, accepted, refused):
    constraint = JsonSchema(schema).compile(SMALL)
    assert [text for text in accepted if not is_member(constraint, text)] == []
    assert [text for text in refused if is_member(constraint, text)] == []


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"enum": []},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"type": "object", "required": ["next"], "properties": {"next": {"$ref": "#"}}},
        {"type": "array", "minItems": 1, "items": {"$ref": "#"}},
        {"type": "object", "additionalProperties": False, "minProperties": 1},
        {"type": "object", "unevaluatedProperties": False, "required": ["a"]},
        {"type": "object", "propertyNames": {"enum": ["b"]}, "required": ["a"]},
        {"type": "object", "required": ["\ud800"]},
        {"not": {}},
        {"enum": [1, 2], "not": {"enum": [2, 1.0]}},
        {"enum": ["\ud800"]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}},
    ],
)
def test_schemas_that_nothing_satisfies_are_unsatisfiable(schema):
    with pytest.raises(Unsatisfiable):
        JsonSchema(schema).compile(SMALL).start()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"whitespace": "none"}, "compact, spaced, bounded, flexible, pretty"),
        ({"order": "none"}, "schema, any"),
        ({"formats": True}, "assert, annotate"),
        ({"spelling": "any"}, 'give order="any"'),
        ({"registry": {1: {}}}, "URIs"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(GrammarError, match=message):
        JsonSchema({}, **options)


def test_a_schema_changed_afterwards_changes_nothing():
    schema = {"type": "integer"}
    language = JsonSchema(schema)
    schema["type"] = "string"
    assert is_member(language.compile(SMALL), "1")


@pytest.mark.parametrize(
    ("further", "text"),
    [
        ({"dependentRequired": {"b": ["a"]}}, b'{"b"'),
        ({"if": {"properties": {"b": {"const": 1}}, "required": ["b"]}, "then": {"required": ["a"]}}, b'{"b": 1,'),
        ({"oneOf": [{"required": ["a"]}, {"required": ["c"], "properties": {"b": {"type": "null"}}}]}, b'{"b": 1'),
    ],
)
def test_a_key_that_can_no_longer_come_in_its_order_is_missed_at_once(further, text):
    """a comes before b: what would want it after b is refused there, not at the closing bracket."""
    properties = {"a": {"type": "integer"}, "b": {"type": "integer"}, "c": {"type": "integer"}}
    schema = {"type": "object", "properties": properties, "additionalProperties": False, **further}
    assert by_bytes(JsonSchema(schema).compile(SMALL), text) is None
    assert by_bytes(JsonSchema(schema, order="any").compile(SMALL), text) is not None


def test_masks_and_predicates_together_judge_random_schemas_as_jsonschema_does():
    """In any order, on values without fractions, whose spelling is the plain one; and every finished walk is valid."""
    rng, judged = random.Random(5), [0, 0]
    for _ in range(60):
        schema = random_schema(rng, 3)
        validator = jsonschema.Draft202012Validator(schema)
        values = [random_value(rng, 3) for _ in range(6)]
        for order in ("any", "schema"):
            try:
                constraint = JsonSchema(schema, order=order).compile(SMALL)
                constraint.start()
            except Unsatisfiable:
                assert not any(map(validator.is_valid, values)), schema
                continue
            for _ in range(3):
                tokens, finished = walk(constraint, rng, 40)
                if finished:
                    assert validator.is_valid(json.loads(SMALL.decode(tokens))), (schema, SMALL.decode(tokens))
            for value in values if order == "any" else []:
                text, valid = json.dumps(value), validator.is_valid(value)
                if ".0" not in text:
                    assert is_member(constraint, text) == valid, (schema, text)
                    judged[valid] += 1
    assert min(judged) > 50


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"enum": [3, [100, 12, 10]]}, b"[\n  100\n"),
        ({"type": "object", "required": ["a", "b"]}, b'{\n  "a": 1\n'),
        ({"type": "object", "minProperties": 2}, b'{\n  "a": 1\n'),
        ({"type": "array", "prefixItems": [{}], "maxItems": 0}, b"[\n"),
    ],
)
def test_a_line_break_that_promises_what_cannot_come_is_refused(schema, text):
    """In the pretty layout a break after a member promises the closing bracket, one after the opening bracket a member."""
    constraint = JsonSchema(schema, whitespace="pretty").compile(SMALL)
    assert by_bytes(constraint, text[:-1]) is not None
    assert by_bytes(constraint, text) is None


def test_a_string_of_its_greatest_length_is_judged_before_its_closing_quote():
    constraint = JsonSchema({"type": "string", "maxLength": 2, "pattern": "(?<=a)b"}).compile(SMALL)
    assert by_bytes(constraint, b'"bb') is None
    assert is_member(constraint, '"ab"')


def test_a_number_that_its_reader_would_judge_otherwise_is_refused():
    """As a double 459208221592871212561290354218901.2 has no fraction, and is an integer to whoever reads it."""
    constraint = JsonSchema({"type": "number", "not": {"type": "integer"}}).compile(SMALL)
    assert not is_member(constraint, "459208221592871212561290354218901.2")
    assert is_member(constraint, "459208221592.25")


def test_an_array_whose_values_are_used_up_ends():
    constraint = JsonSchema({"type": "array", "items": {"enum": ["a", 1]}, "uniqueItems": True}).compile(SMALL)
    assert is_member(constraint, '["a", 1]') and is_member(constraint, '[1,"a"]')
    assert by_bytes(constraint, b'["a", 1,') is None
    assert (
        by_bytes(JsonSchema({"items": {"type": "boolean"}, "uniqueItems": True}).compile(SMALL), b"[true,false,")
        is None
    )
    with pytest.raises(Unsatisfiable):
        JsonSchema({"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "minItems": 3}).compile(SMALL)


@pytest.mark.parametrize(
    ("low", "high", "factor"),
    [(None, 100, 3), (-100, 100, 3), (-40, None, 7), (-50, -5, 6), (-5, 130, 64), (None, 99, 2.5), (-30, 30, 10)],
)
def test_digits_that_no_multiple_within_the_bounds_begins_with_are_refused(low, high, factor):
    """Against all multiples up to 10**5: what is unbounded on a side has one that goes on from any digits."""
    bounds = {"minimum": low, "maximum": high, "multipleOf": factor}
    schema = {"type": "integer", **{keyword: bound for keyword, bound in bounds.items() if bound is not None}}
    constraint = JsonSchema(schema).compile(SMALL)
    lowest, highest = -(10**5) if low is None else low, 10**5 if high is None else high
    members = {str(number) for number in range(lowest, highest + 1) if number % factor == 0}
    begins = {member[:k] for member in members for k in range(len(member) + 1)}
    for number in range(-150, 151):
        state = by_bytes(constraint, str(number).encode())
        assert (state is not None) == (str(number) in begins), number
        assert (state is not None and state.is_complete) == (str(number) in members), number


def test_halves_of_many_multiples_that_hold_together_do_not_multiply():
    begun = time.process_time()
    schema = {
        "allOf": [{"type": "integer", "minimum": -(10**6), "maximum": 1000, "multipleOf": k} for k in range(2, 24)]
    }
    assert is_member(JsonSchema(schema).compile(SMALL), "0")
    assert time.process_time() - begun < 2.0


@pytest.mark.parametrize(
    ("schema", "text", "refused"),
    [
        ({"minimum": 10**30, "maximum": 10**30 + 5}, "2", "2"),
        ({"minimum": 10**30, "maximum": 10**30 + 5}, "1" + "0" * 29 + "6", "1" + "0" * 29 + "6"),
        ({"minimum": 10**30, "maximum": 10**30 + 5}, "1" + "0" * 30, None),
        ({"minimum": 0, "maximum": 20, "not": {"multipleOf": 2}}, "4", "4"),
        ({"minimum": 0, "maximum": 20, "not": {"multipleOf": 2}}, "13", None),
        ({"maximum": -10, "multipleOf": 7}, "-7", None),
        ({"minimum": -10, "multipleOf": 7, "not": {"const": -7}}, "-7", "-7"),
        ({"enum": [123, 45], "not": {"const": 123}}, "1", "1"),
    ],
)
def test_digits_are_refused_where_no_more_of_them_help(schema: dict, text: str, refused: str | None):
    whole = {"type": "array", "items": {"type": "integer", **schema}}
    for language, around in ((JsonSchema({"type": "integer", **schema}), ""), (JsonSchema(whole), "[")):
        constraint = language.compile(SMALL)
        states = [by_bytes(constraint, f"{around}{text[:k]}".encode()) for k in range(1, len(text) + 1)]
        at = next((text[: k + 1] for k, state in enumerate(states) if state is None), None)
        assert at == refused


def test_begun_integers_stand_just_where_some_integer_does():
    rng = random.Random(1)

    def asks() -> dict[str, Any]:
        bounds = [name for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum") if rng.random() < 0.4]
        found: dict[str, Any] = {name: rng.randint(-30, 150) for name in bounds}
        if rng.random() < 0.4:
            found["multipleOf"] = rng.choice([2, 3, 5, 7, 10, 25])
        return found

    satisfiable = 0
    for _ in range(60):
        schema = {
            "type": "integer",
            "minimum": -999,
            "maximum": 999,
            "allOf": [asks()],
            "not": {"allOf": [asks(), {"minimum": 5}]},
        }
        valid = jsonschema.Draft202012Validator(schema)
        members = {str(number) for number in range(-999, 1000) if valid.is_valid(number)}
        if not members:
            continue
        satisfiable += 1
        constraint = JsonSchema(schema).compile(SMALL)
        begun = {member[:k] for member in members for k in range(1, len(member) + 1)}
        for number in range(-999, 1000, 3):
            state = by_bytes(constraint, str(number).encode())
            assert (state is not None) == (str(number) in begun), (schema, number)
            assert state is None or state.is_complete == (str(number) in members)
    assert satisfiable > 20


@pytest.mark.parametrize(
    ("schema", "text", "refused"),
    [
        ({"contains": {"const": 7}, "minContains": 2, "maxContains": 2, "maxItems": 5}, "[1,2,3,4", "[1,2,3,4"),
        ({"contains": {"const": 7}, "minContains": 2, "maxContains": 2, "maxItems": 5}, "[1,2,3,71", "[1,2,3,71"),
        ({"contains": {"const": 7}, "minContains": 2, "maxContains": 2, "maxItems": 5}, "[1,2,3,7,7]", None),
        ({"contains": {"const": "xy"}, "maxItems": 1}, '["xz', '["xz'),
        (
            {"prefixItems": [{"const": 1}], "contains": {"const": "x"}, "unevaluatedItems": False, "minItems": 2},
            "[1,2",
            "[1,2",
        ),
        ({"items": {"not": {"not": {"enum": [1.5, -20, 0.03]}}}}, "[-3", "[-3"),
        ({"items": {"not": {"not": {"enum": [1.5, -20, 0.03]}}}}, "[0.03]", None),
    ],
)
def test_an_item_that_contains_still_wants_is_refused_as_it_begins(schema: dict, text: str, refused: str | None):
    constraint = JsonSchema({"type": "array", **schema}).compile(SMALL)
    states = [by_bytes(constraint, text[:k].encode()) for k in range(1, len(text) + 1)]
    assert next((text[: k + 1] for k, state in enumerate(states) if state is None), None) == refused


@pytest.mark.parametrize("text", ["150", "1.5e2", "15E+1", "0.015e4", "150.0", "1500e-1"])
def test_a_listed_number_may_be_written_in_any_way(text: str):
    constraint = JsonSchema({"enum": [150, "x"]}, spelling="any", order="any").compile(SMALL)
    assert is_member(constraint, text) and not is_member(constraint, "-" + text)
