"""A JSON Schema judged while its value is being written: valid for ever, invalid for ever, or open.

A `Plan` is the set of schemas that one value must be judged by, with all they apply to the same value, children first. What
is known of the value so far gives each node a verdict of its own keywords; one pass up the plan combines them. Members of an
array or object are values with plans of their own; `links` say which node asks for which of the member's verdicts.

A verdict that is not open never changes as the text goes on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

from grammars.json_formats import FORMATS
from grammars.json_nodes import ARRAY, BOOLEAN, NULL, NUMBER, OBJECT, STRING, Node
from grammars.json_numbers import is_integral, is_multiple

INVALID, OPEN, VALID = 0, 1, 2

# What a link asks of a member: to be valid; to be counted by `contains`, and to count as evaluated then or (before 2020-12)
# not; to be valid unless others evaluated it.
MUST, EVALUATED, COUNTED, UNEVALUATED = 0, 1, 2, 3

# Members whose plans are remembered, for each plan.
REMEMBERED_KEYS = 2_000

# Where bounds have more digits, those of a number begun are not counted.
LONGEST_COUNTED = 64

# Nodes with more properties wait for the closing bracket before they hold for ever.
SETTLING_KEYS = 16

Verdicts = tuple[int, ...]
Link = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Member:
    """How a member of an array or object is judged.

    links  (what is asked, node of the parent's plan that asks, position among the verdicts of `plan`)
    cover  bit i: node i of the parent's plan evaluates this member, whatever its value
    """

    plan: Plan
    links: tuple[Link, ...]
    cover: int


@dataclass(frozen=True, eq=False)
class _Step:
    """What one node applies in place, by position in the plan; -1 where there is none."""

    node: Node
    all_of: tuple[int, ...]
    any_of: tuple[tuple[int, ...], ...]
    one_of: tuple[int, ...]
    negated: int
    condition: int
    then: int
    otherwise: int
    dependent: tuple[tuple[int, int], ...]
    unevaluated: bool


@dataclass(frozen=True, eq=False)
class _Names:
    """Which names a node lets members have.

    listed  ascending; None where any name may come as far as this node's own lists say
    schema  the plan of `propertyNames`
    """

    position: int
    listed: tuple[str, ...] | None
    patterns: tuple[Any, ...]
    schema: Plan | None


class Planner:
    """Makes each plan once.

    ordered  indices of the nodes whose properties can only come in their order, before all others
    plain    whether integers are written in digits alone, without fraction or exponent
    """

    def __init__(self, ordered: frozenset[int] = frozenset(), plain: bool = False) -> None:
        self.ordered, self.plain = ordered, plain
        self._plans: dict[tuple[int, ...], Plan] = {}
        self.nothing = self.plan(())

    def plan(self, roots: Iterable[Node]) -> Plan:
        wanted = tuple(roots)
        key = tuple(node.index for node in wanted)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = Plan(self, wanted)
        return plan


class Plan:
    """The schemas that judge one value together."""

    def __init__(self, planner: Planner, roots: tuple[Node, ...]) -> None:
        self._planner = planner
        self.nodes = _children_first(roots)
        position = {node.index: i for i, node in enumerate(self.nodes)}
        self.roots = tuple(position[node.index] for node in roots)
        self._keys = _watched(self.nodes)
        self._steps = [
            (position[node.index], _step(node, position, self._keys)) for node in self.nodes if _applies(node)
        ]
        self._required = [self.bits(node.required) for node in self.nodes]
        self._settling = [_settling(node) for node in self.nodes]
        self._settling_bits = [self.bits(keys or ()) for keys in self._settling]
        self._dependent = [
            [(self.bits((key,)), self.bits(names)) for key, names in node.dependent_required] for node in self.nodes
        ]
        self._fixed = {kind: [_fixed(node, kind) for node in self.nodes] for kind in (NUMBER, STRING, ARRAY, OBJECT)}
        self._open = {kind: [i for i, fixed in enumerate(all_) if fixed == OPEN] for kind, all_ in self._fixed.items()}
        strings = [self.nodes[i] for i in self._open[STRING]]
        self.watches_text = any(node.values is not None or node.pattern or node.format for node in strings)
        self.watches_length = bool(strings)
        self.compares = any(
            node.values is not None and any(isinstance(value, tuple) and value[0] != "boolean" for value in node.values)
            for node in self.nodes
        )
        self.unique = sum(1 << i for i, node in enumerate(self.nodes) if node.unique and node.kinds & ARRAY)
        self._ranks = self._order(planner.ordered)
        self._members: dict[str, Member] = {}
        self._items: dict[int, Member] = {}
        self._longest_prefix = max((len(node.prefix) for node in self.nodes), default=0)
        self._names: list[_Names] | None = None
        self._literals: dict[Any, Verdicts] = {}
        self.begun = self._combined([_before(node) for node in self.nodes])
        self.number_begun = self._combined(list(self._fixed[NUMBER]))
        # What digits may still become is judged where only digits may come, and where it matters.
        self.counts_digits = planner.plain and any(map(_is_integral, roots)) and bool(self._open[NUMBER])
        self._digits: dict[str, tuple[Verdicts, ...]] = {}
        self.lists_numbers = any(self.nodes[i].values is not None for i in self._open[NUMBER])

    def bits(self, keys: Iterable[str]) -> int:
        """The watched ones among keys, as bits."""
        found = 0
        for key in keys:
            if key in self._keys:
                found |= 1 << self._keys[key]
        return found

    def _order(self, ordered: frozenset[int]) -> dict[str, int]:
        """The places of the names that can only come in their order; empty where the order is not known."""
        if len(self.roots) != 1:
            return {}
        first = self.nodes[self.roots[0]]
        while not first.properties and len(first.all_of) == 1 and not first.any_of and not first.one_of:
            first = first.all_of[0]
        return {name: k for k, name in enumerate(first.properties)} if first.index in ordered else {}

    def rank(self, name: str) -> int:
        """The place of a name; one that is not listed comes after all that are."""
        return self._ranks.get(name, len(self._ranks))

    def passed(self, rank: int) -> int:
        """Bits of the watched keys that can no longer come once a name of this place has come."""
        return self.bits(name for name, k in self._ranks.items() if k < rank) if rank > 0 else 0

    # Values without members.

    def literal(self, value: Any) -> Verdicts:
        """null, true or false."""
        if value not in self._literals:
            kind = NULL if value is None else BOOLEAN
            key = None if value is None else ("boolean", value)
            self._literals[value] = self._combined(
                [
                    VALID if node.kinds & kind and (node.values is None or key in node.values) else INVALID
                    for node in self.nodes
                ],
                closed=True,
            )
        return self._literals[value]

    def number(self, number: Decimal) -> Verdicts:
        verdicts = list(self._fixed[NUMBER])
        for i in self._open[NUMBER]:
            verdicts[i] = VALID if _fits_number(self.nodes[i], number) else INVALID
        return self._combined(verdicts, closed=True)

    def integer_begun(self, digits: str) -> tuple[Verdicts, ...]:
        """The verdicts that are possible on integers that begin with some digits: as they stand, with one more, and with more.

        With k more a number lies in [d * 10^k, (d + 1) * 10^k); what bounds say of that is the same for all k beyond theirs.
        """
        known = self._digits.get(digits)
        if known is None:
            first, sign = int(digits), -1 if digits.startswith("-") else 1
            found = {self.number(Decimal(first))}
            if first:
                found |= {self.number(Decimal(first * 10 + sign * k)) for k in range(10)}
                if self._longest_bound <= LONGEST_COUNTED:
                    for k in range(2, max(self._longest_bound - len(digits), 0) + 4):
                        ends = first * 10**k, (first + sign) * 10**k - sign
                        found.add(self._between(Decimal(min(ends)), Decimal(max(ends))))
                else:
                    found.add(self.number_begun)
            known = tuple(found)
            if len(self._digits) < REMEMBERED_KEYS:
                self._digits[digits] = known
        return known

    def listed_number_begun(self, text: str) -> Verdicts:
        """The verdicts on a number begun, by its digits: those of a value that is listed begin like this, however it is written."""
        verdicts = list(self._fixed[NUMBER])
        for i in self._open[NUMBER]:
            if self.nodes[i].values is not None and not _one_has_digits(_numbers(self.nodes[i]), text):
                verdicts[i] = INVALID
        return self._combined(verdicts)

    @cached_property
    def _longest_bound(self) -> int:
        """Digits of the largest bound or value."""
        bounds = (
            bound
            for node in self.nodes
            for bound in (node.minimum, node.maximum, node.above, node.below, *_numbers(node))
            if bound is not None
        )
        return max((max(bound.adjusted() + 1, 1) for bound in bounds), default=0)

    def _between(self, low: Decimal, high: Decimal) -> Verdicts:
        """The verdicts on integers of an interval: OPEN where they differ."""
        verdicts = list(self._fixed[NUMBER])
        for i in self._open[NUMBER]:
            verdicts[i] = _fits_between(self.nodes[i], low, high)
        return self._combined(verdicts)

    def string(self, text: str, length: int, closed: bool) -> Verdicts:
        """A text so far, or the whole of it; `text` may be left out where `watches_text` is false."""
        verdicts = list(self._fixed[STRING])
        for i in self._open[STRING]:
            verdicts[i] = (_whole_string if closed else _begun_string)(self.nodes[i], text, length)
        return self._combined(verdicts, closed=closed)

    # Members.

    def member(self, key: str) -> Member:
        """How the value of a member with this key is judged."""
        member = self._members.get(key)
        if member is None:
            asked: list[tuple[int, int, Node]] = []
            cover = 0
            for i, node in enumerate(self.nodes):
                if not node.kinds & OBJECT:
                    continue
                found, evaluated = node.for_key(key)
                asked += [(MUST, i, one) for one in found if not one.is_true]
                if evaluated or node.unevaluated_properties is not None:
                    cover |= 1 << i
                if (
                    not evaluated
                    and node.unevaluated_properties is not None
                    and not node.unevaluated_properties.is_true
                ):
                    asked.append((UNEVALUATED, i, node.unevaluated_properties))
            member = self._linked(asked, cover)
            if len(self._members) < REMEMBERED_KEYS:
                self._members[key] = member
        return member

    def item(self, k: int) -> Member:
        """How item k of an array is judged."""
        k = min(k, self._longest_prefix)
        member = self._items.get(k)
        if member is None:
            asked: list[tuple[int, int, Node]] = []
            cover = 0
            for i, node in enumerate(self.nodes):
                if not node.kinds & ARRAY:
                    continue
                one = node.for_item(k)
                if one is not None and not one.is_true:
                    asked.append((MUST, i, one))
                if one is not None or node.unevaluated_items is not None:
                    cover |= 1 << i
                if node.contains is not None:
                    asked.append((EVALUATED if node.contains_evaluates else COUNTED, i, node.contains))
                if one is None and node.unevaluated_items is not None and not node.unevaluated_items.is_true:
                    asked.append((UNEVALUATED, i, node.unevaluated_items))
            member = self._items[k] = self._linked(asked, cover)
        return member

    def _linked(self, asked: list[tuple[int, int, Node]], cover: int) -> Member:
        if not asked:
            return Member(self._planner.nothing, (), cover)
        roots = list({node.index: node for _, _, node in asked}.values())
        position = {node.index: r for r, node in enumerate(roots)}
        return Member(
            self._planner.plan(roots), tuple((what, i, position[node.index]) for what, i, node in asked), cover
        )

    # Arrays and objects.

    def container(
        self,
        kind: int,
        count: int,
        started: int,
        closed: bool,
        present: int,
        passed: int,
        failed: int,
        waiting: int,
        counts: dict[int, int],
        unevaluated: frozenset[tuple[int, int]],
        value: Any,
        maybe: int = 0,
    ) -> Verdicts:
        """The verdicts on an array or object so far.

        count, started  members that have ended (of an object: that are named), and that have begun
        present         bits of the watched keys it has
        passed          bits of those that can no longer come
        failed          bits of the nodes that a member, a name or a repeated item has made invalid
        waiting         bits of the nodes that want a member valid which is still being written
        counts          by node: how many items `contains` has found
        unevaluated     (node, bits of the nodes that evaluate it) of members that the node's unevaluated* does not allow
        value           its `value_key` once it is closed, where `compares`
        maybe           bits of the nodes whose `contains` may yet find the item that is being written
        """
        verdicts = list(self._fixed[kind])
        for i in self._open[kind]:
            if failed >> i & 1:
                verdicts[i] = INVALID
            elif kind == OBJECT:
                verdicts[i] = self._object(i, count, started, closed, present, passed, waiting, value)
            else:
                verdicts[i] = _array(self.nodes[i], count, started, closed, counts.get(i, 0), value, maybe >> i & 1)
        return self._combined(verdicts, present, closed, unevaluated)

    def _object(
        self, i: int, count: int, started: int, closed: bool, present: int, passed: int, waiting: int, value: Any
    ) -> int:
        node = self.nodes[i]
        missing = self._required[i] & ~present
        for key, names in self._dependent[i]:
            if present & key:
                missing |= names & ~present
        most = node.max_properties
        if missing & passed or (most is not None and max(started, count + missing.bit_count()) > most):
            return INVALID
        if not closed:
            if missing or count < node.min_properties or self._settling[i] is None or waiting >> i & 1:
                return OPEN
            return OPEN if self._settling_bits[i] & ~present & ~passed else VALID
        if missing or count < node.min_properties:
            return INVALID
        return VALID if node.values is None or value in node.values else INVALID

    def refused_names(self, prefix: str, seen: Any) -> int:
        """Bits of the nodes that no further member can satisfy whose name begins like this.

        seen  whether the object has a member of a name already
        """
        refused = 0
        for names in self.names:
            refuses = names.schema is not None and names.schema.string(prefix, len(prefix), False)[0] == INVALID
            if not refuses and names.listed is not None:
                refuses = not _one_begins(names.listed, prefix, seen) and not any(
                    pattern.may_come(prefix) for pattern in names.patterns
                )
            refused |= refuses << names.position
        return refused

    def refused_name(self, name: str) -> int:
        """Bits of the nodes whose `propertyNames` refuses a whole name."""
        refused = 0
        for names in self.names:
            if names.schema is not None and names.schema.string(name, len(name), True)[0] == INVALID:
                refused |= 1 << names.position
        return refused

    @property
    def names(self) -> list[_Names]:
        if self._names is None:
            found = []
            for i, node in enumerate(self.nodes):
                if not node.kinds & OBJECT:
                    continue
                listed, patterns = _listed(node)
                schema = None if node.names is None or node.names.is_true else self._planner.plan((node.names,))
                if listed is not None or schema is not None:
                    found.append(_Names(i, listed, patterns, schema))
            self._names = found
        return self._names

    # Combination.

    def _combined(
        self,
        verdicts: list[int],
        present: int = 0,
        closed: bool = False,
        unevaluated: frozenset[tuple[int, int]] = frozenset(),
    ) -> Verdicts:
        """The roots' verdicts, from every node's own; `verdicts` is used up."""
        for i, step in self._steps:
            verdict = verdicts[i]
            if verdict == INVALID:
                continue
            for k in step.all_of:
                verdict = min(verdict, verdicts[k])
            for group in step.any_of:
                verdict = min(verdict, max(verdicts[k] for k in group))
            if step.one_of:
                of = [verdicts[k] for k in step.one_of]
                valid = of.count(VALID)
                verdict = min(verdict, INVALID if valid > 1 else OPEN if OPEN in of else VALID if valid else INVALID)
            if step.negated >= 0:
                verdict = min(verdict, VALID - verdicts[step.negated])
            if step.condition >= 0:
                then = verdicts[step.then] if step.then >= 0 else VALID
                otherwise = verdicts[step.otherwise] if step.otherwise >= 0 else VALID
                holds = verdicts[step.condition]
                chosen = then if holds == VALID else otherwise
                verdict = min(verdict, chosen if holds != OPEN or then == otherwise else OPEN)
            for key, k in step.dependent:
                if present & key:
                    verdict = min(verdict, verdicts[k])
                elif not closed and verdicts[k] != VALID:
                    verdict = min(verdict, OPEN)
            if step.unevaluated and unevaluated and verdict != INVALID:
                verdict = min(verdict, self._evaluated(i, verdicts, present, unevaluated))
            verdicts[i] = verdict
        return tuple([verdicts[i] for i in self.roots])

    def _evaluated(self, i: int, verdicts: list[int], present: int, unevaluated: frozenset[tuple[int, int]]) -> int:
        """Whether the members that node i does not allow by itself have been evaluated in place."""
        surely, maybe = self._evaluators(i, verdicts, present)
        worst = VALID
        for k, cover in unevaluated:
            if k == i and not cover & surely:
                worst = min(worst, OPEN if cover & maybe else INVALID)
        return worst

    def _evaluators(self, i: int, verdicts: list[int], present: int) -> tuple[int, int]:
        """Bits of the nodes below i, in place, whose evaluated members count for i: surely, and maybe."""
        steps = dict(self._steps)
        surely = maybe = 0
        todo = [(i, True)]
        seen = set()
        while todo:
            at, sure = todo.pop()
            step = steps.get(at)
            if step is None or (at, sure) in seen:
                continue
            seen.add((at, sure))
            condition = verdicts[step.condition] if step.condition >= 0 else INVALID
            gates = [(k, VALID) for k in (*step.all_of, *(k for group in step.any_of for k in group), *step.one_of)]
            gates += [(k, VALID if present & key else OPEN) for key, k in step.dependent]
            gates += [(step.condition, VALID), (step.then, condition), (step.otherwise, VALID - condition)]
            for k, gate in gates:
                if k < 0 or not self.nodes[k].annotates:
                    continue
                counts = min(gate, verdicts[k])
                if counts != INVALID:
                    certain = sure and counts == VALID
                    maybe |= 1 << k
                    surely |= certain << k
                    todo.append((k, certain))
        return surely, maybe


def _children_first(roots: tuple[Node, ...]) -> list[Node]:
    """The closure of nodes under what they apply in place. There are no cycles: see `json_nodes`."""
    order: list[Node] = []
    done: set[int] = set()
    for root in roots:
        stack = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if node.index in done:
                continue
            if ready:
                done.add(node.index)
                order.append(node)
                continue
            stack.append((node, True))
            stack += [(one, False) for one in node.in_place() if one.index not in done]
    return order


def _applies(node: Node) -> bool:
    return (
        node.unevaluated_items is not None
        or node.unevaluated_properties is not None
        or next(node.in_place(), None) is not None
    )


def _step(node: Node, position: dict[int, int], keys: dict[str, int]) -> _Step:
    def at(one: Node | None) -> int:
        return -1 if one is None else position[one.index]

    return _Step(
        node,
        tuple(map(at, node.all_of)),
        tuple(tuple(map(at, group)) for group in node.any_of),
        tuple(map(at, node.one_of)),
        at(node.negated),
        at(node.condition),
        at(node.then),
        at(node.otherwise),
        tuple((1 << keys[key], at(one)) for key, one in node.dependent_schemas),
        node.unevaluated_items is not None or node.unevaluated_properties is not None,
    )


def _watched(nodes: list[Node]) -> dict[str, int]:
    """The keys whose presence some node asks about, numbered."""
    keys: dict[str, int] = {}
    for node in nodes:
        for key in node.required:
            keys.setdefault(key, len(keys))
        for key, names in node.dependent_required:
            for one in (key, *names):
                keys.setdefault(one, len(keys))
        for key, _ in node.dependent_schemas:
            keys.setdefault(key, len(keys))
        for key in _settling(node) or ():
            keys.setdefault(key, len(keys))
    return keys


def _before(node: Node) -> int:
    """A node's own verdict before anything of the value is known."""
    if node.empty or not node.kinds:
        return INVALID
    return VALID if node.is_true else OPEN


def _fixed(node: Node, kind: int) -> int:
    """A node's own verdict on every value of a kind; OPEN where it depends on the value."""
    if node.empty or not node.kinds & kind:
        return INVALID
    if node.values is not None:
        return OPEN
    if kind == NUMBER:
        bounds = (node.minimum, node.maximum, node.above, node.below, node.multiple)
        return OPEN if node.integral or any(bound is not None for bound in bounds) else VALID
    if kind == STRING:
        asks_nothing = not node.min_length and node.max_length is None and node.pattern is None and node.format is None
        return VALID if asks_nothing else OPEN
    if kind == ARRAY:
        return VALID if not node.min_items and node.contains is None and _settles(node) else OPEN
    return VALID if not node.min_properties and not node.required and _settling(node) == () else OPEN


def _settles(node: Node) -> bool:
    """Whether no further member can make the node's own verdict worse."""
    below = (one for one in node.below_it() if one is not node.contains)
    return (
        node.values is None
        and not node.unique
        and node.max_items is None
        and node.max_properties is None
        and (node.contains is None or node.max_contains is None)
        and not node.dependent_required
        and all(one.is_true for one in below)
    )


def _settling(node: Node) -> tuple[str, ...] | None:
    """The keys after which no further member can make the node's own verdict on an object worse; None where any can."""
    others = [*(one for _, one in node.patterns), node.additional, node.names, node.unevaluated_properties]
    if (
        node.values is not None
        or node.max_properties is not None
        or node.dependent_required
        or not all(one is None or one.is_true for one in others)
    ):
        return None
    keys = tuple(name for name, one in node.properties.items() if not one.is_true)
    return keys if len(keys) <= SETTLING_KEYS else None


def _fits_number(node: Node, number: Decimal) -> bool:
    return (
        (not node.integral or is_integral(number))
        and (node.values is None or number in node.values)
        and (node.minimum is None or number >= node.minimum)
        and (node.maximum is None or number <= node.maximum)
        and (node.above is None or number > node.above)
        and (node.below is None or number < node.below)
        and (node.multiple is None or is_multiple(number, node.multiple))
    )


def _is_integral(node: Node) -> bool:
    """Whether a schema takes integers alone of all numbers."""
    return node.integral or any(map(_is_integral, node.all_of))


def _numbers(node: Node) -> tuple[Decimal, ...]:
    return tuple(value for value in node.values or () if isinstance(value, Decimal))


def _one_has_digits(values: tuple[Decimal, ...], begun: str) -> bool:
    """Whether some value is written with the digits of a number begun, wherever the point and the exponent put them."""
    written = begun.lower().partition("e")[0]
    digits = written.lstrip("-").replace(".", "").lstrip("0")
    for value in values:
        own = "".join(map(str, value.as_tuple().digits))
        if not digits or (
            value.is_signed() == written.startswith("-") and own.ljust(len(digits), "0").startswith(digits)
        ):
            return True
    return False


def _fits_between(node: Node, low: Decimal, high: Decimal) -> int:
    """A node's own verdict on the integers of an interval."""
    if node.values is not None:
        return OPEN if any(low <= value <= high for value in _numbers(node)) else INVALID
    at_least = [bound for bound in (node.minimum, node.above) if bound is not None]
    at_most = [bound for bound in (node.maximum, node.below) if bound is not None]
    if any(bound > high for bound in at_least) or any(bound < low for bound in at_most):
        return INVALID
    inside = all(bound < low for bound in at_least) and all(bound > high for bound in at_most)
    return VALID if inside and node.multiple is None else OPEN


def _whole_string(node: Node, text: str, length: int) -> int:
    return (
        VALID
        if length >= node.min_length
        and (node.max_length is None or length <= node.max_length)
        and (node.values is None or text in node.values)
        and (node.pattern is None or node.pattern.found_in(text))
        and (node.format is None or FORMATS[node.format](text))
        else INVALID
    )


def _begun_string(node: Node, text: str, length: int) -> int:
    if node.max_length is not None and length >= node.max_length:
        # Only the closing quote may come.
        return OPEN if length == node.max_length and _whole_string(node, text, length) != INVALID else INVALID
    if node.values is not None and not _one_begins(node.strings, text, None):
        return INVALID
    if node.begins is not None and not node.begins.may_come(text):
        return INVALID
    settled = node.values is None and node.max_length is None and node.format is None and length >= node.min_length
    if node.pattern is not None:
        if settled and node.pattern.growing and node.pattern.found_in(text):
            return VALID
        return OPEN if node.pattern.may_come(text) else INVALID
    return VALID if settled else OPEN


def _array(node: Node, count: int, started: int, closed: bool, found: int, value: Any, maybe: int) -> int:
    most = node.max_items
    if most is not None and started > most:
        return INVALID
    wanted = 0
    if node.contains is not None:
        if node.max_contains is not None and found > node.max_contains:
            return INVALID
        wanted = max(node.min_contains - found, 0)
        if most is not None and wanted > most - started + maybe:
            return INVALID
    if not closed:
        return VALID if not wanted and count >= node.min_items and _settles(node) else OPEN
    if wanted or count < node.min_items:
        return INVALID
    return VALID if node.values is None or value in node.values else INVALID


def _one_begins(listed: tuple[str, ...], prefix: str, seen: Any) -> bool:
    """Whether some of ascending texts begins like this, and is not seen yet."""
    k = bisect_left(listed, prefix)
    while k < len(listed) and listed[k].startswith(prefix):
        if seen is None or not seen(listed[k]):
            return True
        k += 1
    return False


def _listed(node: Node) -> tuple[tuple[str, ...] | None, tuple[Any, ...]]:
    """The names that members may have under a node, ascending, and patterns of more; (None, ()) where any may come."""
    if node.additional is not None and node.additional.empty:
        nodes = [node]
    elif node.additional is None and node.unevaluated_properties is not None and node.unevaluated_properties.empty:
        # What is evaluated in place may come too.
        nodes = _children_first((node,))
        if any(
            (one.additional is not None and not one.additional.empty)
            or (one.unevaluated_properties is not None and not one.unevaluated_properties.empty)
            for one in nodes
        ):
            return None, ()
    else:
        return None, ()
    names = {name for one in nodes for name, what in one.properties.items() if not what.empty}
    return tuple(sorted(names)), tuple(pattern for one in nodes for pattern, what in one.patterns if not what.empty)
