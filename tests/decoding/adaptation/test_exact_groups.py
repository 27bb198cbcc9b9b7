"""Attributes of tokens, alone and in context, against the formulas written out; on a small model with a real tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from decoding.adaptation.exact_groups import TEMPERATURE, TokenGroups
from decoding.torch_model import TorchModel
from grammars.errors import RequestError
from grammars.vocabulary import Vocabulary
from tests.decoding.small_models import small

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAIRS = [(" she", " he"), (" woman", " man"), (" sister", " brother"), (" queen", " king")]
OWN = {"groups": {"cat": ["cat", "cats"], "dog": ["dog"], "bird": ["bird", "birds"]}}


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> TorchModel:
    return small("llama", vocabulary, tokenizer)


def one(model: TorchModel, text: str) -> int:
    (token,) = model.encode(text)
    return token


def test_words_belong_to_their_group_and_others_to_none(model: TorchModel):
    groups = TokenGroups.of_words(model, OWN)
    assert groups.names == ("cat", "dog", "bird")
    alone = groups.alone
    peak = np.exp(1 / TEMPERATURE)
    for word, group in ((" cat", 0), (" cats", 0), (" Dog", 1), (" birds", 2)):
        assert float(alone[one(model, word), group]) == pytest.approx(peak / (peak + 2))
    assert alone[one(model, " house")].tolist() == pytest.approx([1 / 3] * 3)
    assert groups.laws.sum(dim=0).tolist() == pytest.approx([1, 1, 1])
    assert float(groups.laws[one(model, " house")].sum()) == 0


def test_a_groups_law_follows_how_frequent_its_words_are(model: TorchModel):
    even = TokenGroups.of_words(model, OWN).laws[:, 0]
    often = TokenGroups.of_words(model, OWN, texts=["a cat, a cat and a cat", "the cats"]).laws[:, 0]
    cat, cats = one(model, " cat"), one(model, " cats")
    assert float(even[cat]) == pytest.approx(float(even[cats]))
    assert float(often[cat] / often[cats]) == pytest.approx(4 / 2), "one is added to each count"


@pytest.mark.parametrize("by", ["words", "embeddings"])
def test_in_context_is_the_mean_with_one_token_more(model: TorchModel, by: str):
    groups = TokenGroups.of_words(model, "gender") if by == "words" else TokenGroups.of_embeddings(model, PAIRS)
    contexts = [model.encode("The woman said that she"), model.encode("a dog")]
    totals = torch.stack([groups.vectors[context].sum(dim=0) for context in contexts])
    shares = groups.in_context(totals, torch.tensor([len(context) for context in contexts]))
    for token in (one(model, " he"), one(model, " she"), one(model, " dog"), 17):
        for row, context in enumerate(contexts):
            mean = groups.vectors[[*context, token]].mean(dim=0)
            if by == "embeddings":
                mean = mean / mean.norm()
            by_hand = torch.softmax(mean @ groups.directions / TEMPERATURE, dim=-1)
            assert shares[row, token].tolist() == pytest.approx(by_hand.tolist(), abs=1e-9)


def test_the_embeddings_share_is_the_papers_formula(model: TorchModel):
    """p(a | x) = softmax([(1 - cos) / 2, (1 + cos) / 2] / τ), the direction being the first supervised principal component."""
    groups = TokenGroups.of_embeddings(model, PAIRS, names=("female", "male"))
    columns = []
    for pair in PAIRS:
        vectors = [model.embedding[model.encode(word)].mean(dim=0).numpy() for word in pair]
        columns += [vectors[0] - np.mean(vectors, axis=0), vectors[1] - np.mean(vectors, axis=0)]
    features, labels = np.array(columns).T, np.array([0, 1] * len(PAIRS))
    centring = np.eye(len(labels)) - 1 / len(labels)
    same = (labels[:, None] == labels[None]).astype(float)
    component = np.linalg.eigh(features @ centring @ same @ centring @ features.T)[1][:, -1]
    component *= np.sign(component @ (columns[1] - columns[0]))
    for word in (" he", " she", " dog"):
        vector = model.embedding[one(model, word)].numpy()
        cosine = vector @ component / np.linalg.norm(vector)
        scores = np.exp(np.array([1 - cosine, 1 + cosine]) / 2 / TEMPERATURE)
        assert groups.alone[one(model, word)].tolist() == pytest.approx((scores / scores.sum()).tolist(), abs=1e-6)


def test_groups_that_cannot_be_told_are_refused(model: TorchModel):
    with pytest.raises(RequestError, match="no axis 'age'; there are gender"):
        TokenGroups.of_words(model, "age")
    with pytest.raises(RequestError, match="no token of this model's begins a word of group 'b'"):
        TokenGroups.of_words(model, {"groups": {"a": ["cat"], "b": ["xqzzkwv"]}})
    with pytest.raises(RequestError, match="no pairs"):
        TokenGroups.of_embeddings(model, [])
    with pytest.raises(RequestError, match="do not differ"):
        TokenGroups.of_embeddings(model, [(" cat", " cat")])
    with pytest.raises(RequestError, match="each with at least one token"):
        TokenGroups.of_embeddings(model, [("", " cat")])
