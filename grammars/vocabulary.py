"""The tokenizer as bytes: what each id writes. Made once per model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Token ids and the bytes they write.

    tokens      one bytes object an id; b"" for special tokens and for padded ids, which no constraint ever accepts as text
    eos_ids     every id that ends a sequence; all of them mean `eos`, the first
    size        columns of the model's logits, padded ids included: len(tokens) <= size
    """

    tokens: tuple[bytes, ...]
    eos_ids: tuple[int, ...]
    size: int

    @property
    def eos(self) -> int:
        """The id that stands for the end of the sequence in masks, samplers and results."""
        return self.eos_ids[0]

    @property
    def mask_words(self) -> int:
        """int32 words of a bitmask."""
        return (self.size + 31) // 32

    def bytes_of(self, token: int) -> bytes:
        return self.tokens[token] if token < len(self.tokens) else b""

    def decode(self, tokens: np.ndarray | list[int]) -> bytes:
        return b"".join(self.bytes_of(int(t)) for t in tokens)
