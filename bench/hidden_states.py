"""What a language model makes of a text halfway up: the means of its hidden states, which a judge may read as features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from decoding.embedded_model import embedded_model_path

# Inputs of these layers. None is the last, from which UDDIA steers; layers above them are not computed.
LAYERS = (10, 15, 20)
LONGEST = 128


def side_by_side(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of tokens, shorter ones padded on the right: int64 [B, T], and bool [B, T], False where padded."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    return ids, torch.arange(longest) < torch.tensor([[len(row)] for row in rows])


class HiddenStates:
    """The embedded model up to its layer 20, in float32."""

    def __init__(self) -> None:
        path = embedded_model_path()
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval().model
        model.layers = model.layers[: max(LAYERS) + 1]
        model.config.num_hidden_layers = len(model.layers)
        self._model: Any = model
        self._tokenizer: Any = AutoTokenizer.from_pretrained(path)

    @property
    def width(self) -> int:
        """Numbers a text: 3·D."""
        return len(LAYERS) * int(self._model.config.hidden_size)

    @torch.inference_mode()
    def features(self, texts: Sequence[str], batch: int = 32) -> np.ndarray:
        """Of each layer the mean over the text's first 128 tokens: float32 [N, 3·D]. Batches change rounding alone."""
        tokens = [self._tokenizer(text, verbose=False)["input_ids"][:LONGEST] or [0] for text in texts]
        order = sorted(range(len(texts)), key=lambda k: len(tokens[k]))
        found = np.zeros((len(texts), self.width), dtype=np.float32)
        for start in range(0, len(order), batch):
            some = order[start : start + batch]
            ids, mask = side_by_side([tokens[k] for k in some])
            states = self._model(
                input_ids=ids, attention_mask=mask.long(), use_cache=False, output_hidden_states=True
            ).hidden_states
            weights = (mask / mask.sum(1, keepdim=True))[..., None]
            found[some] = torch.cat([(states[layer] * weights).sum(1) for layer in LAYERS], 1).numpy()
        return found
