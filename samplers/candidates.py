"""One row of next-token probabilities, as a token sampler sees it: tokens drawn without replacement, masses exact."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np


class Candidates(Protocol):
    """The untested part of one row.

    Masses are of p itself: a masked row starts with `log_remaining` = log Z of its mask.
    The remaining mass is always a sum over the tokens that remain, never 1 minus what was drawn.
    """

    @property
    def log_remaining(self) -> float:
        """Log mass of the tokens not drawn yet; -inf when none with positive mass is left."""

    def draw(self) -> tuple[int, float]:
        """Remove and return one token, in proportion to p among those that remain, with its log p.

        Only called while log_remaining > -inf.
        """

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Remove and return the (at most) k likeliest tokens that remain.

        returns  int64 [<=k] tokens and float64 [<=k] log p, likeliest first, only tokens of positive mass
        """

    def keep(self, bitmask: np.ndarray) -> None:
        """Drop every remaining token outside a bitmask, as if it had been drawn and rejected.

        bitmask  int32 [ceil(V / 32)]
        """

    def remaining(self) -> tuple[np.ndarray, np.ndarray]:
        """All tokens that remain, removed at once: int64 [R] and float64 [R] log p, any order."""

    def random(self) -> float:
        """The row's next uniform in [0, 1): the same counter-based stream that `draw` uses."""


class Uniforms(Protocol):
    """A source of uniforms in [0, 1): `randomness.Stream`, or a numpy Generator in tests."""

    def random(self) -> float: ...


CHUNK = 256
"""Neighbouring tokens whose masses are summed together: a draw looks at V / CHUNK sums and at one chunk."""


def chunk_sums(masses: np.ndarray) -> np.ndarray:
    """Sums over chunks of neighbouring tokens, accumulated in float64.

    masses   float32 or float64 [..., V]
    returns  float64 [..., ceil(V / CHUNK)]
    """
    whole = masses.shape[-1] // CHUNK * CHUNK
    sums = masses[..., :whole].reshape(*masses.shape[:-1], -1, CHUNK).sum(-1, dtype=np.float64)
    if whole == masses.shape[-1]:
        return sums
    return np.concatenate([sums, masses[..., whole:].sum(-1, dtype=np.float64, keepdims=True)], axis=-1)


def locate(cdf: np.ndarray, point: float) -> int:
    """The smallest index whose cdf is above the point: never one of mass zero, and never past the end.

    cdf      float64 [n], non-decreasing, cdf[-1] > 0
    point    u * cdf[-1], u in [0, 1); where rounding lifts it past the end, the last index of positive mass is meant
    """
    index = int(cdf.searchsorted(point, side="right"))
    return index if index < len(cdf) else int(cdf.searchsorted(cdf[-1], side="left"))


class RowCandidates:
    """The candidates of one row of masses in memory, drawn by inverse CDF without sorting.

    masses      float32 or float64 [V], read only: log p(t) = log masses[t] + log_scale. Zero where the row is masked.
    log_scale   any scale will do; with masses = exp(logits - max) it is max - logsumexp(logits)
    uniforms    one is used for each draw, in order
    sums        float64 [ceil(V / CHUNK)]: `chunk_sums(masses)`, where the caller has them for all rows at once; rounded
                otherwise perhaps, but zero exactly where the whole chunk is
    logits      [V], log p(t) = logits[t] + logits_offset, -inf where the row is masked. Given these, a row goes on when
                all its remaining masses have underflowed: a forced token with p = e^-200 is still found. A function is
                called once, when they are needed.
    struck      tokens drawn already, by this stream and elsewhere

    A draw costs two short cumsums and is nearly independent of V. What is drawn is struck from a private copy of its
    chunk, whose sum is taken anew from the members that stay: the remaining mass is never a difference. A row with a
    NaN or an infinite mass has log_remaining = -inf from the start.
    """

    __slots__ = (
        "_cdf",
        "_logits",
        "_logits_offset",
        "_masses",
        "_own",
        "_scale",
        "_struck",
        "_sums",
        "_tiny",
        "_uniforms",
    )

    def __init__(
        self,
        masses: np.ndarray,
        log_scale: float,
        uniforms: Uniforms,
        sums: np.ndarray | None = None,
        logits: np.ndarray | Callable[[], np.ndarray] | None = None,
        logits_offset: float = 0.0,
        struck: Sequence[int] = (),
    ) -> None:
        self._masses = masses
        self._scale = log_scale
        self._uniforms = uniforms
        self._sums = chunk_sums(masses) if sums is None else np.array(sums, dtype=np.float64)
        self._logits = logits
        self._logits_offset = logits_offset
        self._own: dict[int, np.ndarray] = {}  # chunk -> its members' masses, once one of them has been struck
        self._struck: list[int] = []
        self._cdf: np.ndarray | None = None
        # Below this a sum has lost digits to subnormal masses.
        self._tiny = 1e-30 if masses.dtype == np.float32 else 1e-290
        self._strike(struck)

    @property
    def log_remaining(self) -> float:
        total = self._total()
        return math.log(total) + self._scale if total > 0.0 else -math.inf

    def draw(self) -> tuple[int, float]:
        total = self._total()
        assert total > 0.0, "draw() on a row with no mass left"
        cdf = self._cdf
        assert cdf is not None
        point = self._uniforms.random() * total
        chunk = locate(cdf, point)
        members = self._own_chunk(chunk)
        # The sums may come from a device that added in another order: `locate` stays inside the chunk all the same.
        index = locate(members.cumsum(), point - float(cdf[chunk - 1]) if chunk else point)
        mass = float(members[index])
        members[index] = 0.0
        self._sums[chunk] = members.sum()
        self._cdf = None
        token = chunk * CHUNK + index
        self._struck.append(token)
        return token, math.log(mass) + self._scale

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        if not self._total() > 0.0:
            return np.empty(0, dtype=np.int64), np.empty(0)
        # The k likeliest tokens lie in the k chunks whose likeliest tokens are; ties go to the smaller token throughout.
        tokens, masses = self._members(np.argsort(-self._maxima(), kind="stable")[:k])
        best = np.lexsort((tokens, -masses))[:k]
        best = best[masses[best] > 0.0]
        chosen, log_probs = tokens[best], np.log(masses[best]) + self._scale
        self._strike(chosen.tolist())
        return chosen, log_probs

    def keep(self, bitmask: np.ndarray) -> None:
        allowed = np.unpackbits(bitmask.view(np.uint8), bitorder="little")[: len(self._masses)].astype(bool)
        assert len(allowed) == len(self._masses), "a bitmask has one bit for each column of the row"
        masses = self._current()
        self._masses = np.where(allowed, masses, masses.dtype.type(0))
        self._own = {}
        self._sums = chunk_sums(self._masses)
        self._cdf = None
        if self._logits is not None:
            self._logits = np.where(allowed, self._all_logits(), -np.inf)

    def remaining(self) -> tuple[np.ndarray, np.ndarray]:
        if not self._total() > 0.0:
            return np.empty(0, dtype=np.int64), np.empty(0)
        if self._logits is not None:
            log_masses = self._untested_logits() + self._logits_offset
            tokens = np.flatnonzero(log_masses > -np.inf)
            log_probs = log_masses[tokens]
        else:
            masses = self._current()
            tokens = np.flatnonzero(masses)
            log_probs = np.log(masses[tokens].astype(np.float64)) + self._scale
        self._sums = np.zeros_like(self._sums)
        self._masses = np.zeros_like(self._masses)
        self._own = {}
        self._logits = None
        self._cdf = None
        return tokens, log_probs

    def random(self) -> float:
        return self._uniforms.random()

    def _total(self) -> float:
        """Remaining mass in units of the scale; 0 for a row that is used up or was never a distribution."""
        if self._cdf is None:
            self._cdf = self._sums.cumsum()
        total = float(self._cdf[-1])
        if total < self._tiny and self._logits is not None:
            self._rescale()
            total = float(self._cdf[-1])
        return total if total < math.inf else 0.0

    def _rescale(self) -> None:
        """Start again from the logits of the untested tokens, in float64 and with their own maximum as the scale."""
        logits = self._untested_logits()
        largest = float(logits.max())
        self._masses = np.exp(logits - largest) if math.isfinite(largest) else np.zeros(len(logits))
        if math.isfinite(largest):
            self._scale = largest + self._logits_offset
        else:
            self._logits = None
        self._tiny = 1e-290
        self._own = {}
        self._sums = chunk_sums(self._masses)
        self._cdf = self._sums.cumsum()

    def _untested_logits(self) -> np.ndarray:
        logits = self._all_logits().astype(np.float64)
        logits[self._struck] = -np.inf
        return logits

    def _all_logits(self) -> np.ndarray:
        assert self._logits is not None
        if callable(self._logits):
            self._logits = self._logits()
        return self._logits

    def _current(self) -> np.ndarray:
        """Remaining masses, [V] of the dtype they came in."""
        masses = self._masses.copy()
        for chunk, members in self._own.items():
            masses[chunk * CHUNK : chunk * CHUNK + len(members)] = members
        return masses

    def _maxima(self) -> np.ndarray:
        """The largest remaining mass of each chunk, float64 [C]."""
        maxima = np.maximum.reduceat(self._masses, np.arange(0, len(self._masses), CHUNK)).astype(np.float64)
        for chunk, members in self._own.items():
            maxima[chunk] = members.max()
        return maxima

    def _members(self, chunks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of some chunks and their remaining masses: int64 [m], float64 [m]."""
        tokens = (np.sort(chunks)[:, None] * CHUNK + np.arange(CHUNK)).ravel()
        tokens = tokens[tokens < len(self._masses)]
        masses = self._masses[tokens].astype(np.float64)
        for chunk in set(chunks.tolist()) & self._own.keys():
            inside = tokens // CHUNK == chunk
            masses[inside] = self._own[chunk]
        return tokens, masses

    def _strike(self, tokens: Sequence[int]) -> None:
        """Take tokens out."""
        for token in tokens:
            chunk, index = divmod(token, CHUNK)
            self._own_chunk(chunk)[index] = 0.0
            self._struck.append(token)
        for chunk in {token // CHUNK for token in tokens}:
            self._sums[chunk] = self._own[chunk].sum()
        self._cdf = None

    def _own_chunk(self, chunk: int) -> np.ndarray:
        """The members' masses in a private copy, float64 [<= CHUNK]."""
        members = self._own.get(chunk)
        if members is None:
            members = self._masses[chunk * CHUNK : (chunk + 1) * CHUNK].astype(np.float64)
            self._own[chunk] = members
        return members
