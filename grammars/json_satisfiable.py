"""Which nodes of a schema some finite value satisfies, as far as can be told quickly."""

from __future__ import annotations

from grammars.json_evaluation import VALID, Planner
from grammars.json_nodes import ARRAY, BOOLEAN, NULL, NUMBER, OBJECT, STRING, Graph, Node, kind_of
from grammars.json_numbers import decimal_of

# `enum` lists up to here are tried value by value under everything else that is said of them.
TRIED_VALUES = 1_000


def mark_empty(graph: Graph) -> None:
    """Set `empty` on the nodes that no finite value satisfies; what is not marked may be empty all the same.

    The kinds of values that a node may have are the least fixpoint of what its parts allow: {"type": "object", "required":
    ["next"], "properties": {"next": {"$ref": "#"}}} has none.
    """
    parts = [(node, _together(node)) for node in graph.nodes]
    kinds = [0] * len(graph.nodes)
    changed = True
    while changed:
        changed = False
        # Backwards, since members come after what they belong to.
        for node, together in reversed(parts):
            if not node.kinds or kinds[node.index] == node.kinds:
                continue
            found = _kinds(node, together, kinds)
            if found != kinds[node.index]:
                kinds[node.index] = found
                changed = True
    for node in graph.nodes:
        node.empty = not kinds[node.index]
    planner = Planner()
    tried = [
        node
        for node in graph.nodes
        if node.values is not None and not node.empty and len(node.raw_values) <= TRIED_VALUES
    ]
    for node in tried:
        if node is not graph.root and node not in graph.root.all_of:
            continue
        # What must hold together at the root: a list of values none of which passes the rest.
        if not any(passes(graph.root, value, planner) for value in node.raw_values):
            graph.root.empty = True


def _together(node: Node) -> list[Node]:
    """The node and all that must hold with it."""
    found, seen = [node], {node.index}
    for one in found:
        for other in one.all_of:
            if other.index not in seen:
                seen.add(other.index)
                found.append(other)
    return found


def _kinds(node: Node, together: list[Node], kinds: list[int]) -> int:
    found = node.kinds
    for one in together:
        found &= one.kinds
        for group in one.any_of:
            found &= _any(group, kinds)
        if one.one_of:
            found &= _any(one.one_of, kinds)
        if one.negated is not None and one.negated.is_true:
            found = 0
        if one.negated is not None and isinstance(one.negated.schema, dict) and set(one.negated.schema) == {"type"}:
            found &= NUMBER | ~one.negated.kinds if one.negated.integral else ~one.negated.kinds
        if one.condition is not None and one.then is not None and one.otherwise is not None:
            found &= kinds[one.then.index] | kinds[one.otherwise.index]
    if found & NUMBER and _crossed_numbers(together):
        found &= ~NUMBER
    if found & STRING:
        most = [one.max_length for one in together if one.max_length is not None]
        if most and max(one.min_length for one in together) > min(most):
            found &= ~STRING
    if found & ARRAY and not _has_array(together, kinds):
        found &= ~ARRAY
    if found & OBJECT and not _has_object(together, kinds):
        found &= ~OBJECT
    return found


def _any(group: tuple[Node, ...], kinds: list[int]) -> int:
    found = 0
    for one in group:
        found |= kinds[one.index]
    return found


def _crossed_numbers(together: list[Node]) -> bool:
    """Whether the bounds leave no number."""
    low = [one.minimum for one in together if one.minimum is not None]
    high = [one.maximum for one in together if one.maximum is not None]
    above = [one.above for one in together if one.above is not None]
    below = [one.below for one in together if one.below is not None]
    lowest, highest = max(low + above, default=None), min(high + below, default=None)
    if lowest is None or highest is None:
        return False
    return lowest > highest or (lowest == highest and (lowest in above or highest in below))


def _has_array(together: list[Node], kinds: list[int]) -> bool:
    least = max(one.min_items for one in together)
    for one in together:
        if one.contains is not None and one.min_contains:
            if not kinds[one.contains.index]:
                return False
            least = max(least, one.min_contains)
            if one.max_contains is not None and one.max_contains < one.min_contains:
                return False
    most = [one.max_items for one in together if one.max_items is not None]
    if most and least > min(most):
        return False
    for one in together:
        # The first place that nothing fits ends the array.
        for k, item in enumerate(one.prefix[:least]):
            if not kinds[item.index]:
                return k >= least
        if least > len(one.prefix) and one.items is not None and not kinds[one.items.index]:
            return False
    return True


def _has_object(together: list[Node], kinds: list[int]) -> bool:
    required = {key for one in together for key in one.required}
    if any("\ud800" <= char <= "\udfff" for key in required for char in key):
        # Half a character has no text.
        return False
    most = min((one.max_properties for one in together if one.max_properties is not None), default=None)
    least = max(len(required), max(one.min_properties for one in together))
    if most is not None and least > most:
        return False
    for one in together:
        others = _others(one)
        closed = others is not None and not kinds[others.index]
        if closed and not one.patterns:
            possible = sum(1 for what in one.properties.values() if kinds[what.index])
            if possible < least:
                return False
    return all(_has_member(together, key, kinds) for key in required)


def _has_member(together: list[Node], key: str, kinds: list[int]) -> bool:
    shared = NULL | BOOLEAN | NUMBER | STRING | ARRAY | OBJECT
    for one in together:
        listed, evaluated = one.for_key(key)
        others = _others(one)
        for what in listed if evaluated or others is None else [others]:
            shared &= kinds[what.index]
        if one.names is not None and not (kinds[one.names.index] & STRING and passes(one.names, key, Planner())):
            return False
    return shared != 0


def _others(node: Node) -> Node | None:
    """What the members must satisfy that a node does not list; None where it says nothing, or others may evaluate them."""
    if node.additional is not None or next(node.in_place(), None) is not None:
        return node.additional
    return node.unevaluated_properties


def passes(node: Node, value: object, planner: Planner) -> bool:
    """Whether a value satisfies a node; of arrays and objects only their kind is looked at."""
    plan = planner.plan((node,))
    if isinstance(value, str):
        return plan.string(value, len(value), True)[0] == VALID
    if value is None or isinstance(value, bool):
        return plan.literal(value)[0] == VALID
    if isinstance(value, int | float):
        number = decimal_of(repr(value))
        return number is not None and plan.number(number)[0] == VALID
    return bool(node.kinds & kind_of(value))
