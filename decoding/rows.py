"""The device half of token sampling: all rows of a step tempered, masked, normalised and drawn from at once.

Only the first K candidates of each row and their masses reach the host; a row that needs more hands over to
`samplers.candidates.RowCandidates`, which continues the very same stream of uniforms. On a CPU the two share memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from samplers.candidates import CHUNK, RowCandidates
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
    """One step's rows, and the particles that draw from them: several may draw from one row, each by its own stream.

    logits        float32 [R, V]; read only, and needed until the step's last draw
    temperatures  float64 [R], > 0
    bitmasks      int32 [R, ceil(V / 32)] or None; rows of all ones are unmasked
    uniforms      float64 [N, K]: the first K uniforms of every particle's stream
    rows          int64 [N]: the row each particle draws from
    workspace     lends its memory to the step
    masses        `tempered_masses` of these logits, where they have been made already; written over
    Source: draws without replacement by inverse CDF over sums of chunks of neighbouring tokens.
    """

    def __init__(
        self,
        logits: torch.Tensor,
        temperatures: np.ndarray,
        bitmasks: np.ndarray | None,
        uniforms: np.ndarray,
        rows: np.ndarray,
        workspace: Workspace | None = None,
        masses: torch.Tensor | None = None,
    ) -> None:
        num_rows, size = logits.shape
        device = logits.device
        self._logits = logits
        self._temperatures = temperatures
        self._bitmasks = bitmasks
        self._rows = rows
        if masses is None:
            masses = tempered_masses(logits, temperatures, workspace or Workspace())
        self._masses = masses
        self._chunks = masses.view(num_rows, -1, CHUNK)
        # Sums of 256 float32 numbers are good to 1e-7; what is added over thousands of chunks is float64.
        self._sums = self._chunks.sum(-1).double()
        # A float32 softmax sums to 1 only to about 1e-6, the same way at every token: divide by what it really sums to.
        totals = self._sums.sum(1).cpu().numpy()
        if bitmasks is not None:
            words = torch.from_numpy(np.ascontiguousarray(bitmasks))
            masses[:, :size] *= unpack_bits(words, size, device)
            self._sums = self._chunks.sum(-1).double()
        with np.errstate(divide="ignore", invalid="ignore"):
            self.log_scales = -np.log(totals)[rows]
        # One text for both libraries: numpy where the memory is the host's (a fifth of the overhead a call), torch elsewhere.
        on_host = device.type == "cpu"
        self._draw(
            np if on_host else torch,
            self._sums.numpy() if on_host else self._sums,
            self._chunks.numpy() if on_host else self._chunks,
            uniforms if on_host else torch.from_numpy(uniforms).to(device),
            rows if on_host else torch.from_numpy(rows).to(device),
        )

    def _draw(self, xp: Any, sums: Any, chunks: Any, uniforms: Any, rows: Any) -> None:
        """Draw K tokens a particle without replacement; keep their masses and the mass that remained before each draw.

        xp      numpy or torch, and the arrays are its own
        sums    float64 [R, C], chunks float32 [R, C, CHUNK]: read only, since other particles draw from them too
        """
        particles = xp.arange(len(uniforms))
        sums = sums[rows]
        tokens, masses, totals = [], [], []
        struck: list[tuple[Any, Any]] = []
        for k in range(uniforms.shape[1]):
            cdf = sums.cumsum(1)
            total = cdf[:, -1]
            target = uniforms[:, k] * total
            chunk = _first_above(xp, cdf, target)
            below = cdf[particles, chunk] - sums[particles, chunk]
            members = chunks[rows, chunk]
            for earlier, taken in struck:
                members[particles, taken] *= earlier != chunk
            place = _first_above(xp, members.cumsum(1, dtype=xp.float64), target - below)
            masses.append(members[particles, place])
            members[particles, place] = 0.0
            # The chunk is summed again from what remains: subtracting would leave rounding where nothing remains.
            sums[particles, chunk] = members.sum(1, dtype=xp.float64)
            struck.append((chunk, place))
            tokens.append(chunk * CHUNK + place)
            totals.append(total)
        totals.append(sums.sum(1))
        self.tokens = _host(xp.stack(tokens, 1))
        self.drawn = _host(xp.stack(masses, 1)).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            self.log_drawn = np.log(self.drawn) + self.log_scales[:, None]
            self.log_totals = np.log(_host(xp.stack(totals, 1))) + self.log_scales[:, None]

    def particle(self, n: int, stream: Stream) -> PrefetchedRow:
        """What particle n draws from."""
        return PrefetchedRow(self, n, stream)

    def host_row(self, n: int, consumed: int, stream: Stream) -> RowCandidates:
        """Particle n's row on the host with only its first `consumed` draws taken, to go on from there."""
        row, size = self._rows[n], self._logits.shape[1]
        return RowCandidates(
            self._masses[row, :size].cpu().numpy(),
            float(self.log_scales[n]),
            stream,
            sums=self._sums[row].cpu().numpy(),
            logits=lambda: self._logprobs(row),
            struck=self.tokens[n, :consumed].tolist(),
        )

    def _logprobs(self, row: int) -> np.ndarray:
        """float64 [V]: a row's log p, -inf where it is masked."""
        logprobs = torch.log_softmax(self._logits[row].double() / self._temperatures[row], dim=0).cpu().numpy()
        if self._bitmasks is None:
            return logprobs
        keep = np.unpackbits(self._bitmasks[row].view(np.uint8), bitorder="little")[: len(logprobs)].astype(bool)
        return np.where(keep, logprobs, -np.inf)


class PrefetchedRow:
    """A particle's row as `Candidates`: the device's draws first, then the host's."""

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


def tempered_masses(logits: torch.Tensor, temperatures: np.ndarray, workspace: Workspace) -> torch.Tensor:
    """softmax(logits / temperature) of every row, in the workspace's memory: as `Workspace.softmax` gives it.

    logits  float32 [R, V]; temperatures float64 [R], > 0
    """
    # Small things are done by Python or numpy where they can be: a call of torch costs as much as a row's chunk sums.
    if temperatures.tolist().count(1.0) < len(logits):
        inverse = torch.from_numpy(1.0 / temperatures).to(logits.device, torch.float32)
        logits = logits * inverse[:, None]
    return workspace.softmax(logits)


def _first_above(xp: Any, cdf: Any, points: Any) -> Any:
    """The first index of each row whose cdf is above its point; where rounding lifts a point past the end, the last of any mass.

    cdf      float64 [N, C], non-decreasing; points float64 [N]
    returns  int64 [N]
    """
    index = (cdf <= points[:, None]).sum(1)
    if (index == cdf.shape[1]).any():
        return xp.minimum(index, (cdf < cdf[:, -1:]).sum(1))
    return index


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
