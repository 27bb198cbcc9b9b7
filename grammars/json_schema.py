"""JSON texts that a schema describes, whatever its keywords; the schema may come from a Python type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from grammars.constraint import Constraint, Language
from grammars.errors import GrammarError
from grammars.json_types import schema_of
from grammars.registry import Example, grammar
from grammars.vocabulary import Vocabulary

WHITESPACE = ("compact", "spaced", "bounded", "flexible", "pretty")
ORDER = ("schema", "any")
SPELLING = ("plain", "any")
FORMATS = ("assert", "annotate")

_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name"],
    "additionalProperties": False,
}
_TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"v": {"enum": ["é", 1, None]}, "next": {"$ref": "#/$defs/node"}},
            "required": ["v"],
            "additionalProperties": False,
        }
    },
    "anyOf": [{"$ref": "#/$defs/node"}, {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}],
}


_ORDERS = {
    "type": "object",
    "properties": {
        "ids": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 3}, "uniqueItems": True},
        "kind": {"enum": ["a", "b"]},
        "paid": {"type": "boolean"},
    },
    "required": ["kind"],
    "additionalProperties": False,
    "if": {"properties": {"kind": {"const": "a"}}},
    "then": {"required": ["paid"]},
    "else": {"not": {"required": ["paid"]}},
}


@grammar("json_schema")
@dataclass(frozen=True)
class JsonSchema(Language):
    """JSON texts valid under a schema: draft 2020-12, and the drafts from 4 on where `$schema` names one.

    What the mask engine follows is masked; every other keyword is enforced by a predicate that refuses a token as soon as no
    text that goes on from it can be valid, as far as it can tell. Nothing is ignored but annotations and formats that have
    no name in the standard. No object has a key twice. Nothing comes before or after the value.

    schema      a schema (dict, bool or JSON text), or a type: a Pydantic model, a dataclass, a TypedDict, an enumeration, an
                annotation such as Literal[1, 2] or list[int]
    whitespace  "compact": none; "spaced": one space after each , and : as json.dumps writes; "bounded": at most one space
                there; "pretty": as json.dumps(indent=2); "flexible": any between two tokens, without end
    order       "schema": members that `properties` lists come in its order, before others; "any": in any order
    spelling    "plain": in texts only quotes, backslashes and control characters (DEL too) are escaped, integers have no
                fraction, bounded numbers no exponent; "any": every spelling that JSON has (with order="any" only)
    formats     "assert": `format` is enforced; "annotate": it means nothing, as 2020-12 has it by default
    registry    other documents by URI, for `$ref`. Nothing is ever fetched
    Source: JSON Schema 2020-12, core and validation; llguidance, docs/json_schema.md, for the mask.
    """

    schema: Any
    whitespace: str = "bounded"
    order: str = "schema"
    spelling: str = "plain"
    formats: str = "assert"
    registry: Mapping[str, Any] | None = None
    _validate: Callable[[str], Any] = field(init=False, repr=False, compare=False)

    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            {"json_schema": _PERSON},
            ('{"name": "Zoë","age":7}', '{"name":"\\n\\u0001"}', '{"name": "你好"}'),
            (
                "",
                "{}",
                '{"name": "\\u00e9"}',
                '{"age": 7, "name": "Zoe"}',
                '{"name": "Zoe", "age": 121}',
                '{"name":  "Zoe"}',
                '{"name": "abcde"}',
            ),
        ),
        Example(
            {"json_schema": _TREE, "whitespace": "compact"},
            ('{"v":"é","next":{"v":null}}', "[true,false]", "[]"),
            ("[true,true,true]", "[true, false]", '{"v":2}', "true"),
        ),
        Example(
            {"json_schema": {"type": "array", "items": {"type": "number"}}, "whitespace": "spaced"},
            ("[1, -2.5, 3e4]", "[]"),
            ("[1,2]", "[01]", "[1, ]"),
        ),
        Example(
            {"json_schema": {"type": "object"}, "whitespace": "flexible"},
            ('{\n  "a": [1, {}],\r\t"b":null}', "{}"),
            ("{", "[]", '{"a"}', "{} "),
        ),
        Example(
            {"json_schema": {"type": "string", "format": "date", "pattern": "^20"}},
            ('"2024-02-29"',),
            ('"1999-01-01"', '"2024-13-01"', "2024-01-01"),
        ),
        Example(
            {"json_schema": _ORDERS},
            ('{"kind": "b"}', '{"ids":[1,2], "kind":"a","paid":true}', '{"ids":[], "kind": "b"}'),
            ('{"kind": "a"}', '{"kind":"b","paid":true}', '{"ids":[1,1],"kind":"b"}', '{"kind":"b","kind":"b"}'),
        ),
        Example(
            {"json_schema": _ORDERS, "whitespace": "pretty", "order": "any"},
            ('{\n  "paid": true,\n  "kind": "a"\n}', '{\n  "kind": "b",\n  "ids": []\n}'),
            ('{"kind": "b"}', '{\n  "kind": "b", "ids": []\n}', '{\n  "paid": true,\n  "kind": "b"\n}'),
        ),
        Example(
            {
                "json_schema": {"type": "array", "contains": {"const": 1}, "items": {"type": "integer"}},
                "order": "any",
                "spelling": "any",
            },
            ("[1]", "[2, 1.0]", "[10e-1,3]"),
            ("[]", "[2]", "[1.5, 1]", "[01]"),
        ),
        Example(
            {
                "json_schema": {
                    "$dynamicRef": "#n",
                    "$defs": {
                        "n": {
                            "$dynamicAnchor": "n",
                            "oneOf": [{"maxLength": 1, "type": "string"}, {"pattern": "^a", "type": "string"}],
                        }
                    },
                }
            },
            ('"b"', '"ab"', '""'),
            ('"a"', '"bb"', "1"),
        ),
    )

    def __post_init__(self) -> None:
        for name, given, choices in (
            ("whitespace", self.whitespace, WHITESPACE),
            ("order", self.order, ORDER),
            ("spelling", self.spelling, SPELLING),
            ("formats", self.formats, FORMATS),
        ):
            if not isinstance(given, str) or given not in choices:
                raise GrammarError(f"{name}={given!r} must be one of {', '.join(choices)}")
        if self.spelling == "any" and self.order != "any":
            raise GrammarError('spelling="any" leaves the mask no hold on keys: give order="any" with it')
        schema, validate = schema_of(self.schema)
        object.__setattr__(self, "schema", schema)
        object.__setattr__(self, "registry", _documents(self.registry))
        object.__setattr__(self, "_validate", validate)
        _check(schema)

    @property
    def options(self) -> dict[str, Any]:
        """The options that are not the default."""
        defaults = {
            "whitespace": "bounded",
            "order": "schema",
            "spelling": "plain",
            "formats": "assert",
            "registry": None,
        }
        return {name: getattr(self, name) for name, default in defaults.items() if getattr(self, name) != default}

    @property
    def spec(self) -> dict[str, Any]:
        return {"json_schema": self.schema, **self.options}

    def parse(self, text: str) -> Any:
        """The value; an instance of the type, where the schema was made from one. ValueError where the text is not JSON."""
        return self._validate(text)

    def compile(self, vocabulary: Vocabulary) -> Constraint:
        from grammars.json_compilation import compile_json

        return compile_json(self, vocabulary).constraint


def _documents(registry: Any) -> dict[str, Any] | None:
    """The registry as JSON data, as it will travel."""
    if registry is None or registry == {}:
        return None
    if not isinstance(registry, Mapping) or not all(isinstance(uri, str) for uri in registry):
        raise GrammarError('registry= must map URIs to schemas: {"https://...": {...}}')
    return {uri: schema_of(document)[0] for uri, document in registry.items()}


def _check(schema: Any) -> None:
    """The schema's keywords have the forms they should have. What references point to is found out when compiling."""
    from grammars.json_references import Library
    from grammars.json_wellformed import check_forms

    if isinstance(schema, dict) and "x-guidance" in schema:
        raise GrammarError(
            "JSON Schema keyword 'x-guidance' at / is not for schemas; choose white space with whitespace="
        )
    check_forms(Library(schema, {}))
