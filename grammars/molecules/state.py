"""One sequence's place in a molecule: the text so far, and what its symbols have left open."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from grammars.molecules.prefix import (
    BOND_ORDERS,
    START,
    Invalid,
    Prefix,
    atoms_of,
    begins_bracket,
    bracket_endings,
    check,
    elements_of,
    finish,
    free_valence,
    needs_ring,
    read,
)
from grammars.vocabulary import Vocabulary

REMEMBERED = 4096
# Rings that one atom can close beside its bond to the chain: no element has a valence above 7.
MOST_RINGS = 6
RING_NUMBERS = (*map(str, range(10)), *(f"%{k}" for k in range(10, 100)))
# With fewer atoms left an end is searched for, trying so many symbols at most.
FEW_ATOMS = 2
SEARCHED = 200
# The same where what is required leaves no choice of elements.
SEARCHED_LAST = 400
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
        endings = VERSATILE if element_to_come else bracket_endings(symbol)
        if not any(_fits(_fitting, before, ending, max_atoms) for ending in endings):
            raise Invalid
        return Reading(before, symbol, None)
    if symbol[0] == "%" and len(symbol) < 3:
        check(before, symbol)
        if not any(_fits(_fitting, before, number, max_atoms) for number in _ring_numbers(before, symbol)):
            raise Invalid
        return Reading(before, symbol, None)
    return Reading(before, symbol, _fitting(before, symbol, max_atoms))


def _ring_numbers(state: Prefix, begun: str = "") -> list[str]:
    """The numbers that rings are open by, and a new one, which are all alike; of those that begin so."""
    known = [number for number in state.rings if number.startswith(begun)]
    new = (number for number in RING_NUMBERS if number.startswith(begun) and number not in state.rings)
    return [*known, *itertools.islice(new, 1)]


def _fitting(before: Prefix, symbol: str, max_atoms: int) -> Prefix:
    """The state after a whole symbol; Invalid where the molecule cannot end there and no symbol may follow."""
    after = _fitting_alone(before, symbol, max_atoms)
    if _may_end(after):
        return after
    if max_atoms - after.heavy < FEW_ATOMS:
        if not _has_end(after, max_atoms, [SEARCHED]):
            raise Invalid
    elif not any(_fits(_fitting_alone, after, following, max_atoms) for following in _symbols_after(after)):
        raise Invalid
    return after


def _has_end(state: Prefix, max_atoms: int, budget: list[int]) -> bool:
    """Whether a molecule goes on like this, as far as a search of so many symbols tells: with few atoms left it often does."""
    full = state.heavy == max_atoms
    for symbol in _symbols_after(state):
        if full and symbol[0] not in "0123456789%)=-#$":
            continue
        budget[0] -= 1
        try:
            after = _fitting_alone(state, symbol, max_atoms)
        except Invalid:
            continue
        if budget[0] <= 0 or _may_end(after) or _has_end(after, max_atoms, budget):
            return True
    return False


def _may_end(state: Prefix) -> bool:
    try:
        finish(state)
    except Invalid:
        return False
    return True


def _symbols_after(state: Prefix) -> Iterable[str]:
    """Symbols of which one fits where any does, the likeliest first.

    An atom is asked of only two things: the bonds it can have, and whether it is the O or N that gives a nitrogen five.
    """
    yield from state.rings
    yield from ("C", "c", "O", "N")
    if not state.bond:
        yield from (")", "(", "=", "-", ".")
    yield from _ring_numbers(state)[len(state.rings) :]
    yield from VERSATILE
    yield from () if state.bond else ("#", "$")


def _fitting_alone(before: Prefix, symbol: str, max_atoms: int) -> Prefix:
    """The state after a whole symbol; Invalid where more atoms would have to follow than may."""
    after = read(before, symbol)
    check(after)
    if after.heavy + _atoms_to_come(after) > max_atoms:
        raise Invalid
    return after


def _fits(fitting: Callable[[Prefix, str, int], Prefix], before: Prefix, symbol: str, max_atoms: int) -> bool:
    try:
        fitting(before, symbol, max_atoms)
    except Invalid:
        return False
    return True


def _atoms_to_come(state: Prefix) -> int:
    """How many atoms follow at least: one after every branch, one for a bond begun, and those that close the rings."""
    branches, here = len(state.stack) - 1, state.stack[-1]
    least = branches + (state.last in ("(", ")", "."))
    if here < 0 or not (state.rings or state.bond or state.loose):
        return least
    closable = _closable(state)
    if state.bond and not closable:
        # The bond leads to an atom, and no ring ends here.
        least = max(least, branches + 1)
    return max(least, _ring_atoms_to_come(state, closable))


def _closable(state: Prefix) -> set[int]:
    """The atoms whose open rings the current one may close; none where it has begun a bond that fits no ring."""
    found = {at for at in {at for at, _ in state.rings.values()} if _may_close(state, state.stack[-1], at)}
    return found if not state.bond or any(_takes_bond(state, at) for at in found) else set()


def _ring_atoms_to_come(state: Prefix, closable: set[int]) -> int:
    """How many of the atoms that follow have to lie on rings, at least. closable: whose rings the current one may close."""
    branches, here, least = len(state.stack) - 1, state.stack[-1], 0
    opened = Counter(at for at, _ in state.rings.values())
    for at, count in opened.items():
        # Each of an atom's rings ends at another atom, none of them bonded to it already, as the next in the chain will be.
        alone = at == here and not branches
        least = max(least, count + alone - (at in closable))
    if needs_ring(state):
        least = max(least, 2)
    closing = 0 if not closable else min(len(closable), free_valence(state, here))
    return max(least, -(-(len(state.rings) - closing) // MOST_RINGS))


def _may_close(state: Prefix, here: int, at: int) -> bool:
    """Whether a ring that was opened at an atom may end at the current one."""
    if state.after_branch or at == here or any(bond.to == at for bond in state.atoms[here].bonds):
        return False
    return free_valence(state, here) > 0


def _takes_bond(state: Prefix, at: int) -> bool:
    """Whether the bond begun may end a ring that was opened at an atom."""
    order = BOND_ORDERS[state.bond]
    return any(
        other == at and (BOND_ORDERS[written] == order if written else free_valence(state, at) >= order - 1)
        for other, written in state.rings.values()
    )


class MoleculeConstraint:
    """Tests candidates for a molecule; is_molecule is asked about finished texts.

    needed     atoms by atomic number that is_molecule takes no molecule without; ends: those of them that lie on no ring
    connected  whether no dot may come
    """

    can_mask = False

    def __init__(
        self,
        min_atoms: int,
        max_atoms: int,
        is_molecule: Callable[[str], bool],
        vocabulary: Vocabulary,
        *,
        needed: Counter[int],
        ends: Counter[int],
        connected: bool,
    ) -> None:
        self.min_atoms = min_atoms
        self.max_atoms = max_atoms
        self.is_molecule = is_molecule
        self.vocabulary = vocabulary
        self.needed = needed
        self.ends = ends
        self.connected = connected

    def left(self, state: Prefix, text: str) -> int:
        """How many atoms may follow beside those that are needed, negative where these are too many already; 2 stands for more.

        text  of the state, of whole symbols
        """
        left, most = self.max_atoms - state.heavy, self.needed.total()
        return 2 if left >= most + 2 else min(left - (self.needed - elements_of(text)).total(), 2)

    def after(self, state: Prefix, symbol: str) -> Prefix | None:
        """The state after a whole symbol; None where no molecule goes on like this."""
        try:
            return _fitting_alone(state, symbol, self.max_atoms)
        except Invalid:
            return None

    def may_become_one(self, state: Prefix, text: str, budget: list[int]) -> bool:
        """Whether a molecule goes on like this, as far as a search of so many symbols tells; True where atoms are left over."""
        left = self.left(state, text)
        if left < 0 or (state.stack[-1] >= 0 and not self._rings_leave_room(state, text)):
            return False
        if left > 0:
            return True
        if state.heavy >= self.min_atoms and _may_end(state) and self.is_molecule(text):
            return True
        for symbol in self._last_symbols(state, text):
            budget[0] -= 1
            if budget[0] <= 0:
                return True
            after = self.after(state, symbol)
            if after is not None and self.may_become_one(after, text + symbol, budget):
                return True
        return False

    def _rings_leave_room(self, state: Prefix, text: str) -> bool:
        """Whether the atoms that have to close rings leave as many as are needed and can close none."""
        if not self.ends:
            return True
        left = self.max_atoms - state.heavy - _ring_atoms_to_come(state, _closable(state))
        return left >= self.ends.total() or left >= (self.ends - elements_of(text)).total()

    def _last_symbols(self, state: Prefix, text: str) -> Iterable[str]:
        """What may follow where every atom to come is one that is needed."""
        yield from state.rings if state.heavy == self.max_atoms else _ring_numbers(state)
        if state.heavy < self.max_atoms:
            for element in self.needed - elements_of(text):
                yield from atoms_of(element)
        if not state.bond:
            yield from (")", "=", "#", "$")
            if state.stack[-1] >= 0 and state.atoms[state.stack[-1]].arom:
                # Elsewhere a single bond is what no symbol says, too.
                yield "-"
            if state.heavy < self.max_atoms:
                yield from ("(",) if self.connected else ("(", ".")

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
        return _may_end(state)

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
        return reading if self._may_become_one(reading, self._text + written.decode()) else None

    def _may_become_one(self, reading: Reading, text: str) -> bool:
        """Whether a molecule that is_molecule takes goes on like this, as far as the atoms tell that are left.

        Asked where none may follow, or only elements that it needs; else, and where a search finds no end in time, True.
        """
        constraint, before, symbol = self._constraint, reading.before, reading.symbol
        begun, budget = text.removesuffix(symbol), [SEARCHED_LAST]
        if reading.after is not None:
            if constraint.may_become_one(reading.after, text, budget):
                return True
            wholes = [symbol + end for end in {"C": "l", "B": "r"}.get(symbol, "")]
        elif symbol[0] == "%":
            wholes = _ring_numbers(before, symbol)
        else:
            left, isotope = constraint.left(before, begun), symbol[: len(symbol) - len(symbol.lstrip("[0123456789"))]
            element_to_come = isotope == symbol
            if left > 1 or (left == 1 and element_to_come):
                return True
            missing = constraint.needed - elements_of(begun)
            endings = (
                [atom for element in missing for atom in atoms_of(element) if atom[0] == "["]
                if element_to_come
                else bracket_endings(symbol)
            )
            wholes = [isotope + ending[1:] for ending in endings]
        afters = ((constraint.after(before, whole), begun + whole) for whole in wholes)
        return any(after is not None and constraint.may_become_one(after, at, budget) for after, at in afters)

    def advance(self, token: int) -> MoleculeState:
        vocabulary = self._constraint.vocabulary
        if token == vocabulary.eos:
            return self
        written = vocabulary.bytes_of(token)
        reading = self._after(written)
        assert reading is not None, f"token {token} ({written!r}) is not accepted here"
        return MoleculeState(self._constraint, self._text + written.decode(), reading)
