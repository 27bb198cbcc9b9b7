"""Molecules, written as SMILES."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from grammars.compose import AllConstraint
from grammars.constraint import Constraint, Language
from grammars.errors import GrammarError, Unsatisfiable
from grammars.registry import Example, grammar
from grammars.vocabulary import Vocabulary

MOST_ATOMS = 999


@grammar("smiles")
@dataclass(frozen=True)
class Smiles(Language):
    """Texts that are one molecule, or several joined by dots, in SMILES.

    A mask follows the alphabet and which symbol may follow which. A candidate is then tested for what a finished molecule
    could no longer mend: valences, bond orders, ring numbers, branches, Kekulé structures (partialsmiles' rules, followed a
    character at a time: the cost of a test hangs on what is open, not on the text). A finished text is read by RDKit.

    min_atoms, max_atoms  bounds on the atoms other than hydrogen
    elements              symbols of the elements that may occur; by default all with a valence. Hydrogen is implied, or counted
                          in brackets as in [nH], and never an atom of its own
    required, forbidden   SMARTS patterns that the finished molecule must contain, or must not
    connected             one molecule: no dots. Small models left to themselves write little but S.S.S
    """

    min_atoms: int = 1
    max_atoms: int = MOST_ATOMS
    elements: tuple[str, ...] | None = None
    required: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    connected: bool = False

    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            {"smiles": {}},
            ("C", "CCO", "c1ccccc1", "C[C@@H](N)C(=O)O", "C%10CC%10", "[nH]1cccc1", "CCl.[Na+]", "F/C=C/F"),
            ("", "C(", "C1", "c1cccc1", "F=C(F)(F)F", "[CH5]", "C()C", "CX", "C C", "C=", "[C", "C(C)", "cc"),
        ),
        Example(
            {"smiles": {"min_atoms": 2, "max_atoms": 4, "elements": ["C", "O", "Br"], "forbidden": ["[OH]"]}},
            ("CC", "COC", "CBr", "C1CO1", "[13CH3]C"),
            ("C", "CCCCC", "CO", "CN", "CB", "CCl"),
        ),
        Example({"smiles": {"connected": True}}, ("CCO", "[NH4+]"), ("C.C", "C.", ".C", "")),
    )

    @classmethod
    def from_spec(cls, options: Any) -> Smiles:
        if not isinstance(options, dict):
            raise GrammarError(f'"smiles" takes an object of options, such as {{"max_atoms": 20}}, not {options!r}')
        known = {"min_atoms", "max_atoms", "elements", "required", "forbidden", "connected"}
        if unknown := sorted(set(options) - known):
            raise GrammarError(f"smiles has no option {unknown[0]!r}; it has {', '.join(sorted(known))}")
        return cls(**options)

    def __post_init__(self) -> None:
        for package in ("partialsmiles", "rdkit"):
            if importlib.util.find_spec(package) is None:
                raise GrammarError(f"molecules need the package {package}: pip install 'reweigh[chem]'")
        for name in ("min_atoms", "max_atoms"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_ATOMS:
                raise GrammarError(f"smiles: {name}={value!r} must be a whole number from 1 to {MOST_ATOMS}")
        if self.min_atoms > self.max_atoms:
            raise GrammarError(f"smiles: min_atoms={self.min_atoms} is above max_atoms={self.max_atoms}")
        if not isinstance(self.connected, bool):
            raise GrammarError(f"smiles: connected={self.connected!r} must be True or False")
        from grammars.molecules.chemistry import substructures
        from grammars.molecules.prefix import ELEMENTS

        for name in ("required", "forbidden"):
            patterns = _texts(getattr(self, name), name)
            substructures(patterns, name)
            object.__setattr__(self, name, patterns)
        if self.elements is not None:
            elements = _texts(self.elements, "elements")
            for element in elements:
                if element not in ELEMENTS:
                    raise GrammarError(
                        f"smiles: elements has {element!r}, which is no element with a known valence; write symbols as in "
                        "elements=['C', 'N', 'O', 'Cl']"
                    )
            if not elements:
                raise GrammarError("smiles: elements is empty; name at least one, or leave it out")
            object.__setattr__(self, "elements", elements)

    @property
    def spec(self) -> dict[str, Any]:
        options = {
            "min_atoms": self.min_atoms if self.min_atoms != 1 else None,
            "max_atoms": self.max_atoms if self.max_atoms != MOST_ATOMS else None,
            "elements": None if self.elements is None else list(self.elements),
            "required": list(self.required) or None,
            "forbidden": list(self.forbidden) or None,
            "connected": self.connected or None,
        }
        return {"smiles": {name: value for name, value in options.items() if value is not None}}

    def compile(self, vocabulary: Vocabulary) -> Constraint:
        from grammars.llguidance_engine import compile_guided
        from grammars.molecules.chemistry import (
            atoms_needed,
            elements_needed,
            has_all_and_none,
            substructures,
            symbol_of,
        )
        from grammars.molecules.state import MoleculeConstraint
        from grammars.regex import to_rust

        pattern = to_rust(_alphabet(self.elements, self.connected))
        mask = compile_guided(f"start: /{pattern}/", vocabulary, lambda message: GrammarError(f"smiles: {message}"))
        required, forbidden = substructures(self.required, "required"), substructures(self.forbidden, "forbidden")

        def is_molecule(text: str) -> bool:
            return has_all_and_none(text, required, forbidden)

        patterns = atoms_needed(required)
        needed = elements_needed(patterns)
        absent = sorted(symbol for symbol in map(symbol_of, needed) if self.elements and symbol not in self.elements)
        if absent:
            raise Unsatisfiable(
                f"smiles: required asks for {absent[0]}, which is not among elements={list(self.elements or ())}"
            )
        if needed.total() > self.max_atoms:
            raise Unsatisfiable(
                f"smiles: required has patterns of {needed.total()} atoms or more, and max_atoms is {self.max_atoms}"
            )
        tested = MoleculeConstraint(
            self.min_atoms,
            self.max_atoms,
            is_molecule,
            vocabulary,
            patterns=patterns,
            connected=self.connected,
        )
        return AllConstraint((mask, tested), vocabulary)


def qed(text: str) -> float:
    """The quantitative estimate of drug-likeness of a molecule, from 0 to 1; 0 for a text that is no molecule.

    Source: Bickerton et al. (2012), "Quantifying the chemical beauty of drugs", as in RDKit.
    """
    from grammars.molecules.chemistry import quantitative_drug_likeness

    return quantitative_drug_likeness(text)


def _texts(values: Any, name: str) -> tuple[str, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise GrammarError(f"smiles: {name} must be a list of texts, not {values!r}")
    values = tuple(values)
    if not all(isinstance(value, str) for value in values):
        raise GrammarError(f"smiles: {name} must be a list of texts, not {list(values)!r}")
    return values


def _alphabet(elements: tuple[str, ...] | None, connected: bool) -> str:
    """A regex of which symbol may follow which: all but the balance of brackets and rings, and chemistry."""
    from grammars.molecules.prefix import AROMATIC, BRACKET_AROMATIC, ELEMENTS, ORGANIC, bracket_pattern

    allowed = set(ELEMENTS if elements is None else elements)
    bracketed = [symbol for symbol in (*ELEMENTS, *BRACKET_AROMATIC) if symbol.capitalize() in allowed]
    bare = [symbol for symbol in (*ORGANIC, *AROMATIC) if symbol.capitalize() in allowed]
    bond, ring = r"[-=#$/\\]", r"(?:[0-9]|%[1-9][0-9])"
    atom = f"(?:{'|'.join([*bare, bracket_pattern(bracketed)])})(?:{bond}?{ring})*"
    dot = "" if connected else r"|\."
    return rf"{atom}(?:(?:\)?\(?{bond}?{dot}){atom})*"
