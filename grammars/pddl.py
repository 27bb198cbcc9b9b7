"""Goals of planning problems, in PDDL."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from grammars.compose import AllConstraint
from grammars.constraint import Constraint, Language
from grammars.errors import GrammarError
from grammars.pddl_goal import ConsistentGoalConstraint
from grammars.pddl_reachability import reachability
from grammars.pddl_reader import Fact, Problem, read, read_domain, read_problem
from grammars.registry import Example, grammar
from grammars.vocabulary import Vocabulary

# A gap is a space, or a line end with an indentation.
_GAP = r"GAP: / |\r?\n[ \t]{0,24}/"

_BLOCKS = """
(define (domain blocks) (:requirements :strips)
  (:predicates (clear ?x) (on ?x ?y) (fits ?x ?y))
  (:action move :parameters (?b ?x ?y)
    :precondition (and (clear ?b) (clear ?y) (on ?b ?x) (fits ?b ?y))
    :effect (and (on ?b ?y) (clear ?x) (not (on ?b ?x)) (not (clear ?y)))))
"""
_TOWER = """
(define (problem p) (:domain blocks) (:objects a b t u)
  (:init (on a t) (on b u) (clear a) (clear b) (fits a t) (fits a b) (fits b u) (fits b a))
"""
_ROADS = """
(define (domain roads) (:requirements :typing :negative-preconditions :disjunctive-preconditions :equality)
  (:types car van - vehicle place)
  (:predicates (at ?v - vehicle ?p - place) (full ?v - van) (day)))
"""
_MAP = "(define (problem q) (:domain roads) (:objects c - car v - van x y - place) (:init (at c x)))"


@grammar("pddl")
@dataclass(frozen=True)
class Pddl(Language):
    """The goals that a domain and a problem allow: `(:goal (and (on b1 b2) (clear b1)))`.

    Predicates are the domain's, with as many objects as they take, each of a fitting type: all of this is in an exact mask.
    Facts and conjunctions of them by default; `not`, `or`, `imply` and `=` where the domain's requirements have them (negative
    or disjunctive preconditions, equality, adl). Names are lower case; quantifiers and numbers are not offered. Between two
    parts stands a space or a line end with its indentation.

    domain, problem  the text of each, or its file; the problem's goal is not read, and its text may stop where it begins
    write            "goal": the whole section `(:goal ...)`; "formula": what stands in it
    consistent       True: one conjunction of facts that differ, each reachable from the initial state, and any two of them
                     together, as far as pairs of facts can tell (a block is on one other, the arm empty or holding). The
                     actions must be STRIPS.
    """

    domain: str
    problem: str
    write: str = "goal"
    consistent: bool = False

    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            {"pddl": {"domain": _BLOCKS, "problem": _TOWER, "consistent": True}},
            ("(:goal (and (on a b) (clear a)))", "(:goal (on a t))", "(:goal\n  (and\n    (on b a) (fits a b)))"),
            (
                "",
                "(:goal (and))",
                "(:goal (and (on a b) (on a t)))",
                "(:goal (and (on a b) (on b a)))",
                "(:goal (and (on a b) (on a b)))",
                "(:goal (on a a))",
                "(:goal (fits a a))",
                "(:goal (on a))",
                "(:goal (on a b)",
            ),
        ),
        Example(
            {"pddl": {"domain": _ROADS, "problem": _MAP, "write": "formula"}},
            ("(at c y)", "(day)", "(and (not (at v x)) (full v))", "(or (= x y) (imply (day) (at c x)))"),
            (
                "",
                "(at x c)",
                "(full c)",
                "(day v)",
                "(:goal (day))",
                "(= c)",
                "(and)",
                "(at c  y)",
                "(not)",
                "(exists (?x) (day))",
            ),
        ),
    )

    @classmethod
    def from_spec(cls, value: Any) -> Pddl:
        if not isinstance(value, dict) or not {"domain", "problem"} <= set(value):
            raise GrammarError('"pddl" takes {"domain": TEXT, "problem": TEXT}, and the options write and consistent')
        if unknown := sorted(set(value) - {"domain", "problem", "write", "consistent"}):
            raise GrammarError(f"pddl has no option {unknown[0]!r}; it has consistent, domain, problem, write")
        return cls(**value)

    def __post_init__(self) -> None:
        for name in ("domain", "problem"):
            object.__setattr__(self, name, _text_of(getattr(self, name), name))
        if self.write not in ("goal", "formula"):
            raise GrammarError(f"pddl: write={self.write!r} must be 'goal' or 'formula'")
        if not isinstance(self.consistent, bool):
            raise GrammarError(f"pddl: consistent={self.consistent!r} must be True or False")
        problem = self._problem()
        self._grammar(problem)
        if self.consistent:
            reachability(problem)

    def _problem(self) -> Problem:
        return read_problem(self.problem, read_domain(self.domain))

    @property
    def spec(self) -> dict[str, Any]:
        own: dict[str, Any] = {"domain": self.domain, "problem": self.problem}
        if self.write != "goal":
            own["write"] = self.write
        if self.consistent:
            own["consistent"] = True
        return {"pddl": own}

    def compile(self, vocabulary: Vocabulary) -> Constraint:
        from grammars.llguidance_engine import compile_guided

        problem = self._problem()
        mask = compile_guided(self._grammar(problem), vocabulary, lambda message: GrammarError(f"PDDL goal: {message}"))
        if not self.consistent:
            return mask
        return AllConstraint((mask, ConsistentGoalConstraint(reachability(problem), vocabulary)), vocabulary)

    def parse(self, text: str) -> frozenset[Fact] | Any:
        """The facts of a conjunction as a set of tuples; any other formula as nested lists."""
        formula = read(text, "goal")
        if formula[0] == ":goal":
            formula = formula[1]
        facts = formula[1:] if formula[0] == "and" else [formula]
        names = set(self._problem().domain.predicates)
        if all(fact[0] in names for fact in facts):
            return frozenset(tuple(fact) for fact in facts)
        return formula

    def _grammar(self, problem: Problem) -> str:
        """The goals as a grammar in llguidance's Lark dialect."""
        required = problem.domain.requirements
        places: dict[frozenset[str], str] = {}

        def place(names: Iterable[str]) -> str:
            return places.setdefault(frozenset(names), f"OBJECT_{len(places)}")

        facts = []
        for name, takes in problem.domain.predicates.items():
            fitting = [problem.fitting(types) for types in takes]
            if all(fitting):
                facts.append(" ".join([f'"({name}"', *(f"GAP {place(names)}" for names in fitting), '")"']))
        if not facts:
            raise GrammarError(
                "PDDL: no predicate has objects of its types in this problem, so there is nothing to write"
            )
        formulas = ["fact", "conjunction"]
        if not self.consistent:
            if required & {":negative-preconditions", ":adl"}:
                formulas.append('"(not" GAP formula ")"')
            if required & {":disjunctive-preconditions", ":adl"}:
                formulas += ['"(or" (GAP? formula)+ GAP? ")"', '"(imply" GAP? formula GAP? formula ")"']
            if required & {":equality", ":adl"}:
                anything = place(problem.objects)
                formulas.append(f'"(=" GAP {anything} GAP {anything} ")"')
        inner = "formula" if len(formulas) > 2 else "fact"
        rules = [
            'start: "(:goal" GAP? formula GAP? ")"' if self.write == "goal" else "start: formula",
            f"formula: {' | '.join(formulas)}",
            f'conjunction: "(and" (GAP? {inner})+ GAP? ")"',
            f"fact: {' | '.join(facts)}",
            *(f"{name}: {' | '.join(_quoted(names))}" for names, name in places.items()),
            _GAP,
        ]
        return "\n".join(rules)


def _quoted(names: Iterable[str]) -> list[str]:
    return [f'"{name}"' for name in sorted(names)]


def _text_of(value: Any, name: str) -> str:
    """A PDDL text: given as such, or as the file that holds it."""
    if isinstance(value, Path) or (isinstance(value, str) and "(" not in value and value.strip()):
        try:
            return Path(value).read_text()
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise GrammarError(
                f"pddl: {name} file {str(value)!r} cannot be read: {error}; give its text or a path"
            ) from error
    if not isinstance(value, str):
        raise GrammarError(f"pddl: {name} must be a text or a path, not {type(value).__name__}")
    return value
