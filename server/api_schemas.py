"""JSON Schemas in request bodies: OpenAI's `strict`, bounds, and the words that show a schema to the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from server.api_errors import bad
from server.api_json import read_json

MOST_NODES = 200_000
LONGEST_SHOWN = 6000
# Where these occur, closing an object somewhere may change what is valid elsewhere.
_ENTANGLING = frozenset({"allOf", "oneOf", "not", "if", "dependentSchemas", "contains", "propertyNames", "$dynamicRef"})
_SAYS_IT = ("additionalProperties", "unevaluatedProperties", "patternProperties")


def checked_schema(schema: Any, param: str) -> Any:
    """A schema of a body; ApiError where it is none, or too large."""
    if isinstance(schema, str):
        try:
            schema = read_json(schema)
        except ValueError as error:
            raise bad(f"{param} is no JSON: {error}", param) from None
    if not isinstance(schema, Mapping | bool):
        raise bad(f"{param}: a JSON Schema was wanted, an object", param)
    if nodes(schema, MOST_NODES) > MOST_NODES:
        raise bad(f"{param} has more than {MOST_NODES} parts", param)
    return schema


def nodes(value: Any, enough: int) -> int:
    """Values in a JSON document; counting ends above `enough`."""
    count, waiting = 0, [value]
    while waiting and count <= enough:
        one = waiting.pop()
        count += 1
        if isinstance(one, dict):
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
    return count


def strict_schema(schema: Any) -> Any:
    """A schema as `strict: true` means it: an object that does not say whether it is open is closed.

    What is valid under the result is valid under the schema. Schemas in which that could not be kept stay as they are.
    """
    return schema if _has(schema, _ENTANGLING) else _closed(schema)


def _has(schema: Any, keywords: frozenset[str]) -> bool:
    waiting = [schema]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            if not keywords.isdisjoint(one):
                return True
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
    return False


def _closed(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    made = dict(schema)
    for name in ("properties", "$defs", "definitions"):
        if isinstance(parts := made.get(name), Mapping):
            made[name] = {key: _closed(part) for key, part in parts.items()}
    for name in ("prefixItems", "anyOf"):
        if isinstance(parts := made.get(name), list):
            made[name] = [_closed(part) for part in parts]
    if "items" in made:
        made["items"] = _closed(made["items"])
    # Beside $ref or anyOf an object may be described in two places.
    if "properties" in made and not any(name in made for name in (*_SAYS_IT, "$ref", "anyOf")):
        made["additionalProperties"] = False
    return made


def shown(schema: Any) -> str:
    """What tells the model to write JSON of a schema; a schema that would fill its context is cut."""
    text = json.dumps(schema, ensure_ascii=False)
    if len(text) > LONGEST_SHOWN:
        text = text[:LONGEST_SHOWN] + " ..."
    return f"Answer with JSON alone, no other text. The JSON must match this JSON Schema:\n{text}"
