"""The attribute of a token, alone and in context, for groups such as female and male: what UDDIA's debias loss looks at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decoding.adaptation.lexicons import axis_of
from decoding.torch_model import TorchModel
from grammars.errors import RequestError

# Of the softmax over groups, and the p(a | x) from which on a token belongs to p(x | a): the released code's values.
TEMPERATURE = 0.1
LEAST_SHARE = 0.75


@dataclass(frozen=True, eq=False)
class TokenGroups:
    """p(a | x) and p(a | x, c) for A groups, from the mean of vectors: softmax over a of v̄ · direction_a / temperature.

    names       of the groups, A of them, at least two
    vectors     [V, K], one a token; the mean over a text's tokens is the text's
    directions  [K, A]
    cosine      whether a mean is scaled to length 1 first
    laws        [V, A]: p(x | a), of the tokens that belong to a group
    """

    names: tuple[str, ...]
    vectors: Tensor
    directions: Tensor
    cosine: bool
    laws: Tensor

    @staticmethod
    def of_words(model: TorchModel, axis: str | Mapping[str, Any], texts: Iterable[str] = ()) -> TokenGroups:
        """Groups told by their words: a token has the vector e_a of the group a that it names, others 0.

        axis   gender, race or religion, or {"name": ..., "groups": {"a": [words], "b": [words]}}; see lexicons
        texts  whose tokens say how frequent each is; where there are none, all are alike
        Raises RequestError for an axis there is not, or a group of which no word is known.
        """
        named = axis_of(axis)
        tokens = named.tokens(model.vocabulary)
        vectors = torch.zeros(len(model.embedding), len(tokens), dtype=model.embedding.dtype, device=model.device)
        # Without a space before it a token may be the middle of any word.
        for group, (spaced, _) in enumerate(tokens.values()):
            vectors[list(spaced), group] = 1.0
        directions = torch.eye(len(tokens), dtype=vectors.dtype, device=model.device)
        return _made(tuple(name for name, _ in named.groups), vectors, directions, False, frequencies(model, texts))

    @staticmethod
    def of_embeddings(
        model: TorchModel,
        pairs: Sequence[tuple[str, str]],
        texts: Iterable[str] = (),
        names: Sequence[str] = ("0", "1"),
    ) -> TokenGroups:
        """Two groups told as the paper does: by the cosine of an embedding with the direction that separates pairs of words.

        The direction is that of the mean difference of the pairs: the first component of the supervised PCA which the released
        code runs on the centred pairs, since with two classes that matrix has rank one. p(a | x) is
        softmax([(1 - cos) / 2, (1 + cos) / 2] / temperature).

        pairs  such as ("she", "he"); a word of several tokens has their mean
        texts  as in `of_words`. Raises RequestError for no pairs, or a word without tokens.
        """
        if not pairs:
            raise RequestError("debias: no pairs of words: at least one, such as (she, he), was wanted")
        embedding = model.embedding
        difference = torch.zeros_like(embedding[0])
        for pair in pairs:
            ids = [model.encode(word) for word in pair]
            if len(ids) != 2 or not all(ids):
                raise RequestError(f"debias: {pair!r:.80}: two words, each with at least one token, were wanted")
            difference += embedding[ids[1]].mean(dim=0) - embedding[ids[0]].mean(dim=0)
        length = torch.linalg.vector_norm(difference)
        if not float(length) > 0:
            raise RequestError("debias: the pairs of words do not differ: give others")
        directions = torch.stack([-difference, difference], dim=1) / (2 * length)
        return _made(tuple(names), embedding, directions, True, frequencies(model, texts))

    @property
    def alone(self) -> Tensor:
        """p(a | x): [V, A]"""
        return self._shares(self.vectors @ self.directions, (self.vectors**2).sum(dim=-1))

    def in_context(self, total: Tensor, count: Tensor) -> Tensor:
        """p(a | x, c): the groups' shares in the mean over a context and one token more.

        total  [B, K], the sum of the context's vectors
        count  [B], its tokens
        returns [B, V, A]
        """
        sums = (total @ self.directions)[:, None] + self.vectors @ self.directions
        if not self.cosine:
            return self._shares(sums / (count[:, None, None] + 1), None)
        squares = (total**2).sum(dim=-1)[:, None] + 2 * total @ self.vectors.T + (self.vectors**2).sum(dim=-1)
        return self._shares(sums, squares)

    def _shares(self, scores: Tensor, squares: Tensor | None) -> Tensor:
        if self.cosine and squares is not None:
            scores = scores / squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()[..., None]
        return torch.softmax(scores / TEMPERATURE, dim=-1)


def frequencies(model: TorchModel, texts: Iterable[str]) -> np.ndarray:
    """How often each token stands in some texts, one added to each: float64 [V], sums to 1."""
    counts = np.ones(len(model.embedding))
    for text in texts:
        np.add.at(counts, model.encode(text), 1.0)
    return counts / counts.sum()


def _made(
    names: tuple[str, ...], vectors: Tensor, directions: Tensor, cosine: bool, frequency: np.ndarray
) -> TokenGroups:
    """With p(x | a) ∝ p(x) p(a | x) over the tokens whose p(a | x) is at least LEAST_SHARE."""
    groups = TokenGroups(names, vectors, directions, cosine, torch.empty(0))
    alone = groups.alone
    laws = torch.from_numpy(frequency).to(alone)[:, None] * alone * (alone > LEAST_SHARE)
    for group, mass in enumerate(laws.sum(dim=0).tolist()):
        if not mass > 0:
            raise RequestError(
                f"debias: no token belongs to group {names[group]!r} by a share above {LEAST_SHARE}: give it other words"
            )
    return TokenGroups(names, vectors, directions, cosine, laws / laws.sum(dim=0))
