"""What RDKit says of a whole molecule."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from rdkit import Chem, rdBase
from rdkit.Chem import QED

from grammars.errors import GrammarError


@lru_cache(maxsize=1 << 12)
def molecule(smiles: str) -> Chem.Mol | None:
    """The molecule of a SMILES; None where RDKit cannot read or sanitise it, or it has no atoms."""
    with rdBase.BlockLogs():
        found = Chem.MolFromSmiles(smiles)
    return found if found is not None and found.GetNumAtoms() else None


def substructures(patterns: Sequence[str], option: str) -> tuple[Chem.Mol, ...]:
    """SMARTS patterns, compiled. Raises GrammarError naming the one that is malformed."""
    compiled = []
    for k, pattern in enumerate(patterns):
        with rdBase.BlockLogs():
            found = Chem.MolFromSmarts(pattern) if isinstance(pattern, str) and pattern else None
        if found is None:
            raise GrammarError(f"smiles: {option}[{k}] = {pattern!r} is no SMARTS pattern that RDKit can read")
        compiled.append(found)
    return tuple(compiled)


class Needed(NamedTuple):
    """An atom that a pattern asks for.

    degree     bonds to atoms other than hydrogen; total: to all; hydrogens. Each is None where the pattern leaves it open
    """

    element: int
    degree: int | None = None
    total: int | None = None
    hydrogens: int | None = None

    @property
    def is_end(self) -> bool:
        """Whether no ring can go through it, like the O of [OX2H]."""
        return self.degree is not None and self.degree <= 1


def atoms_needed(patterns: Iterable[Chem.Mol]) -> tuple[Counter[Needed], ...]:
    """The atoms, hydrogens apart, that a molecule with each of these patterns has at the least, pattern by pattern.

    Counted are the atoms of a pattern that say which element they are; different patterns may share atoms. None are
    where a pattern asks for isotopes, which are too many to try.
    """
    asked = [[atom.DescribeQuery() for atom in pattern.GetAtoms()] for pattern in patterns]
    if any("Isotope" in query for queries in asked for query in queries):
        return ()
    found = (Counter(_needed(query) for query in queries if _element(query) > 1) for queries in asked)
    return tuple(needed for needed in found if needed)


def elements_needed(patterns: Iterable[Counter[Needed]]) -> Counter[int]:
    """The same as numbers of atoms by their element."""
    needed: Counter[int] = Counter()
    for atoms in patterns:
        needed |= Counter(atom.element for atom in atoms.elements())
    return needed


def _needed(query: str) -> Needed:
    def asked(name: str) -> int | None:
        found = None if "!" in query else re.search(rf"^ *{name} (\d+) = val", query, re.MULTILINE)
        return int(found[1]) if found else None

    degree, total, hydrogens = map(asked, ("AtomExplicitDegree", "AtomTotalDegree", "AtomHCount"))
    if total is not None and hydrogens is not None:
        degree = total - hydrogens
    elif degree is not None and total is not None:
        hydrogens = total - degree
    return Needed(_element(query), degree, total, hydrogens)


def _element(query: str) -> int:
    """The atomic number that a query on an atom asks for, as RDKit describes it; 0 where it leaves a choice."""
    found = re.search(r"^ *(?:AtomType|AtomAtomicNum) (\d+) = val", query, re.MULTILINE)
    # An aromatic type is 1000 above the element.
    return int(found[1]) % 1000 if found and "Or" not in query and "Xor" not in query else 0


def symbol_of(element: int) -> str:
    """The symbol of an atomic number."""
    return str(Chem.GetPeriodicTable().GetElementSymbol(element))


def has_all_and_none(smiles: str, required: Sequence[Chem.Mol], forbidden: Sequence[Chem.Mol]) -> bool:
    """Whether RDKit accepts a molecule that contains each of `required` and none of `forbidden`."""
    found = molecule(smiles)
    return (
        found is not None
        and all(found.HasSubstructMatch(pattern) for pattern in required)
        and not any(found.HasSubstructMatch(pattern) for pattern in forbidden)
    )


def quantitative_drug_likeness(smiles: str) -> float:
    found = molecule(smiles)
    return 0.0 if found is None else float(QED.qed(found))  # type: ignore[no-untyped-call]
