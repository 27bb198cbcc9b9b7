"""A list of texts, one of which is written: exact, and quick for 100,000 of them."""

from __future__ import annotations

import threading
import typing
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from grammars.constraint import Language
from grammars.errors import GrammarError
from grammars.registry import Example, grammar
from grammars.vocabulary import Vocabulary

CACHED_MASKS = 256


@grammar("choice")
@dataclass(frozen=True)
class Choice(Language):
    """Exactly the given texts; one may be a prefix of another.

    options  texts, not empty, all different; or Literal["yes", "no"]
    """

    options: tuple[str, ...]

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"choice": ["yes", "no"]}, ("yes", "no"), ("", "y", "yess", "maybe")),
        Example({"choice": ["a", "ab", "abc", "b c", "é", "你好", "你们"]}, ("a", "ab", "é", "你们"), ("", "b", "abcd", "你")),
    )

    def __post_init__(self) -> None:
        options: Any = self.options
        if typing.get_origin(options) is typing.Literal:
            options = typing.get_args(options)
        if isinstance(options, str) or not isinstance(options, Iterable):
            raise GrammarError(f"choice must be a list of texts, not {type(options).__name__}: write choice=['yes', 'no']")
        options = tuple(options)
        if not options:
            raise GrammarError("choice has no options: give at least one text")
        seen: dict[str, int] = {}
        for k, option in enumerate(options):
            if not isinstance(option, str):
                raise GrammarError(f"choice option {k} is {option!r}, of type {type(option).__name__}; give texts: str({option!r})")
            if not option:
                raise GrammarError(f"choice option {k} is empty: leave it out, or use a regex such as (yes|no)?")
            if option in seen:
                raise GrammarError(f"choice options {seen[option]} and {k} are both {option!r}: leave one out")
            seen[option] = k
            try:
                option.encode()
            except UnicodeEncodeError as error:
                raise GrammarError(f"choice option {k}, {option!r}, is not text: {error.reason}") from error
        object.__setattr__(self, "options", options)

    @property
    def spec(self) -> dict[str, Any]:
        return {"choice": list(self.options)}

    def compile(self, vocabulary: Vocabulary) -> ChoiceConstraint:
        return ChoiceConstraint(sorted(option.encode() for option in self.options), vocabulary)


class ChoiceConstraint:
    """The options in byte order: those that begin with a prefix are neighbours, so a state is an interval."""

    can_mask = True

    def __init__(self, options: list[bytes], vocabulary: Vocabulary) -> None:
        self.options = options
        self.vocabulary = vocabulary
        self._masks: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def start(self) -> ChoiceState:
        return ChoiceState(self, b"", 0, len(self.options))

    def mask(self, state: ChoiceState) -> np.ndarray:
        """The bitmask of a state, from the cache where some sequence has been there lately."""
        with self._lock:
            mask = self._masks.get(state.prefix)
            if mask is not None:
                self._masks.move_to_end(state.prefix)
                return mask
        tokens = self._next_tokens(state)
        if state.is_complete:
            tokens.append(self.vocabulary.eos)
        mask = self.vocabulary.bitmask(tokens)
        with self._lock:
            self._masks[state.prefix] = mask
            while len(self._masks) > CACHED_MASKS:
                self._masks.popitem(last=False)
        return mask

    def _next_tokens(self, state: ChoiceState) -> list[int]:
        """The tokens that keep some option within reach: options and tokens are walked side by side, as two tries."""
        options = self.options
        written, ids = self.vocabulary.by_bytes
        found: list[int] = []
        depth = len(state.prefix)
        # Interval of options and interval of tokens, with the bytes that all these tokens begin with.
        stack = [(state.low, state.high, 0, len(written), b"")]
        while stack:
            low, high, first, end, text = stack.pop()
            at = depth + len(text)
            if len(options[low]) == at:
                low += 1
            while low < high:
                longer = text + options[low][at : at + 1]
                beyond = longer + b"\xff"  # No UTF-8 text has the byte FF: this sorts after all that begins with `longer`.
                split = bisect_left(options, state.prefix + beyond, low, high)
                first = bisect_left(written, longer, first, end)
                inner = first
                while inner < end and written[inner] == longer:
                    found.append(ids[inner])
                    inner += 1
                inner_end = bisect_left(written, beyond, inner, end)
                if inner < inner_end:
                    stack.append((low, split, inner, inner_end, longer))
                low, first = split, inner_end
        return found


class ChoiceState:
    """The options from `low` up to `high` begin with `prefix`, the text so far; at least one does."""

    __slots__ = ("_constraint", "high", "low", "prefix")

    mask_is_exact = True

    def __init__(self, constraint: ChoiceConstraint, prefix: bytes, low: int, high: int) -> None:
        self._constraint = constraint
        self.prefix = prefix
        self.low = low
        self.high = high

    @property
    def is_complete(self) -> bool:
        # The shortest of the options that share a prefix comes first.
        return self._constraint.options[self.low] == self.prefix

    def bitmask(self) -> np.ndarray:
        return self._constraint.mask(self)

    def accepts(self, tokens: np.ndarray, masked: bool = False) -> np.ndarray:
        if masked:
            return np.ones(len(tokens), dtype=bool)
        return np.array([self._accepts(t) for t in tokens.tolist()], dtype=bool)

    def _accepts(self, token: int) -> bool:
        constraint = self._constraint
        written = constraint.vocabulary.bytes_of(token)
        if not written:
            return token == constraint.vocabulary.eos and self.is_complete
        text = self.prefix + written
        k = bisect_left(constraint.options, text, self.low, self.high)
        return k < self.high and constraint.options[k].startswith(text)

    def advance(self, token: int) -> ChoiceState:
        constraint = self._constraint
        if token == constraint.vocabulary.eos:
            return self
        text = self.prefix + constraint.vocabulary.bytes_of(token)
        low = bisect_left(constraint.options, text, self.low, self.high)
        assert low < self.high and constraint.options[low].startswith(text), f"token {token} is not accepted here"
        return ChoiceState(constraint, text, low, bisect_left(constraint.options, text + b"\xff", low, self.high))
