"""Does a constraint keep the laws that samplers rely on? For tests of one's own languages and predicates.

    def test_my_predicate():
        check_constraint(even, accepts=["2", "10"], rejects=["3", "x"])

Laws: what begins an accepted text is never refused; a verdict hangs on the bytes, not on the tokens that write them; the
mask is what `accepts` says token by token; the end is accepted exactly where the text is complete; states are values. A
language that breaks one gives samples from another target, unseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from grammars.constraint import Constraint, Language
from grammars.errors import PredicateError
from grammars.laws import accepts_token, answers, check_chunking, check_end, check_mask, check_pieces, shown
from grammars.membership import tokenised
from grammars.predicate import Predicate
from grammars.registry import compile_cached, language_from_arguments
from grammars.vocabulary import Vocabulary

WALKS = 12
LONGEST_WALK = 40
# So many places of one text are looked at with every token of the vocabulary: a predicate may be slow.
PLACES = 6


def check_constraint(
    constraint: Any,
    accepts: Sequence[str] = (),
    rejects: Sequence[str] = (),
    *,
    vocabulary: Vocabulary | None = None,
    allow_dead_ends: bool = False,
    seed: int = 0,
) -> None:
    """Check texts and laws, on the texts and on random walks; AssertionError tells the first that fails, and where.

    constraint       whatever `constraint=` of `generate` takes: a language, a spec, a function, a type
    accepts, rejects finished texts that are members, and that are not
    vocabulary       by default one with every byte and many pieces of the texts, cut inside characters too
    allow_dead_ends  let a text run to where nothing may follow and it is not complete: such particles die. Conjunctions
                     and predicates that cannot look ahead have such places; weights stay right.
    seed             of the random walks; the same seed walks the same ways
    """
    language = language_from_arguments(constraint=constraint)
    assert language is not None, "no constraint was given"
    if vocabulary is None:
        vocabulary = vocabulary_for([*accepts, *rejects])
    try:
        _check(language, accepts, rejects, vocabulary, allow_dead_ends, np.random.default_rng(seed))
    except PredicateError as error:
        raise AssertionError(str(error)) from error


def _check(
    language: Language,
    accepts: Sequence[str],
    rejects: Sequence[str],
    vocabulary: Vocabulary,
    allow_dead_ends: bool,
    rng: np.random.Generator,
) -> None:
    compiled = compile_cached(language, vocabulary)
    for text in accepts:
        check_accepts(compiled, text, vocabulary)
    for text in rejects:
        check_rejects(compiled, text, vocabulary)
    for predicate in _predicates(language):
        for text in [*accepts, *rejects]:
            check_prefixes(predicate, text)
    histories = [tokens for text in accepts if (tokens := tokenised(text.encode(), vocabulary)) is not None]
    for _ in range(WALKS):
        tokens, _ = walk(compiled, vocabulary, rng, LONGEST_WALK)
        histories.append(tokens)
    for tokens in histories:
        check_history(compiled, tokens, vocabulary, rng, allow_dead_ends)


def check_history(
    constraint: Constraint,
    tokens: Sequence[int],
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    allow_dead_ends: bool = True,
) -> None:
    """Check the laws along one accepted way."""
    states = [constraint.start()]
    for token in tokens:
        states.append(states[-1].advance(token))
    places = {0, len(tokens), *(int(rng.integers(len(states))) for _ in range(PLACES - 2))}
    first = {k: answers(states[k], vocabulary) for k in sorted(places)}
    for k in sorted(places):
        where = f"after {shown(vocabulary.decode(list(tokens[:k])))}"
        check_mask(states[k], vocabulary, where)
        check_end(states[k], vocabulary, where)
        check_pieces(states[k], vocabulary, where, rng)
        if not allow_dead_ends:
            assert first[k][0] or first[k][1].any(), f"dead end {where}: nothing may follow, and it is not complete"
    # Everything was asked and advanced since; a state that is a value says what it said, and what one made afresh says.
    for k in sorted(places):
        alone = constraint.start()
        for token in tokens[:k]:
            alone = alone.advance(token)
        where = f"after {shown(vocabulary.decode(list(tokens[:k])))}"
        for state, who in ((states[k], "the state itself, asked again"), (alone, "a state made afresh")):
            complete, accepted = answers(state, vocabulary, backwards=True)
            assert complete == first[k][0] and np.array_equal(accepted, first[k][1]), (
                f"{where} {who} answers otherwise: `advance` must leave its state alone, and answers must not change"
            )
    check_chunking(constraint, vocabulary.decode(list(tokens)), vocabulary, rng)


def check_accepts(constraint: Constraint, text: str, vocabulary: Vocabulary) -> None:
    """A text is a member, and everything it begins with may still become one."""
    data = text.encode()
    tokens = tokenised(data, vocabulary)
    assert tokens is not None, f"{text!r} cannot be written in this vocabulary"
    for way in ([t for k in range(len(data)) for t in tokenised(data[k : k + 1], vocabulary) or []], tokens):
        if vocabulary.decode(way) != data:
            continue  # Not every vocabulary has every byte.
        state, at = constraint.start(), 0
        for token in way:
            piece = vocabulary.bytes_of(token)
            assert accepts_token(state, token), (
                f"{text!r} should be accepted, but after {shown(data[:at])} {shown(piece)} is refused"
            )
            state, at = state.advance(token), at + len(piece)
        assert state.is_complete, f"{text!r} should be accepted, but is not complete at its end"


def check_rejects(constraint: Constraint, text: str, vocabulary: Vocabulary) -> None:
    """A text is refused on the way, or not complete at its end."""
    tokens = tokenised(text.encode(), vocabulary)
    assert tokens is not None, f"{text!r} cannot be written in this vocabulary"
    state = constraint.start()
    for token in tokens:
        if not accepts_token(state, token):
            return
        state = state.advance(token)
    assert not state.is_complete, f"{text!r} should be rejected, but is accepted"


def check_prefixes(predicate: Predicate, text: str) -> None:
    """Once a predicate refuses a prefix it refuses all that goes on from it, as a prefix and as a whole."""
    refused = None
    for k in range(len(text) + 1):
        prefix = text[:k]
        if refused is None and not predicate.ask(prefix, False):
            refused = prefix
        elif refused is not None and predicate.ask(prefix, False):
            raise AssertionError(
                f"{predicate} refuses {refused!r} as a prefix and accepts {prefix!r}, which begins with it"
            )
        if refused is not None and prefix and predicate.ask(prefix, True):
            raise AssertionError(
                f"{predicate} accepts {prefix!r} as complete, but refuses {refused!r} as a prefix: so it is never written"
            )


def walk(
    constraint: Constraint, vocabulary: Vocabulary, rng: np.random.Generator, longest: int
) -> tuple[list[int], bool]:
    """A random history: tokens drawn among those accepted, and whether it was ended by EOS (else cut or at a dead end).

    Ends when it can, more often than not, or it would wander through strings for ever.
    """
    state, tokens = constraint.start(), list[int]()
    for _ in range(longest):
        if state.is_complete and rng.random() < 0.4:
            return tokens, True
        accepted = state.accepts(np.arange(vocabulary.size))
        accepted[vocabulary.eos] = False
        choices = np.flatnonzero(accepted).tolist()
        if not choices:
            return tokens, state.is_complete
        # Quotes and brackets close what would otherwise go on: favour them.
        closing = [t for t in choices if vocabulary.bytes_of(t)[:1] in b'"]})']
        among = closing if closing and rng.random() < 0.4 else choices
        token = among[rng.integers(len(among))]
        tokens.append(token)
        state = state.advance(token)
    return tokens, False


def vocabulary_for(texts: Sequence[str], pieces: int = 200) -> Vocabulary:
    """Every byte, and pieces of the texts of 2 to 6 bytes; several ends, a token written twice, and padded columns."""
    rng = np.random.default_rng(0)
    written = [text.encode() for text in texts if text]
    found: dict[bytes, None] = {}
    for _ in range(pieces if written else 0):
        text = written[rng.integers(len(written))]
        start = int(rng.integers(len(text)))
        found[text[start : start + int(rng.integers(2, 7))]] = None
    tokens = [
        b"",
        *(bytes([byte]) for byte in range(256)),
        b"",
        *(piece for piece in found if len(piece) > 1),
        b"a",
        b"e",
    ]
    return Vocabulary(tuple(tokens), (257, 0), len(tokens) + 3)


def _predicates(language: Language) -> Iterator[Predicate]:
    """The predicates that are shown whole texts: the language itself, and parts of & and |."""
    if isinstance(language, Predicate):
        yield language
    for part in getattr(language, "parts", ()):
        yield from _predicates(part)
