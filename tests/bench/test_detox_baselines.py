"""The baseline arms of the detox benchmark, on small random transformers: their laws against their papers' formulas, and what
they are at no strength."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.detox_baselines import (
    LEAST_FACTOR,
    Baseline,
    Draft,
    Reading,
    generate,
    nucleus,
    plain,
    self_debias,
)
from decoding.adaptation.exact import UDDIA
from decoding.adaptation.exact_settings import ExactSettings
from decoding.torch_model import TorchModel
from tests.decoding.small_models import LETTERS, small

PROMPTS = ["abc", "d", "ef", "ghijk", "d"]


class Letters:
    """A tokenizer of LETTERS."""

    def __call__(self, text: str) -> dict[str, Any]:
        return {"input_ids": [LETTERS.tokens.index(letter.encode()) for letter in text]}


@pytest.fixture(scope="module")
def model() -> TorchModel:
    return small("llama", tokenizer=Letters())


def plainly(model: TorchModel, prefix: str = "") -> Baseline:
    return Baseline((Reading(model, prefix),), plain)


def laws(rows: int = 4, size: int = 50, seed: int = 0) -> list[Tensor]:
    """Logits of two readings, float32 [rows, size]."""
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(2, rows, size, generator=generator) * 3)


def drafts(rows: int) -> Sequence[Draft]:
    return [Draft("a", 0, n) for n in range(rows)]


def test_texts_come_by_prompt_and_sample_and_the_same_seed_brings_them_back(model: TorchModel):
    texts = generate(plainly(model), PROMPTS, 3, seed=5, max_tokens=6)
    assert [len(row) for row in texts] == [3] * len(PROMPTS) and max(len(text) for row in texts for text in row) == 6
    assert generate(plainly(model), PROMPTS, 3, seed=5, max_tokens=6) == texts
    assert generate(plainly(model), PROMPTS, 3, seed=6, max_tokens=6) != texts
    # Equal prompts are drawn anew, and so is every sample.
    assert texts[1] != texts[4] and len(set(texts[3])) > 1


def test_a_text_does_not_depend_on_its_batch(model: TorchModel):
    whole = generate(plainly(model), PROMPTS, 3, seed=5, max_tokens=6)
    assert generate(plainly(model), PROMPTS, 3, seed=5, max_tokens=6, batch=2) == whole
    assert generate(plainly(model), PROMPTS[:1], 3, seed=5, max_tokens=6) == whole[:1]


def test_plain_texts_are_those_of_uddia_that_takes_no_step(model: TorchModel):
    """Two implementations of sampling from the nucleus: the same cut, the same uniforms, the same tokens, ends included."""
    untouched = UDDIA(model, ExactSettings(detox=0.0, debias=0.0, top_p=0.9, fusion=1.0))
    results = untouched.generate(PROMPTS, max_tokens=12, seed=5, samples=4)
    ours = generate(plainly(model), PROMPTS, 4, seed=5, max_tokens=12)
    assert [text for row in ours for text in row] == [result.text for result in results]
    assert any(result.finished for result in results)


def test_a_prefix_is_read_and_not_written(model: TorchModel):
    behind = generate(plainly(model, "ab"), ["c"], 4, seed=5, max_tokens=6)
    assert behind == generate(plainly(model), ["abc"], 4, seed=5, max_tokens=6)
    assert behind != generate(plainly(model), ["c"], 4, seed=5, max_tokens=6)


def test_the_nucleus_is_as_few_tokens_as_hold_its_share():
    """Each row holds .9 and would not without its least likely token; what is kept is kept as it was."""
    logits, _ = laws(rows=20, size=300)
    kept = nucleus(logits)
    masses = torch.softmax(logits, 1).double()
    inside = kept > -torch.inf
    held = (masses * inside).sum(1)
    least = torch.where(inside, masses, 1.0).amin(1)
    assert (held >= 0.9 - 1e-6).all() and (held - least < 0.9).all()
    assert (torch.where(inside, -torch.inf, masses).amax(1) <= least).all()
    assert torch.equal(kept[inside], logits[inside])
    equal = nucleus(torch.zeros(1, 10))
    assert torch.isfinite(equal[0]).tolist() == [True] * 9 + [False]


def test_self_debiasing_is_its_papers_formula():
    own, diagnosed = laws()
    p, p_toxic = (torch.softmax(logits, 1).double() for logits in (own, diagnosed))
    less = p < p_toxic
    scaled = torch.where(less, p * torch.exp(10 * (p - p_toxic)).clamp_min(LEAST_FACTOR), p)
    expected = scaled / scaled.sum(1, keepdim=True)
    law = torch.softmax(self_debias(10.0)([own, diagnosed], drafts(4)).double(), 1)
    inside = law > 0
    ratios = torch.where(inside, law / expected, torch.nan)
    # The law is the formula cut to its nucleus, renormalised.
    for row in range(4):
        found = ratios[row][inside[row]]
        assert found.max() - found.min() < 1e-4 and 1 <= found.mean() <= 1 / 0.9 + 1e-6
    assert less.any() and (10 * (p - p_toxic) < np.log(LEAST_FACTOR)).any()


def self_debiased(model: TorchModel, decay: float) -> Baseline:
    return Baseline((Reading(model), Reading(model, "bad")), self_debias(decay))


def test_self_debiasing_without_decay_is_plain(model: TorchModel):
    plain_texts = generate(plainly(model), PROMPTS, 4, seed=5, max_tokens=8)
    assert generate(self_debiased(model, 0.0), PROMPTS, 4, seed=5, max_tokens=8) == plain_texts
    assert generate(self_debiased(model, 50.0), PROMPTS, 4, seed=5, max_tokens=8) != plain_texts


def test_readings_of_one_model_are_those_of_two(model: TorchModel):
    """They share a pass; rows that end leave it in both."""
    together = generate(self_debiased(model, 10.0), PROMPTS, 4, seed=5, max_tokens=12)
    other = small("llama", tokenizer=Letters())
    apart = Baseline((Reading(model), Reading(other, "bad")), self_debias(10.0))
    assert generate(apart, PROMPTS, 4, seed=5, max_tokens=12) == together
    assert len({len(text) for row in together for text in row}) > 1
