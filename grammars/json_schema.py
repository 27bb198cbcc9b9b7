"""JSON texts that a schema describes; the schema may come from a Python type."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from grammars.constraint import Constraint, Language
from grammars.errors import GrammarError, Unsatisfiable
from grammars.registry import Example, grammar
from grammars.vocabulary import Vocabulary

# llguidance's options. Its whitespace_pattern may match any number of times over, so bounds go into the separators.
WHITESPACE: dict[str, dict[str, Any]] = {
    "compact": {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"},
    "spaced": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
    "bounded": {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"},
    "flexible": {"whitespace_flexible": True, "item_separator": ",", "key_separator": ":"},
}

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


@grammar("json_schema")
@dataclass(frozen=True)
class JsonSchema(Language):
    """JSON texts valid under a schema, with properties in the schema's order.

    A keyword or format that llguidance cannot follow is an error that names it and its place, never dropped. Members that
    `properties` does not list may come twice. Nothing comes before or after the value. In texts only quotes, backslashes and
    control characters are escaped; every other character is written as itself.

    schema      a schema (dict, bool or JSON text), or a type: a Pydantic model, a dataclass, a TypedDict, an enumeration, an
                annotation such as Literal[1, 2] or list[int]
    whitespace  "compact": none; "spaced": one space after each , and : as json.dumps writes; "bounded": at most one space
                there; "flexible": any, wherever JSON allows it, without end
    Source: llguidance, docs/json_schema.md.
    """

    schema: Any
    whitespace: str = "bounded"
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
    )

    def __post_init__(self) -> None:
        if not isinstance(self.whitespace, str) or self.whitespace not in WHITESPACE:
            raise GrammarError(f"whitespace={self.whitespace!r} must be one of {', '.join(WHITESPACE)}")
        schema, validate = _schema_of(self.schema)
        _check(schema)
        object.__setattr__(self, "schema", schema)
        object.__setattr__(self, "_validate", validate)

    @property
    def spec(self) -> dict[str, Any]:
        options = {} if self.whitespace == "bounded" else {"whitespace": self.whitespace}
        return {"json_schema": self.schema, **options}

    def parse(self, text: str) -> Any:
        """The value; an instance of the type, where the schema was made from one. ValueError where the text is not JSON."""
        return self._validate(text)

    def compile(self, vocabulary: Vocabulary) -> Constraint:
        from grammars.llguidance_engine import compile_guided

        if self.schema is False:
            raise Unsatisfiable("JSON Schema false accepts nothing; describe what is wanted")
        schema = {} if self.schema is True else self.schema
        options = json.dumps({"x-guidance": WHITESPACE[self.whitespace], **schema})
        return compile_guided(f"start: %json {options}", vocabulary, self._explain)

    def _explain(self, message: str) -> GrammarError:
        """llguidance's message as an error that names the keyword and its place."""
        reason = message.partition("failed to compile JSON schema: ")[2] or message
        reason = re.split(r"\n\s*\d+ \|", reason)[0].strip()
        if unknown := re.match(r"Unimplemented keys: (\[.*\])", reason):
            key = json.loads(unknown[1])[0]
            places = [place for place, schema in _subschemas(self.schema) if key in schema]
            remedy = _REMEDIES.get(key, "remove it to accept more, and test what it says with & Predicate(...)")
            return GrammarError(f"JSON Schema keyword {key!r} at {_list(places)} is not supported; {remedy}")
        if unknown := re.match(r"Unknown format: (.*)", reason):
            places = [place for place, schema in _subschemas(self.schema) if schema.get("format") == unknown[1]]
            return GrammarError(
                f"JSON Schema format {unknown[1]!r} at {_list(places)} is not supported; use 'pattern', or remove it to accept more"
            )
        if "oneOf" in reason:
            places = [place for place, schema in _subschemas(self.schema) if "oneOf" in schema]
            return GrammarError(
                f"JSON Schema keyword 'oneOf' at {_list(places)}: its cases may overlap, which is not supported; use 'anyOf', "
                "which accepts what any of them does"
            )
        if unsatisfiable := re.match(r"Unsatisfiable schema: (.*)", reason, re.S):
            return Unsatisfiable(f"no JSON text satisfies the schema: {unsatisfiable[1]}; loosen it")
        if "regex" in reason:
            places = [
                place
                for place, schema in _subschemas(self.schema)
                if "pattern" in schema or "patternProperties" in schema
            ]
            return GrammarError(f"JSON Schema pattern at {_list(places)} is not supported: {' '.join(reason.split())}")
        return GrammarError(f"JSON Schema is not supported: {reason}")


_REMEDIES = {
    "if": "use 'anyOf' with one schema for each case",
    "then": "use 'anyOf' with one schema for each case",
    "else": "use 'anyOf' with one schema for each case",
    "not": "list what is wanted, with 'enum', 'pattern' or 'anyOf'",
    "uniqueItems": "remove it and test it with & Predicate(...), or use a list type in place of a set",
}


def _schema_of(given: Any) -> tuple[Any, Callable[[str], Any]]:
    """The schema as JSON data, and how to parse a text under it."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise GrammarError(f"JSON Schema text is not JSON: {error}") from error
    if isinstance(given, bool):
        return given, json.loads
    if isinstance(given, Mapping):
        try:
            # A copy, as it will travel: what comes out of JSON is what the constraint means.
            return json.loads(json.dumps(dict(given), allow_nan=False)), json.loads
        except (TypeError, ValueError, RecursionError) as error:
            raise GrammarError(
                f"JSON Schema is not JSON data: {error}; use dicts, lists, texts and numbers only"
            ) from error
    if given is None or isinstance(given, list | tuple | int | float):
        raise GrammarError(f"JSON Schema must be an object or a type, not {given!r}")
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    try:
        if typing.is_typeddict(given):
            # Pydantic wants typing_extensions' TypedDict before Python 3.12. Its values are dicts, as json.loads makes them.
            return _closed(TypeAdapter(_fields_of(given)).json_schema()), json.loads
        adapter = TypeAdapter(given)
        return _closed(adapter.json_schema()), adapter.validate_json
    except PydanticUserError as error:
        raise GrammarError(f"no JSON Schema can be made from {given!r}: {error.message}") from error


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A type's schema without members that the type does not list: it would drop them. Models with extra="allow" say so."""
    for _, one in _subschemas(schema):
        if one.get("type") == "object" and "properties" in one:
            one.setdefault("additionalProperties", False)
    return schema


def _fields_of(typed_dict: Any) -> Any:
    """A Pydantic model with the fields of a TypedDict."""
    from pydantic import create_model

    fields: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(typed_dict, include_extras=True).items():
        # Under `from __future__ import annotations` __required_keys__ misses both marks.
        required = name in typed_dict.__required_keys__
        if (mark := typing.get_origin(hint)) in (typing.Required, typing.NotRequired):
            required, hint = mark is typing.Required, typing.get_args(hint)[0]
        fields[name] = (hint, ...) if required else (hint, None)
    return create_model(typed_dict.__name__, **fields)


def _check(schema: Any) -> None:
    """The schema is well formed, by the meta-schema that it names."""
    import jsonschema

    if isinstance(schema, dict) and "x-guidance" in schema:
        raise GrammarError(
            "JSON Schema keyword 'x-guidance' at / is not for schemas; choose white space with whitespace="
        )
    try:
        jsonschema.validators.validator_for(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        place = "/" + "/".join(str(part) for part in error.absolute_path)
        raise GrammarError(f"JSON Schema is malformed at {place}: {error.message}") from error


def _subschemas(schema: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object in schema position with its JSON pointer; not what merely looks like one inside enum or default."""
    if isinstance(schema, list):
        for k, one in enumerate(schema):
            yield from _subschemas(one, f"{place}/{k}")
    if not isinstance(schema, dict):
        return
    yield place or "/", schema
    for key, value in schema.items():
        if key in ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"):
            for name, one in value.items():
                yield from _subschemas(one, f"{place}/{key}/{name}")
        elif key not in ("enum", "const", "default", "examples"):
            yield from _subschemas(value, f"{place}/{key}")


def _list(places: list[str]) -> str:
    return ", ".join(places[:3]) + (", ..." if len(places) > 3 else "") if places else "/"
