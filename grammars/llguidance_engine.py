"""The bridge to llguidance (Rust): regexes, JSON Schemas and context-free grammars as constraints.

llguidance parses the grammar once; its matchers are cheap to copy and share one lexer, built lazily. Three of its habits
are turned off or made good here:

- It *forces*: where only one text can follow, its mask leaves only that text's usual tokens. Here every tokenisation of
  an accepted text is accepted (`no_forcing`), or the mask would change the target.
- A matcher changes in place, and copying one costs time linear in its history. See `_Track`.
- The lexer's cache and its spent fuel only grow. See `GuidedConstraint._tick`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import cast
from weakref import WeakKeyDictionary

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from grammars.errors import GrammarError, Unsatisfiable
from grammars.llguidance_probe import probe
from grammars.vocabulary import Vocabulary

# Fuel is llguidance's unit of lexer work: about 50 a µs while compiling, 14 a µs while masking. So compiling is given up
# after some 0.2 s, one mask after some 70 ms, and one constraint's lexer holds at most some 0.4 GB.
LIMITS = LLParserLimits(
    max_items_in_row=2_000,
    initial_lexer_fuel=10_000_000,
    step_lexer_fuel=1_000_000,
    step_max_items=200_000,
    max_lexer_states=250_000,
    max_grammar_size=500_000,
    precompute_large_lexemes=True,
    verbose_errors=False,
)
REFUEL_ADVANCES = 1 << 10
RENEW_ADVANCES = 1 << 16

# Sets of tokens whose masks llguidance keeps ready, for places where all of a set may come. Beside its own for JSON strings
# these two: a class of letters with a bound, as in [a-z ,.]{1,200}, then takes 20 µs a mask instead of 400.
LETTERS = (r"[a-zA-Z ]{1,10}", r"[a-zA-Z ]{1,30}")

# A line of its own at the end, so that line numbers in messages are the user's.
NO_FORCING = '\n%llguidance {"no_forcing": true}\n'


def compile_guided(grammar: str, vocabulary: Vocabulary, explain: Callable[[str], GrammarError]) -> GuidedConstraint:
    """Compile a grammar in llguidance's Lark dialect.

    explain  turns llguidance's message into the error the user sees
    Raises GrammarError: what `explain` makes, or too slow, too large or too deeply nested to compile at all.
    """

    def parse() -> LLMatcher:
        matcher = parse_guided(grammar, vocabulary)
        if matcher.is_error():
            raise explain(matcher.get_error())
        return matcher

    probe(grammar, vocabulary)
    return GuidedConstraint(parse, vocabulary)


def parse_guided(grammar: str, vocabulary: Vocabulary) -> LLMatcher:
    """A matcher at the start of a grammar; `is_error` where llguidance refuses it."""
    return LLMatcher(_tokenizer(vocabulary), grammar + NO_FORCING, log_level=0, limits=LIMITS)


class _Track:
    """A matcher and the tokens it has consumed: the representation that the states of one history share.

    A state further back than the matcher copies it and rolls the copy back, once, and then has a track of its own. So a
    sequence that only goes on never copies, and a fork costs one copy. Source: Baker (1978), "Shallow binding in Lisp 1.5".
    """

    __slots__ = ("matcher", "tokens")

    def __init__(self, matcher: LLMatcher, tokens: list[int]) -> None:
        self.matcher = matcher
        self.tokens = tokens


class GuidedState:
    """A place in a llguidance grammar: the state after the first `_length` tokens of `_track`."""

    __slots__ = ("_constraint", "_length", "_mask", "_track")

    mask_is_exact = True

    def __init__(self, constraint: GuidedConstraint, track: _Track, length: int) -> None:
        self._constraint = constraint
        self._track = track
        self._length = length
        self._mask: np.ndarray | None = None

    def _matcher(self) -> LLMatcher:
        """The matcher, at this state. The constraint's lock is held."""
        track, length = self._track, self._length
        if len(track.tokens) != length:
            matcher = track.matcher.deep_copy()
            if not matcher.rollback(len(track.tokens) - length):
                raise self._constraint.broken(track)
            self._track = track = _Track(matcher, track.tokens[:length])
        return track.matcher

    @property
    def is_complete(self) -> bool:
        with self._constraint.lock:
            return self._matcher().is_accepting()

    def bitmask(self) -> np.ndarray:
        if self._mask is None:
            constraint = self._constraint
            vocabulary = constraint.vocabulary
            with constraint.lock:
                matcher = self._matcher()
                complete = matcher.is_accepting()
                # llguidance gives a word more where the vocabulary fills its words.
                words = np.frombuffer(matcher.compute_bitmask(), dtype="<i4")[: vocabulary.mask_words]
                if matcher.is_error():
                    # A dead end, to llguidance, is an error too; here it is an empty mask.
                    if not matcher.get_error().startswith("NoExtension"):
                        raise constraint.broken(self._track)
                    constraint.replay(self._track)
            mask = words & vocabulary.text_bitmask
            if complete:
                eos = vocabulary.eos
                mask[eos >> 5] |= np.array(1 << (eos & 31), dtype=np.uint32).view(np.int32)
            mask.flags.writeable = False
            self._mask = mask
        return self._mask

    def accepts(self, tokens: np.ndarray, masked: bool = False) -> np.ndarray:
        if masked:
            return np.ones(len(tokens), dtype=bool)
        constraint = self._constraint
        writes, eos = constraint.vocabulary.writes, constraint.vocabulary.eos
        with constraint.lock:
            matcher = self._matcher()
            validate = matcher.validate_tokens
            verdicts = [
                validate([t]) == 1 if writes[t] else t == eos and matcher.is_accepting() for t in tokens.tolist()
            ]
        if not any(verdicts) and self._mask is None:
            # A lexer that met a limit refuses every token without a word. Only a mask says so, with the error.
            mask = self.bitmask()
            verdicts = [bool(mask[t >> 5] >> (t & 31) & 1) for t in tokens.tolist()]
        return np.array(verdicts, dtype=bool)

    def advance(self, token: int) -> GuidedState:
        constraint = self._constraint
        if token == constraint.vocabulary.eos:
            return self
        assert constraint.vocabulary.writes[token], f"token {token} writes nothing"
        with constraint.lock:
            constraint.tick()
            matcher, track = self._matcher(), self._track
            if self._length == 0:
                # The start is kept and used again: lending its matcher would copy some long history back each time.
                matcher = matcher.deep_copy()
                track = _Track(matcher, [])
            # Tested first, inside llguidance: a refused token leaves the matcher, and so this state, as it was.
            if matcher.try_consume_tokens([token]) != 1:
                if not matcher.is_error():
                    # Where the lexer met a limit, only a mask says so.
                    matcher.compute_bitmask()
                if matcher.is_error() and not matcher.get_error().startswith("NoExtension"):
                    raise constraint.broken(track)
                raise AssertionError(f"token {token} ({constraint.vocabulary.bytes_of(token)!r}) is not accepted here")
            track.tokens.append(token)
            return GuidedState(constraint, track, len(track.tokens))


class GuidedConstraint:
    """A grammar compiled by llguidance for one vocabulary."""

    can_mask = True

    def __init__(self, parse: Callable[[], LLMatcher], vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        # All matchers of the constraint share one lexer, so its lock is theirs.
        self.lock = threading.Lock()
        self._parse = parse
        self._advances = 0
        self._renew()

    def _renew(self) -> None:
        self._pristine = self._parse()
        self._start = GuidedState(self, _Track(self._pristine.deep_copy(), []), 0)

    def start(self) -> GuidedState:
        start = self._start
        if not start.is_complete and not start.bitmask().any():
            raise Unsatisfiable(
                "the constraint accepts no text: no first token may come, and the empty text is refused"
            )
        return start

    def tick(self) -> None:
        """Count one advance. The lock is held.

        Testing and consuming tokens spends fuel that only a mask gives back, and a lexer without fuel refuses every token
        without a word: so a mask is computed now and then. And the lexer remembers every state it has seen: so now and
        then a new one is begun, for the sequences that start later. Either may go when llguidance bounds its own cache.
        """
        self._advances += 1
        if self._advances % REFUEL_ADVANCES == 0:
            self._pristine.deep_copy().compute_bitmask()
        if self._advances % RENEW_ADVANCES == 0:
            self._renew()

    def replay(self, track: _Track) -> None:
        """Give a track a new matcher in place of one that ended in an error. The lock is held."""
        track.matcher = self._pristine.deep_copy()
        track.matcher.consume_tokens(track.tokens)

    def broken(self, track: _Track) -> GrammarError:
        """The error of a track whose matcher met a limit; what starts later gets a new lexer. The lock is held."""
        reason = track.matcher.get_error().partition("\n")[0]
        self._renew()
        self.replay(track)
        return GrammarError(
            f"the grammar became too costly to follow ({reason}); bound its repetitions, or turn right recursion into left"
        )


_TOKENIZERS: WeakKeyDictionary[Vocabulary, LLTokenizer] = WeakKeyDictionary()
_TOKENIZERS_LOCK = threading.Lock()


class _Words:
    """A vocabulary as llguidance wants it. It asks for tokenisations only to force text, which is off."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    special_token_ids: tuple[int, ...] = ()

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = [vocabulary.bytes_of(t) for t in range(vocabulary.size)]
        self.eos_token_id = vocabulary.eos

    def __call__(self, text: bytes) -> list[int]:
        raise AssertionError("llguidance asked for a tokenisation although forcing is off")


def _tokenizer(vocabulary: Vocabulary) -> LLTokenizer:
    """llguidance's trie of a vocabulary: made once (0.1 s for 50,000 tokens), kept as long as the vocabulary."""
    with _TOKENIZERS_LOCK:
        tokenizer = _TOKENIZERS.get(vocabulary)
        if tokenizer is None:
            words = cast(TokenizerWrapper, _Words(vocabulary))
            tokenizer = _TOKENIZERS[vocabulary] = LLTokenizer(words, slices=[*LETTERS, *LLTokenizer.json_slices()])
        return tokenizer
