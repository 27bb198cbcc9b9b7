"""Which facts can ever be true, and which two of them at once: what no sequence of actions can make is no goal.

The planning graph's pairs, at their fixed point: a superset of what is reachable, and in small domains close to it. A block
is on one other, the arm is empty or holds something, a ball is in one room.
Source: Haslum & Geffner (2000), "Admissible heuristics for optimal planning", h^2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from grammars.errors import GrammarError
from grammars.pddl_reader import Action, Expression, Fact, Problem, shown, variables_replaced

MOST_ACTIONS = 50_000


@dataclass(frozen=True)
class Reachability:
    """facts that may become true, in order; together[k] has bit j where facts k and j may be true at once, bit k included."""

    facts: tuple[Fact, ...]
    together: tuple[int, ...]


@dataclass(frozen=True)
class _Step:
    """One action with objects in place of variables: sets of facts as bits."""

    needs: int
    adds: int
    deletes: int


def reachability(problem: Problem) -> Reachability:
    """Raises GrammarError for actions that are not STRIPS, or too many."""
    number: dict[Fact, int] = {}
    for fact in sorted(problem.init):
        number[fact] = len(number)
    changing = {literal[1] for action in problem.domain.actions for literal in _literals(action, action.effect)}
    static = {fact for fact in problem.init if fact[0] not in changing}
    steps = []
    for action in problem.domain.actions:
        for values in _groundings(action, problem, static, changing):
            steps.append(_step(action, values, number))
            if len(steps) > MOST_ACTIONS:
                raise GrammarError(f"PDDL: more than {MOST_ACTIONS} actions with their objects; use consistent=False")
    init = sum(1 << number[fact] for fact in problem.init)
    together = [init if init >> k & 1 else 0 for k in range(len(number))]
    reached = init
    while True:
        before = (reached, tuple(together))
        for step in steps:
            if step.needs & ~reached:
                continue
            kept = reached
            for k in _bits(step.needs):
                kept &= together[k]
            if step.needs & ~kept:
                continue
            reached |= step.adds
            after = kept & ~step.deletes | step.adds
            for k in _bits(step.adds):
                together[k] |= after
            for k in _bits(after):
                together[k] |= step.adds
        if before == (reached, tuple(together)):
            break
    return _only(reached, tuple(number), together)


def _only(reached: int, facts: tuple[Fact, ...], together: list[int]) -> Reachability:
    kept = list(_bits(reached))
    renumbered = [sum(1 << new for new, old in enumerate(kept) if together[k] >> old & 1) for k in kept]
    return Reachability(tuple(facts[k] for k in kept), tuple(renumbered))


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def _literals(action: Action, formula: Expression) -> list[tuple[bool, str, list[str]]]:
    """The conjunction of a precondition or an effect: (positive, predicate, arguments)."""
    if not formula:
        return []
    if formula[0] == "and":
        return [literal for part in formula[1:] for literal in _literals(action, part)]
    positive = formula[0] != "not"
    atom = formula if positive else formula[1]
    if atom[0] in ("and", "or", "not", "imply", "forall", "exists", "when", "increase", "decrease", "assign") or any(
        isinstance(item, list) for item in atom
    ):
        raise GrammarError(
            f"PDDL domain: action {action.name} has {shown(formula)}; consistent=True follows conjunctions of facts and their "
            "negations alone: use consistent=False"
        )
    return [(positive, atom[0], atom[1:])]


def _groundings(action: Action, problem: Problem, static: set[Fact], changing: set[str]) -> Iterator[dict[str, str]]:
    """Objects for the action's variables that its types and its facts which never change allow."""
    fixed = [
        (name, arguments)
        for positive, name, arguments in _literals(action, action.precondition)
        if positive and name != "=" and name not in changing
    ]

    def extend(values: dict[str, str], k: int) -> Iterator[dict[str, str]]:
        if k == len(action.parameters):
            yield dict(values)
            return
        variable, types = action.parameters[k]
        for name in problem.fitting(types):
            values[variable] = name
            known = [(p, [values.get(a, a) for a in arguments]) for p, arguments in fixed]
            if all(any(a.startswith("?") for a in arguments) or (p, *arguments) in static for p, arguments in known):
                yield from extend(values, k + 1)
            del values[variable]

    return extend({}, 0)


def _step(action: Action, values: dict[str, str], number: dict[Fact, int]) -> _Step:
    def bit(name: str, arguments: list[str]) -> int:
        fact = (name, *variables_replaced(arguments, values))
        return 1 << number.setdefault(fact, len(number))

    needs = adds = deletes = 0
    for positive, name, arguments in _literals(action, action.precondition):
        if positive and name != "=":
            needs |= bit(name, arguments)
    for positive, name, arguments in _literals(action, action.effect):
        if positive:
            adds |= bit(name, arguments)
        else:
            deletes |= bit(name, arguments)
    return _Step(needs, adds, deletes & ~adds)
