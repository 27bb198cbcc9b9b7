"""`reweigh calibrate`: what it prints, writes and refuses."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from samplers.inference_scaling_profile import loaded
from server.cli import main
from tests.samplers.test_inference_scaling_pool import pool_of

QUICK = ["--temperatures", "0", "0.5", "2"]


def lines_of(kind: str, tokens: bool = True) -> list[dict[str, Any]]:
    made = []
    for one in pool_of(kind, prompts=40, n=16):
        for i, (reward, correct) in enumerate(zip(one.rewards, one.values)):
            line = {"prompt": one.prompt, "candidate": f"text {i}", "reward": reward, "correct": int(correct)}
            made.append(line | {"tokens": 100} if tokens else line)
    return made


def written(path: Path, lines: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_the_table_and_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["calibrate", "--pool", written(tmp_path / "pool.jsonl", lines_of("hacked")), *QUICK]) == 0
    out = capsys.readouterr().out
    assert "40 prompts of 16 candidates" in out and "over-optimised" in out.splitlines()[-1]
    head = next(line.split() for line in out.splitlines() if "pass@k" in line)
    assert head == ["k", "T=0", "T=0.5", "T=2", "pass@k"]
    assert "tokens a prompt" in out


def test_the_envelope_and_the_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pool, profile = written(tmp_path / "pool.jsonl", lines_of("good")), tmp_path / "profile.json"
    assert main(["calibrate", "--pool", pool, "--json", "--save", str(profile), *QUICK]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["version"] == 1 and found["pool"] == {
        "prompts": 40, "candidates": 640, "fewest": 16, "most": 16, "constant_rewards": 0,
    }  # fmt: skip
    assert found["k"] == list(range(1, 17)) and [curve["temperature"] for curve in found["curves"]] == [0, 0.5, 2]
    assert all(len(curve[name]) == 16 for curve in found["curves"] for name in ("mean", "low", "high"))
    assert len(found["pass_at_k"]) == 16 and [law["temperature"] for law in found["laws"]] == [0.5, 2]
    saved, chosen = loaded(profile.read_text()), found["recommendation"]
    assert (saved.k, saved.temperature) == (chosen["k"], chosen["temperature"])
    assert saved.select_temperature == pytest.approx(chosen["select_temperature"])
    assert saved.evidence["prompts"] == 40 and saved.evidence["verdict"] == found["verdict"]
    assert main(["calibrate", "--pool", pool, "--json", *QUICK]) == 0
    assert json.loads(capsys.readouterr().out) == found  # the seed fixes the intervals


def test_stdin_order_and_booleans_do_not_matter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    lines = lines_of("good", tokens=False)
    assert main(["calibrate", "--pool", written(tmp_path / "a.jsonl", lines), "--json", *QUICK]) == 0
    plain = json.loads(capsys.readouterr().out)
    mixed = sorted(lines, key=lambda line: line["candidate"])
    data = "\n\n".join(json.dumps(line | {"correct": bool(line["correct"])}) for line in mixed)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data.encode())))
    assert main(["calibrate", "--pool", "-", "--json", *QUICK]) == 0
    for curve, other in zip(json.loads(capsys.readouterr().out)["curves"], plain["curves"], strict=True):
        for name in ("mean", "low", "high"):
            assert curve[name] == pytest.approx(other[name], abs=1e-12)
    assert plain["recommendation"]["tokens"] is None


def test_values_that_are_no_verdicts_have_no_pass_at_k(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lines = [line | {"correct": line["correct"] + 0.25} for line in lines_of("good")]
    assert main(["calibrate", "--pool", written(tmp_path / "a.jsonl", lines), *QUICK, "--k-max", "4"]) == 0
    out = capsys.readouterr().out
    assert "pass@k" not in out and "T=0.5" in out


@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_the_plot_is_a_picture(ending: str, tmp_path: Path):
    pool, picture = written(tmp_path / "pool.jsonl", lines_of("hacked")), tmp_path / f"curves{ending}"
    assert main(["calibrate", "--pool", pool, "--plot", str(picture), "--quiet", *QUICK]) == 0
    data = picture.read_bytes()
    if ending == ".png":
        assert data.startswith(b"\x89PNG") and len(data) > 30_000
    else:
        assert data.startswith(b"<?xml") and b"over-" not in data and b"</svg>" in data


LINE = {"prompt": "p", "candidate": "c", "reward": 0.5, "correct": 1, "tokens": 3}


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({**LINE, "reward": float("nan")}, "line 2: reward is NaN; a number of at most"),
        ({**LINE, "reward": -1.7e308}, "line 2: reward is -1.7e+308; a number of at most 1e+100"),
        ({**LINE, "reward": float("inf")}, "line 2: reward is Infinity"),
        ({**LINE, "reward": 10**400}, "line 2: reward is 1000"),
        ({**LINE, "reward": None}, "line 2: reward is null; a number was wanted; leave out"),
        ({**LINE, "reward": "0.5"}, 'line 2: reward is "0.5"; a number'),
        ({**LINE, "reward": True}, "line 2: reward is true"),
        ({**LINE, "correct": True}, "line 2: correct is true, but on line 1 it is a number"),
        ({**LINE, "correct": "yes"}, 'line 2: correct is "yes"'),
        ({**LINE, "prompt": 1}, "line 2: prompt is 1; text"),
        ({**LINE, "candidate": None}, "line 2: candidate is null; text"),
        ({**LINE, "tokens": -1}, "line 2: tokens is -1"),
        ({k: v for k, v in LINE.items() if k != "tokens"}, "line 2: tokens is missing, but line 1 has"),
        ({k: v for k, v in LINE.items() if k != "reward"}, "line 2: reward is missing"),
        ({**LINE, "prompt": "q"}, 'line 1: the prompt "p" has one candidate; at least 2'),
        (LINE, "one prompt; at least 2"),
        ([1], "line 2: [1]; an object"),
    ],
)
def test_a_bad_line_is_named(second: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["calibrate", "--pool", written(tmp_path / "pool.jsonl", [LINE, second])]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"", "empty"), (b"\n \n", "empty"), (b"{", "line 1: no JSON"), (b"\xff\n", "line 1: not UTF-8 at byte 0")],
)
def test_a_bad_file_is_named(data: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "pool.jsonl").write_bytes(data)
    assert main(["calibrate", "--pool", str(tmp_path / "pool.jsonl")]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--k-max", "17"], "--k-max 17: the prompt 'p0' has 16 candidates"),
        (["--k-max", "1"], "--k-max 1: at least 2"),
        (["--temperatures", "-1"], "--temperatures -1"),
        (["--temperatures", "nan"], "--temperatures nan"),
        (["--plot", "curves.pdf"], "ends in .png or .svg"),
        (["--plot", "nowhere/curves.png"], "there is no such folder"),
        (["--save", "nowhere/profile.json", "--k-max", "2"], "--save nowhere/profile.json"),
        (["--seed", "-1"], "--seed -1"),
    ],
)
def test_a_bad_option_is_named(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["calibrate", "--pool", written(tmp_path / "pool.jsonl", lines_of("good")), *options]) == 2
    assert said in capsys.readouterr().err


def test_a_missing_matplotlib_is_said_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["calibrate", "--pool", str(tmp_path / "not there"), "--plot", str(tmp_path / "a.png")]) == 2
    assert "pip install 'reweigh[plot]'" in capsys.readouterr().err
