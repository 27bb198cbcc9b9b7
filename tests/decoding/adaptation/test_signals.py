"""Signals are found by name, each obeys what the seam promises, and no name is guessed at."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from decoding.adaptation.held_signals import handle_of, signal_of
from decoding.adaptation.linear_signal import LinearSignal
from decoding.adaptation.signals import SIGNALS, signal_named
from grammars.errors import EngineError, RequestError

TEXTS = ["", " ", "You are kind.", "You idiot", "ass isting", "a\nb\n", "数学 🙂", "word " * 500]


@pytest.mark.parametrize("name", sorted(SIGNALS))
def test_a_signal_gives_one_finite_number_for_every_text(name: str):
    signal = signal_named(name)
    assert signal.name == name
    log_odds = signal.log_odds(TEXTS)
    assert log_odds.shape == (len(TEXTS),) and log_odds.dtype == np.float64 and np.isfinite(log_odds).all()
    assert signal.log_odds([]).shape == (0,)


@pytest.mark.parametrize("name", sorted(SIGNALS))
def test_the_same_text_has_the_same_number_alone_and_among_others(name: str):
    signal = signal_named(name)
    alone = np.concatenate([signal.log_odds([text]) for text in TEXTS])
    assert signal.log_odds(TEXTS) == pytest.approx(alone, abs=1e-9)
    assert signal.log_odds(TEXTS[::-1]) == pytest.approx(alone[::-1], abs=1e-9)


def test_a_signal_is_made_once():
    assert signal_named("profanity") is signal_named("profanity")


def test_a_file_of_a_linear_signal_is_a_signal(tmp_path: Path):
    one = np.ones(1)
    LinearSignal("mine", {"bad": 0}, one, one[:, None], 0 * one, -one, 0 * one).save(tmp_path / "mine.npz")
    signal = signal_named(str(tmp_path / "mine.npz"))
    assert signal.name == "mine"
    assert signal.log_odds(["bad", "good"]) == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize("name", sorted(SIGNALS))
def test_a_signal_of_ours_is_taken_as_an_object_too(name: str):
    signal = signal_named(name)
    assert signal_of(handle_of(signal)) is signal


@dataclass
class Plain:
    """Equal to others like it, and so without a hash."""

    name: str = "plain"

    def log_odds(self, texts):
        return np.zeros(len(texts))


def test_equal_objects_are_signals_of_their_own():
    one, other = Plain(), Plain()
    handles = [handle_of(signal) for signal in (one, other, one)]
    assert handles[0] == handles[2] != handles[1]
    assert signal_of(handles[0]) is one and signal_of(handles[1]) is other


def test_a_signal_may_stand_in_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own_scorers.py").write_text(
        "class Mine:\n    name = 'mine'\n    def log_odds(self, texts):\n        return [1.0] * len(texts)\n\nHELD = Mine()\n"
        "class Broken:\n    def __init__(self):\n        raise ValueError('no weights')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert signal_named("own_scorers:Mine").name == "mine" and signal_named("own_scorers:HELD").log_odds(["a"]) == [1.0]
    for place, told in (
        ("own_scorers:Broken", "no weights"),
        ("json:dumps", "log_odds"),
        ("own_scorers:Nobody", "Nobody"),
    ):
        with pytest.raises(RequestError, match=told):
            signal_named(place)


def test_what_is_unknown_is_refused_with_the_names_there_are(tmp_path: Path):
    with pytest.raises(
        RequestError, match=r"'profanitiy' is not known: name one of profanity, profanity_with_identity"
    ):
        signal_named("profanitiy")
    with pytest.raises(EngineError, match=r"none\.npz is no linear signal"):
        signal_named(str(tmp_path / "none.npz"))


def test_naming_the_signals_imports_none_of_them():
    code = (
        "import sys; import decoding.adaptation.signals;"
        "print([name for name in sys.modules if name in ('torch', 'transformers') or name.startswith('decoding.adaptation.prof')])"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"
