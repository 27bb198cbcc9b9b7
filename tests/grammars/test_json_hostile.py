"""Schemas and texts made to hurt: each ends quickly, with the right verdict or a clear error."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from grammars.errors import GrammarError, PredicateError, Unsatisfiable
from grammars.json_schema import JsonSchema
from tests.grammars.small import SMALL, by_bytes, is_member

# Seconds that nothing here may take, on a machine that others use as well.
PATIENCE = 5.0
EVERY = {"order": "any", "spelling": "any", "whitespace": "flexible"}


def nested(depth: int) -> dict:
    schema: dict = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def one_of(depth: int) -> dict:
    schema: dict = {"multipleOf": 2}
    for _ in range(depth):
        schema = {"oneOf": [schema, {"multipleOf": 3}]}
    return schema


LENGTHS = [{"anyOf": [{"minLength": k}, {"pattern": f"x{k}$"}]} for k in range(22)]
NAMES = {"type": "object", "properties": {f"k{k}": {"type": "integer"} for k in range(5_000)}}
CHAIN = {"properties": {"a": {"$ref": "#"}}, "additionalProperties": False}
HALVES = [{"anyOf": [{"required": [f"a{k}"]}, {"required": [f"b{k}"]}]} for k in range(22)]

CASES = [
    ("allOf of 22 anyOf", {"type": "object", "allOf": HALVES}, {}, json.dumps({f"a{k}": 1 for k in range(22)}), '{"a0": 1}'),
    ("allOf of 22 anyOf of lengths", {"allOf": LENGTHS}, {}, f'"{"a" * 30}"', '"a"'),
    ("schema 500 deep", nested(500), {}, "[" * 500 + "1" + "]" * 500, "[" * 500 + '"x"' + "]" * 500),
    ("text 500 deep", {}, {}, "[" * 500 + "]" * 500, "[" * 500 + "]" * 499),
    ("text 500 deep under a predicate", {"not": {"const": 1}}, EVERY, "[" * 500 + "]" * 500, "1"),
    ("oneOf 8 deep", one_of(8), {}, "2", "5"),
    ("enum of 50,000", {"enum": [f"v{k}" for k in range(50_000)]}, {}, '"v49999"', '"v50000"'),
    ("not enum of 50,000", {"not": {"enum": [f"v{k}" for k in range(50_000)]}}, {}, '"v50000"', '"v49999"'),
    ("enum of 50,000 objects", {"enum": [{"a": k} for k in range(50_000)]}, {}, '{"a": 49999}', '{"a": 50000}'),
    ("5,000 names", NAMES, {}, '{"k4999":1}', '{"k4999":""}'),
    ("minItems 10**7", {"items": {"type": "integer"}, "minItems": 10**7}, {}, "1", "[1]"),
    ("maxLength 10**9", {"type": "string", "maxLength": 10**9}, {}, '"abc"', "1"),
    ("minLength 10**9", {"minLength": 10**9}, {}, "1", '"abc"'),
    ("multipleOf a large prime", {"multipleOf": 9999991, "minimum": 0}, {}, "9999991", "9999992"),
    ("bound of 400 digits", {"type": "integer", "minimum": 10**400}, {}, "1" + "0" * 400, "9" * 400),
    ("huge exponents", {"multipleOf": 7, "maximum": 0}, EVERY, "-7e300", "-1e300"),
    ("nested repetition", {"type": "string", "pattern": "^(a{1,100}){1,100}$"}, {}, '"aaa"', '"ab"'),
    ("an automaton of 2**20 states", {"type": "string", "pattern": "a.{20}$"}, {}, f'"{"a" * 30}"', f'"a{"b" * 30}"'),
    ("special tokens in enum", {"enum": ["<|endoftext|>", "<|im_start|>"]}, {}, '"<|endoftext|>"', '"<|im_end|>"'),
    ("half a character in enum", {"enum": ["\ud800", "ok"]}, EVERY, '"ok"', '"\\ud800"'),
    ("a recursive schema", CHAIN, {}, '{"a":{"a":{}}}', '{"a":{"b":{}}}'),
]  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "options", "accepted", "refused"), [pytest.param(*case[1:], id=case[0]) for case in CASES]
)
def test_hostile_schemas_are_judged_quickly(schema, options, accepted, refused):
    begun = time.perf_counter()
    constraint = JsonSchema(schema, **options).compile(SMALL)
    constraint.start()
    assert is_member(constraint, accepted)
    assert not is_member(constraint, refused)
    assert time.perf_counter() - begun < PATIENCE


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"anyOf": [{"$ref": "#"}, {"type": "string"}]}}},
        {"type": "array", "minItems": 10**7, "maxItems": 3},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"allOf": [{"type": "object"}, {"not": {"type": "object"}}]},
    ],
)
def test_what_has_no_finite_value_is_unsatisfiable_at_once(schema):
    begun = time.perf_counter()
    with pytest.raises(Unsatisfiable):
        JsonSchema(schema).compile(SMALL).start()
    assert time.perf_counter() - begun < 1


def test_a_reference_to_the_network_is_refused_and_nothing_is_fetched():
    hits = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hits.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    uri = f"http://127.0.0.1:{server.server_port}/schema.json"
    try:
        for keyword in ("$ref", "$dynamicRef"):
            with pytest.raises(GrammarError, match="nothing is fetched"):
                JsonSchema({"properties": {"a": {keyword: uri}}}).compile(SMALL)
        # $id and $schema name, they do not fetch either.
        JsonSchema({"$id": uri, "$schema": uri, "type": "integer"}).compile(SMALL)
        constraint = JsonSchema({"$ref": uri}, registry={uri: {"type": "integer"}}).compile(SMALL)
        assert is_member(constraint, "1") and not is_member(constraint, '"a"')
    finally:
        server.shutdown()
        server.server_close()
    assert hits == []


def test_a_pattern_that_backtracks_for_ever_ends_with_an_error():
    constraint = JsonSchema({"type": "string", "pattern": "^(?!x)(a|a)*b$"}).compile(SMALL)
    begun = time.perf_counter()
    with pytest.raises(PredicateError, match="nested repetition"):
        by_bytes(constraint, b'"' + b"a" * 60 + b'c"')
    assert time.perf_counter() - begun < PATIENCE


def test_invalid_utf8_is_refused_by_every_kind_of_constraint():
    for schema, options in (({"type": "string"}, {}), ({"not": {"const": "a"}}, EVERY), ({"pattern": "^(?!a)"}, {})):
        constraint = JsonSchema(schema, **options).compile(SMALL)
        for data in (b'"\xff', b'"\xc3\x28', b'"\xed\xa0\x80', b'"\xc0\x80'):
            assert by_bytes(constraint, data) is None, (schema, data)


def test_a_schema_nested_beyond_pythons_stack_is_an_error():
    schema: dict = {"type": "string"}
    for _ in range(3_000):
        schema = {"not": schema}
    with pytest.raises(GrammarError, match="recursion"):
        JsonSchema(schema)


def grown_mib(schemas: range) -> float:
    """How much the process grows while it compiles and uses unique schemas through the shared cache, in MiB."""
    from grammars.registry import compile_cached

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    before = 0.0
    for k in schemas:
        if k == schemas.start + len(schemas) // 2:
            # By now the cache is full.
            before = peak()
        schema = {
            "properties": {f"p{k}": {"enum": [k, str(k)]}, "q": {"uniqueItems": True, "minItems": k % 5}},
            "required": [f"p{k}"],
        }
        state = compile_cached(JsonSchema(schema), SMALL).start()
        assert state.accepts(np.arange(SMALL.size)).any()
    return peak() - before


def grown_mib_elsewhere(schemas: range) -> float:
    """The same in a fresh process: what other tests have left behind does not count."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        return fresh.submit(grown_mib, schemas).result()


def test_memory_stays_bounded_over_many_unique_schemas():
    # A leak of 80 kB a schema would show; what is held at most (256 constraints and their lexers) is some 150 MiB.
    assert grown_mib_elsewhere(range(2_000)) < 64


@pytest.mark.slow
@pytest.mark.skipif("REWEIGH_LONG_TESTS" not in os.environ, reason="a minute: set REWEIGH_LONG_TESTS=1")
def test_memory_stays_bounded_over_ten_thousand_unique_schemas():
    assert grown_mib_elsewhere(range(100_000, 110_000)) < 64
