"""`reweigh check`: reports, verdicts with their place, and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grammars.regex import Regex
from server.cli import main
from server.cli_verdict import verdict_on

SCHEMA = {
    "type": "object",
    "properties": {"tags": {"type": "array", "uniqueItems": True}, "when": {"type": "string", "format": "date"}},
    "required": ["tags"],
    "title": "A note",
}


def test_every_keyword_is_listed_with_what_enforces_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    assert main(["check", "--schema", str(path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    by = {(line[0], line[1]): line[-1] for line in lines if line and line[0].startswith("/")}
    assert by["/", "type"] == "mask" and by["/properties/tags", "uniqueItems"] == "predicate"
    assert by["/", "title"] == "annotation"
    assert main(["check", "--schema", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["compile_ms"] > 0 and not report["mask_is_exact"]
    assert {row["keyword"] for row in report["rows"]} == {
        "type", "properties", "required", "title", "uniqueItems", "format",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "text", "code", "said"),
    [
        (["--schema", "a int"], '{"a": 1}', 0, "accepted"),
        (["--schema", "a int"], '{"a": 1.5}', 3, "'.' at character 8 (line 1, column 8; byte 7)"),
        (["--schema", "a int"], '{"a": 1', 3, "ends too early, at character 8"),
        (["--schema", '{"type": "array", "uniqueItems": true}'], "[1,1]", 3, "character 5"),
        (["--regex", "é+x"], "éé", 3, "ends too early, at character 3 (line 1, column 3; byte 4)"),
        (["--regex", "[0-9]+"], "12a", 3, "'a' at character 3"),
        (["--options", "yes", "no", "--"], "maybe", 3, "'m' at character 1"),
        (["--smiles"], "CCO", 0, "accepted"),
        (["--smiles"], "F=C(F)(F)F", 3, "refused"),
        (["--constraint", '{"any": [{"regex": "a+"}, {"choice": ["b"]}]}'], "b", 0, "accepted"),
        (["--function", "PALINDROME"], "abba", 0, "accepted"),
        (["--function", "PALINDROME"], "abb", 3, "ends too early"),
    ],
)
def test_a_verdict_names_the_first_refused_character(
    arguments: list[str], text: str, code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    module = tmp_path / "judges.py"
    module.write_text("def palindrome(text):\n    return text == text[::-1]\n")
    arguments = [f"{module}:palindrome" if given == "PALINDROME" else given for given in arguments if given != "--"]
    assert main(["check", *arguments, "--text", text]) == code
    assert said in capsys.readouterr().out


def test_a_text_may_be_a_file_whose_last_line_end_does_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "answer.txt"
    path.write_text("ab\ncd\n")
    assert main(["check", "--regex", "ab\ncd", "--text", str(path)]) == 0
    assert main(["check", "--regex", "ab\nce", "--text", str(path), "--json"]) == 3
    verdict = json.loads(capsys.readouterr().out.splitlines()[-1])["verdict"]
    assert (verdict["line"], verdict["column"], verdict["byte"], verdict["found"]) == (2, 2, 4, "d")
    assert verdict["wanted"] == ["'e'"]


def test_a_query_is_judged_against_its_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import sqlite3

    path = tmp_path / "music.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE singer (name TEXT, age INTEGER)")
    assert main(["check", "--db", str(path), "--text", "SELECT name FROM singer WHERE age > 3"]) == 0
    assert main(["check", "--db", str(path), "--text", "SELECT nam FROM singer"]) == 3


def test_what_cannot_be_satisfied_or_read_has_its_exit_code(capsys: pytest.CaptureFixture[str]):
    assert main(["check", "--schema", "false"]) == 3
    assert main(["check", "--schema", '{"type": "sting"}']) == 4
    assert main(["check", "--regex", "("]) == 4
    assert main(["check", "--problem", "no-such.pddl"]) == 2
    assert main(["check"]) == 2
    assert main(["check", "--regex", "a", "--options", "b"]) == 2
    assert capsys.readouterr().out == ""


def test_a_character_refused_in_its_middle_is_placed_at_its_start():
    verdict = verdict_on(Regex("aé"), "aè")
    assert (verdict.accepted, verdict.character, verdict.byte, verdict.found) == (False, 1, 2, "è")
