"""What says how far a text carries an unwanted attribute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Signal(Protocol):
    """A classifier of texts. It steers; what judges the outcome is another one.

    name  under which requests ask for it
    """

    @property
    def name(self) -> str: ...

    def log_odds(self, texts: Sequence[str]) -> np.ndarray:
        """log of p(unwanted | text) / p(wanted | text), finite; the text as a reader sees it, not as tokens cut it.

        A word that the text breaks off in is read as if it were whole.
        returns  float64 [len(texts)]
        """
