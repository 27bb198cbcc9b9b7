"""The generating commands in process, on the tests' shared engine: what is printed where."""

from __future__ import annotations

import json
import math
import os
import re
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from server.cli import main

if TYPE_CHECKING:
    from decoding.engine import Engine

pytestmark = pytest.mark.engine
FEW = ["--particles", "4", "--seed", "3", "--max-tokens", "40"]


@pytest.fixture
def reweigh(engine: Engine, capfd: pytest.CaptureFixture[str]) -> Any:
    """Run a command on the shared engine: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments, engine=engine)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


NAMES = '{"choice": ["SELECT name FROM singer", "SELECT name FROM singer ORDER BY age"]}'


@pytest.fixture
def music(tmp_path: Path) -> Path:
    path = tmp_path / "music.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE singer (name TEXT, age INTEGER)")
        connection.executemany("INSERT INTO singer VALUES (?, ?)", [("Zoë", 31), ("Ann", 25)])
    return path


def test_the_text_is_alone_on_stdout_and_the_summary_on_stderr(reweigh: Any):
    code, out, err = reweigh("regex", "A year:", "--pattern", "[12][0-9]{3}", *FEW)
    assert code == 0 and re.fullmatch(r"[12][0-9]{3}\n", out)
    assert re.search(r"log_z -[0-9.]+ · ess [0-9.]+ of 4 .* seed 3\n$", err)
    assert reweigh("regex", "A year:", "--pattern", "[12][0-9]{3}", *FEW, "-q") == (0, out, "")


def test_the_envelope_agrees_with_itself(reweigh: Any):
    code, out, err = reweigh("json", "A dog.", "--schema", 'size "S"|"M"|"L", wet bool', "--json", *FEW)
    assert code == 0, err
    found = json.loads(out)
    assert found["version"] == 1 and found["seed"] == 3 and len(found["texts"]) == 4
    assert found["text"] == found["posterior"][0]["text"] and found["parsed"] == json.loads(found["text"])
    assert found["weight"] == found["posterior"][0]["weight"] == max(one["weight"] for one in found["posterior"])
    assert math.isclose(sum(one["weight"] for one in found["posterior"]), 1.0)
    log_mean = math.log(sum(math.exp(w) for w in found["log_weights"] if w is not None) / 4)
    assert math.isclose(found["log_z"], log_mean)
    assert found["usage"]["sampled_tokens"] >= found["usage"]["completion_tokens"] > 0
    assert found["timings"]["wall_s"] > 0 and found["timings"]["load_s"] is None
    assert {"checks_per_token", "ess", "model", "stats", "ancestry", "values"} <= set(found)


def test_n_prints_the_likeliest_first(reweigh: Any):
    _, out, _ = reweigh("choice", "Is water wet?", "--options", "yes", "no", "wet", "--particles", "32", "--n", "3")
    lines = out.splitlines()
    assert 1 < len(lines) <= 3 and len(set(lines)) == len(lines)


def test_a_constraint_of_every_kind_is_kept(reweigh: Any, tmp_path: Path, music: Path):
    lark = tmp_path / "sum.lark"
    lark.write_text('start: N ("+" N)+\nN: /[0-9]/\n')
    domain = tmp_path / "domain.pddl"
    domain.write_text("(define (domain d) (:requirements :strips) (:predicates (clear ?x) (on ?x ?y)))")
    problem = tmp_path / "problem.pddl"
    problem.write_text("(define (problem p) (:domain d) (:objects a b) (:init (on a b)))")
    names = tmp_path / "names.txt"
    names.write_text("Paris\nRome\n")
    module = tmp_path / "rules.py"
    module.write_text(
        "def plain(text, complete):\n    return not set(text) & set('e7') and (len(text) > 0 or not complete)\n"
    )
    for arguments, accepted in (
        (["grammar", "A sum:", "--lark", str(lark)], r"\d(\+\d)+"),
        (["choice", "Italy's capital:", "--names", str(names)], "Paris|Rome"),
        (["predicate", "A word:", "--function", f"{module}:plain"], r"(?s)[^e7]+"),
        (["text", "A digit:", "--constraint", '{"any": [{"regex": "[0-9]"}, {"choice": ["none"]}]}'], "[0-9]|none"),
        (["regex", "Digits:", "--pattern", "[0-9]{2,9}", "--and", f"{module}:plain"], r"[0-689]{2,9}"),
        (["pddl", "Put a on b.", "--domain", str(domain), "--problem", str(problem)], r"(?s)\(:goal\s.*\)"),
        (
            ["smiles", "A molecule:", "--and", '{"choice": ["CO", "C=O", "F=F=F", "C(C"]}', "--elements", "C", "O"],
            "CO|C=O",
        ),
        (["sql", "How many singers?", "--db", str(music)], r"(?is)\s*(select|with)\b.*"),
    ):
        code, out, err = reweigh(arguments[0], *FEW, *arguments[1:])
        assert code == 0, (arguments, err)
        assert re.fullmatch(accepted, out[:-1]), (arguments, out)


def test_a_query_is_executed_and_its_rows_are_printed(reweigh: Any, music: Path):
    arguments = ["sql", "The names of all singers?", "--db", str(music), "--execute", "--particles", "4", "--seed", "1"]
    code, out, err = reweigh(
        *arguments,
        "--jsonl",
        "--max-rows",
        "5",
        "--show-prompt",
        "--and",
        NAMES,
    )
    assert code == 0, err
    assert "CREATE TABLE singer" in err and re.search(r"^SELECT name FROM singer", err, re.M)
    assert all(set(json.loads(line)) == {"name"} for line in out.splitlines())
    code, out, err = reweigh(*arguments, "-q", "--and", NAMES)
    assert code == 0 and err == "" and re.search(r"\(\d rows?\)$", out)


def test_what_cannot_be_done_has_its_exit_code(reweigh: Any, music: Path, tmp_path: Path):
    module = tmp_path / "never.py"
    module.write_text("def nothing(text): return False\ndef raises(text, complete): return 1 / 0\n")
    for arguments, code, said in (
        (["predicate", "x", "--function", f"{module}:nothing"], 3, "DeadEnd"),
        (["predicate", "x", "--function", f"{module}:raises"], 1, "ZeroDivisionError"),
        (["regex", "x", "--pattern", "a{40,}", "--particles", "64"], 2, "particles=64"),
        (["text", "x", "--timeout", "0.001"], 124, "timeout_s=0.001"),
        (["regex", "x", "--pattern", "a", "--raw", "--system", "Be brief."], 2, "--system"),
        (["sql", "x", "--db", str(music), "--csv"], 2, "--csv"),
        (["sql", "x", "--db", str(music), "--max-rows", "3"], 2, "--max-rows"),
        (["sql", "x", "--db", str(music), "--execute", "--max-rows", "0"], 2, "max_rows"),
        (["sql", "x", "--db", str(tmp_path / "no.sqlite")], 2, "no.sqlite"),
    ):
        found = reweigh(arguments[0], *FEW, *arguments[1:])
        assert found[0] == code and said in found[2] and found[1] == "", (arguments, found)


def test_explain_shows_who_refused_what_and_where_the_mass_went(reweigh: Any):
    code, out, err = reweigh(
        "regex", "A number:", "--pattern", "[0-9]{1,3}", "--and", '{"choice": ["7", "12", "300"]}', "--explain", *FEW
    )
    assert code == 0 and out.strip() in ("7", "12", "300")
    lines = err.splitlines()
    assert re.match(r"particle \d of 4: stop, weight [0-9.]+%, log weight -", lines[0])
    assert lines[1].split()[:2] == ["step", "text"]
    assert "<end>" in err and ("regex [0-9]{1,3}" in err or "choice [" in err)
    (bill,) = [line for line in lines if line.startswith("log of the mass allowed")]
    assert re.search(r"all steps: -\d+\.\d+; most of it went at step \d", bill)


def test_explain_tells_of_particles_that_all_died(reweigh: Any, tmp_path: Path):
    module = tmp_path / "dead.py"
    module.write_text("def ends_never(text, complete): return not complete and len(text) < 3\n")
    code, _, err = reweigh("predicate", "x", "--function", f"{module}:ends_never", "--explain", *FEW)
    assert code == 3 and "particle " in err and "DeadEnd" in err


def test_a_system_message_and_raw_change_what_the_model_reads(reweigh: Any):
    def log_z(*more: str) -> float:
        return float(
            json.loads(reweigh("choice", "Yes or no?", *FEW, "--json", *more, "--options", "yes", "no")[1])["log_z"]
        )

    assert len({round(log_z(), 6), round(log_z("--raw"), 6), round(log_z("--system", "Always say no."), 6)}) == 3


def test_a_reader_that_goes_away_ends_the_command_quietly(engine: Engine, capfd: pytest.CaptureFixture[str]):
    reader, writer = os.pipe()
    os.close(reader)
    kept = os.dup(1)
    os.dup2(writer, 1)
    os.close(writer)
    try:
        import sys

        before, sys.stdout = sys.stdout, os.fdopen(os.dup(1), "w")
        code = main(["choice", "x", "--options", "a", "b", *FEW, "-q"], engine=engine)
    finally:
        sys.stdout = before
        os.dup2(kept, 1)
        os.close(kept)
    assert code == 141 and capfd.readouterr().err == ""


def test_the_demo_shows_both_laws(reweigh: Any):
    code, out, _ = reweigh("demo", "--particles", "4")
    assert code == 0 and "token masking alone" in out and "weighted: SMC" in out and "best as a Python value: {" in out


def test_explain_shows_where_a_text_was_steered(reweigh: Any, monkeypatch: pytest.MonkeyPatch):
    asked = ["generate", "The nurse was tired because", "--raw", "--and", '{"regex": " (he|she|it) was"}', "--particles", "1",
             "--seed", "2", "--max-tokens", "8"]  # fmt: skip
    code, out, err = reweigh(*asked, "--debias", "gender", "--detox", "--explain")
    assert code == 0 and out.strip().endswith("was")
    assert re.search(r"steered at [123] of 3 tokens: 0\.\d+ nats of KL", err), err
    assert "a draw from the steered law, which its weight corrects" in err
    assert re.search(r"\{[+-]? (he|she|it)[+-]?\} was", err), err
    _, _, err = reweigh(
        *asked[:1], "The nurse said she was tired because", *asked[2:], "--debias", "gender", "--explain"
    )
    assert "gender: not balanced, the prompt names somebody itself" in err
    _, plain, err = reweigh(*asked, "--explain")
    assert "steered" not in err and plain.strip().endswith("was")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--detox-strength", "11"], "detox=11.0: a number from 0 to 10"),
        (["--debias", "height"], "no axis 'height'"),
        (["--debias", "{"], "--debias"),
        (["--adaptation", '{"method": "tilt"}'], "would do nothing"),
        (["--detox", "--adaptation", '{"signal": "niceness"}'], "signal 'niceness' is not known"),
        (["--top-p", "0"], "top_p=0.0: a number above 0"),
    ],
    ids=str,
)
def test_steering_out_of_range_is_a_usage_error(reweigh: Any, options: list[str], said: str):
    code, out, err = reweigh("text", "x", *options)
    assert (code, out) == (2, "") and said in err
