"""The linear signal: its formula, its file, and what it refuses."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decoding.adaptation.linear_signal import LinearSignal
from grammars.errors import EngineError


def small(**changes: Any) -> LinearSignal:
    """Two heads over three words."""
    fields: dict[str, Any] = {
        "name": "small",
        "words": {"good": 0, "bad": 1, "café": 2},
        "idf": np.array([1.0, 2.0, 3.0]),
        "coefficients": np.array([[-1.0, 2.0, 0.5], [0.0, 1.0, -0.5]]),
        "intercepts": np.array([0.25, -0.5]),
        "slopes": np.array([-2.0, -1.0]),
        "offsets": np.array([0.1, -0.2]),
    }
    return LinearSignal(**(fields | changes))


def test_log_odds_are_those_of_the_formula_worked_by_hand():
    """ "BAD bad, good" has counts 2 and 1, so weights 4 and 1 before the norm."""
    norm = math.hypot(4, 1)
    decisions = [-1 / norm + 8 / norm + 0.25, 4 / norm - 0.5]
    probabilities = [1 / (1 + math.exp(-2 * decisions[0] + 0.1)), 1 / (1 + math.exp(-decisions[1] - 0.2))]
    mean = sum(probabilities) / 2
    assert small().log_odds(["BAD bad, good"]) == pytest.approx([math.log(mean / (1 - mean))], abs=1e-12)


def test_a_batch_is_its_texts_one_by_one():
    signal, texts = small(), ["good", "", "bad bad café", "nothing known", "x y z"]
    batch = signal.log_odds(texts)
    assert batch.dtype == np.float64 and batch.shape == (5,)
    assert np.array_equal(batch, np.concatenate([signal.log_odds([text]) for text in texts]))
    assert batch[1] == batch[3] == batch[4]
    assert signal.log_odds([]).shape == (0,)


def test_a_word_counts_whole_and_in_any_case_only():
    signal = small()
    assert np.array_equal(signal.log_odds(["Bad.", "(CAFÉ)"]), signal.log_odds(["bad", "café"]))
    assert np.array_equal(signal.log_odds(["badly", "ba d", "a bad_x"]), signal.log_odds(["", "", ""]))


def test_log_odds_stay_finite_where_probabilities_round_to_one_and_zero():
    sure = small(slopes=np.array([-1e6, -1e6]))
    assert np.exp(-np.abs(sure.log_odds(["bad"])))[0] == 0
    assert np.isfinite(sure.log_odds(["bad", "good"])).all()
    assert sure.log_odds(["bad"])[0] > 1e5


def test_words_left_out_mean_nothing_and_still_count_in_the_norm():
    signal, without = small(), small().without({"bad", "unheard"})
    neutral = signal.intercepts
    assert np.allclose(without.decisions(["bad"])[:, 0], neutral)
    assert np.allclose(without.decisions(["bad good"])[:, 0], neutral + signal.coefficients[:, 0] / math.hypot(1, 2))
    assert np.array_equal(without.decisions(["good"]), signal.decisions(["good"]))
    assert signal.coefficients[0, 1] == 2.0


def test_the_file_gives_back_the_signal(tmp_path: Path):
    signal, path = small(), tmp_path / "head.npz"
    signal.save(path)
    again = LinearSignal.load(path)
    assert again.name == "small" and again.words == signal.words
    for field in ("idf", "coefficients", "intercepts", "slopes", "offsets"):
        assert np.array_equal(getattr(again, field), getattr(signal, field))
    assert [each.name for each in tmp_path.iterdir()] == ["head.npz"]


@pytest.mark.parametrize("damage", ["missing", "cut", "one byte", "another file", "pickled objects", "newer format"])
def test_a_file_that_is_no_signal_is_refused_by_name(tmp_path: Path, damage: str):
    path = tmp_path / "head.npz"
    small().save(path)
    raw = bytearray(path.read_bytes())
    fields = dict(np.load(path))
    match damage:
        case "missing":
            path.unlink()
        case "cut":
            path.write_bytes(raw[: len(raw) // 2])
        case "one byte":
            with zipfile.ZipFile(path) as file:
                next_one = file.getinfo("intercepts.npy").header_offset
            raw[next_one - 10] ^= 0xFF  # among the coefficients
            path.write_bytes(raw)
        case "another file":
            path.write_text("words\n")
        case "pickled objects":
            np.savez(path, **(fields | {"words": np.array(["good", "bad", "café"], dtype=object)}))
        case "newer format":
            np.savez(path, **(fields | {"format": np.array(99)}))
    with pytest.raises(EngineError, match=r"head\.npz is no linear signal .*fit_signal"):
        LinearSignal.load(path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"idf": np.ones(2)}, r"idf of signal 'small' has shape \[2\].*shape \[3\]"),
        ({"coefficients": np.ones((1, 3))}, r"coefficients .* shape \[2, 3\]"),
        ({"intercepts": np.array([0.0, np.nan])}, "intercepts .* finite: False"),
        ({"idf": np.array([1.0, 0.0, 1.0])}, "idf above 0"),
        ({"words": {"good": 0, "bad": 2, "café": 2}}, "numbered 0 to 2"),
    ],
)
def test_numbers_that_do_not_fit_together_are_refused(changes: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=says):
        small(**changes)


def test_one_text_is_no_list_of_texts():
    with pytest.raises(TypeError, match="put it in a list"):
        small().log_odds("bad")


def test_its_arrays_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        small().coefficients[0, 0] = 1.0
