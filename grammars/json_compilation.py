"""A JSON Schema compiled: a mask of a superset, and the predicate for what the mask leaves open."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grammars.constraint import Constraint
from grammars.errors import GrammarError, Unsatisfiable
from grammars.json_constraint import JsonConstraint
from grammars.json_evaluation import Planner
from grammars.json_machine import JsonState
from grammars.json_nodes import ARRAY, OBJECT, Graph, Node
from grammars.json_references import Library
from grammars.json_relaxation import Relaxed, relax
from grammars.json_satisfiable import mark_empty
from grammars.llguidance_engine import GuidedConstraint, compile_guided
from grammars.vocabulary import Vocabulary

if TYPE_CHECKING:
    from grammars.json_schema import JsonSchema

# llguidance's options. Its whitespace_pattern may match any number of times over, so bounds go into the separators.
_SEPARATORS: dict[str, dict[str, Any]] = {
    "compact": {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"},
    "spaced": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
    "bounded": {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"},
    "flexible": {"whitespace_flexible": True, "item_separator": ",", "key_separator": ":"},
    "pretty": {"whitespace_flexible": True, "item_separator": ",", "key_separator": ":"},
}

# Every JSON text, in every spelling: llguidance's own JSON has no \\u escapes of characters that need none.
_ANY_JSON = r"""
start: value
value: object | array | STRING | NUMBER | "true" | "false" | "null"
object: "{" GAP? (member (COMMA member)* GAP?)? "}"
member: STRING COLON value
array: "[" GAP? (value (COMMA value)* GAP?)? "]"
STRING: /"([^"\\\x00-\x1f]|\\(["\\\/bfnrt]|u[0-9a-fA-F]{4}))*"/
NUMBER: /-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/
"""
_ANY_GAPS = {
    "compact": ("[^\\s\\S]", ",", ":"),
    "spaced": ("[^\\s\\S]", ", ", ": "),
    "bounded": ("[^\\s\\S]", ", ?", ": ?"),
    "flexible": (r"[ \t\n\r]+", r"[ \t\n\r]*,[ \t\n\r]*", r"[ \t\n\r]*:[ \t\n\r]*"),
}


# One byte that begins each kind of value.
_FIRST_BYTES = (b'"', b"{", b"[", b"-", b"t", b"f", b"n")


class _Refused(GrammarError):
    """llguidance will not have this schema; a wider one may do."""


@dataclass(frozen=True)
class Compiled:
    """constraint, and what a report tells: the graph of the schema, who enforces what, and how long it took."""

    constraint: Constraint
    graph: Graph
    relaxed: Relaxed
    mask_is_exact: bool
    compile_ms: float


def compile_json(language: JsonSchema, vocabulary: Vocabulary) -> Compiled:
    begun = time.perf_counter()
    graph = Graph(Library(language.schema, language.registry or {}), language.formats == "assert")
    mark_empty(graph)
    if graph.root.empty:
        raise Unsatisfiable(f"no JSON value satisfies the schema: {_reason(graph)}; loosen it")
    mask, relaxed = _mask(graph, language, vocabulary)
    layout = language.whitespace == "pretty"
    exact = relaxed.exact and not layout and not _repeats_names(graph)
    constraint: Constraint = mask
    if not exact:
        planner = Planner(relaxed.ordered, language.spelling == "plain")
        # In a layout white space promises what comes after it, which only the judge can tell.
        plan = planner.nothing if relaxed.exact and not layout else planner.plan((graph.root,))
        before = JsonState.before(plan, layout)
        if not any(before.read(byte) for byte in _FIRST_BYTES):
            raise Unsatisfiable("no JSON value satisfies the schema: its keywords contradict each other; loosen it")
        constraint = JsonConstraint(mask, plan, layout, vocabulary)
    return Compiled(constraint, graph, relaxed, exact, (time.perf_counter() - begun) * 1e3)


def _mask(graph: Graph, language: JsonSchema, vocabulary: Vocabulary) -> tuple[GuidedConstraint, Relaxed]:
    """The tightest mask that llguidance makes, of what the schema says down to any JSON at all."""
    if language.spelling == "any":
        whitespace = "flexible" if language.whitespace == "pretty" else language.whitespace
        gap, comma, colon = _ANY_GAPS[whitespace]
        grammar = _ANY_JSON if whitespace == "flexible" else _ANY_JSON.replace("GAP?", "")
        grammar += f"GAP: /{gap}/\n" * (whitespace == "flexible") + f"COMMA: /{comma}/\nCOLON: /{colon}/\n"
        return compile_guided(grammar, vocabulary, GrammarError), Relaxed({}, False)

    def guided(schema: Any, explain: Callable[[str], GrammarError]) -> GuidedConstraint:
        options = json.dumps({"x-guidance": _SEPARATORS[language.whitespace], **schema})
        return compile_guided(f"start: %json {options}", vocabulary, explain)

    for simple in (False, True):
        relaxed = relax(graph, language.order == "any", simple)
        if relaxed.schema is False:
            raise Unsatisfiable("no JSON value satisfies the schema; loosen it")
        try:
            return guided(relaxed.schema, _explained), relaxed
        except _Refused:
            continue
    return guided({}, GrammarError), Relaxed({}, False)


def _explained(message: str) -> GrammarError:
    reason = message.partition("failed to compile JSON schema: ")[2] or message
    if reason.startswith("Unsatisfiable schema: "):
        # The mask's language is the wider one, so nothing satisfies the schema either.
        reason = " ".join(reason.partition(": ")[2].partition("\n")[0].split())
        return Unsatisfiable(f"no JSON value satisfies the schema: {reason}; loosen it")
    return _Refused(reason)


def _reason(graph: Graph) -> str:
    """Where the emptiness comes from: the deepest part that nothing satisfies."""
    node, seen = graph.root, {graph.root.index}
    while True:
        below = [
            one
            for one in (*node.all_of, *node.below_it())
            if one.empty and one.index not in seen and one.schema is not False
        ]
        if not below:
            break
        node = below[0]
        seen.add(node.index)
    forbidden = [key for key in node.required if any(one.empty for one in node.for_key(key)[0])]
    why = f" requires {forbidden[0]!r}, which has no value that is allowed" if forbidden else " has no finite value"
    return f"{node.place or '/'}{why}"


def _repeats_names(graph: Graph) -> bool:
    """Whether the schema lets some object have members that it does not list: the mask would let those come twice."""
    todo, seen = [graph.root], {graph.root.index}
    while todo:
        node = todo.pop()
        if not (_lists(node, OBJECT) and _lists(node, ARRAY)):
            return True
        for one in _in_place(node):
            below = [*one.below_it()]
            todo += [inner for inner in below if inner.index not in seen]
            seen.update(inner.index for inner in below)
    return False


def _lists(node: Node, kind: int) -> bool:
    """Whether a node says what members its arrays, or objects, may have."""
    if not node.kinds & kind or node.empty or node.values is not None:
        return True
    if kind == OBJECT:
        closed = node.additional is not None and node.additional.empty and not node.patterns
    else:
        closed = node.items is not None or (node.max_items is not None and node.max_items <= len(node.prefix))
    groups = [*node.any_of, *([node.one_of] if node.one_of else [])]
    return (
        closed
        or any(_lists(one, kind) for one in node.all_of)
        or any(all(_lists(one, kind) for one in group) for group in groups)
    )


def _in_place(node: Node) -> list[Node]:
    found, seen = [node], {node.index}
    for one in found:
        for inner in one.in_place():
            if inner.index not in seen:
                seen.add(inner.index)
                found.append(inner)
    return found
