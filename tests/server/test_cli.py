"""The command line as its users meet it: stdout, stderr, exit codes. One real run; the rest fails before a model is needed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from server.cli import main
from server.cli_demo import DEMO_SCHEMA
from server.cli_parser import parser


def run(*arguments: str, stdin: str = "", timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server.cli", *arguments], input=stdin, capture_output=True, text=True, timeout=timeout
    )


def test_help_needs_neither_torch_nor_vllm():
    """Nothing heavy is imported: that is what keeps --help instant."""
    loaded = "print([name for name in ('torch', 'vllm', 'transformers', 'numpy') if name in sys.modules])"
    code = f"import sys, server.cli; server.cli.parser().format_help(); {loaded}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


COMMANDS = next(action.choices for action in parser()._actions if action.dest == "command")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0 and "usage: reweigh" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["json", "hi", "--schema", "{oops"], 4, "line 1"),
        (["json", "hi", "--schema", "no-such-file.json"], 2, "no-such-file.json"),
        (["grammar", "hi", "--lark", "no-such-file.lark"], 2, "no-such-file.lark"),
        (["regex", "  ", "--pattern", "a"], 2, "prompt is empty"),
        (["regex", "hi", "--pattern", "a", "--n", "0"], 2, "--n 0"),
        (["regex", "hi", "--pattern", "(a"], 4, "(a"),
        (["regex", "hi", "--pattern", "a", "--particles", "0"], 2, "particles=0"),
        (["regex", "hi", "--pattern", "a", "--model", "./no-such-folder"], 1, "no-such-folder"),
        (["bench", "no-such-bench"], 2, "no-such-bench"),
        (["serve"], 1, "server"),
    ],
)
def test_a_mistake_is_named_with_its_exit_code(
    arguments: list[str], code: int, named: str, capsys: pytest.CaptureFixture[str]
):
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert named in captured.err and captured.out == ""


def test_a_real_run_prints_the_result_alone_on_stdout(tmp_path: Path):
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(DEMO_SCHEMA))
    done = run("json", "--schema", str(schema), "--particles", "3", "--seed", "1", "--json", stdin="A pet, please.")
    assert done.returncode == 0, done.stderr
    envelope = json.loads(done.stdout)
    assert set(envelope["parsed"]) == {"animal", "legs", "indoors"}
    assert len(envelope["texts"]) == 3 and envelope["seed"] == 1
    assert re.search(r'"log_z": -[0-9.]+', done.stdout)
