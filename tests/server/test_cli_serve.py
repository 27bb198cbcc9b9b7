"""`reweigh serve`: what an operator has named wrongly is told at once, before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.cli import main

ELSEWHERE = "http://127.0.0.1:1/v1"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--judge", "a=ftp://x"], "http://host/v1 was wanted"),
        (["--judge", f"a={ELSEWHERE}"], "does not list its models"),
        (["--judge", f"a={ELSEWHERE},model=m,key_env=NOBODY_SETS_THIS"], "NOBODY_SETS_THIS is not set"),
        (["--judge", f"a={ELSEWHERE},model=m,colour=red"], "not 'colour=red'"),
        (["--judge", f"a={ELSEWHERE},model=m", "--judge", f"a={ELSEWHERE},model=m"], "--judge a is given twice"),
        (["--judge", f"a={ELSEWHERE},model=m", "--reward", "a=rules:a"], "both a --reward and a --judge"),
        (["--judge", "a"], "name=http://host/v1 was wanted"),
        (["--profile", "p=nowhere.json"], "cannot be read"),
        (["--profile", "p=empty.json"], "reweigh_profile"),
        (["--signal", "s=mild"], "a .npz file, transformers:MODEL#LABEL or module:object was wanted"),
        (["--signal", "profanity=own.npz"], "there is a signal of that name already"),
        (["--signal", "s=nowhere.npz"], "nowhere.npz"),
        (["--signal", "s=nowhere.py:Scorer"], "there is no file nowhere.py"),
        (["--signal", "s=json:dumps"], "an object with log_odds(texts) was wanted"),
        (["--partial-reward", "p"], "name=module:object was wanted"),
        (["--partial-reward", "p=nowhere.py:f"], "there is no file nowhere.py"),
    ],
)
def test_options_that_cannot_be_are_told_at_once(
    options: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "empty.json").write_text(json.dumps({}))
    monkeypatch.chdir(tmp_path)
    assert main(["serve", *options]) == 2
    out, err = capsys.readouterr()
    assert out == "" and told in err and err.count("\n") == 1
