"""A schema for the mask engine that accepts at least what a JSON Schema does, and what it leaves to be judged.

The engine (llguidance) follows types, bounds, lengths, regular patterns, tuples, lists, properties in their order, closed
objects, references and alternatives. Everything else is left out here, or widened, and is then the predicate's to judge.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from grammars.json_evaluation import Planner
from grammars.json_formats import MASKED_EXACTLY, MASKED_WIDER, WIDER
from grammars.json_nodes import ANY, ARRAY, BOOLEAN, NULL, NUMBER, OBJECT, STRING, Graph, Node
from grammars.json_patterns import pattern_of
from grammars.json_satisfiable import passes

MASK, PREDICATE, AT_COMPLETION, ANNOTATION = "mask", "predicate", "at completion", "annotation"

# Beyond these the engine's own compiling becomes slow (milliseconds to minutes): the predicate judges them instead.
MOST_NODES = 4_000
MOST_ALTERNATIVES = 64
MOST_VALUES = 100_000
LARGEST_COUNT = 1_000
LARGEST_LENGTH = 100_000
LARGEST_FACTOR = 64
LARGEST_BOUND = 10**15
MOST_NEGATIVE = 1_000
MOST_HALVED = 4
MOST_NAMES = 1_000
MOST_NAMES_IN_ANY_ORDER = 40
DEEPEST = 16

_TYPES = {NULL: "null", BOOLEAN: "boolean", NUMBER: "number", STRING: "string", ARRAY: "array", OBJECT: "object"}


@dataclass
class Relaxed:
    """What the engine is given.

    schema   for the engine
    exact    whether it is the whole truth
    decided  (node's index, keyword) -> who enforces it, where that is not the mask
    written  indices of the nodes that the engine's schema covers
    ordered  indices of those whose properties can only come in their order, before others, wherever the node holds
    """

    schema: Any
    exact: bool
    decided: dict[tuple[int, str], str] = field(default_factory=dict)
    written: set[int] = field(default_factory=set)
    ordered: frozenset[int] = frozenset()


def relax(graph: Graph, any_order: bool, simple: bool) -> Relaxed:
    """simple: leave out patterns, bounds and multiples as well, which the engine may refuse for reasons of its own."""
    writer = _Writer(graph, any_order, simple)
    return writer.result()


class _Writer:
    def __init__(self, graph: Graph, any_order: bool, simple: bool) -> None:
        self.graph, self.any_order, self.simple = graph, any_order, simple
        self.decided: dict[tuple[int, str], str] = {}
        self.exact = True
        self.planner = Planner()
        self.shared = _shared(graph.root)
        self.crowded = _crowded(graph)
        self.wide = _wide(graph) if any_order else set()
        self.definitions: dict[str, Any] = {}
        self.todo: list[Node] = []
        self.written: set[int] = set()
        self.listed: set[int] = set()
        self.halved = 0

    def result(self) -> Relaxed:
        if self.graph.root.empty:
            return Relaxed(False, True, self.decided)
        if len(self.graph.nodes) > MOST_NODES:
            return Relaxed({}, False, self.decided)
        schema = self._node(self.graph.root, 0, top=True)
        while self.todo:
            node = self.todo.pop()
            name = f"n{node.index}"
            if name not in self.definitions:
                self.definitions[name] = None
                self.definitions[name] = self._node(node, 0, top=True)
        if self.definitions:
            schema = {"allOf": [schema]} if "$ref" in schema and len(schema) > 1 else dict(schema)
            schema["$defs"] = self.definitions
        ordered = frozenset(self.listed - _optional(self.graph.root))
        return Relaxed(schema, self.exact, self.decided, self.written, ordered)

    def _left(self, node: Node, keyword: str, by: str = PREDICATE) -> None:
        self.exact = False
        self.decided[node.index, keyword] = by

    def _node(self, node: Node, depth: int, top: bool = False) -> Any:
        self.written.add(node.index)
        if node.empty:
            return False
        if node.is_true:
            return {}
        if not top and (node.index in self.shared or depth >= DEEPEST):
            self.todo.append(node)
            return {"$ref": f"#/$defs/n{node.index}"}
        own = self._values(node) if node.values is not None else self._keywords(node, depth)
        if own is False:
            return False
        together = [self._node(one, depth + 1) for one in node.all_of]
        if node.index in self.crowded:
            for keyword in ("anyOf", "oneOf", "enum"):
                if node.schema and keyword in node.schema:
                    self._left(node, keyword)
        else:
            together += [self._alternatives(group, depth) for group in node.any_of]
            if node.one_of:
                together.append(self._alternatives(node.one_of, depth))
                if not _disjoint(node.one_of):
                    self._left(node, "oneOf")
        for keyword, one in (
            ("not", node.negated),
            ("if", node.condition),
            ("then", node.then),
            ("else", node.otherwise),
        ):
            if one is not None:
                self._left(node, keyword)
        if node.dependent_schemas:
            self._left(node, "dependentSchemas")
            self.decided[node.index, "dependencies"] = PREDICATE
        together = [one for one in together if one != {}]
        if any(one is False for one in together):
            return False
        if not together:
            return own
        if not own and len(together) == 1:
            return together[0]
        return {"allOf": [own, *together]} if own else {"allOf": together}

    def _alternatives(self, group: tuple[Node, ...], depth: int) -> Any:
        written = [one for one in (self._node(one, depth + 1) for one in group) if one is not False]
        if not written:
            return False
        if any(one == {} for one in written):
            return {}
        return written[0] if len(written) == 1 else {"anyOf": written}

    def _values(self, node: Node) -> Any:
        """`enum` and `const`: those of the values that the node's other keywords allow."""
        if len(node.raw_values) > MOST_VALUES or any(isinstance(value, list | dict) for value in node.raw_values):
            self._left(node, "enum")
            return {}
        kept = [value for value in node.raw_values if _written(value) and passes(node, value, self.planner)]
        return {"enum": kept} if kept else False

    def _keywords(self, node: Node, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        if node.kinds != ANY or node.integral:
            names = [name for kind, name in _TYPES.items() if node.kinds & kind]
            own["type"] = ["integer" if name == "number" and node.integral else name for name in names]
        if node.kinds & NUMBER:
            self._numbers(node, own)
        if node.kinds & STRING:
            self._strings(node, own)
        if node.kinds & ARRAY:
            self._arrays(node, own, depth)
        if node.kinds & OBJECT:
            self._objects(node, own, depth)
        return own

    def _numbers(self, node: Node, own: dict[str, Any]) -> None:
        bounds = {
            "minimum": node.minimum, "maximum": node.maximum, "exclusiveMinimum": node.above, "exclusiveMaximum": node.below,
        }  # fmt: skip
        given = {keyword: bound for keyword, bound in bounds.items() if bound is not None}
        if self.simple or any(abs(bound) > LARGEST_BOUND for bound in given.values()):
            for keyword in given:
                self._left(node, keyword, AT_COMPLETION)
        else:
            own.update({keyword: _plain(bound) for keyword, bound in given.items()})
        if node.multiple is not None:
            digits = node.multiple.as_tuple()
            coefficient = int("".join(map(str, digits.digits))) * 10 ** max(int(digits.exponent), 0)
            # The engine's multiples are none below zero.
            signed = not any(bound is not None and bound >= 0 for bound in (node.minimum, node.above))
            if self.simple or coefficient > LARGEST_FACTOR or int(digits.exponent) < -6:
                self._left(node, "multipleOf", AT_COMPLETION)
            elif signed:
                self._left(node, "multipleOf", AT_COMPLETION)
                # Without bounds more digits always make a multiple. Halves of several nodes that hold together multiply.
                if node.integral and node.kinds == NUMBER and len(given) and self.halved < MOST_HALVED:
                    self.halved += 1
                    own["anyOf"] = _halves(node, node.multiple)
            else:
                own["multipleOf"] = _plain(node.multiple)

    def _strings(self, node: Node, own: dict[str, Any]) -> None:
        for keyword, length in (("minLength", node.min_length or None), ("maxLength", node.max_length)):
            if length is not None and length <= LARGEST_LENGTH:
                own[keyword] = length
            elif length is not None:
                self._left(node, keyword)
        patterns: list[dict[str, str | None]] = []
        if node.pattern is not None:
            if node.pattern.rust is None or self.simple:
                self._left(node, "pattern", PREDICATE if node.pattern.partial else AT_COMPLETION)
            else:
                patterns.append({"pattern": node.pattern.rust})
        if node.format is not None:
            if self.simple or node.format not in MASKED_EXACTLY:
                self._left(node, "format", PREDICATE if node.format in WIDER else AT_COMPLETION)
            if self.simple:
                pass
            elif node.format in MASKED_EXACTLY | MASKED_WIDER:
                patterns.append({"format": node.format})
            elif node.format in WIDER:
                patterns.append({"pattern": pattern_of(WIDER[node.format]).rust})
        if len(patterns) == 1:
            own.update(patterns[0])
        elif patterns:
            own["allOf"] = patterns

    def _arrays(self, node: Node, own: dict[str, Any], depth: int) -> None:
        if node.prefix:
            own["prefixItems"] = [self._node(one, depth + 1) for one in node.prefix]
        items = node.items
        if (
            items is None
            and node.unevaluated_items is not None
            and node.contains is None
            and next(node.in_place(), None) is None
        ):
            items = node.unevaluated_items
        elif node.unevaluated_items is not None:
            self._left(node, "unevaluatedItems")
        if items is not None:
            own["items"] = self._node(items, depth + 1)
        for keyword, count in (("minItems", node.min_items or None), ("maxItems", node.max_items)):
            if count is not None and count <= LARGEST_COUNT:
                own[keyword] = count
            elif count is not None:
                self._left(node, keyword, PREDICATE if keyword == "maxItems" else AT_COMPLETION)
        if node.unique:
            self._left(node, "uniqueItems")
        if node.contains is not None:
            self._left(node, "contains", AT_COMPLETION)
            self.decided[node.index, "minContains"] = AT_COMPLETION
            self.decided[node.index, "maxContains"] = PREDICATE

    def _objects(self, node: Node, own: dict[str, Any], depth: int) -> None:
        additional = node.additional
        unevaluated = node.unevaluated_properties
        if additional is None and unevaluated is not None and next(node.in_place(), None) is None:
            additional = unevaluated
        elif unevaluated is not None:
            self._left(node, "unevaluatedProperties")
        patterns = {pattern.rust: one for pattern, one in node.patterns if pattern.rust is not None}
        readable = not self.simple and len(patterns) == len(node.patterns) and len(patterns) <= 1
        if self.any_order:
            readable = readable and not (patterns and node.properties) and node.index not in self.wide
            patterns |= {f"^{_literal(name)}$": one for name, one in node.properties.items()}
            if node.required:
                self._left(node, "required", AT_COMPLETION)
        elif len(node.properties) + len(node.required) > MOST_NAMES:
            self._left(node, "properties")
            self._left(node, "required", AT_COMPLETION)
            # Without the list the engine would take its members for additional ones.
            patterns, readable, additional = {}, False, None
            if node.additional is not None:
                self._left(node, "additionalProperties")
        else:
            if node.properties:
                self.listed.add(node.index)
                own["properties"] = {
                    name: self._node(one, depth + 1) for name, one in node.properties.items() if _written(name)
                }
            if node.required:
                own["required"] = list(node.required)
        if patterns and readable:
            own["patternProperties"] = {pattern: self._node(one, depth + 1) for pattern, one in patterns.items()}
        elif patterns or node.patterns:
            # Without its patterns the engine would take their members for additional ones.
            self._left(node, "patternProperties")
            if self.any_order:
                self.decided[node.index, "properties"] = PREDICATE
            if additional is not None:
                self._left(node, "additionalProperties")
            additional = None
        if additional is not None and not additional.is_true:
            own["additionalProperties"] = self._node(additional, depth + 1)
        for keyword, count in (("minProperties", node.min_properties), ("maxProperties", node.max_properties)):
            if count:
                self._left(node, keyword, AT_COMPLETION if keyword == "minProperties" else PREDICATE)
        if node.max_properties == 0:
            self._left(node, "maxProperties")
        if node.names is not None and not node.names.is_true:
            self._left(node, "propertyNames")
        if node.dependent_required:
            self._left(node, "dependentRequired", AT_COMPLETION)
            self.decided[node.index, "dependencies"] = AT_COMPLETION


def _shared(root: Node) -> set[int]:
    """The nodes that are written in several places, or inside themselves."""
    seen: set[int] = {root.index}
    shared: set[int] = set()
    todo = [root]
    while todo:
        node = todo.pop()
        for one in (*node.in_place(), *node.below_it()):
            if one.index in seen:
                if not one.is_true and not one.empty:
                    shared.add(one.index)
                continue
            seen.add(one.index)
            todo.append(one)
    return shared


def _optional(root: Node) -> set[int]:
    """The nodes that need not hold where they are looked at: where they do not, the mask may let names come in another order."""
    certain = {root.index}
    optional: list[Node] = []
    todo = [root]
    while todo:
        node = todo.pop()
        below = (
            *node.prefix,
            *node.properties.values(),
            *(one for _, one in node.patterns),
            node.items,
            node.additional,
        )
        sure = [one for one in (*node.all_of, *below) if one is not None]
        new = [one for one in sure if one.index not in certain]
        certain.update(one.index for one in new)
        todo += new
        kept = {one.index for one in sure}
        optional += [one for one in (*node.in_place(), *node.below_it()) if one.index not in kept]
    found = {one.index for one in optional}
    while optional:
        node = optional.pop()
        new = [one for one in (*node.in_place(), *node.below_it()) if one.index not in found]
        found.update(one.index for one in new)
        optional += new
    return found


def _crowded(graph: Graph) -> set[int]:
    """The nodes whose alternatives, multiplied out as the engine does, would be too many."""
    counts: dict[int, int] = {}
    crowded: set[int] = set()

    def count(start: Node) -> int:
        stack = [(start, False)]
        while stack:
            node, ready = stack.pop()
            if node.index in counts:
                continue
            inner = [*node.all_of, *(one for group in node.any_of for one in group), *node.one_of]
            if not ready:
                stack.append((node, True))
                stack += [(one, False) for one in inner if one.index not in counts]
                continue
            groups = [*node.any_of, *([node.one_of] if node.one_of else [])]
            total = math.prod(counts[one.index] for one in node.all_of)
            total *= math.prod(sum(counts[one.index] for one in group) for group in groups)
            # A list of many plain alternatives is no product: only those are left out that multiply.
            if total > MOST_ALTERNATIVES and (len(groups) + len(node.all_of) > 1 or total > 50 * MOST_ALTERNATIVES):
                crowded.update(_conjunction(node))
                total = 1
            counts[node.index] = total
        return counts[start.index]

    for node in graph.nodes:
        count(node)
    return crowded


def _wide(graph: Graph) -> set[int]:
    """The nodes whose names, with those that hold in the same place, are too many to offer in any order."""
    wide: set[int] = set()
    for node in graph.nodes:
        together, seen = [node], {node.index}
        for one in together:
            new = [other for other in one.in_place() if other.index not in seen]
            seen.update(other.index for other in new)
            together += new
        if sum(len(one.properties) for one in together) > MOST_NAMES_IN_ANY_ORDER:
            wide |= seen
    return wide


def _conjunction(node: Node) -> list[int]:
    found = [node]
    for one in found:
        found += [other for other in one.all_of if other not in found]
    return [one.index for one in found]


def _disjoint(group: tuple[Node, ...]) -> bool:
    """Whether no value satisfies two of the group, as far as is seen at once: by kinds, or by a member's listed values."""
    if len(group) > 64:
        return False
    return all(_apart(one, other) for k, one in enumerate(group) for other in group[k + 1 :])


def _apart(one: Node, other: Node) -> bool:
    one, other = _behind(one), _behind(other)
    if one.empty or other.empty or not one.kinds & other.kinds:
        return True
    if one.values is not None and other.values is not None:
        return not one.values & other.values
    if one.kinds != OBJECT or other.kinds != OBJECT:
        return False
    for key in set(one.required) & set(other.required):
        mine, theirs = one.properties.get(key), other.properties.get(key)
        if mine is not None and theirs is not None and _apart(mine, theirs):
            return True
    return False


def _behind(node: Node) -> Node:
    """What a mere reference refers to."""
    while (
        len(node.all_of) == 1 and isinstance(node.schema, dict) and set(node.schema) <= {"$ref", "description", "title"}
    ):
        node = node.all_of[0]
    return node


def _written(value: Any) -> bool:
    """Whether a value has a text: one with half a character has none."""
    try:
        return not isinstance(value, str) or bool(value.encode() or True)
    except UnicodeEncodeError:
        return False


def _halves(node: Node, multiple: Decimal) -> list[Any]:
    """Multiples above zero as the engine has them; below they are listed where they are few, or else judged when written."""
    halves: list[Any] = [{"maximum": 0}]
    low = max((bound for bound in (node.minimum, node.above) if bound is not None), default=None)
    high = min((bound for bound in (node.maximum, node.below) if bound is not None), default=None)
    if low is not None and multiple == multiple.to_integral_value() and -low <= MOST_NEGATIVE * multiple:
        step = int(multiple)
        below = [number for number in range(-step, int(low) - 1, -step) if high is None or number <= high]
        halves = [{"enum": below}] if below else []
    if high is None or high >= 0:
        halves.append({"minimum": 0, "multipleOf": _plain(multiple)})
    return halves or [{"maximum": 0}]


def _plain(number: Decimal) -> int | float:
    return int(number) if number == number.to_integral_value() else float(number)


def _literal(name: str) -> str:
    return "".join(char if re.fullmatch("[A-Za-z0-9_]", char) else f"\\x{{{ord(char):x}}}" for char in name)
