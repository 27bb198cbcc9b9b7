"""A JSON Schema as a graph of nodes: every draft's keywords read into those of 2020-12, every reference an edge.

A node is a schema in a *dynamic scope*: what `$dynamicRef` finds there is settled, so that evaluation never asks again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from grammars.errors import GrammarError, Unsatisfiable
from grammars.json_formats import FORMATS, WIDER
from grammars.json_numbers import decimal_of, is_integral
from grammars.json_patterns import Pattern, pattern_at, pattern_of
from grammars.json_references import RECURSIVE, Library, Located, escaped

# Kinds of JSON values, as bits.
NULL, BOOLEAN, NUMBER, STRING, ARRAY, OBJECT = 1, 2, 4, 8, 16, 32
ANY = 63
_KINDS = {
    "null": NULL,
    "boolean": BOOLEAN,
    "number": NUMBER,
    "integer": NUMBER,
    "string": STRING,
    "array": ARRAY,
    "object": OBJECT,
}

# Arrays and objects in `enum` and `const` become schemas of their own up to here; beyond, they are compared when they end.
ENUMERATED_CONTAINERS = 64
MOST_NODES = 100_000


@dataclass(eq=False)
class Node:
    """One schema. Fields hold what its keywords say; None or empty where it does not have them.

    kinds      the kinds of values it may accept; `integral`: only numbers without a fraction
    values     of `enum` and `const`: `value_key` of each
    all_of     schemas that hold as well: `allOf` and every kind of reference
    any_of     groups of schemas, one of each group holds
    annotates  whether members it looked at count as evaluated
    empty      no value satisfies it
    """

    place: str
    index: int
    schema: Any = None
    draft: int = 2020
    kinds: int = ANY
    integral: bool = False
    values: frozenset[Any] | None = None
    raw_values: tuple[Any, ...] = ()
    strings: tuple[str, ...] = ()
    minimum: Decimal | None = None
    maximum: Decimal | None = None
    above: Decimal | None = None
    below: Decimal | None = None
    multiple: Decimal | None = None
    min_length: int = 0
    max_length: int | None = None
    pattern: Pattern | None = None
    format: str | None = None
    begins: Pattern | None = None
    prefix: tuple[Node, ...] = ()
    items: Node | None = None
    min_items: int = 0
    max_items: int | None = None
    unique: bool = False
    contains: Node | None = None
    min_contains: int = 1
    max_contains: int | None = None
    contains_evaluates: bool = True
    unevaluated_items: Node | None = None
    properties: dict[str, Node] = field(default_factory=dict)
    patterns: tuple[tuple[Pattern, Node], ...] = ()
    additional: Node | None = None
    names: Node | None = None
    required: tuple[str, ...] = ()
    min_properties: int = 0
    max_properties: int | None = None
    dependent_required: tuple[tuple[str, tuple[str, ...]], ...] = ()
    unevaluated_properties: Node | None = None
    all_of: tuple[Node, ...] = ()
    any_of: tuple[tuple[Node, ...], ...] = ()
    one_of: tuple[Node, ...] = ()
    negated: Node | None = None
    condition: Node | None = None
    then: Node | None = None
    otherwise: Node | None = None
    dependent_schemas: tuple[tuple[str, Node], ...] = ()
    annotates: bool = True
    empty: bool = False

    def in_place(self) -> Iterator[Node]:
        """The schemas it applies to the same value."""
        yield from self.all_of
        for group in self.any_of:
            yield from group
        yield from self.one_of
        yield from (one for one in (self.negated, self.condition, self.then, self.otherwise) if one is not None)
        yield from (one for _, one in self.dependent_schemas)

    def below_it(self) -> Iterator[Node]:
        """The schemas it applies to members of the value, or to their names."""
        yield from self.prefix
        yield from self.properties.values()
        yield from (one for _, one in self.patterns)
        for one in (
            self.items,
            self.contains,
            self.unevaluated_items,
            self.additional,
            self.names,
            self.unevaluated_properties,
        ):
            if one is not None:
                yield one

    @property
    def is_true(self) -> bool:
        return self.schema is True or self.schema == {}

    def for_key(self, key: str) -> tuple[list[Node], bool]:
        """The schemas for a member's value, `unevaluatedProperties` aside, and whether they count it as evaluated."""
        found = [self.properties[key]] if key in self.properties else []
        found += [one for pattern, one in self.patterns if pattern.found_in(key)]
        if found:
            return found, True
        return ([self.additional], True) if self.additional is not None else ([], False)

    def for_item(self, k: int) -> Node | None:
        return self.prefix[k] if k < len(self.prefix) else self.items


def value_key(value: Any) -> Any:
    """A hashable stand-in: equal for equal JSON values (1 and 1.0, members in any order), different for others."""
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, int | float):
        return decimal_of(repr(value)) if isinstance(value, float) else Decimal(value)
    if isinstance(value, list):
        return ("array", tuple(value_key(one) for one in value))
    if isinstance(value, dict):
        return ("object", frozenset((key, value_key(one)) for key, one in value.items()))
    return value


def kind_of(value: Any) -> int:
    if value is None:
        return NULL
    if isinstance(value, bool):
        return BOOLEAN
    if isinstance(value, int | float):
        return NUMBER
    return STRING if isinstance(value, str) else ARRAY if isinstance(value, list) else OBJECT


Scope = tuple[tuple[str, str], ...]


class Graph:
    """Every node that can be reached from the root.

    formats  whether `format` is asserted; otherwise it is an annotation
    """

    def __init__(self, library: Library, formats: bool) -> None:
        self.library = library
        self.formats = formats
        self.nodes: list[Node] = []
        self._made: dict[tuple[int | bool, Scope], Node] = {}
        self._todo: list[tuple[Node, Located, Scope]] = []
        root = library.root
        self.root = self._node(Located(root.schema, root, root.place), ())
        while self._todo:
            _fill(self, *self._todo.pop())
        _refuse_cycles(self.nodes)
        for node in self.nodes:
            if node.unique and not node.prefix and node.items is not None:
                _bound_by_values(node, node.items)

    def new(self, place: str, schema: Any) -> Node:
        if len(self.nodes) >= MOST_NODES:
            raise GrammarError(f"JSON Schema has more than {MOST_NODES} subschemas: split it")
        node = Node(place, len(self.nodes), schema)
        self.nodes.append(node)
        return node

    def _node(self, at: Located, scope: Scope) -> Node:
        """The node of a schema entered from a scope; its keywords are read later."""
        schema, resource = at.schema, at.resource
        known = dict(scope)
        for name in resource.dynamic:
            known.setdefault(name, resource.uri)
        if len(known) != len(scope):
            scope = tuple(sorted(known.items()))
        key: tuple[int | bool, Scope] = (id(schema), scope) if isinstance(schema, dict) else (bool(schema), ())
        node = self._made.get(key)
        if node is None:
            node = self._made[key] = self.new(at.place, schema)
            node.draft = resource.draft
            if schema is False:
                node.kinds, node.empty = 0, True
            elif isinstance(schema, dict):
                self._todo.append((node, at, scope))
        return node

    def inside(self, at: Located, scope: Scope, step: str, schema: Any) -> Node:
        return self._node(self.library.at(schema, at, step), scope)

    def referred(self, at: Located, scope: Scope, keyword: str, reference: str) -> Node:
        target, anchor = self.library.refer(reference, at, keyword)
        if keyword == "$dynamicRef" and anchor is None:
            return self._node(target, scope)
        if keyword == "$recursiveRef":
            anchor = RECURSIVE if RECURSIVE in target.resource.dynamic else None
        if keyword != "$ref" and anchor is not None:
            outermost = dict(scope).get(anchor)
            if outermost is not None:
                resource = self.library.resources[outermost]
                target = self.library.homes[id(resource.dynamic[anchor])]
        return self._node(target, scope)

    def of_value(self, place: str, value: Any) -> Node:
        """A schema that accepts exactly one array or object, so that it is refused as soon as a member differs."""
        node = self.new(place, {"const": value})
        node.annotates = False
        if isinstance(value, list):
            node.kinds = ARRAY
            node.prefix = tuple(self.of_value(place, one) for one in value)
            node.min_items = node.max_items = len(value)
        elif isinstance(value, dict):
            node.kinds = OBJECT
            node.properties = {key: self.of_value(place, one) for key, one in value.items()}
            node.required = tuple(value)
            node.additional = self._node(Located(False, self.library.root, place), ())
        else:
            _set_scalars(node, [value])
        return node


def _set_scalars(node: Node, values: list[Any]) -> None:
    node.values = frozenset(value_key(value) for value in values)
    node.raw_values = tuple(values)
    node.strings = tuple(sorted(value for value in values if isinstance(value, str)))
    kinds = 0
    for value in values:
        kinds |= kind_of(value)
    node.kinds &= kinds


def _fill(graph: Graph, node: Node, at: Located, scope: Scope) -> None:
    """Read a schema's keywords into its node."""
    schema: Mapping[str, Any] = at.schema
    draft = at.resource.draft

    def inside(step: str, one: Any) -> Node:
        return graph.inside(at, scope, step, one)

    def several(keyword: str) -> tuple[Node, ...]:
        return tuple(inside(f"{keyword}/{k}", one) for k, one in enumerate(schema[keyword]))

    def one(keyword: str) -> Node | None:
        return inside(keyword, schema[keyword]) if keyword in schema else None

    if draft <= 7 and "$ref" in schema:
        # The older drafts ignore what stands beside a reference.
        node.all_of = (graph.referred(at, scope, "$ref", schema["$ref"]),)
        return
    together = [
        graph.referred(at, scope, keyword, schema[keyword])
        for keyword, drafts in (("$ref", (0, 9999)), ("$dynamicRef", (2020, 9999)), ("$recursiveRef", (2019, 2019)))
        if keyword in schema and drafts[0] <= draft <= drafts[1]
    ]
    if (graph.formats or at.resource.formats) and schema.get("format") in FORMATS:
        node.format = schema["format"]
        node.begins = pattern_of(WIDER[schema["format"]]) if schema["format"] in WIDER else None
    if at.resource.assertions:
        _fill_assertions(graph, node, at)
    if not at.resource.applicators:
        node.all_of = tuple(together)
        return
    if "allOf" in schema:
        together += several("allOf")
    node.all_of = tuple(together)
    if "anyOf" in schema:
        node.any_of += (several("anyOf"),)
    if "oneOf" in schema:
        node.one_of = several("oneOf")
    node.negated = one("not")
    if draft >= 7 and "if" in schema:
        node.condition, node.then, node.otherwise = one("if"), one("then"), one("else")
    node.properties = {
        name: inside(f"properties/{escaped(name)}", what) for name, what in schema.get("properties", {}).items()
    }
    node.patterns = tuple(
        (pattern_at(name, f"{at.place}/patternProperties"), inside(f"patternProperties/{escaped(name)}", what))
        for name, what in schema.get("patternProperties", {}).items()
    )
    node.additional = one("additionalProperties")
    node.names = one("propertyNames") if draft >= 6 else None
    if "prefixItems" in schema and draft >= 2020:
        node.prefix = several("prefixItems")
    if isinstance(schema.get("items"), list):
        # The older drafts' tuples; a schema that names no draft may mean them, since later ones have no such form.
        node.prefix = several("items")
        node.items = one("additionalItems")
    else:
        node.items = one("items")
    if draft >= 6 and "contains" in schema:
        node.contains = one("contains")
        node.contains_evaluates = draft >= 2020
        if at.resource.assertions and draft >= 2019:
            node.min_contains, node.max_contains = _count(schema, "minContains", 1), _count(schema, "maxContains")
    if draft >= 2019:
        node.unevaluated_items = one("unevaluatedItems")
        node.unevaluated_properties = one("unevaluatedProperties")
        for key, what in schema.get("dependentSchemas", {}).items():
            node.dependent_schemas += ((key, inside(f"dependentSchemas/{escaped(key)}", what)),)
    if "dependencies" in schema:
        # Of the older drafts; schemas that mix them go on using it, and what it says is plain.
        for key, what in schema["dependencies"].items():
            if isinstance(what, list):
                node.dependent_required += ((key, tuple(what)),)
            else:
                node.dependent_schemas += ((key, inside(f"dependencies/{escaped(key)}", what)),)


def _fill_assertions(graph: Graph, node: Node, at: Located) -> None:
    schema, draft = at.schema, at.resource.draft
    if "type" in schema:
        named = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        kinds = 0
        for name in named:
            kinds |= ANY if name == "any" else _KINDS[name]
        node.kinds = kinds
        node.integral = "integer" in named and "number" not in named
    values = schema.get("enum")
    if "const" in schema and (draft >= 6):
        key = value_key(schema["const"])
        values = [schema["const"]] if values is None else [value for value in values if value_key(value) == key]
    if values is not None:
        _fill_values(graph, node, at, values)
    node.minimum, node.maximum = _number(schema, "minimum"), _number(schema, "maximum")
    for keyword, bound, field_name in (
        ("exclusiveMinimum", "minimum", "above"),
        ("exclusiveMaximum", "maximum", "below"),
    ):
        if schema.get(keyword) is True:
            # Draft 4: it makes the other bound exclusive.
            setattr(node, field_name, getattr(node, bound))
            setattr(node, bound, None)
        elif schema.get(keyword) is not False:
            setattr(node, field_name, _number(schema, keyword))
    node.multiple = _number(schema, "multipleOf")
    node.min_length, node.max_length = _count(schema, "minLength", 0), _count(schema, "maxLength")
    if "pattern" in schema:
        node.pattern = pattern_at(schema["pattern"], at.place)
    node.min_items, node.max_items = _count(schema, "minItems", 0), _count(schema, "maxItems")
    node.unique = schema.get("uniqueItems") is True
    node.min_properties, node.max_properties = _count(schema, "minProperties", 0), _count(schema, "maxProperties")
    required = schema.get("required", ())
    node.required = tuple(dict.fromkeys(required)) if isinstance(required, list) else ()
    if draft >= 2019:
        node.dependent_required = tuple(
            (key, tuple(names)) for key, names in schema.get("dependentRequired", {}).items()
        )


def _fill_values(graph: Graph, node: Node, at: Located, values: list[Any]) -> None:
    containers = [value for value in values if isinstance(value, list | dict)]
    if not containers or len(containers) > ENUMERATED_CONTAINERS:
        _set_scalars(node, values)
        if not node.values:
            node.kinds = 0
        return
    place = f"{at.place}/{'enum' if 'enum' in at.schema else 'const'}"
    group = [graph.of_value(place, value) for value in containers]
    scalars = [value for value in values if not isinstance(value, list | dict)]
    if scalars:
        rest = graph.new(place, {"enum": scalars})
        rest.annotates = False
        _set_scalars(rest, scalars)
        group.append(rest)
    node.any_of += (tuple(group),)


def _bound_by_values(node: Node, item: Node) -> None:
    """An array without repetitions is no longer than there are values for its items."""
    if item.values is not None:
        count = len(item.values)
    elif not item.kinds & ~(NULL | BOOLEAN):
        count = (item.kinds & NULL > 0) + 2 * (item.kinds & BOOLEAN > 0)
    else:
        return
    node.max_items = count if node.max_items is None else min(node.max_items, count)


def _number(schema: Mapping[str, Any], keyword: str) -> Decimal | None:
    value = schema.get(keyword)
    return None if value is None or isinstance(value, bool) else decimal_of(repr(value))


def _count(schema: Mapping[str, Any], keyword: str, default: Any = None) -> Any:
    value = schema.get(keyword)
    return default if value is None else int(value)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    if not is_number(value):
        return False
    number = decimal_of(repr(value))
    return number is not None and number >= 0 and is_integral(number)


def _refuse_cycles(nodes: list[Node]) -> None:
    """A schema that holds where it itself holds says nothing: no text could ever be judged by it."""
    done: set[int] = set()
    for start in nodes:
        if start.index in done:
            continue
        path: list[Node] = []
        open_ones: set[int] = set()
        stack: list[tuple[Node, Iterator[Node]]] = [(start, start.in_place())]
        path.append(start)
        open_ones.add(start.index)
        while stack:
            node, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                stack.pop()
                path.pop()
                open_ones.discard(node.index)
                done.add(node.index)
            elif following.index in open_ones:
                cycle = [one.place or "/" for one in path[path.index(following) :]]
                raise Unsatisfiable(
                    f"JSON Schema at {' -> '.join([*cycle, cycle[0]])} refers to itself without looking at any member of the "
                    "value, so nothing is ever valid or invalid; let one of the references go"
                )
            elif following.index not in done:
                stack.append((following, following.in_place()))
                path.append(following)
                open_ones.add(following.index)
