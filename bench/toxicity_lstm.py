"""A toxicity classifier as many were made for Jigsaw's competition: word vectors, a bidirectional LSTM, each unit's maximum."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

CLASSES = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")
LENGTH = 100
# Keras's text Tokenizer, as both packages left it.
_FILTERED = str.maketrans(dict.fromkeys('!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n', " "))


class ToxicityLstm(torch.nn.Module):
    """Logits of the six classes, in float32, from the arrays that bench/reference/toxicity_export.py writes.

    A text is its last 100 known words, with padding before them; the padding has a vector and is read like a word.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        self.rows = {str(word): row for row, word in enumerate(arrays.pop("words")) if row}
        gates = {"sigmoid": torch.sigmoid, "hard_sigmoid": lambda x: (0.2 * x + 0.5).clamp(0.0, 1.0)}
        self.gate = gates[str(arrays.pop("gate"))]
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(array))

    def rows_of(self, text: str) -> list[int]:
        """Rows of the embedding for a text, [100]."""
        known = [row for word in text.lower().translate(_FILTERED).split(" ") if (row := self.rows.get(word))]
        return [0] * (LENGTH - len(known)) + known[-LENGTH:]

    @torch.inference_mode()
    def features(self, texts: Sequence[str], batch: int = 512) -> np.ndarray:
        """The six logits and the hidden layer they are made of: float32 [N, 6 + 50]. Batches change rounding alone."""
        rows = torch.tensor([self.rows_of(text) for text in texts], dtype=torch.int64).reshape(-1, LENGTH)
        return torch.cat([self(part) for part in rows.split(batch)]).numpy()

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [N, 6], in the order of CLASSES."""
        return self.features(texts)[:, : len(CLASSES)]

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """int64 [B, 100] to float32 [B, 6 + 50]."""
        vectors = self.get_buffer("embedding")[rows]
        greatest = torch.cat([self._greatest(vectors, "forward"), self._greatest(vectors.flip(1), "backward")], dim=1)
        hidden = torch.relu(greatest @ self.get_buffer("hidden") + self.get_buffer("hidden_bias"))
        return torch.cat([hidden @ self.get_buffer("output") + self.get_buffer("output_bias"), hidden], dim=1)

    def _greatest(self, vectors: torch.Tensor, way: str) -> torch.Tensor:
        """The greatest of each hidden number over the words: [B, 50]. The gates stand in the order i, f, cell, o."""
        kernel, recurrent, bias = (self.get_buffer(f"{way}_{part}") for part in ("kernel", "recurrent", "bias"))
        inputs = vectors @ kernel + bias
        hidden = cell = torch.zeros(len(vectors), len(recurrent))
        greatest = torch.full_like(hidden, -torch.inf)
        for step in range(inputs.shape[1]):
            i, f, new, o = (inputs[:, step] + hidden @ recurrent).chunk(4, dim=1)
            cell = self.gate(f) * cell + self.gate(i) * torch.tanh(new)
            hidden = self.gate(o) * torch.tanh(cell)
            greatest = torch.maximum(greatest, hidden)
        return greatest
