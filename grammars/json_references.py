"""Where the parts of a JSON Schema are: resources by URI, anchors, drafts, and what a reference points to.

Nothing is ever fetched. A URI means a resource of the schema itself, one of the user's registry, or a published meta-schema
that the package `jsonschema-specifications` brings.
Source: JSON Schema 2020-12 core, sections 8 and 9; the older drafts' own rules for `id`, `$ref` and `$recursiveRef`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from grammars.errors import GrammarError

LATEST = 2020
_DRAFTS = {
    "json-schema.org/draft/2020-12/schema": 2020,
    "json-schema.org/draft/2019-09/schema": 2019,
    "json-schema.org/draft-07/schema": 7,
    "json-schema.org/draft-06/schema": 6,
    "json-schema.org/draft-04/schema": 4,
    "json-schema.org/draft-03/schema": 3,
}

# Where a schema's parts are schemas themselves.
MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
SINGLES = (
    "items", "additionalItems", "unevaluatedItems", "contains", "additionalProperties", "unevaluatedProperties",
    "propertyNames", "not", "if", "then", "else", "contentSchema",
)  # fmt: skip


def subschemas(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas directly inside a schema, each with the end of its JSON pointer; not what only looks like one."""
    for keyword, value in schema.items():
        if isinstance(value, dict):
            if keyword in MAPS:
                for name, one in value.items():
                    # A list of names is the older `dependencies`' other form.
                    if not isinstance(one, list):
                        yield f"{keyword}/{escaped(name)}", one
            elif keyword in SINGLES:
                yield keyword, value
        elif isinstance(value, list) and keyword in LISTS:
            for k, one in enumerate(value):
                yield f"{keyword}/{k}", one
        elif isinstance(value, bool) and keyword in SINGLES:
            yield keyword, value


def escaped(name: str) -> str:
    """A name as a part of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


@dataclass(eq=False)
class Resource:
    """A schema with a URI of its own, and the anchors inside it.

    place       JSON pointer, behind the document's URI where that is not the user's schema; for messages and reports
    assertions  False where its meta-schema leaves out the validation vocabulary: `minimum` and the like mean nothing;
                `applicators` likewise
    formats     True where its meta-schema asks for `format` to be asserted, whatever the option says
    """

    uri: str
    schema: Any
    draft: int
    place: str
    assertions: bool = True
    applicators: bool = True
    formats: bool = False
    anchors: dict[str, Any] = field(default_factory=dict)
    dynamic: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Located:
    """A schema, the resource it belongs to and where it is."""

    schema: Any
    resource: Resource
    place: str


class Library:
    """The user's schema and the registry, indexed as references reach them."""

    def __init__(self, schema: Any, registry: Mapping[str, Any]) -> None:
        self.resources: dict[str, Resource] = {}
        self.homes: dict[int, Located] = {}
        self._registry = {_without_fragment(uri): document for uri, document in registry.items()}
        self._indexed: set[str] = set()
        self.root = self._add("", schema, LATEST, "")

    def at(self, schema: Any, near: Located, step: str) -> Located:
        """A subschema of a located schema."""
        found = self.homes.get(id(schema)) if isinstance(schema, dict) else None
        return found or Located(schema, near.resource, f"{near.place}/{step}")

    def refer(self, reference: str, near: Located, keyword: str = "$ref") -> tuple[Located, str | None]:
        """What a reference points to, and the name of the dynamic anchor that it was found by, if it was."""
        uri, fragment = _absolute(near.resource.uri, reference)
        resource = self._resource(uri, near, reference, keyword)
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            if fragment not in resource.anchors:
                raise self._unresolved(near, keyword, reference, f"there is no anchor {fragment!r} in it")
            target = resource.anchors[fragment]
            return self.homes[id(target)], fragment if resource.dynamic.get(fragment) is target else None
        here = Located(resource.schema, resource, resource.place)
        for step in fragment.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            inner = here.schema
            if isinstance(inner, dict) and name in inner:
                inner = inner[name]
            elif isinstance(inner, list) and name.isdecimal() and int(name) < len(inner):
                inner = inner[int(name)]
            else:
                raise self._unresolved(near, keyword, reference, f"{fragment!r} does not exist")
            here = self.at(inner, here, step)
        if not isinstance(here.schema, dict | bool):
            raise self._unresolved(near, keyword, reference, "it is no schema")
        if isinstance(here.schema, dict) and id(here.schema) not in self.homes:
            # Reached through a keyword that holds no schemas: index it now that it is one.
            self._index(here.schema, here.resource, here.place)
            here = self.homes[id(here.schema)]
        return here, None

    def _resource(self, uri: str, near: Located, reference: str, keyword: str) -> Resource:
        if uri not in self.resources and uri in self._registry:
            self._add_registered(uri, near.resource.draft)
        if uri not in self.resources:
            published = _published(uri)
            if published is not None:
                self._add(uri, published, near.resource.draft, uri + "#")
        if uri not in self.resources:
            # It may be the $id of something inside a document of the registry.
            for other in self._registry:
                self._add_registered(other, near.resource.draft)
        if uri not in self.resources:
            raise self._unresolved(near, keyword, reference, "it is in neither the schema nor the registry")
        return self.resources[uri]

    def _add_registered(self, uri: str, draft: int) -> None:
        if uri not in self._indexed:
            self._indexed.add(uri)
            self._add(uri, self._registry[uri], draft, uri + "#")

    @staticmethod
    def _unresolved(near: Located, keyword: str, reference: str, why: str) -> GrammarError:
        return GrammarError(
            f"JSON Schema {keyword} {reference!r} at {near.place or '/'} cannot be resolved: {why}; nothing is fetched: give other "
            'documents by their URI, registry={"https://...": {...}} (on the command line --ref https://...=FILE)'
        )

    def _add(self, uri: str, document: Any, draft: int, place: str) -> Resource:
        resource = Resource(uri, document, draft, place)
        if isinstance(document, dict):
            self._set_dialect(resource)
            own = _own_id(document, resource.draft)
            if own is not None:
                resource.uri = _without_fragment(urljoin(uri, own))
                self.resources[resource.uri] = resource
        # An entry under the URI it was asked by as well as under its own.
        self.resources[uri] = resource
        self._index(document, resource, place, top=True)
        return resource

    def _set_dialect(self, resource: Resource) -> None:
        """The draft, and the vocabularies, that `$schema` names."""
        named = resource.schema.get("$schema")
        if not isinstance(named, str):
            return
        uri = _without_fragment(named)
        draft = _DRAFTS.get(re.sub(r"^https?://", "", uri))
        if draft is not None:
            resource.draft = draft
            return
        meta = self._registry.get(uri)
        vocabularies = meta.get("$vocabulary") if isinstance(meta, dict) else None
        if isinstance(vocabularies, dict):
            resource.assertions = any(name.endswith("/validation") for name in vocabularies)
            resource.applicators = any(name.endswith("/applicator") for name in vocabularies)
            resource.formats = any(name.endswith("/format-assertion") for name in vocabularies)

    def _index(self, schema: Any, resource: Resource, place: str, top: bool = False) -> None:
        """Note where every subschema is; resources and anchors found on the way."""
        todo = [(schema, resource, place, top)]
        while todo:
            schema, resource, place, top = todo.pop()
            if not isinstance(schema, dict):
                continue
            if not top:
                own = _own_id(schema, resource.draft)
                if own is not None:
                    resource = Resource(
                        _without_fragment(urljoin(resource.uri, own)),
                        schema,
                        resource.draft,
                        place,
                        resource.assertions,
                        resource.applicators,
                        resource.formats,
                    )
                    self._set_dialect(resource)
                    self.resources.setdefault(resource.uri, resource)
            self.homes[id(schema)] = Located(schema, resource, place)
            for name, dynamic in _anchors(schema, resource.draft):
                resource.anchors.setdefault(name, schema)
                if dynamic:
                    resource.dynamic.setdefault(name, schema)
            todo += [(one, resource, f"{place}/{step}", False) for step, one in subschemas(schema)]


def _own_id(schema: Mapping[str, Any], draft: int) -> str | None:
    """The URI that a schema gives itself; None where it gives none, or only an anchor."""
    if draft <= 7 and "$ref" in schema:
        return None
    own = schema.get("id" if draft <= 4 else "$id")
    return own if isinstance(own, str) and _without_fragment(own) else None


def _anchors(schema: Mapping[str, Any], draft: int) -> Iterator[tuple[str, bool]]:
    """The anchors on a schema, and whether each is dynamic."""
    if draft <= 7:
        own = schema.get("id" if draft <= 4 else "$id")
        if isinstance(own, str) and "#" in own and "$ref" not in schema and (name := own.partition("#")[2]):
            yield name, False
        return
    if isinstance(anchor := schema.get("$anchor"), str):
        yield anchor, False
    if draft >= 2020 and isinstance(anchor := schema.get("$dynamicAnchor"), str):
        yield anchor, True
    if draft == 2019 and schema.get("$recursiveAnchor") is True:
        # No fragment can spell this name.
        yield RECURSIVE, True


RECURSIVE = "\x00recursive"


def _absolute(base: str, reference: str) -> tuple[str, str]:
    if reference.startswith("#"):
        return base, reference[1:]
    uri, fragment = urldefrag(urljoin(base, reference))
    return uri, fragment


def _without_fragment(uri: str) -> str:
    return uri.partition("#")[0]


def _published(uri: str) -> Any:
    """A published meta-schema or vocabulary; None for any other URI."""
    if "json-schema.org/" not in uri:
        return None
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]

    for spelled in (uri, uri + "#"):
        if spelled in REGISTRY:
            return REGISTRY[spelled].contents
    return None
