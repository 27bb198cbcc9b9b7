"""The linear head on mean hidden states: its fit, its file, and the script that makes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from decoding.adaptation.attribute_head import AttributeHead, fit, main, mean_states
from grammars.errors import RequestError
from grammars.vocabulary import Vocabulary
from tests.decoding.small_models import small

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FOOD = ["bread", "cheese", "soup", "apple", "rice", "salad"]
WEATHER = ["rain", "wind", "storm", "cloud", "snow", "frost"]


def texts() -> list[tuple[str, float]]:
    """Short texts about food, scored high, and twice as many about the weather, in pairs of lines of one kind."""
    random = np.random.default_rng(0)
    return [
        (f"I like {a} and {b}" if pair % 2 else f"There is {a} and {b}", score)
        for pair in range(120)
        for words, score in [(FOOD, 0.9) if pair % 3 == 0 else (WEATHER, 0.1)]
        for a, b in [random.choice(words, 2), random.choice(words, 2)]
    ]


def written(path: Path, lines: list[tuple[str, float]]) -> Path:
    path.write_text("".join(json.dumps({"text": text, "toxicity": score}) + "\n" for text, score in lines))
    return path


def test_the_fit_is_the_optimum_of_its_loss():
    """The gradient of the mean cross-entropy and ridge vanishes there, on features of very different scales."""
    random = np.random.default_rng(0)
    means = random.normal(size=(200, 5)) * [1, 100, 0.01, 1, 5] + [0, 50, 0, -3, 1]
    shares = np.clip(1 / (1 + np.exp(-(means[:, 0] - 0.02 * means[:, 1]))), 0.01, 0.99)
    head = fit(means, shares, "none")
    scaled = (means - means.mean(axis=0)) / means.std(axis=0)
    weights = head.weight * means.std(axis=0)
    error = 1 / (1 + np.exp(-(means @ head.weight + head.bias))) - shares
    assert scaled.T @ error / 200 + 0.03 * weights == pytest.approx(np.zeros(5), abs=1e-6)
    assert error.mean() == pytest.approx(0, abs=1e-6)
    assert weights[0] > 0.3 > -0.3 > weights[1]


def test_mean_states_are_those_of_each_text_alone(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary):
    model = small("llama", vocabulary, tokenizer)
    some = ["I like bread", "snow", "There is wind and " + "rain " * 200]
    means = mean_states(model, some)
    for text, mean in zip(some, means, strict=True):
        tokens = model.encode(text)[:64]  # its context
        with torch.no_grad():
            hidden = model._model.base_model(torch.tensor([tokens])).last_hidden_state[0]
        assert mean == pytest.approx(hidden.mean(dim=0).numpy(), abs=1e-6)


def test_the_script_trains_a_head_that_tells_the_texts_apart(
    tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model = small("llama", vocabulary, tokenizer, hidden_size=64)
    model._model.float().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    source, output = written(tmp_path / "texts.jsonl", texts()), tmp_path / "head.npz"
    assert main(["--model", str(tmp_path / "model"), "--texts", str(source), "--output", str(output)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["texts"] == 240 and report["held_out"] == 48 and report["held_out_auc"] > 0.8
    head = AttributeHead.load(output)
    assert head.model == "model" and head.fits(model) is head
    odds = head.logits(torch.from_numpy(mean_states(model, ["I like cheese and soup", "There is frost and rain"])))
    assert float(odds[0]) > float(odds[1])


def test_a_head_is_read_as_it_was_written_and_holds_no_pickle(tmp_path: Path):
    head = AttributeHead(np.random.default_rng(0).normal(size=7), -0.25, "some model")
    head.save(tmp_path / "head.npz")
    again = AttributeHead.load(tmp_path / "head.npz")
    assert again.weight.tolist() == head.weight.tolist() and (again.bias, again.model) == (-0.25, "some model")
    with np.load(tmp_path / "head.npz", allow_pickle=False) as stored:
        assert {name: stored[name].dtype.hasobject for name in stored.files} == dict.fromkeys(
            ("weight", "bias", "model"), False
        )


def test_what_is_no_head_is_refused(tmp_path: Path):
    with pytest.raises(RequestError, match="cannot be read: FileNotFoundError"):
        AttributeHead.load(tmp_path / "nothing.npz")
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", weights=np.ones(3))
    np.savez(tmp_path / "pickled.npz", weight=np.array([{}]), bias=0.0, model="m")
    np.save(tmp_path / "array.npy", np.ones(3))
    for name in ("text.npz", "other.npz", "pickled.npz", "array.npy"):
        with pytest.raises(RequestError, match=f"{name}: cannot be read"):
            AttributeHead.load(tmp_path / name)
    np.savez(tmp_path / "nan.npz", weight=np.array([1.0, np.nan]), bias=0.0, model="m")
    with pytest.raises(RequestError, match="finite weights"):
        AttributeHead.load(tmp_path / "nan.npz")


def test_texts_of_one_kind_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = written(tmp_path / "texts.jsonl", [("a text", 0.1)] * 20)
    assert main(["--texts", str(source), "--output", str(tmp_path / "head.npz")]) == 1
    assert "toxic and other ones are needed on both sides" in capsys.readouterr().err
    assert main(["--texts", str(tmp_path / "none"), "--output", "x"]) == 1
    assert "cannot read scored texts" in capsys.readouterr().err
    assert not (tmp_path / "head.npz").exists()


def test_a_text_without_tokens_is_named(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary):
    with pytest.raises(RequestError, match="text 1: no tokens"):
        mean_states(small("llama", vocabulary, tokenizer), ["a text", ""])
