"""Which texts can still become a SMILES: partialsmiles' verdicts, one character at a time.

`partialsmiles.ParseSmiles(text, partial=True)` reads the text from its start and then looks at every atom and every
aromatic system anew. Here a state holds only what can still change: the atoms on the branch stack or with an open ring
bond, and the aromatic systems with such an atom. An atom is checked when it changes, and for good when it leaves; an
aromatic system is given Kekulé's double bonds when its last open atom leaves. Tables of valences, the question which
aromatic atom needs a double bond, and the search for Kekulé structures are partialsmiles' own; tests compare verdicts.

Wider than partialsmiles in neutral nitrogen with five bonds where RDKit reads it as charges: nitro groups N(=O)=O, N=N#N.
Narrower where RDKit refuses whatever follows, or nothing can: a bracket begun must be able to end, an aromatic atom to lie
on a ring; no wildcard `*`, no aromatic symbols in brackets but those of OpenSMILES, ring numbers from %10, no charge of 0,
neutral chlorine and bromine with one bond alone, no reactions, and no hydrogen as an atom of its own.
Source: O'Boyle, partialsmiles 2.0; OpenSMILES specification 1.0.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import regex
from partialsmiles import kekulize, smiparser, valence
from partialsmiles.elements import elements as ATOMIC_NUMBERS

# Where RDKit knows fewer valences.
_FEWER = {(17, 0): (1,), (35, 0): (1,)}
BOND_ORDERS = {"-": 1, "=": 2, "#": 3, "$": 4, "/": 1, "\\": 1}
ORGANIC = ("B", "C", "N", "O", "P", "S", "F", "Cl", "Br", "I")
AROMATIC = ("b", "c", "n", "o", "p", "s")
BRACKET_AROMATIC = (*AROMATIC, "se", "te", "as")
ELEMENTS = tuple(
    symbol for symbol, number in ATOMIC_NUMBERS.items() if number > 1 and number in valence.common_valencies
)


class Bond(NamedTuple):
    """A bond as one of its atoms sees it. `getNbr` is how partialsmiles asks for the other."""

    order: int
    arom: bool
    to: int
    neighbour: Neighbour

    def getNbr(self, atom: Atom) -> Neighbour:
        return self.neighbour


class Neighbour(NamedTuple):
    element: int


class Atom(NamedTuple):
    """An atom that may still get bonds. hydrogens: as written in brackets, -1 where they are implied."""

    element: int
    charge: int
    hydrogens: int
    arom: bool
    bonds: tuple[Bond, ...] = ()
    implh: int = 0

    def getExplicitDegree(self) -> int:
        return len(self.bonds)


class _System(NamedTuple):
    """An aromatic system: which of its closed atoms need a double bond, its aromatic bonds, its atoms still open."""

    needy: frozenset[int]
    bonds: frozenset[tuple[int, int]]
    open: frozenset[int]


class Node(NamedTuple):
    """An atom in the tree that the chain bonds make."""

    id: int
    depth: int
    parent: Node | None


class Invalid(Exception):
    """No SMILES begins like this."""


_EMPTY: Mapping[Any, Any] = MappingProxyType({})


class Prefix(NamedTuple):
    """What can still change in a molecule whose text has been read so far.

    stack       ids of the atoms that branches go back to, the current one last; -1 where none is yet
    atoms       the open atoms by id
    rings       open ring bonds by their number's text: atom id, bond symbol
    spine       the stack's atoms in the tree; openers, those with an open ring bond, by number
    loose       the aromatic atoms that lie on no ring yet
    systems     the aromatic systems with an open atom
    bond, last  the bond symbol just written, if any; the last character
    after_branch  whether a parenthesis came after the current atom: then no ring number may
    heavy       atoms so far
    closed      how many of the atoms that nothing can change any more there are of each kind: element, bonds, hydrogens
    """

    stack: tuple[int, ...] = (-1,)
    atoms: Mapping[int, Atom] = _EMPTY
    rings: Mapping[str, tuple[int, str]] = _EMPTY
    spine: tuple[Node | None, ...] = (None,)
    openers: Mapping[str, Node] = _EMPTY
    loose: frozenset[int] = frozenset()
    systems: tuple[_System, ...] = ()
    bond: str = ""
    last: str = ""
    after_branch: bool = False
    heavy: int = 0
    closed: Mapping[tuple[int, int, int], int] = _EMPTY


START = Prefix()


def read(state: Prefix, symbol: str) -> Prefix:
    """The state after one more symbol: an atom such as `C`, `Cl` or `[nH]`, a ring number such as `1` or `%12`, or one of
    `( ) . - = # $ / \\`. Raises Invalid where no SMILES goes on like this."""
    if symbol in "()":
        return _branch(state, symbol)
    if symbol in BOND_ORDERS:
        if state.stack[-1] < 0 or state.bond:
            raise Invalid
        return state._replace(bond=symbol, last=symbol)
    if symbol[0] in "0123456789%":
        return _ring(state, symbol)
    return _dot(state) if symbol == "." else _atom(state, symbol)


def check(state: Prefix, begun: str = "") -> None:
    """Raises Invalid where the current atom cannot take what has been begun.

    begun  the part of a symbol at the end of the text, if there is one: `[`, `[13C`, `%1`
    """
    here = state.stack[-1]
    if begun[:1] == "%":
        # Whether it opens or closes a ring, it adds a bond.
        state = _ring(state, begun)
    elif begun:
        state = state._replace(last="[")
    if here >= 0:
        _check_open(state, here, bool(begun) and begun[0] == "[")
        if here in state.loose and not _may_lie_on_ring(state, here, begun[:1] == "["):
            raise Invalid


def finish(state: Prefix) -> None:
    """Raises Invalid where the text so far is no whole molecule."""
    if state.rings or len(state.stack) > 1 or state.stack[-1] < 0 or state.bond or state.last == ")":
        raise Invalid
    _left(state._replace(stack=(-1,)), state.stack[-1])


def _branch(state: Prefix, symbol: str) -> Prefix:
    if state.bond:
        raise Invalid
    if symbol == "(":
        if state.stack[-1] < 0 or state.last == "(":
            raise Invalid
        return state._replace(
            stack=(*state.stack, state.stack[-1]),
            spine=(*state.spine, state.spine[-1]),
            last="(",
            after_branch=True,
        )
    # No empty branch, none at the end of another, none at the end of the molecule.
    if state.last in "()" or len(state.stack) < 2:
        raise Invalid
    left = state.stack[-1]
    state = state._replace(stack=state.stack[:-1], spine=state.spine[:-1], last=")", after_branch=True)
    return _left(state, left)


def _dot(state: Prefix) -> Prefix:
    if state.stack[-1] < 0 or state.bond or state.last == ")" or state.rings or len(state.stack) > 1:
        raise Invalid
    return _left(state._replace(stack=(-1,), spine=(None,), last="."), state.stack[-1])


def _atom(state: Prefix, symbol: str) -> Prefix:
    atom = _bracket(symbol) if symbol[0] == "[" else _organic(symbol)
    before, k = state.stack[-1], state.heavy
    atoms = dict(state.atoms)
    systems = state.systems
    if before >= 0:
        old = atoms[before]
        arom = atom.arom and old.arom and not state.bond
        order = BOND_ORDERS[state.bond] if state.bond else 1
        atoms[before] = old._replace(bonds=(*old.bonds, Bond(order, arom, k, Neighbour(atom.element))))
        atom = atom._replace(bonds=(Bond(order, arom, before, Neighbour(old.element)),))
        if arom:
            systems = _joined(systems, before, k)
    atoms[k] = atom
    parent = state.spine[-1]
    node = Node(k, 0 if parent is None else parent.depth + 1, parent)
    state = state._replace(
        stack=(*state.stack[:-1], k),
        atoms=atoms,
        spine=(*state.spine[:-1], node),
        loose=state.loose | {k} if atom.arom else state.loose,
        systems=systems,
        bond="",
        last=symbol[-1],
        after_branch=False,
        heavy=k + 1,
    )
    return _left(state, before) if before >= 0 else state


def _ring(state: Prefix, number: str) -> Prefix:
    here = state.stack[-1]
    if here < 0 or state.after_branch:
        raise Invalid
    rings, openers = dict(state.rings), dict(state.openers)
    node = state.spine[-1]
    assert node is not None
    if number not in rings:
        rings[number], openers[number] = (here, state.bond), node
        return state._replace(rings=rings, openers=openers, bond="", last=number[-1])
    there, written = rings.pop(number)
    on_ring = _between(openers.pop(number), node)
    atoms = dict(state.atoms)
    a, b = atoms[there], atoms[here]
    if there == here or any(bond.to == there for bond in b.bonds):
        raise Invalid
    orders = {BOND_ORDERS[symbol] for symbol in (written, state.bond) if symbol}
    if len(orders) > 1:
        raise Invalid
    arom = not orders and a.arom and b.arom
    order = orders.pop() if orders else 1
    atoms[there] = a._replace(bonds=(*a.bonds, Bond(order, arom, here, Neighbour(b.element))))
    atoms[here] = b._replace(bonds=(*b.bonds, Bond(order, arom, there, Neighbour(a.element))))
    systems = _joined(state.systems, there, here) if arom else state.systems
    state = state._replace(
        atoms=atoms,
        rings=rings,
        openers=openers,
        loose=state.loose - on_ring,
        systems=systems,
        bond="",
        last=number[-1],
    )
    return _left(state, there)


def _left(state: Prefix, k: int) -> Prefix:
    """After atom k has lost its place on the stack or a ring bond: checked for good if it has no other, else as it stands."""
    _check_rings(state)
    if k in state.stack or any(atom == k for atom, _ in state.rings.values()):
        _check_open(state, k, False)
        return state
    atom = _with_hydrogens(state.atoms[k], _explicit(state.atoms[k]))
    needs = bool(valence.NeedsDblBond(atom))
    if not _common(atom, _explicit(atom) + needs):
        raise Invalid
    atoms = {key: other for key, other in state.atoms.items() if key != k}
    kind = atom.element, len(atom.bonds), atom.implh
    closed = {**state.closed, kind: state.closed.get(kind, 0) + 1}
    return state._replace(atoms=atoms, systems=_closed(state.systems, k, needs), closed=closed)


def _check_rings(state: Prefix) -> None:
    """Raises Invalid where an aromatic atom can no longer come to lie on a ring.

    A ring bond still to come ends at an atom still to come, below one of the stack's, and begins at another or at an open
    ring bond. So it runs along the tree between the stack's ends, or from an open ring bond to the current atom.
    """
    loose = state.loose - {state.stack[-1]}
    if not loose:
        return
    low, top = state.spine[0], state.spine[-1]
    if low is not None and top is not None:
        if len(state.spine) > 1:
            loose -= _between(low, top)
        for opener in state.openers.values():
            loose -= _between(opener, top)
    if loose:
        raise Invalid


def _may_lie_on_ring(state: Prefix, here: int, bonded: bool) -> bool:
    """Whether the current atom, on no ring yet, can come to lie on one; bonded: whether a bond to the next atom is begun.

    A ring through it runs along an open ring bond, or back from a branch; else it has to open one itself and go on.
    """
    own = any(at == here for at, _ in state.rings.values())
    bonded = bonded or bool(state.bond)
    if len(state.stack) > 1 and own:
        return True
    if state.rings or len(state.stack) > 1:
        return bonded or free_valence(state, here) >= 1
    return not bonded and not state.after_branch and free_valence(state, here) >= 2


def needs_ring(state: Prefix) -> bool:
    """Whether the current atom must lie on a ring, which only it can open."""
    return state.stack[-1] in state.loose and not state.rings and len(state.stack) == 1


def _between(a: Node, b: Node) -> set[int]:
    """The atoms on the way from one atom to another along the tree, both ends included."""
    way = {a.id, b.id}
    one: Node | None = a
    other: Node | None = b
    while one is not other:
        if other is None or (one is not None and one.depth >= other.depth):
            assert one is not None
            one = one.parent
            way |= {one.id} if one is not None else set()
        else:
            other = other.parent
            way |= {other.id} if other is not None else set()
    return way


# Valence ---------------------------------------------------------------------------------------------------------------


def _explicit(atom: Atom) -> int:
    return sum(bond.order for bond in atom.bonds)


def free_valence(state: Prefix, k: int) -> int:
    """How many more bonds an open atom can have at most, its open rings counted as bonds."""
    atom = state.atoms[k]
    opened = sum(BOND_ORDERS[bond] if bond else 1 for at, bond in state.rings.values() if at == k)
    return max(most_bonds(state, k) - max(atom.hydrogens, 0) - _explicit(atom) - opened, 0)


def least_bonds(state: Prefix, k: int) -> tuple[int, int]:
    """The bonds that an open atom will have at the least, and the sum of their orders."""
    atom, stack = state.atoms[k], state.stack
    opened = [BOND_ORDERS[bond] if bond else 1 for at, bond in state.rings.values() if at == k]
    bonds, order = len(atom.bonds) + len(opened), _explicit(atom) + sum(opened)
    # Every branch is followed by an atom.
    waiting = stack[:-1].count(k)
    if k == stack[-1]:
        if state.bond:
            order += BOND_ORDERS[state.bond] - 1
        waiting += bool(state.bond) or state.last in ("(", ")") or (bool(state.rings) and len(stack) == 1)
    return bonds + waiting, order + waiting


def most_bonds(state: Prefix, k: int) -> int:
    """The greatest sum of the orders of an open atom's bonds, its hydrogens counted."""
    atom = state.atoms[k]
    return max((5, *_valences(atom)) if _is_neutral_nitrogen(atom) else _valences(atom), default=0)


def _check_open(state: Prefix, k: int, parsing_atom: bool) -> None:
    """Source: partialsmiles, getAdjustedExplicitValence and hasCommonValence."""
    atom, stack = state.atoms[k], state.stack
    explicit = _explicit(atom)
    if k == stack[-1]:
        if state.bond:
            explicit += BOND_ORDERS[state.bond]
        elif parsing_atom or state.last == "(" or (state.rings and len(stack) == 1 and state.last != ")"):
            explicit += 1
        # A branch just begun, or just ended, is followed by one more bond.
        explicit += (len(stack) > 1 and stack[-1] == stack[-2]) + (state.last == ")")
    elif k in stack:
        explicit += 1
    for at, bond in state.rings.values():
        if at == k:
            explicit += BOND_ORDERS[bond] if bond else 1
    atom = _with_hydrogens(atom, explicit)
    if _common(atom, explicit):
        return
    allowed = _valences(atom)
    if not allowed:
        raise Invalid
    if explicit + atom.implh > max(allowed):
        # Neither the double bond to O nor the triple one to N lies on a ring.
        bonds = _explicit(atom) + sum(BOND_ORDERS[bond] if bond else 1 for at, bond in state.rings.values() if at == k)
        opened = state.bond in ("=", "#") if k == stack[-1] else False
        if not (_is_neutral_nitrogen(atom) and explicit <= 5 and (_is_written_with_five(atom) or opened or bonds <= 3)):
            raise Invalid


def _valences(atom: Atom) -> Sequence[int]:
    known = valence.common_valencies.get(atom.element, {}).get(atom.charge, ())
    return _FEWER.get((atom.element, atom.charge), known)


def _with_hydrogens(atom: Atom, explicit: int) -> Atom:
    if atom.hydrogens >= 0:
        return atom._replace(implh=atom.hydrogens)
    implied = smiparser.SmilesValence(atom.element, explicit) - explicit
    if implied > 0 and (atom.arom or any(bond.arom for bond in atom.bonds)):
        implied -= 1
    return atom._replace(implh=implied)


def _common(atom: Atom, explicit: int) -> bool:
    allowed = _valences(atom)
    if explicit + atom.implh in allowed:
        return True
    if _is_neutral_nitrogen(atom) and explicit == 5 and atom.implh == 0 and _is_written_with_five(atom):
        return True
    # The stable radical of TEMPO.
    radical = atom.element == 8 and atom.charge == 0 and explicit == 1 and atom.implh == 0
    return radical and bool(atom.bonds) and bool(valence.IsAttachedToNitrogen(atom))


def _is_neutral_nitrogen(atom: Atom) -> bool:
    return atom.element == 7 and atom.charge == 0 and atom.hydrogens <= 0 and not atom.arom


def _is_written_with_five(atom: Atom) -> bool:
    """Whether a nitrogen has the bond by which RDKit takes five bonds for charges: a double one to O, or a triple one to N."""
    return any((bond.order, bond.neighbour.element) in ((2, 8), (3, 7)) for bond in atom.bonds)


# Aromatic systems ------------------------------------------------------------------------------------------------------


def _joined(systems: tuple[_System, ...], a: int, b: int) -> tuple[_System, ...]:
    """The systems with one more aromatic bond, between two open atoms."""
    touched = [system for system in systems if a in system.open or b in system.open]
    needy = frozenset().union(*(system.needy for system in touched))
    bonds = frozenset({(a, b)}).union(*(system.bonds for system in touched))
    still = frozenset({a, b}).union(*(system.open for system in touched))
    return (*(system for system in systems if system not in touched), _System(needy, bonds, still))


def _closed(systems: tuple[_System, ...], k: int, needs: bool) -> tuple[_System, ...]:
    """The systems after their atom k is finished. Raises Invalid where one is whole and has no Kekulé structure."""
    own = next((system for system in systems if k in system.open), None)
    if own is None:
        return systems
    rest = tuple(system for system in systems if system is not own)
    needy = own.needy | {k} if needs else own.needy
    if still := own.open - {k}:
        return (*rest, _System(needy, own.bonds, still))
    if not _has_kekule_structure(needy, own.bonds):
        raise Invalid
    return rest


@lru_cache(maxsize=1 << 12)
def _has_kekule_structure(needy: frozenset[int], bonds: frozenset[tuple[int, int]]) -> bool:
    """Whether the atoms that need a double bond can be paired along aromatic bonds."""
    molecule = smiparser.Molecule()
    atoms = {}
    for k in sorted(needy):
        # Carbon with aromatic bonds alone: partialsmiles' own test then finds each of them in need.
        atoms[k] = smiparser.Atom(6)
        atoms[k].idx, atoms[k].implh = len(molecule.atoms), 0
        molecule.atoms.append(atoms[k])
    for a, b in sorted(bonds):
        if a in atoms and b in atoms:
            molecule.addBond(atoms[a], atoms[b], 1).arom = True
    if not all(atom.bonds for atom in molecule.atoms):
        return False
    return kekulize.Kekulize(molecule) is None


# Symbols ---------------------------------------------------------------------------------------------------------------


def bracket_pattern(symbols: Iterable[str]) -> str:
    """A regex of the bracket atoms with one of these symbols; its groups are the symbol, the hydrogens and the charge."""
    return (
        rf"\[(?:[1-9][0-9]{{0,2}})?({'|'.join(symbols)})@{{0,2}}"
        r"(H[0-9]?)?([+-][1-9]?|\+{2,8}|-{2,8})?\]"
    )


_ANY_BRACKET = regex.compile(bracket_pattern((*ELEMENTS, *BRACKET_AROMATIC)))
_ANY_ATOM = regex.compile(f"{_ANY_BRACKET.pattern}|{'|'.join(sorted((*ORGANIC, *AROMATIC), key=len, reverse=True))}")


@lru_cache(maxsize=1 << 12)
def _bracket(written: str) -> Atom:
    found = _ANY_BRACKET.fullmatch(written)
    if found is None:
        raise Invalid
    symbol, hydrogens, charge = found[1], found[2], found[3]
    size = 0
    if charge:
        size = int(charge[1:]) if re.fullmatch("[0-9]", charge[1:]) else len(charge)
        size = -size if charge[0] == "-" else size
    count = 0 if hydrogens is None else int(hydrogens[1:] or 1)
    return Atom(ATOMIC_NUMBERS[symbol.capitalize()], size, count, symbol[0].islower())


@lru_cache(maxsize=1 << 12)
def begins_bracket(written: str) -> bool:
    """Whether a text such as `[13C@` can become a bracket atom."""
    return _ANY_BRACKET.fullmatch(written, partial=True) is not None


def elements_of(text: str) -> Counter[int]:
    """How many atoms of each atomic number a text of whole symbols writes, hydrogens apart."""
    symbols = (found[1] or found[0] for found in _ANY_ATOM.finditer(text))
    return Counter(ATOMIC_NUMBERS[symbol.capitalize()] for symbol in symbols)


def bracket_endings(written: str) -> tuple[str, ...]:
    """Bracket atoms that a text such as `[13C@` can become, without the isotope: of each kind the shortest."""
    return _endings("[" + written.lstrip("[0123456789"))


@lru_cache(maxsize=1 << 12)
def _endings(begun: str) -> tuple[str, ...]:
    endings: dict[Atom, str] = {}
    for symbol in (*ELEMENTS, *BRACKET_AROMATIC):
        if symbol.startswith(begun[1:]) or begun[1:].startswith(symbol):
            for whole, atom in _brackets(symbol):
                if whole.startswith(begun):
                    endings.setdefault(atom, whole)
    return tuple(sorted(endings.values(), key=len))


@cache
def atoms_of(element: int) -> tuple[str, ...]:
    """The ways to write an atom of an element, without isotopes and chirality, the bare symbols first."""
    symbols = [symbol for symbol in (*ELEMENTS, *BRACKET_AROMATIC) if ATOMIC_NUMBERS[symbol.capitalize()] == element]
    bare = [symbol for symbol in symbols if symbol in ORGANIC or symbol in AROMATIC]
    bracketed: dict[Atom, str] = {}
    for symbol in symbols:
        for text, atom in _brackets(symbol):
            bracketed.setdefault(atom, text)
    return (*bare, *bracketed.values())


@cache
def texts_of(element: int, hydrogens: int | None) -> tuple[str, ...]:
    """Those of the ways to write an atom that can have so many hydrogens; all where it may have any number."""
    found = atoms_of(element)
    return (
        found
        if hydrogens is None
        else tuple(text for text in found if text[0] != "[" or _bracket(text).hydrogens == hydrogens)
    )


@cache
def _brackets(symbol: str) -> tuple[tuple[str, Atom], ...]:
    """Every way to write an element in brackets, without isotopes."""
    charges = valence.common_valencies.get(ATOMIC_NUMBERS[symbol.capitalize()], {})
    signed = [form for charge in charges for form in _charge_forms(charge)]
    texts = [f"[{symbol}{''.join(parts)}]" for parts in itertools.product(("", "@", "@@"), _HYDROGENS, signed)]
    return tuple((text, _bracket(text)) for text in sorted(texts, key=len))


_HYDROGENS = ("", "H", *(f"H{count}" for count in range(10)))


def _charge_forms(charge: int) -> tuple[str, ...]:
    sign = "-" if charge < 0 else "+"
    return (sign * abs(charge), f"{sign}{abs(charge)}") if charge else ("",)


@lru_cache(maxsize=64)
def _organic(symbol: str) -> Atom:
    if symbol not in ORGANIC and symbol not in AROMATIC:
        raise Invalid
    return Atom(ATOMIC_NUMBERS[symbol.capitalize()], 0, -1, symbol[0].islower())
