"""One sequence's place in a molecule: the text so far, and what its symbols have left open."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from grammars.molecules.prefix import (
    START,
    Invalid,
    Prefix,
    begins_bracket,
    bracket_endings,
    check,
    finish,
    free_valence,
    read,
)
from grammars.vocabulary import Vocabulary

REMEMBERED = 4096
# Rings that one atom can close beside its bond to the chain: no element has a valence above 7.
MOST_RINGS = 6
# Where none of these fits, whole, no element does.
VERSATILE = ("[C]", "[S]", "[P]", "[c]", "[N+]", "[O-]", "[Fe]")


class Reading(NamedTuple):
    """Where the reading of symbols stands: the state before the last symbol, the symbol, the state after it.

    The last symbol is kept since `C` may become `Cl`. `after` is None while a bracket or a ring number is not whole.
    """

    before: Prefix
    symbol: str
    after: Prefix | None


def further(reading: Reading, char: str, max_atoms: int) -> Reading:
    """The reading after one more character; raises Invalid where no molecule of so many atoms goes on like this."""
    if reading.after is None or reading.symbol + char in ("Cl", "Br"):
        before, symbol = reading.before, reading.symbol + char
    else:
        before, symbol = reading.after, char
    if symbol[0] == "[" and char != "]":
        check(before, symbol)
        if not begins_bracket(symbol) or before.heavy + len(before.stack) > max_atoms:
            raise Invalid
        element_to_come = not symbol.strip("[0123456789")
        if not _some_fits(before, VERSATILE if element_to_come else bracket_endings(symbol), max_atoms):
            raise Invalid
        return Reading(before, symbol, None)
    if symbol[0] == "%" and len(symbol) < 3:
        check(before, symbol)
        # A number that is open already, or a new one, which are all alike.
        known = [number for number in before.rings if number.startswith(symbol)]
        new = next(number for k in range(10, 100) if (number := f"%{k}").startswith(symbol) and number not in known)
        if not _some_fits(before, (*known, new), max_atoms):
            raise Invalid
        return Reading(before, symbol, None)
    return Reading(before, symbol, _fitting(before, symbol, max_atoms))


def _fitting(before: Prefix, symbol: str, max_atoms: int) -> Prefix:
    """The state after a whole symbol; Invalid where more atoms would have to follow than may."""
    after = read(before, symbol)
    check(after)
    if after.heavy + _atoms_to_come(after) > max_atoms:
        raise Invalid
    return after


def _some_fits(before: Prefix, symbols: Iterable[str], max_atoms: int) -> bool:
    for symbol in symbols:
        try:
            _fitting(before, symbol, max_atoms)
        except Invalid:
            continue
        return True
    return False


def _atoms_to_come(state: Prefix) -> int:
    """How many atoms follow at least: one after every branch, one for a bond begun, and those that close the rings."""
    branches = len(state.stack) - 1
    if state.last in ("(", ")", "."):
        return branches + 1
    here = state.stack[-1]
    # A ring is closed with an atom that is not bonded to this one already.
    near = {here, *(bond.to for bond in state.atoms[here].bonds)} if here >= 0 else {here}
    elsewhere = len({at for at, _ in state.rings.values() if at not in near})
    opened_here = any(at == here for at, _ in state.rings.values())
    if state.bond and (state.after_branch or not elsewhere):
        # The bond leads to an atom, and no ring opened here ends there.
        return max(branches + 1, 1 + opened_here)
    # Rings opened at the current atom are closed at another one; so are those for which it has no valence left.
    closable = 0 if state.after_branch or here < 0 else min(elsewhere, free_valence(state, here))
    rings = len(state.rings) - closable
    return max(branches, -(-rings // MOST_RINGS))


class MoleculeConstraint:
    """Tests candidates for a molecule; is_molecule is asked about finished texts."""

    can_mask = False

    def __init__(
        self, min_atoms: int, max_atoms: int, is_molecule: Callable[[str], bool], vocabulary: Vocabulary
    ) -> None:
        self.min_atoms = min_atoms
        self.max_atoms = max_atoms
        self.is_molecule = is_molecule
        self.vocabulary = vocabulary

    def start(self) -> MoleculeState:
        return MoleculeState(self, "", Reading(START, "", START))


class MoleculeState:
    __slots__ = ("_complete", "_constraint", "_next", "_reading", "_text")

    mask_is_exact = False

    def __init__(self, constraint: MoleculeConstraint, text: str, reading: Reading) -> None:
        self._constraint = constraint
        self._text = text
        self._reading = reading
        self._next: dict[bytes, Reading | None] = {}
        self._complete: bool | None = None

    @property
    def is_complete(self) -> bool:
        if self._complete is None:
            self._complete = self._is_whole() and self._constraint.is_molecule(self._text)
        return self._complete

    def _is_whole(self) -> bool:
        state = self._reading.after
        if state is None or not self._constraint.min_atoms <= state.heavy <= self._constraint.max_atoms:
            return False
        try:
            finish(state)
        except Invalid:
            return False
        return True

    def bitmask(self) -> None:
        return None

    def accepts(self, tokens: np.ndarray, masked: bool = False) -> np.ndarray:
        vocabulary = self._constraint.vocabulary
        verdicts = []
        for t in tokens.tolist():
            written = vocabulary.bytes_of(t)
            verdicts.append(self._after(written) is not None if written else t == vocabulary.eos and self.is_complete)
        return np.array(verdicts, dtype=bool)

    def _after(self, written: bytes) -> Reading | None:
        if written not in self._next:
            if len(self._next) >= REMEMBERED:
                self._next.clear()
            self._next[written] = self._read(written)
        return self._next[written]

    def _read(self, written: bytes) -> Reading | None:
        if not written.isascii():
            return None
        reading = self._reading
        try:
            for char in written.decode():
                reading = further(reading, char, self._constraint.max_atoms)
        except Invalid:
            return None
        return reading

    def advance(self, token: int) -> MoleculeState:
        vocabulary = self._constraint.vocabulary
        if token == vocabulary.eos:
            return self
        written = vocabulary.bytes_of(token)
        reading = self._after(written)
        assert reading is not None, f"token {token} ({written!r}) is not accepted here"
        return MoleculeState(self._constraint, self._text + written.decode(), reading)
