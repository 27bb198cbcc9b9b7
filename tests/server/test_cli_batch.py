"""Batches: lines in, lines out, and what a run that ended early leaves to the next."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from server.cli import main
from server.cli_batch import seed_of
from server.cli_batch_files import FileResults, read_lines
from server.cli_errors import UsageError

if TYPE_CHECKING:
    from decoding.engine import Engine


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_lines(*records: Any) -> None:
    Path("in.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))


def results(path: str = "out.jsonl") -> dict[Any, dict[str, Any]]:
    records = [json.loads(line) for line in Path(path).read_text().splitlines()]
    assert len({json.dumps(record["id"]) for record in records}) == len(records)
    return {record["id"]: record for record in records}


BATCH = ["--input", "in.jsonl", "--output", "out.jsonl"]
DIGITS = ["regex", "--pattern", "[0-9]{2}", "--particles", "2", *BATCH]


# What is wrong before anything is drawn


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{oops", "no JSON"),
        ("[1]", "an object was wanted"),
        ('{"prompt": "x"}', '"id" must be'),
        ('{"id": true, "prompt": "x"}', '"id" must be'),
        ('{"id": 1.5, "prompt": "x"}', '"id" must be'),
        ('{"id": 2}', 'either "prompt" or "messages"'),
        ('{"id": 2, "prompt": "x", "messages": [{}]}', 'either "prompt" or "messages"'),
        ('{"id": 2, "prompt": 3}', '"prompt" must be a text'),
        ('{"id": 2, "prompt": " "}', "the prompt is empty"),
        ('{"id": 2, "prompt": "\\ud800"}', "half of a character"),
        ('{"id": 2, "messages": [{"role": "user", "content": "\\udc00"}]}', "half of a character"),
        ('{"id": 2, "prompt": "x", "max_token": 3}', "unknown key 'max_token'"),
        ('{"id": 2, "prompt": "x", "constraint": null}', '"constraint" must be an object'),
        ('{"id": 2, "prompt": "x", "max_tokens": 0}', "max_tokens=0"),
        ('{"id": 2, "prompt": "x", "particles": "3"}', "particles='3'"),
        ('{"id": 2, "prompt": "x", "seed": -1}', "seed=-1"),
        ('{"id": 2, "prompt": "x", "sampler": "best"}', "sampler='best'"),
        ('{"id": 2, "prompt": "x", "temperature": 0}', "temperature=0"),
        ('{"id": 2, "messages": []}', '"messages" must be'),
        ('{"id": 1, "prompt": "x"}', "the id 1 is that of line 1 already"),
    ],
)
def test_a_bad_line_is_named_with_its_number(line: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]):
    Path("in.jsonl").write_text('{"id": 1, "prompt": "x"}\n\n' + line + "\n")
    assert main(DIGITS) == 2
    error = capsys.readouterr().err
    assert "in.jsonl line 3" in error and said in error


def test_bytes_that_are_no_text_are_named(folder: Path, capsys: pytest.CaptureFixture[str]):
    Path("in.jsonl").write_bytes(b'{"id": 1, "prompt": "a\xff"}\n')
    assert main(DIGITS) == 2 and "in.jsonl line 1: not UTF-8 at byte 22" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["regex", "hello", "--pattern", "a", *BATCH], "a prompt"),
        (["regex", "--pattern", "a", *BATCH, "--explain"], "--explain"),
        (["regex", "--pattern", "a", *BATCH, "--n", "2"], "--n"),
        (["regex", "--pattern", "a", "--output", "out.jsonl"], "--input"),
        (["regex", "--pattern", "a", "--input", "in.jsonl", "--retry-failed"], "--retry-failed"),
        (["regex", "--pattern", "a", "--input", "no.jsonl"], "no.jsonl"),
        (["regex", "--pattern", "a", "--input", "in.jsonl", "--output", "in.jsonl"], "is the input"),
        (["regex", "--pattern", "a", "--input", "in.jsonl", "--output", "/dev/null"], "no regular file"),
        (["regex", "--pattern", "a", "--input", "in.jsonl", "--output", "no/such/out.jsonl"], "no/such"),
    ],
)
def test_options_that_do_not_fit_a_batch_are_named(
    arguments: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
):
    write_lines({"id": 1, "prompt": "x"})
    assert main(arguments) == 2
    assert said in capsys.readouterr().err
    assert json.loads(Path("in.jsonl").read_text()) == {"id": 1, "prompt": "x"}


def test_nothing_is_started_where_all_is_done(folder: Path, capsys: pytest.CaptureFixture[str]):
    write_lines({"id": 1, "prompt": "x"}, {"id": "1", "prompt": "x"})
    Path("out.jsonl").write_text('{"id": 1, "text": "12"}\n{"id": "1", "text": "13"}\n')
    begun = time.perf_counter()
    assert main(DIGITS) == 0 and "0 lines done" in capsys.readouterr().err
    Path("out.jsonl").write_text('{"id": 1, "text": "12"}\n{"id": "1", "error": {"type": "DeadEnd", "message": ""}}\n')
    assert main(DIGITS) == 5 and "1 failed" in capsys.readouterr().err
    assert time.perf_counter() - begun < 5


# The results file


def opened(retry_failed: bool = False) -> FileResults:
    return FileResults(Path("out.jsonl"), retry_failed)


@pytest.mark.parametrize(
    ("torn", "kept"),
    [
        (b'{"id": 2, "te', 1),
        (b'{"id": 2}', 2),
        (b"{", 1),
        ('{"id": 2, "text": "é'.encode()[:-1], 1),
        (b"2", 1),
        (b"", 1),
    ],
)
def test_a_torn_last_line_is_mended(torn: bytes, kept: int, folder: Path):
    Path("out.jsonl").write_bytes(b'{"id": 1, "text": "a"}\n' + torn)
    found = opened()
    assert found.done == ({"1", "2"} if kept == 2 else {"1"})
    found.append({"id": 3})
    found.close()
    lines = Path("out.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == kept + 1 and all(json.loads(line) and line.endswith(b"\n") for line in lines)


def test_a_file_that_no_batch_wrote_is_left_alone(folder: Path):
    Path("out.jsonl").write_text("dear diary\n")
    with pytest.raises(UsageError, match="line 1"):
        opened()
    assert Path("out.jsonl").read_text() == "dear diary\n"


def test_two_runs_do_not_write_to_one_file(folder: Path):
    first = opened()
    with pytest.raises(UsageError, match="another run"):
        opened()
    first.close()
    opened().close()


def test_failed_lines_leave_the_file_to_be_tried_again(folder: Path):
    Path("out.jsonl").write_text('{"id": 1, "error": {}}\n{"id": 2, "text": "a"}\n{"id": 3, "error": {}}\n')
    found = opened()
    assert (found.done, found.failed) == ({"1", "2", "3"}, {"1", "3"})
    found.close()
    found = opened(retry_failed=True)
    assert (found.done, found.failed) == ({"2"}, set())
    found.append({"id": 1, "text": "b"})
    found.close()
    assert list(results()) == [2, 1] and os.listdir(".") == ["out.jsonl"]


def test_lines_can_be_read_twice_from_a_pipe(folder: Path):
    os.mkfifo("pipe")
    feeder = threading.Thread(target=lambda: Path("pipe").write_text('{"id": 1, "prompt": "x"}\n'))
    feeder.start()
    with read_lines("pipe") as lines:
        assert [line.key for line in lines] == [line.key for line in lines] == ["1"]
    feeder.join()


def test_seeds_are_those_of_the_ids():
    seeds = {seed_of(seed, key) for seed in (0, 1) for key in ("1", '"1"', "2")}
    assert len(seeds) == 6 and all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(7, '"a"') == seed_of(7, '"a"')


# With a model


@pytest.fixture
def started(engine: Engine, folder: Path) -> Iterator[Engine]:
    yield engine
    deadline = time.monotonic() + 30
    while engine._driver._tickets and time.monotonic() < deadline:  # an abort waits for the step under way
        time.sleep(0.02)
    assert not engine._driver._tickets, "a batch left rows behind"


@pytest.mark.engine
def test_every_line_is_done_in_its_own_way(started: Engine, capsys: pytest.CaptureFixture[str]):
    write_lines(
        *({"id": k, "prompt": f"A number after {k}:"} for k in range(12)),
        {"id": "chat", "messages": [{"role": "user", "content": "Yes?"}], "constraint": {"choice": ["yes", "no"]}},
        {"id": "own", "prompt": "A letter:", "constraint": {"regex": "[a-z]"}, "particles": 5, "seed": 4, "metadata": {"k": 1}},
        {"id": "wrong", "prompt": "x", "constraint": {"regex": "("}},
        {"id": "dead", "prompt": "x", "constraint": {"all": [{"regex": "a+b"}, {"regex": "a+c"}]}, "max_tokens": 8},
        {"id": "long", "prompt": "x " * 600},
    )  # fmt: skip
    assert main([*DIGITS, "--seed", "5"], engine=started) == 5
    found = results()
    assert len(found) == 17
    for k in range(12):
        assert len(found[k]["text"]) == 2 and found[k]["text"].isdigit() and found[k]["seed"] == seed_of(5, str(k))
        assert set(found[k]) >= {
            "parsed",
            "weight",
            "posterior",
            "log_z",
            "ess",
            "usage",
            "timings",
            "checks_per_token",
        }
    assert found["chat"]["text"] in ("yes", "no")
    assert found["own"]["metadata"] == {"k": 1} and found["own"]["seed"] == 4 and found["own"]["text"].isalpha()
    assert found["wrong"]["error"]["type"] == "GrammarError" and found["long"]["error"]["type"] == "RequestError"
    assert found["dead"]["error"]["type"] in ("DeadEnd", "Unsatisfiable") and found["dead"]["error"]["message"]
    captured = capsys.readouterr()
    assert captured.out == "" and "17 lines done" in captured.err and "3 failed" in captured.err


@pytest.mark.engine
def test_a_line_may_be_steered_and_cut_by_itself(started: Engine, capsys: pytest.CaptureFixture[str]):
    write_lines(
        {"id": 1, "prompt": "The nurse said that", "debias": ["gender"], "detox": 0.5, "adaptation": {"budget": 2.0}},
        {"id": 2, "prompt": "The nurse said that", "top_p": 1.0},
        {"id": 3, "prompt": "The nurse said that"},
    )
    words = ["regex", "--pattern", "( [a-z]{1,8}){2}", "--particles", "4", "--raw"]
    assert main([*words, "--seed", "1", *BATCH], engine=started) == 0, results()
    told = results()
    assert told[1]["adaptation"]["is_proposal"] is False and "adaptation" not in told[2]
    assert "adaptation" not in told[3]
    write_lines({"id": 1, "prompt": "x", "detox": 99}, {"id": 2, "prompt": "x", "top_p": 7})
    assert main([*words, *BATCH[:2]], engine=started) in (2, 5)
    assert "detox=99" in "".join(capsys.readouterr())


@pytest.mark.engine
def test_a_run_goes_on_where_the_last_one_ended_with_the_same_draws(
    started: Engine, capsys: pytest.CaptureFixture[str]
):
    write_lines(*({"id": k, "prompt": f"A number after {k}:"} for k in range(6)))
    assert main([*DIGITS, "--seed", "5", "-q"], engine=started) == 0
    whole = results()
    lines = Path("out.jsonl").read_text().splitlines()
    Path("out.jsonl").write_text("\n".join(lines[:3]) + "\n" + lines[3][:30])
    assert main([*DIGITS, "--seed", "5"], engine=started) == 0
    assert "3 lines done" in capsys.readouterr().err
    again = results()
    assert {k: again[k]["posterior"] for k in again} == {k: whole[k]["posterior"] for k in whole}


@pytest.mark.engine
def test_failed_lines_are_tried_again_when_asked(started: Engine):
    write_lines({"id": 1, "prompt": "x"}, {"id": 2, "prompt": "y", "constraint": {"regex": "("}})
    assert main(DIGITS, engine=started) == 5
    assert main(DIGITS, engine=started) == 5, "it still stands failed"
    write_lines({"id": 1, "prompt": "x"}, {"id": 2, "prompt": "y"})
    assert main([*DIGITS, "--retry-failed"], engine=started) == 0
    assert {k: "error" in record for k, record in results().items()} == {1: False, 2: False}


@pytest.mark.engine
def test_without_an_output_file_results_go_to_stdout(started: Engine, capfd: pytest.CaptureFixture[str]):
    write_lines({"id": 1, "prompt": "x"}, {"id": 2, "prompt": "y"})
    assert main(DIGITS[:-2], engine=started) == 0
    assert {json.loads(line)["id"] for line in capfd.readouterr().out.splitlines()} == {1, 2}


@pytest.mark.engine
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_batch_keeps_what_is_done(started: Engine, number: int, code: int):
    write_lines(*({"id": k, "prompt": "Count:", "max_tokens": 4 if k < 3 else 300} for k in range(40)))
    arguments = ["text", "--particles", "2", "--temperature", "0.5", *BATCH]

    def strike() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (Path("out.jsonl").exists() and Path("out.jsonl").stat().st_size):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    striker = threading.Thread(target=strike)
    striker.start()
    assert main(arguments, engine=started) == code
    striker.join()
    done = results()
    assert 1 <= len(done) < 40


@pytest.mark.engine
def test_a_line_that_is_late_fails_alone(started: Engine):
    write_lines({"id": 1, "prompt": "Count:", "max_tokens": 2}, {"id": 2, "prompt": "Count:", "max_tokens": 400})
    assert main(["text", "--particles", "8", "--temperature", "0.7", "--timeout", "1.5", *BATCH], engine=started) == 5
    found = results()
    assert "text" in found[1] or "error" in found[1]
    assert found[2]["error"]["type"] == "TimeoutError"
