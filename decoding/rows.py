"""The device half of token sampling: all rows of a step tempered, masked, normalised and drawn from at once.

Only the first K candidates of each row and their masses reach the host; a row that needs more hands over to
`samplers.candidates.RowCandidates`, which continues the very same stream of uniforms. On a CPU the two share memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from samplers.candidates import CHUNK, RowCandidates, chunk_sums
from samplers.randomness import Stream


class Workspace:
    """Memory for one step's masses, kept from step to step: fresh pages would cost more than the arithmetic on them."""

    def __init__(self) -> None:
        self._masses = torch.empty(0)
        self._padded = torch.empty(0)

    def softmax(self, logits: torch.Tensor) -> torch.Tensor:
        """softmax(logits) with columns of zeros up to a multiple of CHUNK; valid until the next call.

        logits   float32 [N, V]
        returns  float32 [N, ceil(V / CHUNK) * CHUNK]
        """
        num_rows, size = logits.shape
        if (
            self._masses.shape[:1] < (num_rows,)
            or self._masses.shape[1:] != (size,)
            or self._masses.device != logits.device
        ):
            self._masses = torch.empty((num_rows, size), device=logits.device)
            self._padded = torch.zeros(
                (num_rows, -(-size // CHUNK) * CHUNK) if size % CHUNK else 0, device=logits.device
            )
        masses = torch.softmax(logits, dim=-1, out=self._masses[:num_rows])
        if size % CHUNK == 0:
            return masses
        self._padded[:num_rows, :size] = masses
        return self._padded[:num_rows]


class StepRows:
    """One step's rows.

    logits        float32 [N, V]; read only, and needed until the step's last draw
    temperatures  float64 [N], > 0
    bitmasks      int32 [N, ceil(V / 32)] or None; rows of all ones are unmasked
    uniforms      float64 [N, K]: the first K uniforms of every row's stream
    workspace     lends its memory to the step
    Source: draws without replacement by inverse CDF over chunk sums; see engine.md, "Draw without sorting".
    """

    def __init__(
        self,
        logits: torch.Tensor,
        temperatures: np.ndarray,
        bitmasks: np.ndarray | None,
        uniforms: np.ndarray,
        workspace: Workspace | None = None,
    ) -> None:
        num_rows, size = logits.shape
        device = logits.device
        self._logits = logits
        self._temperatures = temperatures
        self._bitmasks = bitmasks
        if np.any(temperatures != 1.0):
            inverse = torch.from_numpy(1.0 / temperatures).to(device, torch.float32)
            logits = logits * inverse[:, None]
        masses = (workspace or Workspace()).softmax(logits)
        self._masses = masses
        self._chunks = masses.view(num_rows, -1, CHUNK)
        # Sums of 256 float32 numbers are good to 1e-7; what is added over thousands of chunks is float64.
        self._sums = self._chunks.sum(-1).double()
        # A float32 softmax sums to 1 only to about 1e-6, the same way at every token: divide by what it really sums to.
        self._log_scales = -torch.log(self._sums.sum(1))
        if bitmasks is not None:
            words = torch.from_numpy(np.ascontiguousarray(bitmasks))
            masses[:, :size] *= unpack_bits(words, size, device)
            self._sums = self._chunks.sum(-1).double()
        # One text for both libraries: numpy where the memory is the host's (a fifth of the overhead a call), torch elsewhere.
        on_host = device.type == "cpu"
        self._draw(
            np if on_host else torch,
            self._sums.numpy() if on_host else self._sums,
            self._chunks.numpy() if on_host else self._chunks,
            uniforms if on_host else torch.from_numpy(uniforms).to(device),
        )

    def _draw(self, xp: Any, sums: Any, chunks: Any, uniforms: Any) -> None:
        """Draw K tokens a row without replacement; keep their masses and the mass that remained before each draw.

        xp      numpy or torch, and the arrays are its own
        sums    float64 [N, C], chunks float32 [N, C, CHUNK]; both are left without what is drawn
        """
        rows = xp.arange(len(uniforms))
        tokens, masses, totals = [], [], []
        for k in range(uniforms.shape[1]):
            cdf = sums.cumsum(1)
            total = cdf[:, -1]
            target = uniforms[:, k] * total
            chunk = _first_above(xp, cdf, target)
            below = cdf[rows, chunk] - sums[rows, chunk]
            members = chunks[rows, chunk]
            place = _first_above(xp, members.cumsum(1, dtype=xp.float64), target - below)
            masses.append(members[rows, place])
            members[rows, place] = 0.0
            # The chunk is summed again from what remains: subtracting would leave rounding where nothing remains.
            chunks[rows, chunk] = members
            sums[rows, chunk] = members.sum(1, dtype=xp.float64)
            tokens.append(chunk * CHUNK + place)
            totals.append(total)
        totals.append(sums.sum(1))
        self.tokens = _host(xp.stack(tokens, 1))
        self.drawn = _host(xp.stack(masses, 1)).astype(np.float64)
        self.log_scales = self._log_scales.cpu().numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            self.log_drawn = np.log(self.drawn) + self.log_scales[:, None]
            self.log_totals = np.log(_host(xp.stack(totals, 1))) + self.log_scales[:, None]

    def row(self, n: int, stream: Stream) -> PrefetchedRow:
        return PrefetchedRow(self, n, stream)

    def host_row(self, n: int, consumed: int, stream: Stream) -> RowCandidates:
        """Row n on the host with only its first `consumed` draws taken, to go on from there."""
        size = self._logits.shape[1]
        masses, sums = self._masses[n, :size].cpu().numpy(), self._sums[n].cpu().numpy()
        unused = self.tokens[n, consumed:]
        if len(unused):
            masses = masses.copy()
            masses[unused] = self.drawn[n, consumed:]
            sums = chunk_sums(masses)
        return RowCandidates(
            masses, float(self.log_scales[n]), stream, sums=sums, logits=lambda: self._untested_logits(n, consumed)
        )

    def _untested_logits(self, n: int, consumed: int) -> np.ndarray:
        """float64 [V]: row n's log p, -inf where it is masked or drawn."""
        logits = torch.log_softmax(self._logits[n].double() / self._temperatures[n], dim=0).cpu().numpy()
        if self._bitmasks is not None:
            keep = np.unpackbits(self._bitmasks[n].view(np.uint8), bitorder="little")[: len(logits)].astype(bool)
            logits = np.where(keep, logits, -np.inf)
        logits[self.tokens[n, :consumed]] = -np.inf
        return logits


class PrefetchedRow:
    """One row as `Candidates`: the device's draws first, then the host's."""

    __slots__ = ("_consumed", "_host", "_n", "_rows", "_stream")

    def __init__(self, rows: StepRows, n: int, stream: Stream) -> None:
        self._rows = rows
        self._n = n
        self._stream = stream
        self._consumed = 0
        self._host: RowCandidates | None = None

    @property
    def log_remaining(self) -> float:
        if self._host is not None:
            return self._host.log_remaining
        total = float(self._rows.log_totals[self._n, self._consumed])
        # Nothing left in float32 does not mean nothing left: the host looks at the logits.
        return total if total > -np.inf else self._on_host().log_remaining

    def draw(self) -> tuple[int, float]:
        k = self._consumed
        if self._host is None and k < self._rows.tokens.shape[1] and self._rows.drawn[self._n, k] > 0.0:
            self._consumed = k + 1
            self._stream.random()
            return int(self._rows.tokens[self._n, k]), float(self._rows.log_drawn[self._n, k])
        return self._on_host().draw()

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        return self._on_host().top(k)

    def keep(self, bitmask: np.ndarray) -> None:
        self._on_host().keep(bitmask)

    def remaining(self) -> tuple[np.ndarray, np.ndarray]:
        return self._on_host().remaining()

    def random(self) -> float:
        # From here on the stream is ahead of the device's draws.
        self._on_host()
        return self._stream.random()

    def _on_host(self) -> RowCandidates:
        if self._host is None:
            self._host = self._rows.host_row(self._n, self._consumed, self._stream)
        return self._host


def _first_above(xp: Any, cdf: Any, points: Any) -> Any:
    """The first index of each row whose cdf is above its point; where rounding lifts a point past the end, the last of any mass.

    cdf      float64 [N, C], non-decreasing; points float64 [N]
    returns  int64 [N]
    """
    return xp.minimum((cdf <= points[:, None]).sum(1), (cdf < cdf[:, -1:]).sum(1))


def _host(array: Any) -> np.ndarray:
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()


def unpack_bits(words: torch.Tensor, size: int, device: torch.device) -> torch.Tensor:
    """Packed masks as 0/1.

    words    int32 [N, ceil(size / 32)] on the host
    returns  uint8 [N, size] on the device
    """
    if device.type == "cpu":
        return torch.from_numpy(np.unpackbits(words.numpy().view(np.uint8), axis=1, bitorder="little")[:, :size])
    bits = (words.to(device)[:, :, None] >> torch.arange(32, device=device, dtype=torch.int32)) & 1
    return bits.view(len(words), -1)[:, :size].to(torch.uint8)


def fold_eos(logits: torch.Tensor, eos_ids: Sequence[int]) -> None:
    """Gather the mass of every EOS id in the first, in place, so that one id stands for the end. logits float32 [N, V]."""
    if len(eos_ids) < 2:
        return
    columns = torch.as_tensor(list(eos_ids), device=logits.device)
    total = torch.logsumexp(logits[:, columns], dim=1)
    logits[:, columns[1:]] = float("-inf")
    logits[:, columns[0]] = total
