"""Whether a constraint accepts a text, and if not, the first character that it refuses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grammars.constraint import ConstraintState, Language
from grammars.membership import byte_vocabulary
from grammars.registry import compile_cached

BEFORE = 24
MOST_WANTED = 12


@dataclass(frozen=True)
class Verdict:
    """The verdict on a finished text.

    byte, character   where it was refused, counted from 0: the length of the text where it ends too early or is accepted
    line, column      the same, counted from 1, in characters
    found             the character that was refused; None where the text ends too early, or is accepted
    before            the end of what was accepted
    wanted            some characters that could stand there, where a mask tells; "the end" where the text may end
    """

    accepted: bool
    byte: int
    character: int
    line: int
    column: int
    found: str | None
    before: str
    wanted: tuple[str, ...]


def verdict_on(language: Language, text: str) -> Verdict:
    """Walk the text byte by byte. Raises Unsatisfiable where no text is accepted, PredicateError where a predicate fails."""
    state = compile_cached(language, byte_vocabulary()).start()
    read = 0
    for place, char in enumerate(text):
        following = state
        for byte in char.encode():
            if not following.accepts(np.array([byte]))[0]:
                return _verdict(False, text, place, read, state)
            following = following.advance(byte)
            read += 1
        state = following
    return _verdict(bool(state.is_complete), text, len(text), read, state)


def _verdict(accepted: bool, text: str, place: int, byte: int, state: ConstraintState) -> Verdict:
    line_start = text.rfind("\n", 0, place) + 1
    return Verdict(
        accepted=accepted,
        byte=byte,
        character=place,
        line=text.count("\n", 0, place) + 1,
        column=place - line_start + 1,
        found=text[place] if place < len(text) else None,
        before=text[max(place - BEFORE, 0) : place],
        wanted=() if accepted else _wanted(state),
    )


def _wanted(state: ConstraintState) -> tuple[str, ...]:
    mask = state.bitmask()
    if mask is None:
        return ()
    inside = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
    accepted = inside[state.accepts(inside, masked=True)].tolist()
    end = byte_vocabulary().eos
    shown = [repr(chr(byte)) for byte in accepted if byte < 128]
    if any(128 <= byte < 256 for byte in accepted):
        shown.append("a character beyond ASCII")
    if end in accepted:
        shown.append("the end")
    return tuple(shown) if len(shown) <= MOST_WANTED else (*shown[:MOST_WANTED], f"{len(shown) - MOST_WANTED} more")
