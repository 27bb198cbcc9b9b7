"""Goals of planning problems: the syntax, names, arity and types; facts that can be true together; errors by place."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest

from grammars.errors import GrammarError
from grammars.pddl import Pddl
from grammars.pddl_reachability import reachability
from grammars.pddl_reader import read_domain, read_problem
from grammars.registry import language_from_spec
from tests.grammars.small import SMALL, by_bytes, is_member, walk

DOMAIN = """
(define (domain d) ; a comment (with brackets
  (:requirements :strips :typing)
  (:types truck - vehicle vehicle place - object)
  (:constants home - place)
  (:predicates (at ?v - vehicle ?p - place) (near ?a ?b - (either place vehicle)) (raining))
  (:action go :parameters (?v - truck ?p ?q - place)
    :precondition (and (at ?v ?p)) :effect (and (at ?v ?q) (not (at ?v ?p)))))
"""
PROBLEM = "(define (problem p) (:domain d) (:objects t - truck c - vehicle inn - place) (:init (at t inn) (at c home)))"


@pytest.fixture(scope="module")
def planetarium(data: Path) -> list[tuple[str, dict[str, Any], str]]:
    """Domain, row and the goal section of the 50 problems."""
    folder = data / "planetarium"
    rows = [json.loads(line) for line in (folder / "problems.jsonl").read_text().splitlines()]
    found = []
    for row in rows:
        goal = re.search(r"\(:goal.*\)\)\)", row["problem_pddl"], re.S)
        assert goal is not None
        found.append(((folder / f"{row['domain']}.pddl").read_text(), row, goal[0]))
    return found


@pytest.mark.parametrize("consistent", [False, True])
def test_all_gold_goals_are_accepted_and_changed_ones_refused(planetarium, consistent):
    assert len(planetarium) == 50
    random = Random(1)
    for domain, row, goal in planetarium:
        constraint = Pddl(domain, row["problem_pddl"], consistent=consistent).compile(SMALL)
        assert is_member(constraint, goal), row["id"]
        fact = random.choice(re.findall(r"\([a-z-]+ [^()]+\)", goal))
        name, *arguments = fact[1:-1].split()
        for changed in (
            f"({name} {' '.join(arguments[:-1])} nobody)",
            f"({name} {' '.join(arguments)} {arguments[0]})",
            f"(near {' '.join(arguments)})",
            f"({name})",
            fact[:-1],
            fact[1:],
            fact.upper(),
        ):
            assert not is_member(constraint, goal.replace(fact, changed, 1)), changed


def test_consistent_goals_have_no_fact_twice_and_no_two_that_exclude_each_other(planetarium):
    domain, row, _ = next(entry for entry in planetarium if entry[1]["domain"] == "blocksworld")
    constraint = Pddl(domain, row["problem_pddl"], consistent=True).compile(SMALL)
    for facts, possible in (
        ("(on b1 b2) (on b2 b3)", True),
        ("(holding b1) (clear b2)", True),
        ("(on b1 b2) (on b1 b3)", False),
        ("(on b2 b1) (on b3 b1)", False),
        ("(on b1 b2) (on b2 b1)", False),
        ("(on b1 b1)", False),
        ("(on b1 b2) (clear b2)", False),
        ("(on b1 b2) (on-table b1)", False),
        ("(arm-empty) (holding b1)", False),
        ("(clear b1) (clear b1)", False),
    ):
        assert is_member(constraint, f"(:goal (and {facts}))") == possible, facts
    # Refused as soon as no fact with that beginning is left.
    assert by_bytes(constraint, b"(:goal (and (arm-empty) (h") is None
    assert by_bytes(constraint, b"(:goal (and (on b1 b2) (on b1") is None


def test_pairs_of_facts_are_those_of_an_exhaustive_search(planetarium):
    """Blocksworld with three blocks: facts of all states, found by following every action."""
    domain_text, row, _ = next(entry for entry in planetarium if entry[1]["num_objects"] == 3)
    found = reachability(read_problem(row["problem_pddl"], read_domain(domain_text)))
    start = frozenset({("arm-empty",), ("clear", "b3"), ("on", "b3", "b2"), ("on", "b2", "b1"), ("on-table", "b1")})
    seen, todo = {start}, [start]
    while todo:
        state = todo.pop()
        for after in _moves(state):
            if after not in seen:
                seen.add(after)
                todo.append(after)
    true = {(a, b) for state in seen for a, b in itertools.product(state, repeat=2)}
    own = {(a, b) for k, a in enumerate(found.facts) for j, b in enumerate(found.facts) if found.together[k] >> j & 1}
    assert own == true


def _moves(state: frozenset[tuple[str, ...]]) -> list[frozenset[tuple[str, ...]]]:
    after = []
    for fact in state:
        if fact[0] == "clear" and ("arm-empty",) in state:
            below = next((other for other in state if other[:2] == ("on", fact[1])), None)
            taken = {("on-table", fact[1])} if below is None else {below}
            freed = set() if below is None else {("clear", below[2])}
            after.append(state - {fact, ("arm-empty",)} - taken | {("holding", fact[1])} | freed)
        if fact[0] == "holding":
            rest = state - {fact} | {("arm-empty",), ("clear", fact[1])}
            after.append(rest | {("on-table", fact[1])})
            after += [rest - {on} | {("on", fact[1], on[1])} for on in state if on[0] == "clear"]
    return after


def test_types_with_their_supertypes_constants_and_either():
    constraint = Pddl(DOMAIN, PROBLEM, write="formula").compile(SMALL)
    assert constraint.start().mask_is_exact
    for text in ("(at t inn)", "(at c home)", "(near t home)", "(raining)", "(and (near inn c) (raining))"):
        assert is_member(constraint, text), text
    for text in (
        "(at inn t)",
        "(at t t)",
        "(raining t)",
        "(not (raining))",
        "(or (raining))",
        "(:goal (raining))",
        "(at t  inn)",
    ):
        assert not is_member(constraint, text), text


def test_consistency_follows_types_and_the_initial_state():
    constraint = Pddl(DOMAIN, PROBLEM, write="formula", consistent=True).compile(SMALL)
    for text, possible in (
        ("(and (at t home) (at c home))", True),
        ("(at c inn)", False),
        ("(raining)", False),
        ("(and (at t home) (at t inn))", False),
    ):
        assert is_member(constraint, text) == possible, text


def test_walks_end_in_goals_that_parse_to_consistent_facts():
    language, random = Pddl(DOMAIN, PROBLEM, consistent=True), Random(5)
    constraint = language.compile(SMALL)
    goals = {
        SMALL.decode(tokens).decode() for tokens, ended in (walk(constraint, random, 80) for _ in range(60)) if ended
    }
    assert goals
    for goal in goals:
        facts = language.parse(goal)
        assert facts and facts <= {("at", "t", "inn"), ("at", "t", "home"), ("at", "c", "home")}


def test_files_and_texts_are_the_same(tmp_path):
    domain, problem = tmp_path / "d.pddl", tmp_path / "p.pddl"
    domain.write_text(DOMAIN)
    problem.write_text(PROBLEM)
    assert Pddl(str(domain), str(problem)) == Pddl(DOMAIN, PROBLEM)
    assert Pddl(DOMAIN, PROBLEM[:-1] + " (:goal (and").spec["pddl"]["domain"] == DOMAIN


@pytest.mark.parametrize(
    ("domain", "problem", "message"),
    [
        ("nowhere.pddl", PROBLEM, "domain file 'nowhere.pddl' cannot be read"),
        (3, PROBLEM, "domain must be a text or a path, not int"),
        ("(define (domain d)\n (:predicates (a ?x)", PROBLEM, "parenthesis of line 2 is not closed"),
        ("(define (domain d))\n)", PROBLEM, r"line 2: '\)' after the end"),
        ("(define (domain d))", PROBLEM, "no predicates"),
        ("(define (problem d) (:predicates (a)))", PROBLEM, "domain was expected, but this is a problem"),
        ("(hello)", PROBLEM, r"must be \(define \(domain NAME\)"),
        ("(define (domain d) (:predicates (a ?x - ghost)))", PROBLEM, "predicate a: type 'ghost' of \\?x is not declared"),
        ("(define (domain d) (:predicates a))", PROBLEM, r"predicate a must look like"),
        (DOMAIN, "(define (problem p) (:domain e) (:objects))", "is of domain e, but the domain given is 'd'"),
        (DOMAIN, "(define (problem p) (:domain d) (:objects t - lorry))", "type 'lorry' of t is not declared"),
        (DOMAIN, "(define (problem p) (:domain d) (:objects t t - truck))", "t is declared twice"),
        (DOMAIN, "(define (problem p) (:domain d) (:objects 7up - truck))", "'7up' is no name"),
        (DOMAIN, PROBLEM.replace("(at t inn)", "(on t inn)"), "predicate 'on' in \\(:init"),
        (DOMAIN, PROBLEM.replace("(at t inn)", "(at t)"), "has 1 objects, not 2"),
        (DOMAIN, PROBLEM.replace("(at t inn)", "(at t pub)"), "'pub' in \\(at t pub\\) of \\(:init ...\\) is not among"),
        ("(define (domain d) (:predicates (a ?x)))", "(define (problem p) (:domain d))", "no objects"),
        ("(define (domain d) (:types k) (:predicates (a ?x - k)))", "(define (problem p) (:objects b))", "no predicate"),
    ],
)  # fmt: skip
def test_bad_domains_and_problems_are_refused_with_their_place(domain, problem, message):
    with pytest.raises(GrammarError, match=message):
        Pddl(domain, problem)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domain": DOMAIN}, '"pddl" takes'),
        ({"domain": DOMAIN, "problem": PROBLEM, "strict": True}, "no option 'strict'"),
        ({"domain": DOMAIN, "problem": PROBLEM, "write": "plan"}, "write='plan' must be 'goal' or 'formula'"),
        ({"domain": DOMAIN, "problem": PROBLEM, "consistent": 1}, "consistent=1"),
        (
            {"domain": DOMAIN.replace("(and (at ?v ?p))", "(or (at ?v ?p))"), "problem": PROBLEM, "consistent": True},
            "action go has \\(or \\(at \\?v \\?p\\)\\).*use consistent=False",
        ),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(GrammarError, match=message):
        language_from_spec({"pddl": options})
