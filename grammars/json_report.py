"""Who enforces what in a JSON Schema, keyword by keyword: what `reweigh check --schema` prints."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from grammars.json_compilation import Compiled, compile_json
from grammars.json_formats import FORMATS
from grammars.json_nodes import Node
from grammars.json_references import MAPS
from grammars.json_relaxation import ANNOTATION, AT_COMPLETION, MASK, PREDICATE
from grammars.json_schema import JsonSchema
from grammars.vocabulary import Vocabulary

WIDEST_VALUE = 48

# Keywords that say where schemas are, not what is valid.
_STRUCTURE = frozenset(
    {
        "$schema",
        "$id",
        "id",
        "$anchor",
        "$dynamicAnchor",
        "$recursiveAnchor",
        "$defs",
        "definitions",
        "$vocabulary",
        "$comment",
    }
)
_ASSERTIONS = frozenset(
    """
    type enum const minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength pattern format items
    prefixItems additionalItems minItems maxItems uniqueItems contains minContains maxContains unevaluatedItems properties
    patternProperties additionalProperties required minProperties maxProperties propertyNames dependentRequired
    dependentSchemas dependencies unevaluatedProperties allOf anyOf oneOf not if then else $ref $dynamicRef $recursiveRef
    """.split()  # noqa: SIM905
)
_AT_END = frozenset(
    """
    required minItems minProperties contains minContains minLength multipleOf minimum maximum exclusiveMinimum
    exclusiveMaximum dependentRequired
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Row:
    """One keyword. enforced_by: "mask", "predicate" (as early as it can tell), "at completion" of the value, "annotation"."""

    path: str
    keyword: str
    value: str
    enforced_by: str


@dataclass(frozen=True)
class Report:
    """rows in the schema's order; mask_is_exact: whether masks alone enforce all; compile_ms: from schema to constraint."""

    rows: tuple[Row, ...]
    mask_is_exact: bool
    compile_ms: float


def report(schema: Any, vocabulary: Vocabulary, **options: Any) -> Report:
    """How a schema would be enforced. options are those of `JsonSchema`; raises GrammarError and Unsatisfiable as it does."""
    language = JsonSchema(schema, **options)
    compiled = compile_json(language, vocabulary)
    masked_at_all = compiled.relaxed.schema != {} or compiled.relaxed.exact
    rows: dict[tuple[str, str], Row] = {}
    for node in _reached(compiled):
        if not isinstance(node.schema, dict):
            continue
        for keyword, value in node.schema.items():
            if keyword not in _STRUCTURE and (node.place, keyword) not in rows:
                by = _by(compiled, node, keyword, masked_at_all)
                rows[node.place, keyword] = Row(node.place or "/", keyword, _short(keyword, value), by)
    return Report(tuple(rows.values()), compiled.mask_is_exact, compiled.compile_ms)


def _reached(compiled: Compiled) -> list[Node]:
    """Nodes from the root on, each schema of the user's once, a parent before its parts."""
    found, seen = [compiled.graph.root], {compiled.graph.root.index}
    for node in found:
        for one in (*node.in_place(), *node.below_it()):
            if one.index not in seen:
                seen.add(one.index)
                # Values of enum and const that became schemas are no keywords of the user's.
                if one.annotates:
                    found.append(one)
    return found


def _by(compiled: Compiled, node: Node, keyword: str, masked_at_all: bool) -> str:
    if keyword not in _ASSERTIONS or (
        keyword == "format" and (node.format is None or node.schema["format"] not in FORMATS)
    ):
        return ANNOTATION
    if keyword in ("then", "else") and node.condition is None:
        return ANNOTATION
    if node.draft <= 7 and "$ref" in node.schema and keyword != "$ref":
        return ANNOTATION
    decided = compiled.relaxed.decided.get((node.index, keyword))
    if decided is not None:
        return decided
    if masked_at_all and _is_masked(compiled, node):
        return MASK
    return AT_COMPLETION if keyword in _AT_END else PREDICATE


def _is_masked(compiled: Compiled, node: Node) -> bool:
    """Whether the mask engine was given the node."""
    return node.index in compiled.relaxed.written


def _short(keyword: str, value: Any) -> str:
    """A value in a few characters: schemas by their number, lists and texts cut."""
    if keyword in MAPS and isinstance(value, dict):
        text = "{" + ", ".join(value) + "}"
    else:
        text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= WIDEST_VALUE else text[: WIDEST_VALUE - 3] + "..."
