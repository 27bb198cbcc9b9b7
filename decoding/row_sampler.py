"""The token sampler at work inside the model runner: every row of ours in a step gets its token and its weight.

Free of vLLM: `vllm_processor.py` and `vllm_processor_v2.py` tell it which rows there are, under either of vLLM's interfaces.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch

from decoding.adaptation.steering import Course, Steered, Steering
from decoding.order import Order
from decoding.row_laws import cut_to_nucleus, log_masses, self_certainty
from decoding.rows import StepRows, Workspace, fold_eos, tempered_masses
from decoding.trace import Seen, Watch, WatchedCandidates, WatchedState, likeliest
from grammars.constraint import ConstraintState
from grammars.errors import EngineError, ReweighError
from grammars.registry import compile_spec
from grammars.vocabulary import Vocabulary
from samplers.candidates import Candidates
from samplers.randomness import Stream, uniforms
from samplers.token_sampler import Draw, TokenSampler
from samplers.token_samplers import token_sampler

logger = logging.getLogger(__name__)

# Candidates drawn on the device before the host looks at any of them: a first token and the one tested after it. Where
# every row's mask is the whole truth the first is enough.
PREFETCH = 2
AHEAD = 16
NO_NUMBERS = np.empty((0, PREFETCH))
# Far above any logit: the argmax of the row whatever else stands in it, and finite, so that no softmax turns NaN.
FORCED = 1e30


class Post(NamedTuple):
    """What a particle got in one step, on its way from the model runner to the scheduler.

    A tuple, since every particle has one made, pickled and read between two steps: a frozen dataclass takes three times as long.

    position    generated tokens before this one
    is_stop     a stop string of the request ends with this token
    error       type name and text of what went wrong in its row alone; its weight is then -inf
    seen        what it looked at, where the order asks for a trace
    answers     log of p's mass on the groups of tokens that the order asks about, at the first position
    certainty   KL(uniform ‖ p) in nats, where the order asks for it
    kl          nats that steering has spent on this token; log_ratio: log q(token) / p(token), q being the law it made of p
    """

    particle: int
    position: int
    token: int
    log_weight: float
    logprob: float
    checks: int
    masks: int
    is_eos: bool = False
    is_stop: bool = False
    error: tuple[str, str] | None = None
    seen: Seen | None = None
    answers: tuple[float, ...] = ()
    certainty: float = 0.0
    kl: float = 0.0
    log_ratio: float = 0.0


@dataclass(slots=True, eq=False)
class Row:
    """One text in the batch, which one particle or several have in common.

    kept     the tokens vLLM has kept since the row was added: a live view, read afresh at each step
    past     tokens generated before that (a fork's history)
    state    the constraint after the first `known` generated tokens; course: how the row is steered after them
    numbers  particle -> position p and float64 [AHEAD, PREFETCH]: its uniforms at positions p, p + 1, ...
    """

    order: Order
    sampler: TokenSampler
    past: list[int]
    kept: Callable[[], Sequence[int]]
    state: ConstraintState | None
    known: int = 0
    course: Course | None = None
    error: ReweighError | None = None
    numbers: dict[int, tuple[int, np.ndarray]] = field(default_factory=dict)
    stops: tuple[bytes, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.stops = tuple(stop.encode() for stop in self.order.stop)

    @property
    def key(self) -> tuple[str, int]:
        return self.order.group, self.order.row


class RowSampler:
    """Holds the rows of one model runner, samples for all of them at once, and posts the results.

    steering  changes the laws of the rows whose order asks for it
    spent   (group, row) -> nats that steering has spent on the row's text, for the rows of this step that it has
    riders  (group, row) -> the particles that draw from it, as the scheduler seated them for this step; a row it says
            nothing of (row 0 before the first step) is drawn from by the particle of its own number
    A failure of one row (a predicate that raises, a row of NaN) ends that row alone.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._rows: dict[tuple[str, int], Row] = {}
        self._gone: dict[tuple[str, int], Row] = {}
        self._only_eos = vocabulary.bitmask([vocabulary.eos])
        self._workspace = Workspace()
        self._masks = np.empty((0, vocabulary.mask_words), dtype=np.int32)  # kept, as the workspace is
        self.steering = Steering(vocabulary)
        self.spent: Mapping[tuple[str, int], float] = {}
        self.riders: Mapping[tuple[str, int], tuple[int, ...]] = {}
        self.posts: dict[tuple[str, int], list[Post]] = {}

    def add(self, order: Order, past: Sequence[int], kept: Callable[[], Sequence[int]]) -> Row:
        """Take up a row that enters the batch, for the first time, after preemption, or as a fork with a history."""
        row = Row(order, token_sampler(order.sampler), list(past), kept, None)
        try:
            row.state = self._state_after(order, row.past + list(kept()))
            if order.adapt is not None:
                row.course = self.steering.begin(order.adapt, row.past + list(kept()))
            row.known = len(row.past) + len(kept())
        except Exception as error:
            row.error = _failure(error)
        self._rows[row.key] = row
        return row

    def discard(self, row: Row) -> None:
        """Forget a row that left the batch, unless its place was taken already. Its forks may still ask for it in this step."""
        if self._rows.get(row.key) is row:
            self._gone[row.key] = self._rows.pop(row.key)

    def _state_after(self, order: Order, tokens: Sequence[int]) -> ConstraintState | None:
        """The constraint after `tokens`: on from the parent's, where the parent is at hand, else from the start."""
        if order.constraint is None:
            return None
        if order.parent is not None:
            key = order.group, order.parent
            parent = self._rows.get(key) or self._gone.get(key)
            if parent is not None and parent.state is not None and parent.known <= len(tokens):
                known = [*parent.past, *parent.kept()][: parent.known]
                if known == list(tokens[: parent.known]):
                    return _advanced(parent.state, tokens[parent.known :])
        return _advanced(compile_spec(order.constraint, self.vocabulary).start(), tokens)

    def take_posts(self) -> dict[tuple[str, int], list[Post]]:
        """Hand over what was posted since the last call."""
        posts, self.posts = self.posts, {}
        return posts

    def step(self, logits: torch.Tensor, places: Sequence[int], rows: Sequence[Row]) -> list[int]:
        """Sample for every row and write its token into the logits, in place, so that a greedy sampler must take it.

        logits   float32 [batch, V]; places[i] is the line of rows[i]
        returns  [R] the token each row goes on with: the one most of its particles drew
        """
        self._gone = {}
        if not rows:
            return []
        mine = logits if len(rows) == len(logits) and list(places) == list(range(len(rows))) else logits[list(places)]
        fold_eos(mine, self.vocabulary.eos_ids)
        positions = [self._catch_up(row) for row in rows]
        if any(row.order.top_p < 1.0 for row in rows):
            self._cut(mine, rows)
        if any(row.order.answers or row.order.certainty for row in rows):
            told = self._laws_told(mine, rows, positions)
        else:
            told = {}
        temperatures = np.array([row.order.temperature for row in rows])
        law, steered, plain = None, {}, {}
        if any(row.course is not None for row in rows):
            law = tempered_masses(mine, temperatures, self._workspace)
            # A trace tells of p: steering changes the row.
            plain = {n: mine[n].clone() for n, row in enumerate(rows) if row.course is not None and row.order.trace}
            steered = self._steer(mine, law, rows)
        masks, masked = self._bitmasks(rows, positions)
        prefetch = 1 if all(map(_is_exact, rows, masked)) else PREFETCH
        seats = [(n, particle) for n, row in enumerate(rows) for particle in self._riders(row)]
        numbers = self._uniforms(rows, positions, seats)[:, :prefetch]
        owners = np.array([n for n, _ in seats])
        step = StepRows(mine, temperatures, masks, numbers, owners, self._workspace, law)
        states = [_shared(row.state, len(self._riders(row))) for row in rows]
        for row in rows:
            self.posts[row.key] = []
        for k, (n, particle) in enumerate(seats):
            row, position = rows[n], positions[n]
            stream = Stream(row.order.seed, particle, position, numbers[k])
            candidates: Candidates = step.particle(k, stream)
            if row.order.trace:
                post = self._watch(
                    row, states[n], particle, position, candidates, bool(masked[n]), plain.get(n, mine[n])
                )
            else:
                post = self._sample(row, states[n], particle, position, candidates, bool(masked[n]))
            if n in steered:
                post = self._charged(post, row, steered[n])
            self.posts[row.key].append(post._replace(**told[n]) if n in told else post)
        chosen = [self._kept(self.posts[row.key]) for row in rows]
        broken = [line for line, row in zip(places, rows, strict=True) if row.error is not None]
        if broken:
            logits[broken] = 0.0
        if logits.device.type == "cpu":
            # Through numpy: torch's indexing costs more than all else that is done here.
            logits.numpy()[list(places), chosen] = FORCED
        else:
            lines = torch.tensor(list(places), device=logits.device)
            logits[lines, torch.tensor(chosen, device=logits.device)] = FORCED
        return chosen

    def _laws_told(
        self, logits: torch.Tensor, rows: Sequence[Row], positions: Sequence[int]
    ) -> dict[int, dict[str, Any]]:
        """What orders ask of p itself: index of the row -> fields of its posts. logits  float32 [R, V]"""
        told: dict[int, dict[str, Any]] = {}
        for n, row in enumerate(rows):
            if row.order.answers and positions[n] == 0 and row.error is None:
                told[n] = {"answers": log_masses(logits[n], row.order.answers, row.order.temperature)}
        wanted = [n for n, row in enumerate(rows) if row.order.certainty and row.error is None]
        if wanted:
            certainties = self_certainty(logits[wanted], [rows[n].order.temperature for n in wanted])
            for n, certainty in zip(wanted, certainties, strict=True):
                told.setdefault(n, {})["certainty"] = certainty
        return told

    @staticmethod
    def _cut(logits: torch.Tensor, rows: Sequence[Row]) -> None:
        """Cut the rows whose order asks for it to their nucleus, in place. logits  float32 [R, V]"""
        places = [n for n, row in enumerate(rows) if row.order.top_p < 1.0]
        cut = logits if len(places) == len(rows) else logits[places]
        orders = [rows[n].order for n in places]
        cut_to_nucleus(cut, [order.temperature for order in orders], [order.top_p for order in orders])
        if cut is not logits:
            logits[places] = cut

    def _steer(self, logits: torch.Tensor, masses: torch.Tensor, rows: Sequence[Row]) -> dict[int, Steered]:
        """Change the laws of the rows that are to be steered, in both their forms, in place.

        logits   float32 [R, V]; masses: their `tempered_masses`
        returns  index of the row -> what was done to it
        """
        places = [n for n, row in enumerate(rows) if row.course is not None and row.error is None]
        courses = [course for n in places if (course := rows[n].course) is not None]
        temperatures = np.array([rows[n].order.temperature for n in places])
        spent = [self.spent.get(rows[n].key, 0.0) for n in places]
        steered: dict[int, Steered] = {}
        outcomes = self.steering.steer(logits, masses, places, courses, temperatures, spent)
        for n, outcome in zip(places, outcomes, strict=True):
            if isinstance(outcome, Exception):
                rows[n].error = _failure(outcome)
            else:
                steered[n] = outcome
        return steered

    @staticmethod
    def _charged(post: Post, row: Row, steered: Steered) -> Post:
        """A token drawn from q, weighted for the target; its log p is that of the model."""
        if post.error is not None or post.log_weight == -np.inf:
            return post._replace(kl=steered.kl)
        try:
            paid = steered.log_weight(post.token) + (steered.course.start_weight if post.position == 0 else 0.0)
        except Exception as error:
            row.error = _failure(error)
            return post._replace(log_weight=-np.inf, error=(type(row.error).__name__, str(row.error)))
        log_ratio = steered.log_ratio(post.token)
        log_weight, logprob = post.log_weight + paid, post.logprob - log_ratio
        seen = post.seen
        if seen is not None:
            tested = tuple((token, held - steered.log_ratio(token), passed) for token, held, passed in seen.tested)
            seen = replace(seen, logprob=logprob, log_weight=log_weight, tested=tested)
        return post._replace(log_weight=log_weight, logprob=logprob, kl=steered.kl, log_ratio=log_ratio, seen=seen)

    def _riders(self, row: Row) -> tuple[int, ...]:
        return self.riders.get(row.key, (row.order.row,))

    def _kept(self, posts: Sequence[Post]) -> int:
        """The token of most particles that go on (the first among equals); the end where none does."""
        if len(posts) == 1:
            post = posts[0]
            goes_on = not (post.is_eos or post.is_stop) and post.log_weight > -np.inf
            return post.token if goes_on else self.vocabulary.eos
        going_on = [post.token for post in posts if not (post.is_eos or post.is_stop) and post.log_weight > -np.inf]
        return Counter(going_on).most_common(1)[0][0] if going_on else self.vocabulary.eos

    @staticmethod
    def _uniforms(rows: Sequence[Row], positions: Sequence[int], seats: Sequence[tuple[int, int]]) -> np.ndarray:
        """The first PREFETCH uniforms of every particle at its position; made for AHEAD positions at once, a call costs the same.

        seats    (index of the row, particle)
        returns  float64 [N, PREFETCH]
        """
        stale = []
        for n, particle in seats:
            start, numbers = rows[n].numbers.get(particle, (0, NO_NUMBERS))
            if not start <= positions[n] < start + len(numbers):
                stale.append((n, particle))
        if stale:
            seeds = np.array([rows[n].order.seed for n, _ in stale], dtype=np.uint64).repeat(AHEAD)
            particles = np.array([particle for _, particle in stale]).repeat(AHEAD)
            ahead = (np.array([positions[n] for n, _ in stale])[:, None] + np.arange(AHEAD)).ravel()
            fresh = uniforms(seeds, particles, ahead, 0, PREFETCH).reshape(len(stale), AHEAD, PREFETCH)
            for (n, particle), numbers in zip(stale, fresh, strict=True):
                rows[n].numbers[particle] = positions[n], numbers
        found = [(positions[n], *rows[n].numbers[particle]) for n, particle in seats]
        return np.array([numbers[position - start] for position, start, numbers in found])

    def _catch_up(self, row: Row) -> int:
        """Advance the row's constraint over the tokens vLLM has kept since the last step; returns how many there are in all."""
        kept = row.kept()
        position = len(row.past) + len(kept)
        if row.state is not None and row.known < position and row.error is None:
            try:
                row.state = _advanced(row.state, list(kept)[row.known - position :])
            except Exception as error:
                row.error = _failure(error)
        if row.course is not None and row.known < position and row.error is None:
            try:
                row.course.advance(list(kept)[row.known - position :])
            except Exception as error:
                row.error = _failure(error)
        row.known = position
        return position

    def _bitmasks(self, rows: Sequence[Row], positions: Sequence[int]) -> tuple[np.ndarray | None, np.ndarray]:
        """The masks of the rows that want one.

        returns  int32 [N, W] (all ones where a row wants none) or None when no row does; bool [N] which rows are masked
        """
        masked = np.zeros(len(rows), dtype=bool)
        masks: np.ndarray | None = None
        for n, (row, position) in enumerate(zip(rows, positions, strict=True)):
            if row.error is not None:
                continue
            bits: np.ndarray | None = None
            if self._is_last(row, position):
                bits = self._only_eos
            elif row.state is not None and row.sampler.wants_mask:
                try:
                    bits = row.state.bitmask()
                except Exception as error:
                    row.error = _failure(error)
            if bits is None:
                continue
            if masks is None:
                if len(self._masks) < len(rows):
                    self._masks = np.empty((len(rows), self.vocabulary.mask_words), dtype=np.int32)
                masks = self._masks[: len(rows)]
            masks[n] = bits
            masked[n] = True
        if masks is not None and not masked.all():
            masks[~masked] = -1
        return masks, masked

    def _is_last(self, row: Row, position: int) -> bool:
        return position + 1 >= row.order.max_tokens and not row.order.truncate

    def _sample(
        self,
        row: Row,
        state: ConstraintState | None,
        particle: int,
        position: int,
        candidates: Candidates,
        masked: bool,
    ) -> Post:
        try:
            if row.error is not None:
                raise row.error
            if self._is_last(row, position):
                draw = self._force_eos(row, candidates)
            elif state is None:
                draw = _unconstrained(candidates)
            else:
                draw = row.sampler.draw(candidates, state, masked)
        except Exception as error:
            error = row.error = _failure(error)
            named = type(error).__name__, str(error)
            return Post(particle, position, self.vocabulary.eos, -np.inf, -np.inf, 0, 0, error=named)
        token = draw.token if draw.token >= 0 else self.vocabulary.eos
        is_eos = token == self.vocabulary.eos
        is_stop = bool(row.stops) and not is_eos and self._stops(row, token)
        return Post(particle, position, token, draw.log_weight, draw.logprob, draw.checks, draw.masks, is_eos, is_stop)

    def _stops(self, row: Row, token: int) -> bool:
        """Whether the token ends one of the request's stop strings; only the last tokens before it are looked at."""
        text = self.vocabulary.bytes_of(token)
        wanted = max(map(len, row.stops)) - 1 + len(text)
        for before in chain(reversed(row.kept()), reversed(row.past)):
            if len(text) >= wanted:
                break
            text = self.vocabulary.bytes_of(before) + text
        return any(stop in text for stop in row.stops)

    def _watch(
        self,
        row: Row,
        state: ConstraintState | None,
        particle: int,
        position: int,
        candidates: Candidates,
        masked: bool,
        logits: torch.Tensor,
    ) -> Post:
        """`_sample`, and what was seen on the way. logits  float32 [V]"""
        watch = Watch()
        watched = None if state is None else WatchedState(state, watch)
        post = self._sample(row, watched, particle, position, WatchedCandidates(candidates, watch), masked)
        if row.error is not None:
            return post
        logprobs = torch.log_softmax(logits.double() / row.order.temperature, dim=0).cpu().numpy()
        try:
            best = likeliest(logprobs, state)
        except Exception as error:
            row.error = _failure(error)
            return self._sample(row, None, particle, position, candidates, masked)
        return post._replace(seen=Seen(post.token, post.logprob, post.log_weight, watch.tested(), best))

    def _force_eos(self, row: Row, candidates: Candidates) -> Draw:
        """The last place belongs to EOS: weight p(EOS) if the text is complete, else 0. The target is conditioned on the length."""
        log_eos = candidates.log_remaining
        complete = row.state is None or row.state.is_complete
        return Draw(self.vocabulary.eos, log_eos if complete else -np.inf, log_eos, 1, 0)


class _Remembered:
    """A state that several particles test their candidates against: each token is judged once."""

    __slots__ = ("_state", "_verdicts", "mask_is_exact")

    def __init__(self, state: ConstraintState) -> None:
        self._state = state
        self._verdicts: dict[tuple[int, bool], bool] = {}
        self.mask_is_exact = state.mask_is_exact

    @property
    def is_complete(self) -> bool:
        return self._state.is_complete

    def bitmask(self) -> np.ndarray | None:
        return self._state.bitmask()

    def accepts(self, tokens: np.ndarray, masked: bool = False) -> np.ndarray:
        ids = tokens.tolist()
        new = [token for token in dict.fromkeys(ids) if (token, masked) not in self._verdicts]
        if new:
            verdicts = self._state.accepts(np.array(new), masked).tolist()
            self._verdicts.update(((token, masked), verdict) for token, verdict in zip(new, verdicts, strict=True))
        return np.array([self._verdicts[token, masked] for token in ids], dtype=bool)

    def advance(self, token: int) -> ConstraintState:
        return self._state.advance(token)


def _shared(state: ConstraintState | None, riders: int) -> ConstraintState | None:
    """The state as the particles of one row see it; where the mask says it all, no test is dear enough to remember."""
    return state if state is None or riders == 1 or state.mask_is_exact else _Remembered(state)


def _is_exact(row: Row, masked: bool) -> bool:
    return row.state is None or (bool(masked) and row.state.mask_is_exact)


def _failure(error: Exception) -> ReweighError:
    """What ends a row: a typed error as it is; any other is a defect of ours, logged, and still ends this row alone."""
    if isinstance(error, ReweighError):
        return error
    logger.exception("a row failed for a reason that is no error of the request", exc_info=error)
    return EngineError(f"internal error in this request's sampling: {type(error).__name__}: {error}")


def _unconstrained(candidates: Candidates) -> Draw:
    if candidates.log_remaining == -np.inf or np.isnan(candidates.log_remaining):
        return Draw(-1, -np.inf, -np.inf, 0, 0)
    token, logprob = candidates.draw()
    return Draw(token, 0.0, logprob, 0, 0)


def _advanced(state: ConstraintState, tokens: Sequence[int]) -> ConstraintState:
    for token in tokens:
        state = state.advance(int(token))
    return state
