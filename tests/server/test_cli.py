"""The command line as its users meet it: stdout, stderr, exit codes. One real run; the rest fails before a model is needed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from grammars.errors import DeadEnd, EngineError, GrammarError, PredicateError, RequestError, Unsatisfiable
from grammars.regex import Malformed
from server.cli import exit_code, main
from server.cli_demo import DEMO_SCHEMA
from server.cli_errors import UsageError, name_of
from server.cli_generate import engine_arguments
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


def test_the_version_is_the_distributions():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "server.cli", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"reweigh {version('reweigh')}\n"
    assert not re.search(r"\b(torch|vllm|transformers|numpy)$", done.stderr, re.MULTILINE)


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
        (["bench", "json_schema", "sql", "--schemas", "3"], 2, "--schemas"),
        (["bench", "--all", "sql"], 2, "--all"),
        (["json", "hi"], 2, "--schema is required"),
        (["choice", "hi"], 2, "--options or --names is required"),
        (["jsn", "hi"], 2, "jsn"),
        (["regex", "hi", "--pattern", "a", "--partic", "3"], 2, "--partic"),
        (["regex", "hi", "--pattern", "a", "--particles", "three"], 2, "three"),
        (["regex", "hi", "--pattern", "a", "--sampler", "best"], 2, "best"),
        (["regex", "hi", "--pattern", "a", "--sampler", '{"name": "awrs", "depth": 3}'], 2, "depth"),
        (["regex", "hi", "--pattern", "a", "--sampler", '{"name"'], 4, "--sampler"),
        (["regex", "hi", "--pattern", "a", "--resampling", "some"], 2, "systematic"),
        (["regex", "hi", "--pattern", "a", "--ess-threshold", "-1"], 2, "ess_threshold"),
        (["regex", "hi", "--pattern", "a", "--temperature", "0"], 2, "temperature=0"),
        (["regex", "hi", "--pattern", "a", "--seed", "-1"], 2, "seed=-1"),
        (["regex", "hi", "--pattern", "a", "--seed", str(2**64)], 2, "seed="),
        (["regex", "hi", "--pattern", "a", "--timeout", "0"], 2, "--timeout 0"),
        (["regex", "hi", "--pattern", "a", "--engine-arg", "max_model_len"], 2, "key=value"),
        (["regex", "hi\udcff", "--pattern", "a"], 2, "not UTF-8"),
        (["json", "hi", "--schema", "name, age intt"], 4, "character 11"),
        (["grammar", "hi", "--lark", os.devnull], 4, "no start rule"),
        (["choice", "hi"], 2, "--options"),
        (["choice", "hi", "--names", "no-such-names.txt"], 2, "no-such-names.txt"),
        (["text", "hi", "--constraint", '{"no_such": 1}'], 4, "no_such"),
        (["predicate", "hi", "--function", "no_such_module:fn"], 2, "no_such_module"),
        (["pddl", "hi", "--problem", "p.pddl"], 2, "--domain"),
        (["smiles", "hi", "--max-atoms", "0"], 4, "max_atoms=0"),
        (["sql", "hi", "--db", "no-such.sqlite"], 2, "no-such.sqlite"),
    ],
)
def test_a_mistake_is_named_with_its_exit_code(
    arguments: list[str], code: int, named: str, capsys: pytest.CaptureFixture[str]
):
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert named in captured.err and captured.out == ""


def test_benchmarks_are_listed_with_their_questions_and_take_arguments_of_their_own(capfd: pytest.CaptureFixture[str]):
    assert main(["bench"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert all(line.endswith("?") for line in lines) and any(line.startswith("json_schema ") for line in lines)
    assert main(["bench", "json_schema", "--help"]) == 0
    assert "usage: bench_json_schema" in capfd.readouterr().out
    assert main(["bench", "json_schema", "generation", "--no-such-option"]) == 1
    assert "--no-such-option" in capfd.readouterr().err


def test_a_real_run_prints_the_result_alone_on_stdout(tmp_path: Path):
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(DEMO_SCHEMA))
    done = run("json", "--schema", str(schema), "--particles", "3", "--seed", "1", "--json", stdin="A pet, please.")
    assert done.returncode == 0, done.stderr
    envelope = json.loads(done.stdout)
    assert set(envelope["parsed"]) == {"animal", "legs", "indoors"}
    assert len(envelope["texts"]) == 3 and envelope["seed"] == 1
    assert re.search(r'"log_z": -[0-9.]+', done.stdout)


def test_engine_arguments_are_json_or_text_and_make_room():
    def made(rows: int, *given: str) -> dict[str, Any]:
        words = [word for one in given for word in ("--engine-arg", one)]
        return engine_arguments(parser().parse_args(["text", "x", *words]), rows)

    assert made(8) == {} and made(100) == {"max_num_seqs": 100}
    assert made(100, "max-num-seqs=200", "dtype=float32", "enforce_eager=true", "x=a=b") == {
        "max_num_seqs": 200, "dtype": "float32", "enforce_eager": True, "x": "a=b",
    }  # fmt: skip
    for given in (["dtype"], ["=1"], ["dtype=a", "dtype=b"], ["model=x"]):
        with pytest.raises(UsageError, match="--engine-arg"):
            made(8, *given)


@pytest.mark.parametrize(
    ("error", "code", "name"),
    [
        (GrammarError(), 4, "GrammarError"),
        (Malformed(), 4, "GrammarError"),
        (Unsatisfiable(), 3, "Unsatisfiable"),
        (DeadEnd(), 3, "DeadEnd"),
        (PredicateError(), 1, "PredicateError"),
        (EngineError(), 1, "EngineError"),
        (RequestError(), 2, "RequestError"),
        (UsageError(), 2, "UsageError"),
        (TimeoutError(), 124, "TimeoutError"),
        (OSError(), 1, "OSError"),
    ],
)
def test_an_error_has_its_exit_code_and_the_name_that_users_know(error: Exception, code: int, name: str):
    assert (exit_code(error), name_of(error)) == (code, name)


def test_an_interrupt_while_the_model_starts_ends_the_command_without_a_trace():
    """The engine's thread is importing vLLM, inside C++ just then: nothing is on stdout, no trace or abort on stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "server.cli", "regex", "A year:", "--pattern", "[0-9]{4}"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while process.poll() is None and "libtriton" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert out == "" and "Traceback" not in err and err.endswith("reweigh: interrupted\n")
