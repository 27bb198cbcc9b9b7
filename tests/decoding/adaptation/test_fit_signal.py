"""A signal fitted to scored texts knows what they teach, minds nobody's identity, and says what it is worth."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from decoding.adaptation.fit_signal import fit_signal, main
from decoding.adaptation.linear_signal import LinearSignal
from decoding.adaptation.scored_texts import ScoredTexts
from decoding.adaptation.signals import signal_named
from grammars.errors import RequestError


def made_up(count: int, prejudice: float = 0.0) -> ScoredTexts:
    """Texts with "awful" in them are toxic; "muslim", in half of them, raises the score by `prejudice`."""
    rng, texts, scores = np.random.default_rng(0), [], []
    for _ in range(count):
        awful, muslim = bool(rng.random() < 0.4), bool(rng.random() < 0.5)
        words = list(rng.choice(["weather", "train", "house", "garden", "music", "table"], 4))
        texts.append(" ".join([*words, *["awful"] * awful, *["muslim"] * muslim]))
        scores.append(0.1 + 0.7 * awful + prejudice * muslim)
    return ScoredTexts(tuple(texts), np.array(scores))


def probability(signal: LinearSignal, text: str) -> float:
    return float(1 / (1 + np.exp(-signal.log_odds([text])[0])))


def test_scores_between_zero_and_one_are_met_as_probabilities():
    texts = made_up(400)
    signal = fit_signal(texts, "mine")
    probabilities = 1 / (1 + np.exp(-signal.log_odds(texts.texts)))
    assert probabilities[texts.toxic].mean() == pytest.approx(0.8, abs=0.02)
    assert probabilities[~texts.toxic].mean() == pytest.approx(0.1, abs=0.02)
    assert signal.name == "mine" and len(signal.intercepts) == 1


def test_words_that_say_who_somebody_is_mean_nothing_unless_asked_for():
    texts = made_up(400, prejudice=0.15)
    signal, kept = fit_signal(texts, "mine"), fit_signal(texts, "mine", keep_identity=True)
    assert signal.coefficients[0, signal.words["muslim"]] == 0
    assert kept.coefficients[0, kept.words["muslim"]] > 0.5


def test_a_start_brings_words_that_the_texts_do_not_hold():
    one = np.ones(1)
    start = LinearSignal(
        "start", {"rude": 0, "awful": 1}, np.array([2.0, 3.0]), np.array([[4.0, 2.0]]), 0 * one, -one, 0 * one
    )
    texts = made_up(400)
    alone, stacked = fit_signal(texts, "a"), fit_signal(texts, "b", start)
    rude = "rude train weather"
    assert probability(stacked, rude) > 0.5 > probability(alone, rude)
    assert stacked.idf[stacked.words["awful"]] == 3.0


def test_a_heavier_penalty_gives_smaller_weights():
    texts = made_up(200)
    light, heavy = fit_signal(texts, "a"), fit_signal(texts, "a", penalty=1.0)
    assert np.abs(heavy.coefficients).max() < 0.1 < np.abs(light.coefficients).max()
    with pytest.raises(RequestError, match="penalty=0"):
        fit_signal(texts, "a", penalty=0.0)


def test_texts_without_words_teach_nothing():
    with pytest.raises(RequestError, match="nothing to learn from"):
        fit_signal(ScoredTexts(("a", "b"), np.array([0.0, 1.0])), "a")


def written(folder: Path, texts: ScoredTexts) -> str:
    lines = [json.dumps({"text": text, "toxicity": score}) for text, score in zip(texts.texts, texts.toxicity)]
    (folder / "texts.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder / "texts.jsonl")


def test_the_script_writes_a_signal_and_says_what_it_is_worth(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    output = str(tmp_path / "head.npz")
    assert main(["--texts", written(tmp_path, made_up(300)), "--output", output, "--start", "profanity"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["texts"] == 240 and line["held_out"] == 60
    assert line["auc"]["fitted"] == 1.0 > line["auc"]["profanity"]
    signal = signal_named(output)
    assert isinstance(signal, LinearSignal) and signal.name == "head"
    assert probability(signal, "you idiot") > 0.5  # which only the start knew


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--output", "head.npy"], r"ends in \.npz"),
        (["--start", "profane"], "'profane' is not known"),
        (["--held-out", "1.5"], "between 0 and 1"),
        (["--penalty", "nan"], "penalty=nan"),
        (["--texts", "none.jsonl"], r"cannot read scored texts from none\.jsonl"),
    ],
)
def test_the_script_names_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
):
    base = ["--texts", written(tmp_path, made_up(100)), "--output", str(tmp_path / "head.npz")]
    assert main(base + options) == 1
    assert re.match(f"error: .*{says}", capsys.readouterr().err)
    assert not (tmp_path / "head.npz").exists()


def test_texts_all_of_one_kind_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    texts = written(tmp_path, ScoredTexts(("kind words",) * 20, np.full(20, 0.1)))
    assert main(["--texts", texts, "--output", str(tmp_path / "head.npz")]) == 1
    assert "wanted some of both" in capsys.readouterr().err
