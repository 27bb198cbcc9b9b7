"""What RDKit says of a whole molecule."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

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


def elements_needed(patterns: Iterable[Chem.Mol]) -> Counter[int]:
    """Atoms by atomic number, hydrogens apart, that a molecule with each of these patterns has at the least.

    Counted are the atoms of a pattern that say which element they are; different patterns may share atoms. None are
    where a pattern asks for isotopes, which are too many to try.
    """
    asked = [[atom.DescribeQuery() for atom in pattern.GetAtoms()] for pattern in patterns]
    if any("Isotope" in query for queries in asked for query in queries):
        return Counter()
    needed: Counter[int] = Counter()
    for queries in asked:
        needed |= Counter(element for query in queries if (element := _element(query)) > 1)
    return needed


def ends_needed(patterns: Iterable[Chem.Mol]) -> Counter[int]:
    """Those of the atoms needed that no ring can go through, like the O of [OX2H]: one bond at most leads to another atom."""
    needed: Counter[int] = Counter()
    for pattern in patterns:
        queries = [atom.DescribeQuery() for atom in pattern.GetAtoms()]
        needed |= Counter(element for query in queries if (element := _element(query)) > 1 and _is_end(query))
    return needed & elements_needed(patterns)


def _is_end(query: str) -> bool:
    """Whether a query without a choice asks for at most one bond to an atom that is no hydrogen, by D or by X and H."""

    def asked(name: str) -> int | None:
        found = re.search(rf"^ *{name} (\d+) = val", query, re.MULTILINE)
        return int(found[1]) if found else None

    bonds, total, hydrogens = map(asked, ("AtomExplicitDegree", "AtomTotalDegree", "AtomHCount"))
    if bonds is None and total is not None and hydrogens is not None:
        bonds = total - hydrogens
    return bonds is not None and bonds <= 1


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
