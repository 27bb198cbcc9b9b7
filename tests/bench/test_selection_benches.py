"""What the benches of selection count: verifiers, agreement with people, and a pool that goes on where it was broken off."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bench.bench_judges import Pair, accuracy, first_digit, strict
from bench.bench_pool import auc, complete, pool_of
from bench.tasks_selection import DATA, FAMILIES, expressions, family, reaches

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data at {DATA}: REWEIGH_DATA names another place")


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("(82 - 76) * 85", True),
        (" 85*(82-76) ", True),
        ("510", False),
        ("(82 - 76) * 85 + 76 - 76", False),
        ("(82 - 76) * 84", False),
        ("85 / (82 - 82)", False),
        ("__import__('os').getpid()", False),
        ("(82 - 76) ** 85", False),
        ("(82 -", False),
        ("", False),
    ],
)
def test_an_expression_is_right_if_it_uses_each_number_once_and_comes_to_the_target(text: str, right: bool):
    assert reaches(text, [82, 76, 85], 510) is right


def test_division_is_exact():
    assert reaches("(7 / 3) * 9", [7, 3, 9], 21)


@needs_data
@pytest.mark.parametrize("name", FAMILIES)
def test_problems_of_a_family_differ_and_no_shot_answers_them(name: str):
    tasks = family(name, 20)
    assert len({problem.id for problem in tasks.problems}) == 20
    for problem in tasks.problems:
        head, last = problem.prompt.rsplit("\n", 2 if name != "arithmetic" else 1)[0], problem.prompt[-7:]
        if name == "sql":  # a query stands on a line of its own
            assert problem.prompt.endswith(problem.question.removeprefix("Write a SQL query. ") + "\n")
        elif name == "humaneval":  # a function without its body, asked with nothing before it
            assert problem.prompt.endswith(('"""\n', "'''\n")) and problem.question.endswith(problem.prompt)
            head = ""
        else:
            assert last.strip().endswith((":", "="))
        assert problem.question.removeprefix("What is ").rstrip("?") not in head
        assert not problem.correct("") and not problem.correct("no number")


def test_expressions_use_each_number_once_and_solutions_are_among_them():
    found = expressions([82, 76, 85])
    assert len(found) == len(set(found)) == 6 * 16 * 2 and "(82 - 76) * 85" in found
    assert sum(reaches(one, [82, 76, 85], 510) for one in found) == 2 and reaches("85 * (82 - 76)", [82, 76, 85], 510)
    assert len(expressions([3, 3, 3])) == 16 * 2


@needs_data
def test_a_program_is_right_if_it_passes_its_tests():
    (problem,) = family("humaneval", 1).problems
    assert problem.id == "HumanEval/41"
    assert (
        problem.correct("    return n**2\n")
        and problem.correct("    return n*n")
        and not problem.correct("    return n\n")
    )


@needs_data
def test_calculations_are_right():
    problems = family("arithmetic", 60).problems
    assert len(problems) == 60
    for problem in problems:
        asked = problem.question.removeprefix("What is ").removesuffix("?")
        left, sign, right = asked.split()
        value = {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}.get(sign)
        value = int(left) / int(right) if value is None else value
        assert problem.correct(f" {value:g}") and not problem.correct(f" {value + 1:g}")


def test_no_preference_and_no_answer_count_half():
    pairs = [
        Pair("q", "a", "b", True),
        Pair("q", "a", "b", False),
        Pair("q", "a", "b", True),
        Pair("q", "a", "b", True),
    ]
    found = accuracy([0.3, 0.3, 0.0, math.nan], pairs)
    assert found["mean"] == 0.5 and found["no preference"] == 0.25 and found["failed"] == 0.25
    assert found["low"] < 0.5 < found["high"]
    # Wilson's interval of 9 in 10, to three digits.
    ten = accuracy([1.0] * 9 + [-1.0], [pairs[0]] * 10)
    assert (ten["low"], ten["high"]) == pytest.approx((0.596, 0.982), abs=5e-4)


def test_texts_of_a_judge_are_parsed_as_said():
    assert strict(" 4\n") == 4.0 and math.isnan(strict("4 out of 5"))
    assert first_digit("Score: 4/5") == 4.0 and math.isnan(first_digit("10 of 60")) and math.isnan(first_digit("good"))


def _written(path: Path, counts: dict[str, int]) -> None:
    lines = [
        {"prompt": prompt, "candidate": str(k), "correct": k % 2, "tokens": 3, "rewards": {"judge": None if k == 1 else 1.0 * k}}
        for prompt, count in counts.items()
        for k in range(count)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_pool_that_was_broken_off_goes_on_after_its_last_whole_prompt(tmp_path: Path):
    path = tmp_path / "candidates_x.jsonl"
    assert complete(path, 4) == set()
    _written(path, {"one": 4, "two": 4, "three": 2})
    assert complete(path, 4) == {"one", "two"}
    assert [json.loads(line)["prompt"] for line in path.read_text().splitlines()] == ["one"] * 4 + ["two"] * 4
    with pytest.raises(SystemExit, match="--k 4 or --fresh"):
        complete(path, 3)


def test_a_candidate_that_was_not_judged_is_left_out_of_the_pool(tmp_path: Path):
    path = tmp_path / "candidates_x.jsonl"
    _written(path, {"one": 3})
    pool = pool_of(path, "judge")
    assert pool.name == "pool_x_judge.jsonl"
    assert [json.loads(line)["reward"] for line in pool.read_text().splitlines()] == [0.0, 2.0]


def test_a_prompt_with_most_of_its_candidates_not_judged_is_left_out_of_the_pool(tmp_path: Path):
    path = tmp_path / "candidates_x.jsonl"
    _written(path, {"one": 3, "two": 3})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[3]["rewards"]["judge"] = None
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    kept = [json.loads(line)["prompt"] for line in pool_of(path, "judge").read_text().splitlines()]
    assert kept == ["one", "one"]


def test_auc_counts_pairs_of_a_right_and_a_wrong_candidate():
    def group(*pairs: tuple[int, float]) -> list[dict[str, object]]:
        return [{"correct": correct, "rewards": {"judge": reward}} for correct, reward in pairs]

    found = auc([group((1, 2.0), (0, 1.0), (0, 3.0)), group((1, 1.0), (0, 1.0)), group((1, 1.0))], "judge")
    assert found["prompts"] == 2 and found["mean"] == 0.5
