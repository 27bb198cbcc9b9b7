"""The baseline arms of the detox benchmark, on small random transformers: their laws against their papers' formulas, and what
they are at no strength."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.anti_expert import apart, fine_tune, mean_loss
from bench.detox_baselines import (
    ARMS,
    LEAST_FACTOR,
    Baseline,
    Draft,
    Reading,
    WordFilter,
    dexperts,
    generate,
    nucleus,
    objectionable,
    plain,
    rad,
    self_debias,
)
from decoding.adaptation.exact import UDDIA
from decoding.adaptation.exact_settings import ExactSettings
from decoding.adaptation.linear_signal import LinearSignal
from decoding.table_model import letters
from decoding.torch_model import TorchModel
from grammars.vocabulary import Vocabulary
from tests.decoding.small_models import LETTERS, small

PROMPTS = ["abc", "d", "ef", "ghijk", "d"]


class Letters:
    """A tokenizer of single characters."""

    def __init__(self, vocabulary: Vocabulary = LETTERS) -> None:
        self._vocabulary = vocabulary

    def __call__(self, text: str) -> dict[str, Any]:
        return {"input_ids": [self._vocabulary.tokens.index(letter.encode()) for letter in text]}


@pytest.fixture(scope="module")
def model() -> TorchModel:
    return small("llama", tokenizer=Letters())


def plainly(model: TorchModel, prefix: str = "") -> Baseline:
    return Baseline((Reading(model, prefix),), plain)


def laws(rows: int = 4, size: int = 50, seed: int = 0) -> list[Tensor]:
    """Logits of two readings, float32 [rows, size]."""
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(2, rows, size, generator=generator) * 3)


def objecting(**coefficients: float) -> LinearSignal:
    """log odds of a text of one word: its coefficient less 1."""
    words = {word: place for place, word in enumerate(coefficients)}
    heads = np.array([list(coefficients.values())])
    return LinearSignal("small", words, np.ones(len(words)), heads, -np.ones(1), -np.ones(1), np.zeros(1))


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


def test_a_low_temperature_leaves_the_likeliest_text(model: TorchModel):
    cold = Baseline((Reading(model),), plain, temperature=1e-6)
    for seed in (5, 6):
        texts = generate(cold, PROMPTS, 3, seed=seed, max_tokens=6)
        assert all(len(set(row)) == 1 for row in texts)
    assert generate(cold, PROMPTS, 1, seed=5, max_tokens=6) == [row[:1] for row in texts]


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


def test_dexperts_divides_by_the_anti_expert_inside_the_models_own_nucleus():
    """q ∝ p · (p / p_anti)^alpha; what the anti-expert says moves no token in or out."""
    own, anti = laws()
    p, p_anti = (torch.softmax(logits, 1).double() for logits in (own, anti))
    inside = torch.isfinite(nucleus(own))
    expected = torch.where(inside, p * (p / p_anti) ** 1.5, 0.0)
    law = torch.softmax(dexperts(1.5)([own, anti], drafts(4)).double(), 1)
    assert torch.allclose(law, expected / expected.sum(1, keepdim=True), atol=1e-5)
    assert (law - torch.softmax(nucleus(own).double(), 1)).abs().max() > 0.1


def test_dexperts_at_alpha_0_is_plain(model: TorchModel):
    other = small("gpt2", tokenizer=Letters())
    texts = {
        alpha: generate(Baseline((Reading(model), Reading(other)), dexperts(alpha)), PROMPTS, 4, seed=5, max_tokens=8)
        for alpha in (0.0, 1.5)
    }
    assert texts[0.0] == generate(plainly(model), PROMPTS, 4, seed=5, max_tokens=8) != texts[1.5]


def test_rad_rewards_the_likeliest_tokens_by_the_text_they_make():
    """Of three candidates each by hand: the prompt's and the token's words are one text."""
    signal = objecting(ab=6.0, ac=-2.0)
    vocabulary = letters("abcd")
    logits = torch.log(torch.tensor([[0.2, 0.3, 0.25, 0.15, 0.1]]))
    law = torch.softmax(rad(10.0, signal, vocabulary, top_k=3)([logits], [Draft("a", 0, 0)]).double(), 1)[0]
    # "aa" is no word of the signal's; the other two are.
    p_clean = 1 / (1 + np.exp(np.array([-1.0, 5.0, -3.0])))
    expected = np.array([0.2, 0.3, 0.25]) * np.exp(10 * p_clean)
    assert law[:3].numpy() == pytest.approx(expected / expected.sum(), abs=1e-6) and law[3:].tolist() == [0, 0]


def test_rad_at_beta_0_is_plain(model: TorchModel):
    """Where there are no more tokens than it looks at."""
    signal = objecting(ab=6.0, ba=6.0, aa=6.0)
    texts = {
        beta: generate(Baseline((Reading(model),), rad(beta, signal, LETTERS)), PROMPTS, 4, seed=5, max_tokens=8)
        for beta in (0.0, 50.0)
    }
    assert texts[0.0] == generate(plainly(model), PROMPTS, 4, seed=5, max_tokens=8)


def test_words_are_objectionable_by_themselves():
    assert objectionable(objecting(ab=6.0, ac=-2.0, ad=1.5, ae=0.5)) == {"ab", "ad"}


PIECES = ("a", "b", "A", "B", " a", " b", "ab", " AB", "b.", "a b", ".ab a", "a-ab", " c", "ba", "", "s ", "\u00e9")


@pytest.mark.parametrize("text", ["", "a", "c a", "c A", "c.", "c ab", "aba", "ba ", "x\u00e9a"])
def test_a_word_filter_refuses_the_tokens_that_make_its_words(text: str):
    """Against reading the whole text: a token is refused when a word of the list ends in what it wrote."""
    words = {"ab", "abs", "b", "bab", "\u00e9", "\u00e9a", "aab"}
    vocabulary = Vocabulary((*(piece.encode() for piece in PIECES), b""), (len(PIECES),), len(PIECES) + 1)
    word_filter, refused = WordFilter(words, vocabulary), set()
    for token, piece in enumerate(PIECES):
        # Next to all mass on one token: it is the nucleus, unless it is refused.
        logits = torch.zeros(1, vocabulary.size)
        logits[0, token] = 20.0
        if word_filter([logits], [Draft(text, 0, 0)])[0, token] == -torch.inf:
            refused.add(piece)
    expected = {
        piece
        for piece in PIECES
        if any(word.group() in words and word.end() > len(text) for word in re.finditer(r"\w+", (text + piece).lower()))
    }
    assert refused == expected and expected


def test_texts_behind_a_word_filter_have_none_of_its_words():
    vocabulary = letters("abcdefghijklmn ")
    model = small("llama", vocabulary, Letters(vocabulary))
    words = {"dd", "dj", "ii", "j"}
    filtered = Baseline((Reading(model),), WordFilter(words, vocabulary))
    unfiltered = generate(plainly(model), ["d", "n "], 20, seed=5, max_tokens=8)
    texts = generate(filtered, ["d", "n "], 20, seed=5, max_tokens=8)

    def words_of(prompt: str, texts: Sequence[str]) -> set[str]:
        return {word for text in texts for word in (prompt + text).split()}

    assert words & (words_of("d", unfiltered[0]) | words_of("n ", unfiltered[1]))
    assert not words & (words_of("d", texts[0]) | words_of("n ", texts[1]))


def test_a_word_filter_without_words_is_plain(model: TorchModel):
    filtered = Baseline((Reading(model),), WordFilter((), LETTERS))
    assert generate(filtered, PROMPTS, 4, seed=5, max_tokens=8) == generate(
        plainly(model), PROMPTS, 4, seed=5, max_tokens=8
    )


def raw_llama() -> Any:
    import transformers

    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=16, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=64, bos_token_id=0, eos_token_id=15, initializer_range=0.5,
        )
    )  # fmt: skip


def test_fine_tuning_teaches_its_texts_to_the_top_layers_alone():
    model, texts = raw_llama(), ["abab", "babab", "cdcdcd", "ab"] * 8
    before = copy.deepcopy(model.state_dict())
    losses = fine_tune(model, Letters(), texts, layers=1, epochs=20, learning_rate=1e-2)
    assert losses[-1] < losses[0] - 0.5 and mean_loss(model, Letters(), texts) < losses[0] - 0.5
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed and all(name.startswith(("model.layers.2.", "model.norm.")) for name in changed)
    assert not any(weight.requires_grad for weight in model.parameters())


def test_a_batchs_loss_is_that_of_its_texts_alone():
    model, texts = raw_llama(), ["ab", "cdefg", "hijklmno", "e"]
    losses = [mean_loss(model, Letters(), [text]) * (len(text) - 1) for text in texts if len(text) > 1]
    together = mean_loss(model, Letters(), texts)  # of a single token there is nothing to predict
    assert together == pytest.approx(sum(losses) / (1 + 4 + 7), abs=1e-6)


def test_texts_of_the_evaluation_are_found_among_others():
    assert apart(["A b", "c", "d e"], ["a  B ", "d"]) == ["A b"]


def test_the_benchmarks_arms_are_there_by_name():
    strengths = {"self-debias": ("10", "50"), "dexperts": ("0.5", "1.5"), "rad": ("10", "50")}
    named = {f"{arm} {strength}" for arm, both in strengths.items() for strength in both}
    cooler = {f"{arm}, T {temperature}" for arm in ("dexperts 1.5", "rad 50") for temperature in ("0.85", "0.7")}
    assert set(ARMS) == named | cooler | {"instruction", "word filter"}
