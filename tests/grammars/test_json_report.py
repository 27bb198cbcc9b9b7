"""The report names every keyword with its path and who enforces it."""

from __future__ import annotations

from grammars.json_report import report
from tests.grammars.small import SMALL

SCHEMA = {
    "title": "An order",
    "type": "object",
    "properties": {
        "id": {"type": "integer", "minimum": 1},
        "tags": {
            "type": "array",
            "uniqueItems": True,
            "items": {"type": "string", "pattern": "^(?!x)", "format": "slug"},
        },
        "seen": {"type": "string", "format": "date", "default": "2024-01-01"},
    },
    "required": ["id"],
    "minProperties": 2,
    "not": {"required": ["seen", "tags"]},
}


def test_every_keyword_is_reported_with_its_path_and_who_enforces_it():
    found = report(SCHEMA, SMALL)
    assert {(row.path, row.keyword): row.enforced_by for row in found.rows} == {
        ("/", "title"): "annotation",
        ("/", "type"): "mask",
        ("/", "properties"): "mask",
        ("/", "required"): "mask",
        ("/", "minProperties"): "at completion",
        ("/", "not"): "predicate",
        ("/not", "required"): "at completion",
        ("/properties/id", "type"): "mask",
        ("/properties/id", "minimum"): "mask",
        ("/properties/tags", "type"): "mask",
        ("/properties/tags", "uniqueItems"): "predicate",
        ("/properties/tags", "items"): "mask",
        ("/properties/tags/items", "type"): "mask",
        ("/properties/tags/items", "pattern"): "predicate",
        ("/properties/tags/items", "format"): "annotation",
        ("/properties/seen", "type"): "mask",
        ("/properties/seen", "format"): "mask",
        ("/properties/seen", "default"): "annotation",
    }
    assert not found.mask_is_exact and found.compile_ms > 0
    assert next(row for row in found.rows if row.keyword == "minimum").value == "1"


def test_options_change_who_enforces():
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "format": "date"}},
        "required": ["a"],
        "additionalProperties": False,
    }

    def by(**options: str) -> dict[tuple[str, str], str]:
        return {(row.path, row.keyword): row.enforced_by for row in report(schema, SMALL, **options).rows}

    assert report(schema, SMALL).mask_is_exact
    assert by()["/", "required"] == "mask"
    assert by(order="any")["/", "required"] == "at completion"
    assert by(formats="annotate")["/properties/a", "format"] == "annotation"
    assert by(order="any", spelling="any")["/properties/a", "type"] == "predicate"
