"""Real questions with verifiers, for selection among candidates: from GSM8K single calculations and the questions with the
shortest solutions, countdown, Spider's questions, whose queries are run, and HumanEval's, whose programs are tested."""

from __future__ import annotations

import ast
import json
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import permutations, product
from pathlib import Path
from typing import Any

from bench.harness import DATA
from decoding.rewards.sql_match import SqlMatch
from decoding.rewards.unit_tests import UnitTests
from grammars.choice import Choice
from grammars.constraint import Language
from grammars.regex import Regex
from grammars.sql import Sql
from samplers.reward import Candidate
from samplers.rewards.numeric_match import NumericMatch

_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True)
class Problem:
    """prompt: shots and question, up to where the answer starts; question: alone, as a judge sees it; correct: the verifier;
    language: what the candidates are held to, by token masking."""

    id: str
    prompt: str
    question: str
    correct: Callable[[str], bool]
    language: Language | None = None


@dataclass(frozen=True)
class Family:
    """Problems drawn and judged alike. criteria: what the judge is told to look at; temperature: of the draws."""

    problems: tuple[Problem, ...]
    criteria: str
    stop: tuple[str, ...]
    max_tokens: int
    temperature: float


def family(name: str, count: int) -> Family:
    """The first so many problems of a family; fewer where it has fewer."""
    return FAMILIES[name](count)


def _arithmetic(count: int) -> Family:
    """Calculations with two whole numbers that stand in GSM8K's test solutions, each once; eight of the training set before."""
    folder = DATA / "gsm8k"
    shots = _calculations(row["answer"] for row in _lines(folder / "train_fewshot.jsonl"))[:8]
    head = "".join(f"{asked} = {result}\n" for asked, result in shots)
    rows = _calculations(row["solution"] for row in _lines(folder / "test.jsonl"))
    problems = [
        Problem(
            f"arithmetic {asked}",
            f"{head}{asked} =",
            f"What is {asked}?",
            lambda text, result=result: text.strip() == result,  # type: ignore[misc]
        )
        for asked, result in rows[:count]
    ]
    return Family(tuple(problems), "Judge whether the answer to the calculation is right.", ("\n",), 8, 1.0)


def _calculations(solutions: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs such as ("70 - 55", "15"), one for each that is annotated as <<70-55=15>>; those of one digit each are left out."""
    found: dict[str, str] = {}
    for solution in solutions:
        for left, sign, right, result in re.findall(r"<<(\d+)([-+*/])(\d+)=(\d+)>>", solution):
            if len(left) + len(right) > 2:
                found[f"{left} {sign} {right}"] = result
    return list(found.items())


def _countdown(count: int) -> Family:
    """Three numbers; the first eight problems are the shots. Candidates are expressions that use each number once."""
    rows = [row for row in _lines(DATA / "countdown" / "problems.jsonl") if len(row["numbers"]) == 3]

    def asked(row: dict[str, Any]) -> str:
        numbers = ", ".join(map(str, row["numbers"]))
        return f"Numbers: {numbers}. Target: {row['target']}."

    head = "".join(f"{asked(row)}\nAnswer: {row['solution']}\n\n" for row in rows[:8])
    problems = [
        Problem(
            row["id"],
            f"{head}{asked(row)}\nAnswer:",
            f"Combine the numbers with + - * / to make the target, each number once. {asked(row)}",
            lambda text, row=row: reaches(text, row["numbers"], row["target"]),  # type: ignore[misc]
            Choice([f" {one}" for one in expressions(row["numbers"])]),
        )
        for row in rows[8 : 8 + count]
    ]
    criteria = "Judge whether the expression comes to the target."
    return Family(tuple(problems), criteria, (), 24, 0.7)


def expressions(numbers: Sequence[int]) -> list[str]:
    """Every expression of three numbers, each used once, written as the solutions are; two orders count as two."""
    found = [
        form.format(a=a, b=b, c=c, f=f, g=g)
        for (a, b, c), f, g in product(permutations(numbers), "+-*/", "+-*/")
        for form in ("({a} {f} {b}) {g} {c}", "{a} {f} ({b} {g} {c})")
    ]
    return list(dict.fromkeys(found))


def _humaneval(count: int) -> Family:
    """The problems with the shortest solutions, as they stand. Candidates are indented lines, until a fence closes them."""
    rows = sorted(_lines(DATA / "humaneval" / "problems.jsonl"), key=lambda row: len(row["canonical_solution"]))
    problems = []
    for row in rows[:count]:
        tests = UnitTests(row["test"], prefix=row["prompt"], entry_point=row["entry_point"], processes=1)
        problems.append(
            Problem(
                row["task_id"],
                row["prompt"],
                f"Write the body of this function.\n{row['prompt']}",
                lambda text, tests=tests: tests.score([Candidate("", text)])[0] == 1.0,  # type: ignore[misc]
                Regex(r"    [^\n`]+(\n(    [^\n`]+)?)*(\n```)?"),
            )
        )
    return Family(tuple(problems), "Judge whether the code is right.", ("\n```",), 96, 0.7)


def _gsm8k(count: int) -> Family:
    """The questions with the shortest solutions, after the four shortest of the training set."""
    folder = DATA / "gsm8k"
    shots = sorted(_lines(folder / "train_fewshot.jsonl"), key=lambda row: len(row["answer"]))[:4]
    head = "".join(f"Question: {one['question']}\nAnswer: {re.sub('<<.*?>>', '', one['answer'])}\n\n" for one in shots)
    test = sorted(_lines(folder / "test.jsonl"), key=lambda row: len(row["solution"]))[:count]
    problems = []
    for row in test:
        match = NumericMatch(row["answer"])
        problems.append(
            Problem(
                row["id"],
                f"{head}Question: {row['question']}\nAnswer:",
                row["question"],
                lambda text, match=match: match.score([Candidate("", text)])[0] == 1.0,  # type: ignore[misc]
            )
        )
    criteria = "Judge whether the answer to the question is right."
    return Family(tuple(problems), criteria, ("\n\n", "Question:"), 80, 0.7)


def _sql(count: int) -> Family:
    """Questions spread over the databases. Candidates are queries of the live schema; right is one that gives the gold rows."""
    folder = DATA / "sql"
    rows = _lines(folder / "questions.jsonl")
    rows = [rows[k * len(rows) // count] for k in range(min(count, len(rows)))]  # they are sorted by database
    paths = {name: folder / "database" / name / f"{name}.sqlite" for name in {row["db_id"] for row in rows}}
    languages = {name: Sql(str(path)) for name, path in paths.items()}
    problems = []
    for row in rows:
        match = SqlMatch(paths[row["db_id"]], row["query"])
        problems.append(
            Problem(
                row["id"],
                languages[row["db_id"]].prompt(row["question"]),
                f"Write a SQL query. {row['question']}",
                lambda text, match=match: match.score([Candidate("", text)])[0] == 1.0,  # type: ignore[misc]
                languages[row["db_id"]],
            )
        )
    return Family(tuple(problems), "Judge whether the SQL query answers the question.", (), 64, 0.7)


def reaches(text: str, numbers: Sequence[int], target: int) -> bool:
    """Whether a text is an expression that uses each number exactly once and comes to the target."""
    try:
        used: Counter[int] = Counter()
        value = _value(ast.parse(text.strip(), mode="eval").body, used)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
        return False
    return used == Counter(numbers) and value == target


def _value(node: ast.expr, used: Counter[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used[node.value] += 1
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left, used), _value(node.right, used))
    raise ValueError("only whole numbers and + - * / were wanted")


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


FAMILIES: dict[str, Callable[[int], Family]] = {
    "arithmetic": _arithmetic,
    "gsm8k": _gsm8k,
    "countdown": _countdown,
    "sql": _sql,
    "humaneval": _humaneval,
}
