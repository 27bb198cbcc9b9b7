"""The laws of a constraint, one function each: it raises AssertionError where the law fails, and names the place and the token."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from grammars.constraint import Constraint, ConstraintState
from grammars.membership import tokenised
from grammars.vocabulary import Vocabulary


def check_mask(state: ConstraintState, vocabulary: Vocabulary, where: str = "here") -> None:
    """The mask, if there is one, is what `accepts` says: exactly, or where `mask_is_exact` is False, at least that."""
    every = np.arange(vocabulary.size)
    accepted = state.accepts(every)
    mask = state.bitmask()
    if mask is None:
        return
    assert mask.dtype == np.int32 and mask.shape == (vocabulary.mask_words,), (
        f"{where} the mask is {mask.dtype} {mask.shape}; int32 ({vocabulary.mask_words},) was wanted"
    )
    assert not mask.flags.writeable, f"{where} the mask can be written to; it is shared, so it must be read-only"
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little").astype(bool)
    assert not bits[vocabulary.size :].any(), f"{where} the mask has bits beyond the vocabulary"
    allowed = bits[: vocabulary.size]
    _none(accepted & ~allowed, vocabulary, lambda t: f"{where} `accepts` takes {t}, which the mask lacks")
    if state.mask_is_exact:
        _none(
            allowed & ~accepted,
            vocabulary,
            lambda t: f"{where} the mask, said to be exact, has {t}, which `accepts` refuses",
        )
    inside = every[allowed]
    narrowed = np.zeros(vocabulary.size, dtype=bool)
    narrowed[inside] = state.accepts(inside, masked=True)
    _none(
        narrowed != accepted,
        vocabulary,
        lambda t: f"{where} `accepts(masked=True)` says of {t} something else than `accepts`",
    )
    _none(
        state.accepts(every) != accepted,
        vocabulary,
        lambda t: f"{where} asking for the mask changed the verdict on {t}",
    )


def check_end(state: ConstraintState, vocabulary: Vocabulary, where: str = "here") -> None:
    """The end is accepted exactly where the text is complete; ids that write nothing never are."""
    accepted, complete = accepts_token(state, vocabulary.eos), state.is_complete
    assert accepted == complete, (
        f"{where} is_complete is {complete}, but the end is {'accepted' if accepted else 'refused'}"
    )
    silent = np.array(
        [t for t in range(vocabulary.size) if not vocabulary.bytes_of(t) and t != vocabulary.eos], np.int64
    )
    taken = np.zeros(vocabulary.size, dtype=bool)
    taken[silent] = state.accepts(silent)
    if (mask := state.bitmask()) is not None:
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[: vocabulary.size].astype(bool)
        taken[silent] |= bits[silent]
    _none(taken, vocabulary, lambda t: f"{where} {t} is accepted, which writes nothing")
    if complete:
        assert state.advance(vocabulary.eos).is_complete, f"{where} the end, which adds no text, changes the state"


def check_pieces(
    state: ConstraintState, vocabulary: Vocabulary, where: str, rng: np.random.Generator, at_most: int = 40
) -> None:
    """What is accepted as one token is accepted in smaller ones: a prefix is refused only with all that goes on from it."""
    accepted = np.flatnonzero(state.accepts(np.arange(vocabulary.size))).tolist()
    longer = [t for t in accepted if len(vocabulary.bytes_of(t)) > 1]
    for token in rng.permutation(longer)[:at_most].astype(int).tolist():
        piece, now = vocabulary.bytes_of(token), state
        for k in range(len(piece)):
            single = tokenised(piece[k : k + 1], vocabulary)
            if single is None:
                break  # Not every vocabulary has every byte.
            assert accepts_token(now, single[0]), (
                f"{where} {shown(piece)} is accepted as one token, but {shown(piece[: k + 1])}, which it begins with, is refused"
            )
            now = now.advance(single[0])


def check_chunking(
    constraint: Constraint, data: bytes, vocabulary: Vocabulary, rng: np.random.Generator, ways: int = 3
) -> None:
    """An accepted beginning of a text means the same however tokens write it."""
    states = []
    for tokens in _tokenisations(data, vocabulary, rng, ways):
        state, at = constraint.start(), 0
        for token in tokens:
            piece = vocabulary.bytes_of(token)
            assert accepts_token(state, token), (
                f"{shown(data)} is accepted in some tokens, but in others {shown(piece)} is refused after {shown(data[:at])}"
            )
            state, at = state.advance(token), at + len(piece)
        states.append(answers(state, vocabulary))
    for complete, accepted in states[1:]:
        assert complete == states[0][0], f"whether {shown(data)} is complete hangs on the tokens that write it"
        _none(
            accepted != states[0][1],
            vocabulary,
            lambda t: f"after {shown(data)} the verdict on {t} hangs on the tokens before it",
        )


def _tokenisations(data: bytes, vocabulary: Vocabulary, rng: np.random.Generator, ways: int) -> Iterator[list[int]]:
    """The fewest tokens, and random ones."""
    fewest = tokenised(data, vocabulary)
    if fewest is None:
        return
    yield fewest
    written, ids = vocabulary.by_bytes
    for _ in range(ways):
        tokens: list[int] = []
        at = 0
        while at < len(data):
            fitting = [
                k for k, piece in enumerate(written)
                if data.startswith(piece, at) and tokenised(data[at + len(piece) :], vocabulary) is not None
            ]  # fmt: skip
            k = fitting[rng.integers(len(fitting))]
            tokens.append(ids[k])
            at += len(written[k])
        yield tokens


def answers(state: ConstraintState, vocabulary: Vocabulary, backwards: bool = False) -> tuple[bool, np.ndarray]:
    """What a state says: whether it is complete, and of every token, bool [V].

    backwards  ask in the other order, in which a state that changes while it is asked gives other answers
    """
    every = np.arange(vocabulary.size)
    if backwards:
        return state.is_complete, state.accepts(every[::-1].copy())[::-1]
    accepted = state.accepts(every)
    return state.is_complete, accepted


def accepts_token(state: ConstraintState, token: int) -> bool:
    return bool(state.accepts(np.array([token]))[0])


def _none(wrong: np.ndarray, vocabulary: Vocabulary, message: Callable[[str], str]) -> None:
    """Fail with the message about the first token of which something is wrong.

    wrong  bool [V]
    """
    if wrong.any():
        token = int(np.flatnonzero(wrong)[0])
        raise AssertionError(message(f"token {token} ({shown(vocabulary.bytes_of(token))})"))


def shown(data: bytes) -> str:
    try:
        return repr(data.decode())
    except UnicodeDecodeError:
        return repr(data)
