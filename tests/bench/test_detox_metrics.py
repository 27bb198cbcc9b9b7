"""Likelihoods of continuations are those of one text read alone, and what is counted is what is there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.detox_metrics import BaseModel, distinct, fluency, log_likelihoods

PROMPTS = ["The nurse said that", "I"]
TEXTS = [[" she was tired.", "", " no"], [" am here", " think, therefore I am", "!"]]


def test_a_texts_likelihood_is_what_the_model_says_of_it_alone():
    model = BaseModel.load()
    logs, lengths = log_likelihoods(model, PROMPTS, TEXTS)
    for p, prompt in enumerate(PROMPTS):
        for n, text in enumerate(TEXTS[p]):
            before, after = model.encode(prompt), model.encode(text)
            with torch.inference_mode():
                laws = torch.log_softmax(model.model(torch.tensor([before + after])).logits[0].double(), 1)
            alone = sum(float(laws[len(before) - 1 + k, token]) for k, token in enumerate(after))
            assert logs[p, n] == pytest.approx(alone, abs=1e-3) and lengths[p, n] == len(after)
    told = fluency(model, PROMPTS, TEXTS)
    assert told["perplexity"] == pytest.approx(float(np.exp(-logs.sum() / lengths.sum())))


def test_texts_that_are_all_empty_have_likelihood_one():
    logs, lengths = log_likelihoods(BaseModel.load(), ["A prompt"], [["", ""]])
    assert logs.tolist() == [[0.0, 0.0]] and lengths.tolist() == [[0, 0]]


def test_distinct_counts_pairs_of_words_once():
    assert distinct([["a b a b", "a b"]])["distinct_2"] == pytest.approx(2 / 6)
