"""Whether a JSON Schema's keywords have the forms that its draft gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grammars.errors import GrammarError
from grammars.json_nodes import is_count, is_number
from grammars.json_references import Library, subschemas

_TYPES = ("null", "boolean", "number", "integer", "string", "array", "object")


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


def _are_schemas(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(_is_schema, value))


def _schemas_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_schema, value.values()))


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


_SCHEMA = (_is_schema, "a schema (an object, true or false)")
_SCHEMAS = (_are_schemas, "a list of schemas, not empty")
_BY_NAME = (_schemas_by_name, "an object of schemas")
_COUNT = (is_count, "a whole number from 0")
_NUMBER = (is_number, "a number")
_TEXT = (lambda value: isinstance(value, str), "a text")
_BOUND = (lambda value: is_number(value) or isinstance(value, bool), "a number")

FORMS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("not", "if", "then", "else", "contains", "additionalProperties", "additionalItems"), _SCHEMA),
    **dict.fromkeys(("propertyNames", "unevaluatedItems", "unevaluatedProperties"), _SCHEMA),
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), _SCHEMAS),
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"), _BY_NAME),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _COUNT),
    **dict.fromkeys(("minContains", "maxContains"), _COUNT),
    **dict.fromkeys(("minimum", "maximum"), _NUMBER),
    **dict.fromkeys(("exclusiveMinimum", "exclusiveMaximum"), _BOUND),
    **dict.fromkeys(("pattern", "format", "$ref", "$dynamicRef", "$recursiveRef", "$anchor", "$dynamicAnchor"), _TEXT),
    "items": (lambda value: _is_schema(value) or (isinstance(value, list) and all(map(_is_schema, value))), "a schema"),
    "multipleOf": (lambda value: is_number(value) and value > 0, "a number above 0"),
    "uniqueItems": (lambda value: isinstance(value, bool), "true or false"),
    "enum": (lambda value: isinstance(value, list), "a list of values"),
    "required": (_are_names, "a list of names"),
    "dependentRequired": (
        lambda value: isinstance(value, dict) and all(map(_are_names, value.values())),
        "lists of names",
    ),
    "dependencies": (
        lambda value: isinstance(value, dict) and all(_is_schema(one) or _are_names(one) for one in value.values()),
        "an object of schemas or lists of names",
    ),
}


def check_forms(library: Library) -> None:
    """GrammarError for the first keyword of any schema of the user's that has not the form it should have."""
    root = library.root
    todo = [(root.schema, root.place, root.draft)]
    while todo:
        schema, place, draft = todo.pop()
        if not isinstance(schema, dict):
            continue
        home = library.homes.get(id(schema))
        draft = home.resource.draft if home else draft
        if draft == 3:
            raise GrammarError(
                "JSON Schema draft 3 is not supported; write the schema for draft 4 or later, best 2020-12"
            )
        if draft <= 7 and "$ref" in schema:
            _check(schema, "$ref", place)
            continue
        for keyword in schema:
            _check(schema, keyword, place)
        todo += [(one, f"{place}/{step}", draft) for step, one in subschemas(schema)]


def _check(schema: dict[str, Any], keyword: str, place: str) -> None:
    value = schema[keyword]
    if keyword == "type":
        named = value if isinstance(value, list) else [value]
        wrong = [name for name in named if name not in _TYPES]
        if wrong or not named:
            raise _malformed(
                f"{place}/type", wrong[0] if wrong else value, f"one of {', '.join(_TYPES)}, or a list of them"
            )
    elif keyword in FORMS:
        fits, wanted = FORMS[keyword]
        if not fits(value):
            raise _malformed(f"{place}/{keyword}", value, wanted)


def _malformed(place: str, value: Any, wanted: str) -> GrammarError:
    shown = repr(value)
    return GrammarError(
        f"JSON Schema is malformed at {place}: {shown if len(shown) <= 80 else shown[:77] + '...'} is not {wanted}"
    )
