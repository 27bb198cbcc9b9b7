"""Adaptation at work inside the model runner: every adapted row's law is changed before its token is drawn.

Free of vLLM, as `row_sampler.py` is. What a row needs to know of its past is a function of its text, and the nats it has spent
come in with every step: a row that was preempted or forked is steered as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch

from decoding.adaptation.held_signals import signal_of
from decoding.adaptation.naming import Naming
from decoding.adaptation.reader import Reader, Reading, reading_of
from decoding.adaptation.served import Change, equalising, log_wanted, natural_offset, within_budget
from decoding.adaptation.settings import POWER, Adaptation
from grammars.errors import RequestError
from grammars.vocabulary import Vocabulary

# A group that the model gives less mass than this cannot come next.
LEAST_MASS = 1e-3
# Several axes are balanced in turn, so often at most, until nothing moves by as much as this in log mass.
SWEEPS = 50
STILL = 1e-5
# A token the signal objects to is looked at from this mass on, though it is not among the likeliest.
LEAST_LOOK = 1e-6


class Unembedding(Protocol):
    """The model's last matrix W: logits are W·h."""

    def rows(self, tokens: torch.Tensor) -> torch.Tensor:
        """float32 [K, D]. tokens  int64 [K], on the device"""

    def project(self, offsets: torch.Tensor) -> torch.Tensor:
        """W·d. offsets  float32 [R, D]; returns float32 [R, V]"""


@dataclass
class Course:
    """How one row is steered: its settings, and what its text so far means to them.

    axes  of those that the prompt leaves open: the tokens that begin a word of each group, within a word and outside
    """

    settings: Adaptation
    reader: Reader | None
    axes: Mapping[str, tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]]
    naming: Naming

    def advance(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            if self.reader is not None:
                self.reader = self.reader.advance(int(token))
        self.naming.advance(tokens)

    def open_axes(self) -> list[Sequence[torch.Tensor]]:
        """Of every axis of which nobody has been named, each group's tokens that would name it next: int64 each."""
        outside = not self.naming.in_a_word
        return [tokens[outside] for name, tokens in self.axes.items() if self.naming.first[name] is None]

    @property
    def power(self) -> float:
        return POWER * self.settings.detox

    @property
    def start_weight(self) -> float:
        """log ψ^β of the text before its first token."""
        return 0.0 if self.reader is None else self.power * float(log_wanted(self.reader.log_odds))


@dataclass(frozen=True)
class Steered:
    """What became of one row in one step: p was balanced to b, and b tilted to q. None: it was not touched."""

    course: Course
    balanced: Change | None
    tilted: Change | None

    @property
    def kl(self) -> float:
        """nats: KL(b ‖ p) + KL(q ‖ b)."""
        return sum(change.kl for change in (self.balanced, self.tilted) if change is not None)

    def log_ratio(self, token: int) -> float:
        """log q(token) / p(token)."""
        return sum(change.log_ratio(token) for change in (self.balanced, self.tilted) if change is not None)

    def log_weight(self, token: int) -> float:
        """log b(token)·ψ^β(text + token) / (q(token)·ψ^β(text)): what drawing from q leaves to be paid.

        Where the population is balanced and no token, b is p.
        """
        paid = 0.0 if self.tilted is None else -self.tilted.log_ratio(token)
        if self.balanced is not None and self.course.settings.balance == "population":
            paid -= self.balanced.log_ratio(token)
        reader = self.course.reader
        if reader is None:
            return paid
        after, now = log_wanted(reader.after(np.array([token]))[0]), log_wanted(reader.log_odds)
        return paid + self.course.power * float(after - now)


class Steering:
    """Steers the rows of one model runner.

    unembedding  None where the model's last matrix cannot be had: then offsets are refused
    """

    def __init__(self, vocabulary: Vocabulary, unembedding: Unembedding | None = None) -> None:
        self.vocabulary, self.unembedding = vocabulary, unembedding
        self._reading = lru_cache(maxsize=8)(self._reading_of)

    def _reading_of(self, signal: str) -> Reading:
        return reading_of(signal_of(signal), self.vocabulary)

    def begin(self, adapt: Mapping[str, Any], tokens: Sequence[int]) -> Course:
        """A row's course after the tokens generated so far. Raises RewardError, RequestError."""
        settings = Adaptation(**adapt)
        if settings.detox and settings.method != "tilt" and self.unembedding is None:
            raise RequestError(
                f"method={settings.method!r}: this model's last matrix cannot be had (it is quantised, sharded or capped); "
                "use method='tilt'"
            )
        reader = self._reading(settings.signal).start(settings.tail.encode()) if settings.detox else None
        left = [(name, groups) for name, groups in settings.debias if name not in settings.named]
        axes = {
            name: (
                [torch.tensor(spaced, dtype=torch.int64) for spaced, _ in groups.values()],
                [torch.tensor([*spaced, *bare], dtype=torch.int64) for spaced, bare in groups.values()],
            )
            for name, groups in left
        }
        course = Course(settings, reader, axes, Naming(left, self.vocabulary, in_a_word=bool(settings.tail)))
        course.advance(tokens)
        return course

    def steer(
        self,
        logits: torch.Tensor,
        masses: torch.Tensor,
        lines: Sequence[int],
        courses: Sequence[Course],
        temperatures: np.ndarray,
        spent: Sequence[float],
    ) -> list[Steered | Exception]:
        """Change the laws of rows, in both their forms, in place. A row whose signal fails has its exception returned.

        logits        float32 [R, V], of all rows; masses: the same as laws, float32 [R, V or more]
        lines         [A] which of the rows are adapted
        temperatures  float64 [A]
        spent         [A] nats of KL that each text has had already
        """
        laws = [masses[line, : logits.shape[1]] for line in lines]
        balanced = [self._balance(law, course) for law, course in zip(laws, courses)]
        twists: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        failures: dict[int, Exception] = {}
        for a, course in enumerate(courses):
            if course.reader is not None and spent[a] < course.settings.budget:
                try:
                    twist = self._twists(laws[a], course, course.reader)
                except Exception as error:
                    failures[a] = error
                    continue
                if twist is not None:
                    twists[a] = twist
        shifts = self._shifts(laws, courses, twists)
        steered: list[Steered | Exception] = []
        for a, (line, course) in enumerate(zip(lines, courses)):
            if a in failures:
                steered.append(failures[a])
                continue
            tilted = None
            if a in shifts:
                tilted = within_budget(laws[a], shifts[a], course.settings.budget - spent[a])
                laws[a] *= torch.exp(tilted.shift - tilted.log_norm)
            for change in (balanced[a], tilted):
                if change is not None:
                    logits[line] += change.shift * float(temperatures[a])
            steered.append(Steered(course, balanced[a], tilted))
        return steered

    def _balance(self, masses: torch.Tensor, course: Course) -> Change | None:
        """Give the groups of every axis that is open equal mass. masses: float32 [V], of p; changed to b where it is open."""
        settings = course.settings
        axes = []
        for groups in course.open_axes() if settings.debias_strength else []:
            held = [float(masses[ids].sum()) for ids in groups]
            # Of groups that cannot come next (cut by top_p, wrong by the grammar of the sentence) there is nothing to make.
            there = [(ids, mass) for ids, mass in zip(groups, held) if mass >= LEAST_MASS]
            if len(there) > 1 and max(held) - min(held) >= settings.balance_gate:
                boosts = equalising([mass for _, mass in there], settings.debias_strength).tolist()
                axes.append(([ids for ids, _ in there], boosts))
        if not axes:
            return None
        shift = torch.zeros_like(masses)
        for groups, boosts in axes:
            for ids, boost in zip(groups, boosts):
                shift[ids] += boost
        if len(axes) > 1 and settings.debias_strength == 1.0:
            _fit(shift, masses, [groups for groups, _ in axes])
        change = Change.of(masses, shift)
        masses *= torch.exp(shift - change.log_norm)
        return change

    def _twists(self, masses: torch.Tensor, course: Course, reader: Reader) -> tuple[np.ndarray, np.ndarray] | None:
        """The candidates and their y, where the gate opens.

        masses   float32 [V], of b
        returns  int64 [K], float64 [K]
        """
        alarming = reader.alarming()
        if alarming is not None:
            there = _at(masses, alarming)
            if there.sum() < course.settings.gate:
                return None
            alarming = alarming[there > LEAST_LOOK]
        likeliest = torch.topk(masses, min(course.settings.candidates, len(masses))).indices.cpu().numpy()
        tokens = likeliest if alarming is None else np.union1d(likeliest, alarming)
        gains = log_wanted(reader.after(tokens)) - log_wanted(reader.log_odds)
        removed = float(_at(masses, tokens) @ np.maximum(-np.expm1(gains), 0.0))
        if removed < course.settings.gate:
            return None
        return tokens, course.power * gains

    def _shifts(
        self,
        laws: Sequence[torch.Tensor],
        courses: Sequence[Course],
        twists: Mapping[int, tuple[np.ndarray, np.ndarray]],
    ) -> dict[int, torch.Tensor]:
        """The shift of every row whose gate is open: float32 [V] each."""
        offsets: dict[int, torch.Tensor] = {}
        for a, (tokens, gains) in twists.items():
            if courses[a].settings.method != "tilt":
                assert self.unembedding is not None
                ids, wanted = torch.from_numpy(tokens).to(laws[a].device), torch.from_numpy(gains).to(laws[a])
                offsets[a] = natural_offset(self.unembedding.rows(ids), laws[a][ids], wanted)
        projected = dict(zip(offsets, self._project(list(offsets.values()))))
        shifts = {}
        for a, (tokens, gains) in twists.items():
            ids, wanted = torch.from_numpy(tokens).to(laws[a].device), torch.from_numpy(gains).to(laws[a])
            if a not in projected:
                shift = torch.zeros_like(laws[a])
                shift[ids] = wanted
            else:
                held = laws[a][ids] / laws[a][ids].sum()
                shift = projected[a] + (held @ wanted - held @ projected[a][ids])
                if courses[a].settings.method == "both":
                    shift[ids] = wanted
            shifts[a] = shift
        return shifts

    def _project(self, offsets: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        if not offsets or self.unembedding is None:
            return ()
        return list(self.unembedding.project(torch.stack(list(offsets))))


def _fit(shift: torch.Tensor, masses: torch.Tensor, axes: Sequence[Sequence[torch.Tensor]]) -> None:
    """Balance axes in turn until none moves, in place: they may share words ("girl" is young and female).

    shift, masses  float32 [V]
    """
    for _ in range(SWEEPS):
        largest = 0.0
        for groups in axes:
            held = [float((masses[ids] * torch.exp(shift[ids])).sum()) for ids in groups]
            boosts = equalising(held).tolist()
            largest = max(largest, *map(abs, boosts))
            for ids, boost in zip(groups, boosts):
                shift[ids] += boost
        if largest < STILL:
            return


def _at(masses: torch.Tensor, tokens: np.ndarray) -> np.ndarray:
    """float64 [K]: the masses of some tokens. masses  float32 [V]"""
    return masses[torch.from_numpy(tokens).to(masses.device)].cpu().numpy().astype(np.float64)
