"""The laws of one step's adapted rows, in both the forms that the row sampler keeps: read and moved for many rows at once.

On an accelerator every reading waits for it: there is one a stage, but for offsets, and not one a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from decoding.adaptation.served import Change, within_budget

# Tokens of a row, int64 [K], ascending, and what is added to their log p, float64 [K].
Shift = tuple[np.ndarray, np.ndarray]
# The likeliest tokens are looked for above the first of these masses, most often: few are to be sorted then.
LIKELY = (1e-5, 1e-8, 0.0)


class StepLaws:
    """Rows are numbered 0 to A - 1 here, in the order of `lines`.

    logits        float32 [R, V], of all rows; masses: the same as laws, float32 [R, V or more]. Both are changed in place
    lines         [A] which of the rows are adapted
    temperatures  float64 [A]
    """

    def __init__(
        self, logits: torch.Tensor, masses: torch.Tensor, lines: Sequence[int], temperatures: np.ndarray
    ) -> None:
        self.logits, self.masses = logits, masses[:, : logits.shape[1]]
        self.lines, self.temperatures = lines, temperatures

    def held(self, tokens: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """The masses of some tokens. tokens: row -> int64 [K]; returns row -> float64 [K]"""
        if not tokens:
            return {}
        return self._held(self._places(tokens), tokens)

    def likeliest(self, counts: Mapping[int, int]) -> dict[int, np.ndarray]:
        """Of every row so many of the likeliest tokens, of those that can come. row -> int64 [K]"""
        if not counts:
            return {}
        if self.masses.device.type == "cpu":
            return {a: likeliest(self.masses[self.lines[a]].numpy(), count) for a, count in counts.items()}
        there = self.masses[torch.tensor([self.lines[a] for a in counts], device=self.masses.device)]
        return dict(zip(counts, likeliest_at_once(there, list(counts.values()))))

    def of_mass(self, a: int, least: float) -> np.ndarray:
        """All tokens of so much mass. int64 [K], ascending"""
        return torch.nonzero(self.masses[self.lines[a]] >= least).flatten().cpu().numpy()

    def move(self, shifts: Mapping[int, Shift], budgets: Mapping[int, float] | None = None) -> dict[int, Change]:
        """Move tokens of some rows, each as far as its budget goes, in nats."""
        tokens = {a: some for a, (some, _) in shifts.items()}
        if not tokens:
            return {}
        places = self._places(tokens)
        held = self._held(places, tokens)
        self.masses[places] = 0.0
        rests = torch.stack([self.masses[self.lines[a]].sum() for a in tokens]).tolist()
        changes = {
            a: within_budget(some, held[a], rest, shifts[a][1], budgets[a] if budgets else math.inf)
            for (a, some), rest in zip(tokens.items(), rests)
        }
        for (a, change), rest in zip(changes.items(), rests):
            if rest > 0:
                # In two steps: the whole factor may be too large for float32, though what it makes of the rest is at most 1.
                for _ in range(2):
                    self.masses[self.lines[a]] *= math.exp(-change.log_norm / 2)
        places = self._places({a: change.tokens for a, change in changes.items()})
        self.masses[places] = self._tensor([change.masses for change in changes.values()])
        self.logits[places] += self._tensor([change.shifts * self.temperatures[a] for a, change in changes.items()])
        return changes

    def _places(self, tokens: Mapping[int, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        lines = np.repeat([self.lines[a] for a in tokens], [len(some) for some in tokens.values()])
        columns = np.concatenate(list(tokens.values()))
        device = self.masses.device
        return torch.from_numpy(lines).to(device), torch.from_numpy(columns).to(device)

    def _held(
        self, places: tuple[torch.Tensor, torch.Tensor], tokens: Mapping[int, np.ndarray]
    ) -> dict[int, np.ndarray]:
        found = self.masses[places].double().cpu().numpy()
        ends = np.cumsum([len(some) for some in tokens.values()]).tolist()
        return {a: found[end - len(some) : end] for (a, some), end in zip(tokens.items(), ends)}

    def _tensor(self, numbers: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(numbers).astype(np.float32)).to(self.masses.device)


def likeliest(masses: np.ndarray, count: int) -> np.ndarray:
    """int64 [K]. Where rows are in reach a third of what `topk` costs. masses  float32 [V]"""
    for least in LIKELY:
        tokens = np.flatnonzero(masses > least)
        if len(tokens) >= count:
            break
    return tokens if len(tokens) <= count else tokens[np.argpartition(masses[tokens], -count)[-count:]]


def likeliest_at_once(masses: torch.Tensor, counts: Sequence[int]) -> list[np.ndarray]:
    """The same of many rows. masses  float32 [R, V]"""
    held, tokens = (part.cpu().numpy() for part in torch.topk(masses, min(max(counts), masses.shape[1])))
    return [row[:count][mass[:count] > 0] for row, mass, count in zip(tokens, held, counts)]
