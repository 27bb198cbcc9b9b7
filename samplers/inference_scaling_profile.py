"""A saved choice of (k, T) for one judge and kind of task, as a small JSON object.

    {"reweigh_profile": 1,
     "k": 8,                      candidates to draw, from 1
     "temperature": 0.5,          T in standard deviations of a prompt's rewards, from 0
     "normalisation": {"method": "prompt_sd", "typical_sd": 0.21},
     "evidence": {...}}           what it rests on: prompts, candidates, value, plain, gain, verdict
"prompt_sd": the curves were measured with rewards divided by the standard deviation over each prompt's pool. Draws yet to come
have none, and a target p·exp(r/T) must not depend on them: selection uses T·typical_sd in units of the reward, with
typical_sd the median over the pool's prompts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grammars.errors import RequestError

VERSION = 1
METHOD = "prompt_sd"
_KEYS = ("reweigh_profile", "k", "temperature", "normalisation", "evidence")


@dataclass(frozen=True)
class Profile:
    """k >= 1; temperature >= 0 in standard deviations; typical_sd >= 0 in units of the reward."""

    k: int
    temperature: float
    typical_sd: float
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise RequestError(f"profile: k is {self.k!r:.80}; a whole number of at least 1 was wanted")
        for name, value in (("temperature", self.temperature), ("normalisation.typical_sd", self.typical_sd)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise RequestError(f"profile: {name} is {value!r:.80}; a finite number of at least 0 was wanted")
        if not isinstance(self.evidence, Mapping):
            raise RequestError(f"profile: evidence is {self.evidence!r:.80}; an object was wanted")

    @property
    def select_temperature(self) -> float:
        """T in units of the reward, for `generate(..., k=profile.k, select_temperature=...)`."""
        return self.temperature * self.typical_sd


def dumped(profile: Profile) -> str:
    """The profile as JSON text."""
    record = {
        "reweigh_profile": VERSION,
        "k": profile.k,
        "temperature": profile.temperature,
        "normalisation": {"method": METHOD, "typical_sd": profile.typical_sd},
        "evidence": dict(profile.evidence),
    }
    return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def loaded(text: str) -> Profile:
    """The profile of a JSON text. Raises RequestError naming what is wrong in it."""
    try:
        record = json.loads(text)
    except ValueError as error:
        raise RequestError(f"profile: no JSON: {error}; `reweigh calibrate --save FILE` writes one") from error
    if not isinstance(record, dict) or "reweigh_profile" not in record:
        raise RequestError("profile: no 'reweigh_profile' in it; `reweigh calibrate --save FILE` writes one")
    if record["reweigh_profile"] != VERSION:
        raise RequestError(f"profile: version {record['reweigh_profile']!r:.80}; this program reads version {VERSION}")
    for name in _KEYS:
        if name not in record:
            raise RequestError(f"profile: {name!r} is missing")
    for name in record:
        if name not in _KEYS:
            raise RequestError(f"profile: {name!r:.80} is not known; there are {', '.join(_KEYS)}")
    scale = record["normalisation"]
    if not isinstance(scale, dict) or set(scale) != {"method", "typical_sd"} or scale["method"] != METHOD:
        raise RequestError(
            f'profile: normalisation is {scale!r:.80}; {{"method": "{METHOD}", "typical_sd": number}} was wanted'
        )
    return Profile(record["k"], record["temperature"], scale["typical_sd"], record["evidence"])
