"""Adaptation at work inside the model runner: every adapted row's law is changed before its token is drawn.

Free of vLLM, as `row_sampler.py` is. What a row needs to know of its past is a function of its text, and the nats it has spent
come in with every step: a row that was preempted or forked is steered as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch

from decoding.adaptation.held_signals import signal_of
from decoding.adaptation.naming import Naming
from decoding.adaptation.reader import Reader, Reading, reading_of
from decoding.adaptation.served import Change, equalising, log_wanted, natural_offset
from decoding.adaptation.settings import POWER, Adaptation
from decoding.adaptation.step_laws import Shift, StepLaws
from grammars.errors import RequestError
from grammars.vocabulary import Vocabulary

# A group that the model gives less mass than this cannot come next.
LEAST_MASS = 1e-3
# Several axes are balanced in turn, so often at most, until nothing moves by as much as this in log mass.
SWEEPS = 50
STILL = 1e-5
# A token the signal objects to is looked at from this mass on, though it is not among the likeliest.
LEAST_LOOK = 1e-6
# From this mass on a token is reached by an offset, though its text was not read.
LEAST_REACH = 1e-4


class Unembedding(Protocol):
    """The model's last matrix W: logits are W·h."""

    def rows(self, tokens: torch.Tensor) -> torch.Tensor:
        """float32 [K, D]. tokens  int64 [K]"""


@dataclass(frozen=True)
class Names:
    """The tokens that begin a word of an axis' groups.

    tokens  int64 [N], ascending; groups int64 [N]: which group's each is; count: of groups
    """

    tokens: np.ndarray
    groups: np.ndarray
    count: int

    @classmethod
    def of(cls, groups: Sequence[Sequence[int]]) -> Names:
        tokens = np.array([token for ids in groups for token in ids], dtype=np.int64)
        owners = np.repeat(np.arange(len(groups)), [len(ids) for ids in groups])
        order = np.argsort(tokens)
        return cls(tokens[order], owners[order], len(groups))

    def masses(self, held: np.ndarray) -> np.ndarray:
        """float64 [count]: what the groups hold. held  float64 [N], of the tokens"""
        return np.bincount(self.groups, held, self.count)

    def boosts(self, held: np.ndarray, there: np.ndarray, strength: float = 1.0) -> np.ndarray:
        """What to add to log p of each token, so that the groups that are there hold the same: float64 [N]. there  bool [count]"""
        boosts = np.zeros(self.count)
        boosts[there] = equalising(self.masses(held)[there], strength)
        return boosts[self.groups]


@dataclass
class Course:
    """How one row is steered: its settings, and what its text so far means to them.

    axes  of those that the prompt leaves open: what names their groups next, within a word and outside
    """

    settings: Adaptation
    reader: Reader | None
    axes: Mapping[str, tuple[Names, Names]]
    naming: Naming
    _next: dict[int, Reader] = field(default_factory=dict, init=False, repr=False)

    def advance(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            if self.reader is not None:
                self.reader = self.after(int(token))
                self._next = {}
        self.naming.advance(tokens)

    def after(self, token: int) -> Reader:
        """What the text is to the signal with one token more; kept until the text goes on."""
        assert self.reader is not None
        if token not in self._next:
            self._next[token] = self.reader.advance(token)
        return self._next[token]

    def open_axes(self) -> list[Names]:
        """Of every axis of which nobody has been named, what would name its groups next."""
        outside = not self.naming.in_a_word
        return [names[outside] for name, names in self.axes.items() if self.naming.first[name] is None]

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
        after, now = log_wanted(self.course.after(token).log_odds), log_wanted(reader.log_odds)
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
                Names.of([spaced for spaced, _ in groups.values()]),
                Names.of([(*spaced, *bare) for spaced, bare in groups.values()]),
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
        laws = StepLaws(logits, masses, lines, temperatures)
        balanced = laws.move(self._balancing(laws, courses))
        failures: dict[int, Exception] = {}
        twists = self._twists(laws, courses, spent, failures)
        budgets = {a: courses[a].settings.budget - spent[a] for a in twists}
        tilted = laws.move(self._shifts(laws, courses, twists), budgets)
        return [
            failures[a] if a in failures else Steered(course, balanced.get(a), tilted.get(a))
            for a, course in enumerate(courses)
        ]

    @staticmethod
    def _balancing(laws: StepLaws, courses: Sequence[Course]) -> dict[int, Shift]:
        """What gives the groups of every axis that is open equal mass, row by row."""
        there = {
            a: axes
            for a, course in enumerate(courses)
            if course.settings.debias_strength and (axes := course.open_axes())
        }
        held = laws.held({a: np.concatenate([names.tokens for names in axes]) for a, axes in there.items()})
        found = ((a, _balance(axes, held[a], courses[a].settings)) for a, axes in there.items())
        return {a: shift for a, shift in found if shift is not None}

    @staticmethod
    def _twists(
        laws: StepLaws, courses: Sequence[Course], spent: Sequence[float], failures: dict[int, Exception]
    ) -> dict[int, Shift]:
        """The candidates and their y, of every row whose gate opens. failures: rows whose signal raised come to it"""
        readers = {
            a: course.reader
            for a, course in enumerate(courses)
            if course.reader is not None and spent[a] < course.settings.budget
        }
        alarming = {a: tokens for a, reader in readers.items() if (tokens := reader.alarming()) is not None}
        there = laws.held(alarming)
        shut = {a for a, masses in there.items() if masses.sum() < courses[a].settings.gate}
        candidates = laws.likeliest({a: courses[a].settings.candidates for a in readers if a not in shut})
        for a in candidates:
            if a in there:
                candidates[a] = np.append(candidates[a], alarming[a][there[a] > LEAST_LOOK])
            candidates[a] = np.unique(candidates[a])
        held, twists = laws.held(candidates), {}
        for a, tokens in candidates.items():
            try:
                gains = log_wanted(readers[a].after(tokens)) - log_wanted(readers[a].log_odds)
            except Exception as error:
                failures[a] = error
                continue
            if float(held[a] @ np.maximum(-np.expm1(gains), 0.0)) >= courses[a].settings.gate:
                twists[a] = tokens, courses[a].power * gains
        return twists

    def _shifts(self, laws: StepLaws, courses: Sequence[Course], twists: Mapping[int, Shift]) -> dict[int, Shift]:
        """The twists themselves, or the offsets that come nearest to them, as the rows' methods say."""
        return {
            a: twist
            if courses[a].settings.method == "tilt"
            else self._offset(laws, a, twist, courses[a].settings.method)
            for a, twist in twists.items()
        }

    def _offset(self, laws: StepLaws, a: int, twist: Shift, method: str) -> Shift:
        """What an offset of the final hidden state adds to the tokens that it reaches; to the candidates the twist, for `both`."""
        assert self.unembedding is not None
        candidates, wanted = twist
        held = laws.held({a: candidates})[a]
        tokens = np.union1d(candidates, laws.of_mass(a, LEAST_REACH))
        # What it is fitted to: tokens of less mass would hardly count.
        told = held >= min(LEAST_REACH, held.max())
        places = np.searchsorted(tokens, candidates)
        rows = self.unembedding.rows(torch.from_numpy(tokens).to(laws.masses.device))
        fitted = torch.from_numpy(np.stack([held[told], wanted[told]])).to(rows)
        shift = (rows @ natural_offset(rows[places[told]], *fitted)).double().cpu().numpy()
        # Candidates move as much by the one as by the other, on average.
        shift += held @ (wanted - shift[places]) / held.sum()
        if method == "both":
            shift[places] = wanted
        return tokens, shift


def _balance(axes: Sequence[Names], held: np.ndarray, settings: Adaptation) -> Shift | None:
    """What gives the groups of every axis equal mass. held: float64 [all their tokens], one axis after the other"""
    chosen = []
    for names in axes:
        own, held = held[: len(names.tokens)], held[len(names.tokens) :]
        masses = names.masses(own)
        # Of groups that cannot come next (cut by top_p, wrong by the grammar of the sentence) there is nothing to make.
        there = masses >= LEAST_MASS
        if there.sum() > 1 and masses.max() - masses.min() >= settings.balance_gate:
            chosen.append((names, own, there))
    if not chosen:
        return None
    tokens = np.unique(np.concatenate([names.tokens for names, _, _ in chosen]))
    masses, shift = np.zeros(len(tokens)), np.zeros(len(tokens))
    places = [np.searchsorted(tokens, names.tokens) for names, _, _ in chosen]
    for (names, own, there), place in zip(chosen, places):
        masses[place] = own
        shift[place] += names.boosts(own, there, settings.debias_strength)
    # Axes may share words ("girl" is young and female): they are balanced in turn until none moves.
    several = len(chosen) > 1 and settings.debias_strength == 1.0
    for _ in range(SWEEPS if several else 0):
        largest = 0.0
        for (names, _, there), place in zip(chosen, places):
            more = names.boosts(masses[place] * np.exp(shift[place]), there)
            shift[place] += more
            largest = max(largest, float(np.abs(more).max()))
        if largest < STILL:
            break
    return tokens, shift
