"""PDDL domains and problems, read as far as a goal needs them: types, predicates, objects, the initial state, actions.

Source: Fox & Long (2003), "PDDL2.1", without numbers and time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from grammars.errors import GrammarError

Expression = Any
"""A name, or a list of expressions."""
Fact = tuple[str, ...]
"""A predicate and its objects: ("on", "b1", "b2")."""

_TOKEN = re.compile(r"\s+|;[^\n]*|(?P<token>[()]|[^\s();]+)")
_NAME = re.compile(r"[a-z][a-z0-9_-]*")


@dataclass(frozen=True)
class Action:
    """parameters: variables with the types they take; precondition and effect as written, None where there is none."""

    name: str
    parameters: tuple[tuple[str, frozenset[str]], ...]
    precondition: Expression
    effect: Expression


@dataclass(frozen=True)
class Domain:
    """supertypes: every type with itself and all above it; predicates: the types that each place takes."""

    name: str
    requirements: frozenset[str]
    supertypes: Mapping[str, frozenset[str]]
    constants: Mapping[str, frozenset[str]]
    predicates: Mapping[str, tuple[frozenset[str], ...]]
    actions: tuple[Action, ...]


@dataclass(frozen=True)
class Problem:
    """objects: the problem's and the domain's constants, each with its types and all above them."""

    domain: Domain
    objects: Mapping[str, frozenset[str]]
    init: frozenset[Fact]

    def fitting(self, types: frozenset[str]) -> list[str]:
        """The objects that a place with these types takes, in the order of the problem."""
        return [name for name, own in self.objects.items() if own & types]


def read(text: str, what: str) -> Expression:
    """The one expression of a text, in lower case. what: how messages call it."""
    open_lists: list[tuple[int, list[Expression]]] = []
    whole: Expression = None
    for found in _TOKEN.finditer(text):
        token = found["token"]
        if token is None:
            continue
        line = text.count("\n", 0, found.start()) + 1
        if whole is not None:
            raise GrammarError(f"PDDL {what}, line {line}: {token!r} after the end; remove it")
        if token == "(":
            open_lists.append((line, []))
        elif not open_lists:
            raise GrammarError(f"PDDL {what}, line {line}: {token!r} where '(' was expected; begin with (define ...)")
        elif token == ")":
            _, items = open_lists.pop()
            if open_lists:
                open_lists[-1][1].append(items)
            else:
                whole = items
        else:
            open_lists[-1][1].append(token.lower())
    if open_lists:
        raise GrammarError(f"PDDL {what}: the parenthesis of line {open_lists[-1][0]} is not closed; add ')'")
    if whole is None:
        raise GrammarError(f"PDDL {what} is empty; give the text of a (define ...)")
    return whole


def read_domain(text: str) -> Domain:
    sections = _sections(read(text, "domain"), "domain")
    supertypes = _supertypes(sections.get(":types", []))
    predicates = {}
    for declared in sections.get(":predicates", []):
        if not isinstance(declared, list) or not declared or not isinstance(declared[0], str):
            raise GrammarError(f"PDDL domain: predicate {shown(declared)} must look like (on ?x ?y)")
        parameters = _typed(declared[1:], supertypes, f"predicate {declared[0]}")
        predicates[declared[0]] = tuple(types for _, types in parameters)
    if not predicates:
        raise GrammarError("PDDL domain has no predicates, so there is nothing a goal could say; add (:predicates ...)")
    constants = _objects(sections.get(":constants", []), supertypes, "domain's constants")
    actions = tuple(_action(body, supertypes) for body in sections.get(":action", []))
    requirements = frozenset(name for name in sections.get(":requirements", []) if isinstance(name, str))
    return Domain(sections["name"], requirements, supertypes, constants, predicates, actions)


def read_problem(text: str, domain: Domain) -> Problem:
    """The objects and the initial state; a goal, if there is one, is not read. The text may stop where the goal begins."""
    cut = re.search(r"\(\s*:goal\b", text)
    stops_there = text.count("(") == text.count(")") + 1
    sections = _sections(read(text[: cut.start()] + ")" if cut else text + ")" * stops_there, "problem"), "problem")
    named = sections.get(":domain", [domain.name])
    if named != [domain.name]:
        raise GrammarError(f"PDDL problem is of domain {shown(named[0])}, but the domain given is {domain.name!r}")
    objects = _objects(sections.get(":objects", []), domain.supertypes, "problem's objects")
    known = {**domain.constants, **objects}
    if not known:
        raise GrammarError("PDDL problem has no objects, so no goal can name any; add (:objects ...)")
    problem = Problem(domain, known, frozenset())
    init = frozenset(_fact(item, problem) for item in sections.get(":init", []) if not _is_numeric(item))
    return Problem(domain, known, init)


def shown(expression: Expression) -> str:
    text = expression if isinstance(expression, str) else f"({' '.join(map(shown, expression))})"
    return text if len(text) <= 60 else text[:57] + "..."


def variables_replaced(expression: Expression, values: Mapping[str, str]) -> Expression:
    if isinstance(expression, str):
        return values.get(expression, expression)
    return [variables_replaced(item, values) for item in expression]


def _sections(whole: Expression, what: str) -> dict[str, Any]:
    """The body of a (define ...) by keyword; its name under "name", all actions under ":action"."""
    if len(whole) < 2 or whole[0] != "define" or not isinstance(whole[1], list) or len(whole[1]) != 2:
        raise GrammarError(f"PDDL {what} must be (define ({what} NAME) ...), not {shown(whole)}")
    if whole[1][0] != what:
        raise GrammarError(f"PDDL {what} was expected, but this is a {shown(whole[1][0])}")
    sections: dict[str, Any] = {"name": whole[1][1]}
    for part in whole[2:]:
        if not isinstance(part, list) or not part or not isinstance(part[0], str):
            raise GrammarError(f"PDDL {what}: {shown(part)} is no section; sections look like (:objects ...)")
        if part[0] == ":action":
            sections.setdefault(":action", []).append(part[1:])
        else:
            sections[part[0]] = part[1:]
    return sections


def _listed(items: Iterable[Expression], where: str) -> Iterator[tuple[str, Expression]]:
    """Names with the type behind the next dash: `a b - block c`. The type is "object" where none is written."""
    waiting: list[str] = []
    rest = iter(items)
    for item in rest:
        if item == "-":
            kind = next(rest, None)
            if kind is None:
                raise GrammarError(f"PDDL {where}: a type must follow the dash")
            yield from ((name, kind) for name in waiting)
            waiting = []
        elif isinstance(item, str):
            waiting.append(item)
        else:
            raise GrammarError(f"PDDL {where}: {shown(item)} where a name was expected")
    yield from ((name, "object") for name in waiting)


def _kinds(kind: Expression) -> list[str]:
    """The types of `block` or `(either block table)`."""
    return [kind] if isinstance(kind, str) else [name for name in kind[1:] if isinstance(name, str)]


def _supertypes(items: Iterable[Expression]) -> dict[str, frozenset[str]]:
    above: dict[str, set[str]] = {"object": set()}
    for name, kind in _listed(items, "types"):
        above.setdefault(name, set()).update(_kinds(kind))
        for parent in _kinds(kind):
            above.setdefault(parent, set())
    closed = {}
    for name in above:
        reached, todo = {name, "object"}, [name]
        while todo:
            new = above[todo.pop()] - reached
            reached |= new
            todo += new
        closed[name] = frozenset(reached)
    return closed


def _typed(items: Iterable[Expression], supertypes: Mapping[str, Any], where: str) -> list[tuple[str, frozenset[str]]]:
    typed = []
    for name, kind in _listed(items, where):
        for one in _kinds(kind):
            if one not in supertypes:
                raise GrammarError(f"PDDL {where}: type {one!r} of {name} is not declared; add it to (:types ...)")
        typed.append((name, frozenset(_kinds(kind))))
    return typed


def _objects(
    items: Iterable[Expression], supertypes: Mapping[str, frozenset[str]], where: str
) -> dict[str, frozenset[str]]:
    objects: dict[str, frozenset[str]] = {}
    for name, kinds in _typed(items, supertypes, where):
        if name in objects:
            raise GrammarError(f"PDDL {where}: {name} is declared twice; remove one")
        if not _NAME.fullmatch(name):
            raise GrammarError(f"PDDL {where}: {name!r} is no name; names are a letter, then letters, digits, - and _")
        objects[name] = frozenset().union(*(supertypes[kind] for kind in kinds))
    return objects


def _is_numeric(item: Expression) -> bool:
    return isinstance(item, list) and bool(item) and item[0] == "="


def _fact(item: Expression, problem: Problem) -> Fact:
    if not isinstance(item, list) or not all(isinstance(name, str) for name in item) or not item:
        raise GrammarError(f"PDDL problem: {shown(item)} in (:init ...) is no fact such as (on b1 b2)")
    places = problem.domain.predicates.get(item[0])
    if places is None:
        raise GrammarError(f"PDDL problem: predicate {item[0]!r} in (:init ...) is not declared by the domain")
    if len(places) != len(item) - 1:
        raise GrammarError(f"PDDL problem: {shown(item)} in (:init ...) has {len(item) - 1} objects, not {len(places)}")
    for name in item[1:]:
        if name not in problem.objects:
            raise GrammarError(f"PDDL problem: {name!r} in {shown(item)} of (:init ...) is not among its objects")
    return tuple(item)


def _action(body: list[Expression], supertypes: Mapping[str, Any]) -> Action:
    name = body[0] if body and isinstance(body[0], str) else "?"
    parts = dict(zip(body[1::2], body[2::2])) if all(isinstance(key, str) for key in body[1::2]) else {}
    parameters = _typed(parts.get(":parameters", []), supertypes, f"action {name}")
    return Action(name, tuple(parameters), parts.get(":precondition"), parts.get(":effect"))
