"""Python types as JSON Schemas: Pydantic models, dataclasses, TypedDicts, enumerations, annotations."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from grammars.errors import GrammarError
from grammars.json_references import subschemas


def schema_of(given: Any) -> tuple[Any, Callable[[str], Any]]:
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
    for one in _all(schema):
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


def _all(schema: Any) -> Iterator[dict[str, Any]]:
    """Every schema inside a schema, itself too."""
    if isinstance(schema, dict):
        yield schema
        for _, one in subschemas(schema):
            yield from _all(one)
