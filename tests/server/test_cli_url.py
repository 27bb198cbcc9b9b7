"""`--url`: the commands against a real server, beside the same commands with an engine of their own."""

from __future__ import annotations

import http.server
import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.cli import main
from tests.server.conftest import KEY, MODEL, Serving

FEW = ["--particles", "4", "--seed", "3", "--max-tokens", "24"]


@pytest.fixture
def asks(serving: Serving, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command against the server: exit code, stdout, stderr."""
    monkeypatch.setenv("REWEIGH_API_KEY", KEY)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([arguments[0], *FEW, "--url", serving.url, *arguments[1:]])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.engine
def test_a_server_answers_with_the_particles_and_their_weights(asks: Any):
    code, out, err = asks("regex", "A year:", "--pattern", "[12][0-9]{3}", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["model"] == MODEL and found["seed"] == 3 and len(found["texts"]) == 4
    assert math.isclose(sum(one["weight"] for one in found["posterior"]), 1.0) and found["text"] in found["texts"]
    log_mean = math.log(sum(math.exp(w) for w in found["log_weights"] if w is not None) / 4)
    assert math.isclose(found["log_z"], log_mean) and found["usage"]["sampled_tokens"] > 0
    assert asks("regex", "A year:", "--pattern", "[12][0-9]{3}", "-q") == (0, found["text"] + "\n", "")


@pytest.mark.engine
def test_a_constraint_goes_as_data_or_by_name(asks: Any, operator_folder: Path, tmp_path: Path):
    names = tmp_path / "names.txt"
    names.write_text("Paris\nRome\n")
    code, out, _ = asks("json", "A dog.", "--schema", "wet bool", "--json")
    assert code == 0 and json.loads(out)["parsed"] in ({"wet": True}, {"wet": False})
    assert asks("choice", "Italy's capital:", "--names", str(names))[1] in ("Paris\n", "Rome\n")
    more = ["--particles", "16", "--seed", "4", "--max-tokens", "40"]
    code, out, err = asks("text", "An even number:", "--named", "even", *more)
    assert code == 0 and int(out) % 2 == 0, err
    shop = str(operator_folder / "shop.sqlite")
    for here in (["--db", shop], []):
        code, out, err = asks("sql", "How many customers?", *here, "--named", "shop", "--max-tokens", "60")
        assert code in (0, 3) and (code == 3 or out.lower().lstrip().startswith(("select", "with"))), err
    for arguments, said in (
        (["sql", "x", "--db", shop], "a database of yours is not sent"),
        (["sql", "x", "--named", "shop", "--execute"], "--execute runs the query on --db"),
        (["predicate", "x", "--function", f"{operator_folder}/rules.py:even"], "a function of yours is not sent"),
        (["text", "x", "--named", "nosuch"], "is no name that the operator has set up"),
        (["text", "x", "--explain"], "--explain does not go with --url"),
        (["text", "x", "--engine-arg", "a=1"], "--engine-arg does not go with --url"),
        (["text", "x", "--named", "even", "--and", '{"regex": "1"}'], "--and does not go with --url"),
    ):
        code, out, err = asks(*arguments)
        assert code == 2 and out == "" and said in err, (arguments, err)


@pytest.mark.engine
def test_errors_of_a_server_have_their_exit_codes(asks: Any, monkeypatch: pytest.MonkeyPatch):
    for arguments, code, said in (
        (["text", "x", "--named", "raises"], 1, "PredicateError"),
        (["regex", "x", "--pattern", "a{40,}"], 3, "DeadEnd"),
        (["text", "x", "--constraint", '{"json_schema": false}'], 3, "Unsatisfiable"),
        (["text", "x", "--timeout", "0.001"], 124, "timeout_s=0.001"),
        (["text", "x", "--model", "another"], 2, "another"),
    ):
        found = asks(*arguments)
        assert found[0] == code and said in found[2] and found[1] == "", (arguments, found)
    monkeypatch.setenv("REWEIGH_API_KEY", "wrong")
    code, _, err = asks("text", "x")
    assert code == 2 and "REWEIGH_API_KEY" in err


@pytest.mark.engine
def test_a_batch_goes_through_a_server_and_resumes(asks: Any, tmp_path: Path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines: list[dict[str, Any]] = [{"id": k, "prompt": f"Number {k}:"} for k in range(6)]
    lines.append({"id": "bad", "prompt": "x", "constraint": {"regex": "("}})
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    batch = ["regex", "--pattern", "[0-9]{1,3}", "--input", str(source), "--output", str(target)]
    assert asks(*batch)[0] == 5
    found = [json.loads(line) for line in target.read_text().splitlines()]
    assert {one["id"] for one in found} == {*range(6), "bad"}
    assert [one["id"] for one in found if "error" in one] == ["bad"]
    code, _, err = asks(*batch)
    assert code == 5 and "0 lines done" in err and len(target.read_text().splitlines()) == 7


class Full(http.server.BaseHTTPRequestHandler):
    """A server that is full the first time, and no such server the second."""

    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(429 if len(self.asked) == 1 else 200)
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(b"<html>")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def other_server() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Full)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_server_that_is_full_is_asked_again_and_another_kind_is_named(other_server: str, capfd: Any):
    assert main(["text", "x", "--url", other_server]) == 1
    assert "no JSON: is it such a server?" in capfd.readouterr().err and len(Full.asked) == 2


def test_where_nobody_listens_is_said(capfd: Any):
    assert main(["text", "x", "--url", "http://127.0.0.1:1"]) == 1 and "no answer" in capfd.readouterr().err
    assert main(["text", "x", "--url", "127.0.0.1:8000"]) == 2
    assert main(["text", "x", "--named", "even"]) == 2 and "--url" in capfd.readouterr().err
