"""What RDKit says of a whole molecule."""

from __future__ import annotations

from collections.abc import Sequence
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
