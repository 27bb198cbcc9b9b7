"""Whether a text is JSON of a schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from grammars.json_schema import JsonSchema
from grammars.membership import contains
from samplers.reward import Candidate, reward


@reward("json_valid")
class JsonValid:
    """1 where the text, white space around it apart, is JSON that the schema accepts; otherwise 0.

    json_schema  as in `JsonSchema`; by default any JSON
    """

    def __init__(self, json_schema: Any = True) -> None:
        self._language = JsonSchema(json_schema, whitespace="flexible", order="any", spelling="any")

    def score(self, candidates: Sequence[Candidate]) -> np.ndarray:
        return np.array([float(contains(self._language, one.text.strip())) for one in candidates])
