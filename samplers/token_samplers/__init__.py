"""Token samplers by name, and one call for many rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from grammars.constraint import ConstraintState
from grammars.errors import RequestError
from samplers.candidates import RowCandidates, Uniforms
from samplers.token_sampler import Draw, TokenSampler
from samplers.token_samplers.auto import AutoSampler
from samplers.token_samplers.awrs import LookAheadSampler
from samplers.token_samplers.geometric import GeometricSampler
from samplers.token_samplers.lcd import LocalSampler
from samplers.token_samplers.masked import MaskedSampler
from samplers.token_samplers.topk_residual import TopKResidualSampler

SAMPLERS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "auto": (AutoSampler, {}),
    "masked": (MaskedSampler, {}),
    "awrs": (LookAheadSampler, {}),
    "look_ahead": (LookAheadSampler, {"extra": 4}),
    "geometric": (GeometricSampler, {}),
    "top_k": (TopKResidualSampler, {}),
    "lcd": (LocalSampler, {}),
}
"""name -> class and the options that the name stands for; all but lcd are properly weighted"""


def token_sampler(choice: str | Mapping[str, Any] | TokenSampler) -> TokenSampler:
    """The sampler of that name, with options beside it: {"name": "look_ahead", "extra": 8}. A sampler stays as it is.

    Raises RequestError for an unknown name or option, naming those there are.
    """
    names = ", ".join(SAMPLERS)
    if isinstance(choice, str):
        name, options = choice, {}
    elif isinstance(choice, Mapping):
        options = dict(choice)
        if not isinstance(options.get("name"), str):
            raise RequestError(f'sampler={choice!r} has no name; write {{"name": "awrs", ...}} with one of {names}.')
        name = options.pop("name")
    elif hasattr(choice, "draw") and hasattr(choice, "wants_mask"):
        return choice
    else:
        raise RequestError(f"sampler={choice!r} is no name, mapping with a name, or sampler; use one of {names}.")
    if name not in SAMPLERS:
        raise RequestError(f"sampler={name!r} is not known; use one of {names}.")
    maker, meant = SAMPLERS[name]
    known = [field.name for field in dataclasses.fields(maker)]
    for option in options:
        if option not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise RequestError(f"sampler {name!r} has no option {option!r}; {has}.")
    sampler: TokenSampler = maker(**{**meant, **options})
    return sampler


def draw_row(sampler: TokenSampler, row: RowCandidates, state: ConstraintState) -> Draw:
    """One row from start to end, masked first if the sampler wants that: what an engine does for all rows at once."""
    bitmask = state.bitmask() if sampler.wants_mask else None
    if bitmask is not None:
        row.keep(bitmask)
    return sampler.draw(row, state, masked=bitmask is not None)


def sample(
    sampler: TokenSampler, logprobs: np.ndarray, states: Sequence[ConstraintState], rng: Uniforms
) -> tuple[np.ndarray, np.ndarray]:
    """One token for each row. A dead row, one of NaN among them, has token -1 and log weight -inf.

    logprobs  [N, V], normalised
    returns   tokens int64 [N], log_weights float64 [N]
    """
    tokens, log_weights = np.full(len(states), -1, dtype=np.int64), np.full(len(states), -np.inf)
    for n, (row, state) in enumerate(zip(np.asarray(logprobs, dtype=np.float64), states, strict=True)):
        draw = draw_row(sampler, row_of(row, rng), state)
        tokens[n], log_weights[n] = draw.token, draw.log_weight
    return tokens, log_weights


def row_of(logprobs: np.ndarray, uniforms: Uniforms) -> RowCandidates:
    """The candidates of one row of normalised log-probabilities.

    logprobs  float64 [V]; -inf is probability 0
    """
    largest = float(logprobs.max())
    if not math.isfinite(largest):
        return RowCandidates(np.zeros(len(logprobs)), 0.0, uniforms)
    return RowCandidates(np.exp(logprobs - largest), largest, uniforms, logits=logprobs)


__all__ = [
    "SAMPLERS",
    "AutoSampler",
    "GeometricSampler",
    "LocalSampler",
    "LookAheadSampler",
    "MaskedSampler",
    "TopKResidualSampler",
    "draw_row",
    "row_of",
    "sample",
    "token_sampler",
]
