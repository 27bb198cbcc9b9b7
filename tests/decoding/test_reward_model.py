"""A sequence classifier as reward, on small real models of random weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from decoding.rewarding import reward_of
from decoding.rewards.reward_model import RewardModel
from grammars.errors import EngineError, RequestError
from samplers.reward import Candidate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CANDIDATES = [Candidate("How are you?", text) for text in ("Fine.", "Not so well, and you? " * 3, "", "Fine, thanks!")]


def made(tokenizer: PreTrainedTokenizerBase, folder: Path, labels: int) -> Path:
    """A Llama of two small layers with a head for so many labels."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(labels)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=96, num_labels=labels, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def regressor(tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tokenizer, tmp_path_factory.mktemp("regressor"), 1)


def by_hand(folder: Path, one: Candidate) -> np.ndarray:
    """The logits of one text, without padding."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    talk = [{"role": "user", "content": one.prompt}, {"role": "assistant", "content": one.text}]
    ids = tokenizer(tokenizer.apply_chat_template(talk, tokenize=False), add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0]
    return np.asarray(logits.double())


def test_a_regressor_scores_by_its_logit_whatever_stands_in_the_batch(regressor: Path):
    reward = RewardModel(regressor, batch_size=3)
    scores = reward.score(CANDIDATES)
    assert scores == pytest.approx([by_hand(regressor, one)[0] for one in CANDIDATES], abs=1e-5)
    assert len(set(scores.tolist())) == len(CANDIDATES)
    assert scores == pytest.approx([reward.score([one])[0] for one in CANDIDATES], abs=1e-5)
    assert len(reward.score([])) == 0


def test_of_several_labels_one_has_to_be_named(tokenizer: PreTrainedTokenizerBase, tmp_path: Path):
    folder = made(tokenizer, tmp_path, 3)
    reward = reward_of({"reward_model": {"model": str(folder), "label": "LABEL_2"}})
    expected = [
        np.log(np.exp(logits[2]) / np.exp(logits).sum()) for logits in (by_hand(folder, one) for one in CANDIDATES)
    ]
    assert reward.score(CANDIDATES) == pytest.approx(expected, abs=1e-5)
    assert reward.score(CANDIDATES) == pytest.approx(RewardModel(folder, label=2).score(CANDIDATES))
    for label in (None, "LABEL_9", 7, True):
        with pytest.raises(RequestError, match="LABEL_0"):
            RewardModel(folder, label=label)


def test_a_text_beyond_the_context_cannot_be_judged(regressor: Path):
    scores = RewardModel(regressor).score([CANDIDATES[0], Candidate("q", "word " * 200), CANDIDATES[3]])
    assert np.isnan(scores).tolist() == [False, True, False]


def test_what_is_no_classifier_is_refused(model_path: Path, tmp_path: Path):
    with pytest.raises(EngineError, match="no sequence classifier"):
        RewardModel(model_path)
    with pytest.raises(EngineError, match="no such folder"):
        RewardModel(tmp_path / "nothing")
    with pytest.raises(EngineError, match="cannot be loaded"):
        RewardModel(tmp_path)
    wrong: list[dict[str, Any]] = [{"batch_size": 0}, {"max_length": True}]
    for options in wrong:
        with pytest.raises(RequestError, match="reward_model"):
            RewardModel(tmp_path, **options)
