"""What answers the questions that need the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from grammars.vocabulary import Vocabulary


class LanguageModel(Protocol):
    """The next-token law of a prefix, exactly and one prefix at a time: for scoring and for tests, not for speed."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    def next_logprobs(self, prefix: Sequence[int]) -> np.ndarray:
        """Normalised log p of every next token.

        prefix   token ids, the prompt's first
        returns  float64 [V]; the mass of all EOS ids is on `vocabulary.eos`
        """
