"""A sequence classifier of transformers as a signal: its label by name, its log odds, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
)

from decoding.adaptation.signals import signal_named
from decoding.adaptation.transformers_signal import TransformersSignal
from grammars.errors import EngineError

WORDS = ["[PAD]", "[UNK]", "you", "are", "kind", "rude", "very", "the", "weather"]
TEXTS = ["you are rude", "kind", "", "the weather are very very kind rude you", "unheard"]


def write_tokenizer(folder: Path, padding: bool = True) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", model_max_length=12)
    if padding:
        tokenizer.pad_token = "[PAD]"
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.fixture
def bert(tmp_path: Path) -> Callable[..., Path]:
    """Writes a tiny random BERT with the labels asked for."""

    def write(labels: list[str], problem: str | None = None, padding: bool = True) -> Path:
        torch.manual_seed(1)
        config = BertConfig(
            vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=16, id2label=dict(enumerate(labels)), label2id={name: n for n, name in enumerate(labels)},
            problem_type=problem, initializer_range=0.7, pad_token_id=0,
        )  # fmt: skip
        BertForSequenceClassification(config).save_pretrained(tmp_path)
        write_tokenizer(tmp_path, padding)
        return tmp_path

    return write


def logits_alone(folder: Path, text: str) -> np.ndarray:
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    ids = [WORDS.index(word) if word in WORDS else 1 for word in text.split()][-12:] or [0]
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].double().numpy()


def test_labels_that_exclude_each_other_give_the_odds_of_their_softmax(bert: Callable[..., Path]):
    folder = bert(["neutral", "toxic", "spam"])
    found = TransformersSignal(str(folder), "toxic", batch=2).log_odds(TEXTS)
    assert found.dtype == np.float64
    for text, log_odds in zip(TEXTS, found):
        masses = np.exp(logits_alone(folder, text))
        assert log_odds == pytest.approx(np.log(masses[1] / (masses[0] + masses[2])), abs=1e-4)
    assert np.ptp(found) > 0.1


def test_labels_that_do_not_exclude_each_other_give_their_own_logit(bert: Callable[..., Path]):
    folder = bert(["toxic", "threat"], "multi_label_classification")
    found = TransformersSignal(str(folder), "threat").log_odds(TEXTS)
    assert found == pytest.approx([logits_alone(folder, text)[1] for text in TEXTS], abs=1e-4)


def test_a_single_label_needs_no_name(bert: Callable[..., Path]):
    folder = bert(["toxic"], "multi_label_classification")
    signal = TransformersSignal(str(folder))
    assert signal.label == "toxic" and signal.name == f"transformers:{folder}#toxic"
    assert signal.log_odds(["kind"]) == pytest.approx(logits_alone(folder, "kind"), abs=1e-4)


def test_batches_and_order_change_nothing(bert: Callable[..., Path]):
    signal = TransformersSignal(str(bert(["neutral", "toxic"])), "toxic", batch=3)
    together = signal.log_odds(TEXTS)
    assert np.concatenate([signal.log_odds([text]) for text in TEXTS]) == pytest.approx(together, abs=1e-4)
    assert signal.log_odds(TEXTS[::-1]) == pytest.approx(together[::-1], abs=1e-4)
    assert signal.log_odds([]).shape == (0,)


def test_of_a_long_text_the_end_is_read(bert: Callable[..., Path]):
    signal = TransformersSignal(str(bert(["neutral", "toxic"])), "toxic")
    long, other = "kind " * 30 + "very " * 11 + "rude", "weather " * 30 + "very " * 11 + "rude"
    assert signal.log_odds([long]) == pytest.approx(signal.log_odds([other]), abs=1e-6)
    assert abs(signal.log_odds([long]) - signal.log_odds([long + " kind"])) > 1e-3


def test_a_decoder_is_read_at_the_last_token_of_each_text(tmp_path: Path):
    torch.manual_seed(2)
    config = GPT2Config(
        vocab_size=len(WORDS), n_embd=16, n_layer=1, n_head=2, n_positions=16, num_labels=2, initializer_range=0.7,
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    signal = TransformersSignal(str(tmp_path), "label_1")
    assert signal.label == "LABEL_1"
    alone = np.concatenate([signal.log_odds([text]) for text in TEXTS])
    assert signal.log_odds(TEXTS) == pytest.approx(alone, abs=1e-4) and np.ptp(alone) > 0.1


def test_it_is_found_by_name(bert: Callable[..., Path]):
    folder = bert(["neutral", "toxic"])
    signal = signal_named(f"transformers:{folder}#toxic")
    assert signal.log_odds(["rude"]) == pytest.approx(TransformersSignal(str(folder), "toxic").log_odds(["rude"]))
    with pytest.raises(EngineError, match=r"the labels 'neutral', 'toxic': say which one is unwanted, as in .*#LABEL"):
        signal_named(f"transformers:{folder}")


def test_an_unknown_label_is_refused_with_those_there_are(bert: Callable[..., Path]):
    with pytest.raises(EngineError, match="has no label 'hate'; it has 'neutral', 'toxic'"):
        TransformersSignal(str(bert(["neutral", "toxic"])), "hate")


def test_a_regression_is_refused(bert: Callable[..., Path]):
    with pytest.raises(EngineError, match="is a regression"):
        TransformersSignal(str(bert(["score"], "regression")))


def test_a_model_without_a_trained_head_is_refused(tmp_path: Path):
    config = BertConfig(vocab_size=9, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    BertModel(config).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    with pytest.raises(EngineError, match=r"no trained sequence classifier: it has no weights for classifier\.bias"):
        TransformersSignal(str(tmp_path), "LABEL_1")


def test_a_folder_without_a_model_and_a_tokenizer_without_padding_are_refused(
    tmp_path: Path, bert: Callable[..., Path]
):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EngineError, match=r"cannot load '.*empty' as a sequence classifier"):
        TransformersSignal(str(tmp_path / "empty"), "toxic")
    with pytest.raises(EngineError, match="neither a padding nor an end token"):
        TransformersSignal(str(bert(["neutral", "toxic"], padding=False)), "toxic")


def test_one_text_is_no_list_of_texts(bert: Callable[..., Path]):
    with pytest.raises(TypeError, match="put it in a list"):
        TransformersSignal(str(bert(["neutral", "toxic"])), "toxic").log_odds("rude")
