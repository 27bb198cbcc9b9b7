"""The reader of JSON bytes and its three-valued judgement: what it accepts, how early it refuses, what it costs."""

from __future__ import annotations

import itertools
import json
import random
import time
from typing import Any

import jsonschema
import pytest

from grammars.json_evaluation import Planner
from grammars.json_machine import JsonState
from grammars.json_nodes import Graph
from grammars.json_references import Library
from grammars.json_satisfiable import mark_empty


def before(schema: Any, layout: bool = False) -> JsonState:
    graph = Graph(Library(schema, {}), True)
    mark_empty(graph)
    return JsonState.before(Planner().plan((graph.root,)), layout)


def read(schema: Any, text: str | bytes) -> tuple[int | None, bool]:
    """The byte that is refused, or None; and whether the text is complete."""
    state = before(schema)
    data = text.encode() if isinstance(text, str) else text
    for k in range(len(data)):
        following = state.read(data[k : k + 1])
        if following is None:
            return k, False
        state = following
    return None, state.is_complete


def is_valid(schema: Any, text: str | bytes) -> bool:
    return read(schema, text)[1]


def refused_at(schema: Any, text: str) -> str | None:
    """The text up to and with the byte that is refused."""
    at, _ = read(schema, text)
    return None if at is None else text.encode()[: at + 1].decode()


JSON = [
    '""',
    '"a\\n\\u0041\\ud83d\\ude00é😀"',
    "0",
    "-0.5e+10",
    "1E5",
    "true",
    "null",
    "[]",
    "{}",
    '[1, [2,{"a": []}] ]',
    '{"a":1,"A":{}}',
]
NO_JSON = [
    "", " 1", "1 ", "01", "+1", "1.", ".5",
    "1e", "-", "nul", "tru e", "[1,]", "[,1]", "{,}", '{"a"}', '{"a":}', '{"a":1,}', "{a:1}",
    '"\n"', '"\\x"', '"\\ud800"', '"\\udc00"', '"\\ud800\\u0041"', '"\\u12g4"', "[1", "[1}", '"a', "NaN",
    "Infinity", "[1 2]", '{"a":1,"a":2}',
    '{"a":1,"\\u0061":2}', "1e400", "1.5e-400", "9" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("text", JSON)
def test_json_is_read_however_its_bytes_come(text):
    assert is_valid({"not": {"const": "zz"}}, text)
    for width in (1, 2, 3, 7):
        state: JsonState | None = before({})
        data = text.encode()
        for k in range(0, len(data), width):
            assert state is not None
            state = state.read(data[k : k + width])
        assert state is not None and state.is_complete


@pytest.mark.parametrize("text", NO_JSON)
def test_what_is_no_json_is_refused(text):
    assert not is_valid({}, text)


@pytest.mark.parametrize(
    "data", [b'"\xff"', b'"\xc3"', b'"\xed\xa0\x80"', b'"\xf8\x88\x80\x80\x80"', b'"\xc0\x80"', b"\xef\xbb\xbf1"]
)
def test_bytes_that_are_no_utf8_are_refused(data):
    assert not is_valid({}, data)


@pytest.mark.parametrize(
    ("schema", "text", "refused"),
    [
        ({"uniqueItems": True}, "[1,2,1.0,3]", "[1,2,1.0,"),
        ({"uniqueItems": True}, '[{"a":1,"b":[2]},{"b":[2.0],"a":1}]', '[{"a":1,"b":[2]},{"b":[2.0],"a":1}'),
        ({"const": {"a": [1, "xy"]}}, '{"a":[1,"xz"]}', '{"a":[1,"xz'),
        ({"const": {"a": [1, "xy"]}}, '{"b":1}', '{"b'),
        ({"enum": ["red", "green"]}, '"blue"', '"b'),
        ({"maxItems": 2}, "[1,2,3]", "[1,2,"),
        ({"maxProperties": 1}, '{"a":1,"b":2}', '{"a":1,'),
        ({"maxProperties": 1, "required": ["b"]}, '{"a":1,"b":2}', '{"a"'),
        ({"additionalProperties": False, "properties": {"ab": {}}}, '{"ac":1}', '{"ac'),
        ({"additionalProperties": False, "properties": {"ab": {}}}, '{"ab":1,"x"}', '{"ab":1,'),
        ({"properties": {"a": False}}, '{"a":1}', '{"a"'),
        ({"propertyNames": {"pattern": "^x"}}, '{"a":1}', '{"a'),
        ({"type": "string", "pattern": "^(?!ab)"}, '"abc"', '"ab'),
        ({"type": "string", "maxLength": 2}, '"abc"', '"abc'),
        ({"type": "object"}, "[]", "["),
        ({"not": {"type": "object"}}, "{}", "{"),
        ({"not": {"required": ["a"]}}, '{"a":1}', '{"a"'),
        ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, '{"a":1,"b":2}', '{"a":1,"b"'),
        ({"oneOf": [{"type": "array"}, {"type": "array"}]}, "[]", "["),
        ({"allOf": [{"items": {"type": "string"}}, {"items": {"type": "number"}}]}, "[1]", "[1"),
        ({"if": {"required": ["a"]}, "then": {"maxProperties": 1}}, '{"b":1,"a":1}', '{"b":1,"a"'),
        ({"contains": {"type": "null"}, "maxContains": 1}, "[null,null]", "[null,n"),
        ({"dependentSchemas": {"a": {"properties": {"b": False}}}}, '{"b":1,"a":1}', '{"b":1,"a"'),
        ({"unevaluatedProperties": False, "anyOf": [{"properties": {"a": {}}}, {"properties": {"bc": {}}}]}, '{"bd":1}', '{"bd'),
        ({"items": {"items": {"items": {"type": "null"}}}}, "[[[1]]]", "[[[1"),
        ({"format": "date"}, '"2024-13-01"', '"2024-13'),
    ],
)  # fmt: skip
def test_what_cannot_become_valid_is_refused_at_the_first_byte_that_shows_it(schema, text, refused):
    assert refused_at(schema, text) == refused


def test_a_state_is_a_value():
    state = before({"uniqueItems": True, "type": "array"})
    for data in (b"[", b'"a"', b","):
        following = state.read(data)
        assert following is not None
        state = following
    verdicts = {word: state.read(word.encode()) is not None for word in ('"a"', '"b"', "1", '"a"', '"b"')}
    assert verdicts == {'"a"': False, '"b"': True, "1": True}


def test_pretty_is_the_layout_of_json_dumps_and_nothing_else():
    rng = random.Random(0)
    for _ in range(200):
        value = random_value(rng, 3)
        text = json.dumps(value, indent=2, ensure_ascii=False)
        state: JsonState | None = before({}, layout=True)
        assert state is not None
        assert (state := state.read(text.encode())) is not None and state.is_complete, text
        for at in [k for k, char in enumerate(text) if char in " \n,:"][:20]:
            for near in (text[:at] + " " + text[at:], text[:at] + text[at + 1 :]):
                read_near = before({}, layout=True).read(near.encode())
                accepted = read_near is not None and read_near.is_complete
                assert accepted == is_pretty(near), near


def is_pretty(text: str) -> bool:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False) == text
    except ValueError:
        return False


# Random schemas and values, small enough to meet often.


def random_value(rng: random.Random, depth: int) -> Any:
    kind = rng.randrange(7 if depth else 5)
    if kind == 5:
        return [random_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    if kind == 6:
        return {rng.choice("abc"): random_value(rng, depth - 1) for _ in range(rng.randrange(4))}
    return [
        None,
        rng.choice([True, False]),
        rng.randrange(-2, 4),
        rng.choice(["", "a", "ab", "b"]),
        rng.choice([0.5, 1.5, 2.0]),
    ][kind]


def random_schema(rng: random.Random, depth: int) -> Any:
    if depth == 0 or rng.random() < 0.08:
        return rng.choice(
            [True, False, {}, {"type": "string"}, {"type": ["integer", "null"]}, {"const": 1}, {"enum": ["a", [1], {}]}]
        )

    def inner() -> Any:
        return random_schema(rng, depth - 1)

    def some(low: int, high: int) -> list[Any]:
        return [inner() for _ in range(rng.randint(low, high))]

    def named() -> dict[str, Any]:
        return {name: inner() for name in rng.sample("abc", rng.randint(1, 2))}

    makers = {
        "type": lambda: rng.choice(
            ["object", "array", "string", "number", "integer", ["object", "array"], ["array", "string"]]
        ),
        "enum": lambda: [random_value(rng, 2) for _ in range(3)],
        "minimum": lambda: rng.randrange(3),
        "exclusiveMaximum": lambda: rng.randrange(4),
        "multipleOf": lambda: rng.choice([2, 0.5]),
        "minLength": lambda: rng.randrange(3),
        "maxLength": lambda: rng.randrange(3),
        "pattern": lambda: rng.choice(["a", "^a", "b$", "^(?!a)"]),
        "items": inner,
        "prefixItems": lambda: some(1, 2),
        "minItems": lambda: rng.randrange(3),
        "maxItems": lambda: rng.randrange(4),
        "uniqueItems": lambda: True,
        "contains": inner,
        "maxContains": lambda: rng.randrange(3),
        "minContains": lambda: rng.randrange(3),
        "unevaluatedItems": inner,
        "properties": named,
        "patternProperties": lambda: {rng.choice(["^a", "b", "."]): inner()},
        "additionalProperties": inner,
        "required": lambda: rng.sample("abc", rng.randint(1, 2)),
        "minProperties": lambda: rng.randrange(3),
        "maxProperties": lambda: rng.randrange(4),
        "propertyNames": inner,
        "dependentRequired": lambda: {rng.choice("abc"): [rng.choice("abc")]},
        "dependentSchemas": named,
        "unevaluatedProperties": inner,
        "allOf": lambda: some(1, 2),
        "anyOf": lambda: some(1, 3),
        "oneOf": lambda: some(1, 3),
        "not": inner,
        "if": inner,
        "then": inner,
        "else": inner,
    }
    return {keyword: makers[keyword]() for keyword in rng.sample(sorted(makers), rng.randint(1, 4))}


def test_verdicts_on_random_schemas_and_values_are_those_of_jsonschema():
    """An instance is accepted byte by byte exactly when `jsonschema` says that it is valid."""
    rng = random.Random(11)
    judged = [0, 0]
    for _ in range(1500):
        schema = random_schema(rng, 3)
        validator = jsonschema.Draft202012Validator(schema)
        for _ in range(5):
            value = random_value(rng, 3)
            valid = validator.is_valid(value)
            assert is_valid(schema, json.dumps(value)) == valid, (schema, value)
            judged[valid] += 1
    assert min(judged) > 1000


def test_the_cost_of_a_token_does_not_grow_with_the_text():
    """A thousand members later a step costs the same, within what a busy machine adds."""
    schema = {
        "type": "object",
        "patternProperties": {"^k": {"type": "array", "uniqueItems": True, "contains": {"const": 1}}},
        "unevaluatedProperties": False,
    }
    for open_with, member in ((b"{", '"k%d":[1,2]'), (b'{"k":[1', ",2%d")):
        state = before(schema).read(open_with)
        assert state is not None
        costs = []
        for k in itertools.count():
            text = member % k if member[0] == "," else "," * (k > 0) + member % k
            begun = time.perf_counter()
            following = state.read(text.encode())
            costs.append(time.perf_counter() - begun)
            assert following is not None
            state = following
            if k == 4000:
                break
        early, late = sorted(costs[100:600])[50], sorted(costs[-500:])[50]
        assert late < 4 * early
