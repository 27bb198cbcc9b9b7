"""One sequence's place in a molecule: the text so far, and what its symbols have left open."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from grammars.molecules.chemistry import Needed
from grammars.molecules.prefix import (
    BOND_ORDERS,
    START,
    Invalid,
    Prefix,
    begins_bracket,
    bracket_endings,
    check,
    finish,
    free_valence,
    least_bonds,
    most_bonds,
    needs_ring,
    read,
    texts_of,
)
from grammars.vocabulary import Vocabulary

REMEMBERED = 4096
# Rings that one atom can close beside its bond to the chain: no element has a valence above 7.
MOST_RINGS = 6
RING_NUMBERS = (*map(str, range(10)), *(f"%{k}" for k in range(10, 100)))
# With fewer atoms left an end is searched for, trying so many symbols at most.
FEW_ATOMS = 2
SEARCHED = 200
# The same where what is required leaves no choice of elements but for so many atoms.
SEARCHED_LAST = 1500
MOST_FREE = 1
# Where none of these fits, whole, no element does.
VERSATILE = ("[C]", "[S]", "[P]", "[c]", "[N+]", "[O-]", "[Fe]")

# Of these one fits where any atom does.
_FREE = ("C", "c", "n", "o", "[nH]", "N", "O", "S", *VERSATILE)
# With as many bonds and hydrogens as any, in brackets.
_FREE_BRACKETS = (
    *(f"[C{hydrogens}]" for hydrogens in ("H4", "H3", "H2", "H")),
    "[cH]",
    "[n]",
    "[nH]",
    "[o]",
    "[N]",
    "[O]",
    *VERSATILE,
)


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


def _missing(state: Prefix, patterns: Iterable[Counter[Needed]]) -> int:
    """How many atoms have to follow at least for each of these patterns to be there."""
    return max((_missing_of(state, needed).total() for needed in patterns), default=0)


def _missing_of(state: Prefix, needed: Counter[Needed]) -> Counter[Needed]:
    """The atoms of a pattern that none of the atoms so far can be: at least so many, kind by kind."""
    return Counter({atom: n - there for atom, n in needed.items() if n > (there := _candidates(state, atom))})


def _candidates(state: Prefix, needed: Needed) -> int:
    """How many of the atoms so far can be one that is needed."""
    element, degree, total, hydrogens = needed
    closed = sum(
        count
        for (of, bonds, implied), count in state.closed.items()
        if of == element
        and degree in (None, bonds)
        and hydrogens in (None, implied)
        and total in (None, bonds + implied)
    )
    return closed + sum(atom.element == element and _may_be(state, k, needed) for k, atom in state.atoms.items())


def _may_be(state: Prefix, k: int, needed: Needed) -> bool:
    """Whether an open atom can still be one that is needed: it gets no more bonds than that has, and keeps its hydrogens."""
    atom, (bonds, order) = state.atoms[k], least_bonds(state, k)
    most = needed.degree if needed.degree is not None else needed.total
    if most is not None and bonds > most:
        return False
    if needed.hydrogens is None:
        return True
    return (
        atom.hydrogens == needed.hydrogens if atom.hydrogens >= 0 else order + needed.hydrogens <= most_bonds(state, k)
    )


class MoleculeConstraint:
    """Tests candidates for a molecule; is_molecule is asked about finished texts.

    patterns   the atoms that is_molecule takes no molecule without, of each pattern that it asks for
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
        patterns: tuple[Counter[Needed], ...],
        connected: bool,
    ) -> None:
        self.min_atoms = min_atoms
        self.max_atoms = max_atoms
        self.is_molecule = is_molecule
        self.vocabulary = vocabulary
        self.patterns = patterns
        self.ends = tuple(
            ends for needed in patterns if (ends := Counter({atom: n for atom, n in needed.items() if atom.is_end}))
        )
        self.most_needed = max((needed.total() for needed in patterns), default=0)
        self.connected = connected

    def left(self, state: Prefix) -> int:
        """How many atoms may follow beside those that are needed, negative where these are too many already; 2 stands for more."""
        left = self.max_atoms - state.heavy
        return 2 if left >= self.most_needed + 2 else min(left - _missing(state, self.patterns), 2)

    def after(self, state: Prefix, symbol: str) -> Prefix | None:
        """The state after a whole symbol; None where no molecule goes on like this."""
        try:
            return _fitting_alone(state, symbol, self.max_atoms)
        except Invalid:
            return None

    def may_become_one(self, state: Prefix, text: str | None, budget: list[int], closed: str = "") -> bool:
        """Whether a molecule goes on like this, as far as a search of so many symbols tells; True where atoms are left over.

        text    of the state, of whole symbols; None where it stands for others too, with other atoms in some places
        closed  the ring that the search has closed last at the current atom: of several it is enough to try one order
        """
        left = self.left(state)
        if left < 0 or (state.stack[-1] >= 0 and not self._rings_leave_room(state)):
            return False
        if left > MOST_FREE:
            return True
        whole = state.heavy >= self.min_atoms and not _missing(state, self.patterns) and _may_end(state)
        if whole and (text is None or self.is_molecule(text)):
            return True
        for symbol in self._last_symbols(state, left):
            budget[0] -= 1
            if budget[0] <= 0:
                return True
            after = self.after(state, symbol)
            if after is None:
                continue
            # An atom that is not needed stands for any other with as many bonds.
            fixed = text is not None and self.left(after) == left
            if symbol in state.rings:
                if symbol < closed:
                    continue
                last = symbol
            else:
                last = closed if symbol in BOND_ORDERS else ""
            if self.may_become_one(after, f"{text}{symbol}" if fixed else None, budget, last):
                return True
        return False

    def _rings_leave_room(self, state: Prefix) -> bool:
        """Whether the atoms that have to close rings leave as many as are needed and can close none."""
        if not self.ends:
            return True
        left = self.max_atoms - state.heavy - _ring_atoms_to_come(state, _closable(state))
        return left >= self.most_needed or left >= _missing(state, self.ends)

    def _atoms_missing(self, state: Prefix) -> list[str]:
        """The ways to write an atom that is needed and not there yet."""
        missing = {(atom.element, atom.hydrogens) for needed in self.patterns for atom in _missing_of(state, needed)}
        return [*dict.fromkeys(text for kind in sorted(missing, key=str) for text in texts_of(*kind))]

    def brackets(self, state: Prefix, left: int) -> list[str]:
        """The atoms in brackets that may follow where all atoms to come are needed but so many."""
        return [text for text in (*self._atoms_missing(state), *(_FREE_BRACKETS if left else ())) if text[0] == "["]

    def _last_symbols(self, state: Prefix, left: int) -> Iterable[str]:
        """What may follow where all atoms to come are needed but so many."""
        full = state.heavy == self.max_atoms
        yield from state.rings
        if not full:
            yield from self._atoms_missing(state)
        if not state.bond:
            yield ")"
        if not full and left:
            yield from _FREE
        if not state.bond:
            yield from ("=", "#", "$")
            if state.stack[-1] >= 0 and state.atoms[state.stack[-1]].arom:
                # Elsewhere a single bond is what no symbol says, too.
                yield "-"
        if not full:
            yield from _ring_numbers(state)[len(state.rings) :]
            if not state.bond:
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
        constraint, before, symbol, fixed = self._constraint, reading.before, reading.symbol, True
        begun, budget = text.removesuffix(symbol), [SEARCHED_LAST]
        if reading.after is not None:
            if constraint.may_become_one(reading.after, text, budget):
                return True
            wholes = [symbol + end for end in {"C": "l", "B": "r"}.get(symbol, "")]
        elif symbol[0] == "%":
            wholes = _ring_numbers(before, symbol)
        else:
            left, isotope = constraint.left(before), symbol[: len(symbol) - len(symbol.lstrip("[0123456789"))]
            element_to_come = isotope == symbol
            if left > MOST_FREE + 1 or (left > MOST_FREE and element_to_come):
                return True
            endings = constraint.brackets(before, left) if element_to_come else bracket_endings(symbol)
            wholes = [isotope + ending[1:] for ending in endings]
            fixed = not element_to_come or left == 0
        afters = ((constraint.after(before, whole), begun + whole if fixed else None) for whole in wholes)
        return any(after is not None and constraint.may_become_one(after, at, budget) for after, at in afters)

    def advance(self, token: int) -> MoleculeState:
        vocabulary = self._constraint.vocabulary
        if token == vocabulary.eos:
            return self
        written = vocabulary.bytes_of(token)
        reading = self._after(written)
        assert reading is not None, f"token {token} ({written!r}) is not accepted here"
        return MoleculeState(self._constraint, self._text + written.decode(), reading)
