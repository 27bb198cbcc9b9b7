"""Molecules: partialsmiles' verdicts character by character, RDKit's at the end, options, errors."""

from __future__ import annotations

import csv
import sys
import time
from functools import reduce
from pathlib import Path
from random import Random

import numpy as np
import pytest
from partialsmiles import ParseSmiles
from partialsmiles.exceptions import Error
from rdkit import Chem, RDLogger

from grammars.errors import GrammarError
from grammars.molecules.prefix import START, Invalid, finish
from grammars.molecules.state import Reading, further
from grammars.registry import language_from_spec
from grammars.smiles import Smiles, qed
from tests.grammars.small import EVERY_TOKEN, SMALL, by_bytes, is_member


@pytest.fixture(scope="module")
def molecules(data: Path) -> list[str]:
    with (data / "smiles" / "smiles.csv").open() as lines:
        return [row["smiles"] for row in csv.DictReader(lines)]


def reading_of(text: str, most: int = 999) -> Reading | None:
    reading = Reading(START, "", START)
    try:
        for char in text:
            reading = further(reading, char, most)
    except Invalid:
        return None
    return reading


def partialsmiles_accepts(text: str) -> bool:
    try:
        ParseSmiles(text, partial=True)
    except Error:
        return False
    return True


def test_all_molecules_are_accepted_character_by_character(molecules):
    assert len(molecules) == 2000
    for text in molecules:
        reading = reading_of(text)
        assert reading is not None and reading.after is not None, text
        finish(reading.after)
    constraint = Smiles().compile(SMALL)
    for text in molecules[::20]:
        assert is_member(constraint, text), text


def test_the_verdict_on_prefixes_is_that_of_partialsmiles(molecules):
    """Where they differ on purpose the text is named: aromatic atoms off rings, nitro groups, rare bracket symbols."""
    random, compared, refused = Random(1), 0, 0
    for text in molecules[::8]:
        prefix = text[: random.randrange(len(text) + 1)]
        for _ in range(6):
            longer = prefix + random.choice("CNOFSP()=#12-.H]@")
            if "[" in longer.rpartition("]")[2]:
                break
            theirs, own = partialsmiles_accepts(longer), reading_of(longer) is not None
            compared += 1
            refused += not theirs
            if own != theirs:
                reading = reading_of(longer[:-1])
                assert reading is not None
                wider = own and "N" in longer
                narrower = (
                    not own and reading.after is not None and (reading.after.loose or "Cl" in longer or "Br" in longer)
                ) or (longer[-1] in "-=#" and not any(partialsmiles_accepts(longer + atom) for atom in "BCNOPSFIcnos"))
                assert wider or narrower, longer
            if own and theirs:
                prefix = longer
    assert compared > 500 and refused > 100


def test_changed_molecules_are_refused_where_rdkit_refuses_them(molecules):
    constraint, random, refused = Smiles().compile(SMALL), Random(2), 0
    for text in molecules[::20]:
        at = random.randrange(len(text))
        changed = text[:at] + random.choice(["", "(", ")", "=", "#", "1", "F", "c", "X", "]"]) + text[at + 1 :]
        molecule = Chem.MolFromSmiles(changed)
        if is_member(constraint, changed):
            assert molecule is not None and molecule.GetNumAtoms(), changed
        else:
            refused += 1
    assert refused > 30


@pytest.mark.parametrize(
    "text",
    [
        "C1CC",
        "C(C",
        "C[N+",
        "c1cccc1",
        "FC(F)(F)(F)F",
        "C=O=C",
        "CC)C",
        "C==C",
        "[CH5]",
        "C()C",
        "C((C))C",
        "cc",
        "cC",
        "C1C1",
        "C=1CC#1",
        ".",
        "C.",
        "C..C",
        "[Xx]",
        "*C",
        "C:C",
        "C>>C",
        "%1",
        "C%",
        "Cé",
        "C(C)",
        "ClC(Cl)Cl=O",
        "CN(=O)C",
        "",
        " C",
        "C\n",
    ],
)
def test_what_is_no_molecule_is_refused(text):
    assert not is_member(Smiles().compile(SMALL), text)


@pytest.mark.parametrize(
    "text",
    [
        "CC(=O)N(C)c1cccc1F=",
        "cC",
        "FF",
        "C1C1",
        "Cc(C)C",
        "CN(=O)N",
        "C[Al+3",
        "C#[C@@H-",
        "C=[NH3",
        "[CH5",
        "C1CC1(C)(C)C",
        "c1cccc1.",
        "C=C=1CC=1",
    ],
)
def test_what_nothing_can_mend_is_refused_before_its_end(text):
    assert reading_of(text + "C" * ("[" not in text)) is None


def test_dead_ends_are_rare_from_prefixes_of_real_molecules(molecules):
    """After two random symbols that are accepted, one more or the end is nearly always accepted too.

    What is left is known a symbol too late: =[nH], or an atom without a free bond while a ring is open inside a branch.
    """
    random, dead, walks = Random(3), 0, 0
    symbols = ("C", "N", "O", "c", "n", "F", "(", ")", "=", "1", "2", "[nH]", "[N+]")
    for text in molecules[::10]:
        prefix = text[: random.randrange(1, len(text))]
        for _ in range(2):
            going = [symbol for symbol in symbols if reading_of(prefix + symbol) is not None]
            if not going:
                break
            prefix += random.choice(going)
        walks += 1
        reading = reading_of(prefix)
        assert reading is not None
        ends = reading.after is None
        if reading.after is not None:
            try:
                finish(reading.after)
                ends = True
            except Invalid:
                pass
        dead += not ends and not any(reading_of(prefix + symbol) for symbol in symbols)
    assert dead <= 0.06 * walks, f"{dead} of {walks}"


def test_bounds_on_the_atoms_hold_and_are_seen_early():
    constraint = Smiles(min_atoms=3, max_atoms=5).compile(SMALL)
    for text, whole in (("CC", False), ("CCC", True), ("CCCCC", True)):
        assert is_member(constraint, text) == whole, text
    assert by_bytes(constraint, b"CCCCCC") is None
    for early in (b"CCCCC1", b"CCCCC(", b"CCCC(C)", b"CCC(C(", b"CCCCC=", b"CCCCC.", b"CCC(C[O"):
        assert by_bytes(constraint, early) is None, early
    assert is_member(constraint, "C1CCCC=1") and is_member(constraint, "CC(C)CC")


def test_molecules_written_in_any_order_are_accepted_within_exactly_their_atoms(molecules: list[str]):
    """Where nothing is left for a ring to close on, or a bond to lead to, is judged with no molecule lost."""
    RDLogger.DisableLog("rdApp.*")
    for text in molecules[::11]:
        molecule = Chem.MolFromSmiles(text)
        kekule = Chem.Mol(molecule)
        Chem.Kekulize(kekule, clearAromaticFlags=True)
        for one, options in ((molecule, {}), (kekule, {"kekuleSmiles": True})):
            for written in Chem.MolToRandomSmilesVect(one, 2, 7, **options):
                reading = reading_of(written, molecule.GetNumHeavyAtoms())
                assert reading is not None and reading.after is not None, written
                finish(reading.after)


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("Clo", 9),
        ("o=", 9),
        ("So-", 9),
        ("OCs", 3),
        ("C1", 2),
        ("C12", 3),
        ("CN(C)$", 9),
        ("CC[S@](PF)-", 9),
        ("CCCs1oo", 6),
    ],
)
def test_an_end_that_cannot_be_reached_is_seen_where_it_begins(text, most):
    assert reading_of(text, most) is None


def test_two_figures_of_a_ring_number_may_all_be_taken():
    opened = "".join(f"C%1{k}C%1{k + 1}" for k in range(0, 10, 2))
    reading = reading_of(opened + "C%1")
    assert reading is not None and reading.after is None


def test_elements_and_substructures_are_kept_to():
    constraint = Smiles(elements=["C", "Br", "N"], required=["[NH2]"], forbidden=["CBr", "N~N"]).compile(SMALL)
    assert is_member(constraint, "CCN") and is_member(constraint, "NCC#N") and is_member(constraint, "c1cc(N)cnc1")
    for text in ("CC", "NCCBr", "NN", "OCN", "NCB", "NC[O-]", "NCCl"):
        assert not is_member(constraint, text), text


def test_no_molecule_with_what_is_required_is_lost_within_exactly_its_atoms(molecules: list[str]):
    """Whatever the order it is written in: rings are not said to leave no room for an atom at an end where they do."""
    RDLogger.DisableLog("rdApp.*")
    asked = ("[OX2H]", "[NX3;H2]", "[CX4H3]", "[O;D1]", "c[OX2H]", "[CX4H3][OX2]")
    found = dict.fromkeys(asked, 0)
    for text in molecules[::7]:
        molecule = Chem.MolFromSmiles(text)
        for pattern in asked:
            if found[pattern] >= 6 or not molecule.HasSubstructMatch(Chem.MolFromSmarts(pattern)):
                continue
            found[pattern] += 1
            constraint = Smiles(max_atoms=molecule.GetNumHeavyAtoms(), required=[pattern]).compile(SMALL)
            for written in Chem.MolToRandomSmilesVect(molecule, 2, 7):
                assert is_member(constraint, written), (pattern, written)
    assert min(found.values()) >= 2, found


@pytest.mark.parametrize(
    ("text", "pattern", "least"),
    [
        ("C15-0-C27-C30-C45-C53-C64-C71", "[OX2H]", 9),
        ("C1CCC", "[OX2H]", 5),
        ("C1CCCCCC2", "[NX3;H2]", 10),
        ("C1CCC(C)C2", "[O;D1]", 9),
    ],
)
def test_rings_that_leave_no_room_for_what_is_required_are_not_begun(text, pattern, least):
    """least: the atoms of the smallest molecule that begins like this."""
    for most in (least - 1, least):
        constraint = Smiles(max_atoms=most, required=[pattern]).compile(SMALL)
        assert (by_bytes(constraint, text.encode()) is not None) == (most == least)


@pytest.mark.parametrize(
    ("text", "pattern", "most"),
    [
        # No atom so far can be the O of [OX2H] any more: each has two bonds, or a double one, or no hydrogen.
        ("COCOCCC", "[OX2H]", 7),
        ("COCOCCC[2C", "[OX2H]", 8),
        ("COCOCCC[1S", "[OX2H]", 8),
        ("C=O.CCCCC", "[OX2H]", 7),
        ("CCCCCCO=", "[OX2H]", 8),
        ("CCCCCCN(C", "[NX3;H2]", 8),
        ("CC(C)(C)C(C)(C)", "[CX4H2]", 8),
        # Its rings take the atoms that are left, and no O may be an end and lie on one.
        ("s16-s2-s15-s16-s3-s2-s3", "[OX2H]", 8),
        ("OBNON-17(N-2-0", "[OX2H]", 8),
        ("SC1N2=NCC1=[122S", "[OX2H]", 8),
    ],
)
def test_an_atom_counts_for_what_is_required_only_while_it_can_be_that(text, pattern, most):
    constraint = Smiles(max_atoms=most, required=[pattern]).compile(SMALL)
    assert by_bytes(constraint, text.encode()) is None


def test_walks_within_few_atoms_rarely_come_to_where_nothing_may_follow():
    """Symbols drawn evenly, rings and brackets as often as atoms: a model is led astray less. Four in ten once were dead ends."""
    constraint, random = Smiles(max_atoms=6, required=["[OX2H]"]).compile(SMALL), np.random.default_rng(1)
    written, ids = SMALL.by_bytes
    tokens = np.array([ids[written.index(char.encode())] for char in "CCCNOOcn12()=[]H+-"])
    complete = dead = 0
    for _ in range(40):
        state = constraint.start()
        while not state.is_complete:
            passed = tokens[state.accepts(tokens)]
            if not passed.size:
                passed = EVERY_TOKEN[state.accepts(EVERY_TOKEN)]
            if not passed.size:
                dead += 1
                break
            state = state.advance(int(random.choice(passed)))
        complete += state.is_complete
    assert complete + dead == 40 and dead <= 6


def test_cost_of_a_check_is_flat_in_the_text():
    constraint = Smiles().compile(SMALL)
    written, ids = SMALL.by_bytes
    token = ids[written.index(b"N")]

    def microseconds(text: str) -> float:
        best = float("inf")
        for _ in range(7):
            state = by_bytes(constraint, text.encode())
            assert state is not None
            start = time.perf_counter()
            state.accepts(np.array([token]), masked=True)
            best = min(best, time.perf_counter() - start)
        return 1e6 * best

    short, long = microseconds("c1ccccc1" * 2), microseconds("c1ccccc1" * 60)
    assert long < 3 * short + 20, (short, long)


def test_qed_is_rdkits_and_zero_for_no_molecule(molecules, data):
    with (data / "smiles" / "smiles.csv").open() as lines:
        rows = list(csv.DictReader(lines))[:20]
    for row in rows:
        assert qed(row["smiles"]) == pytest.approx(float(row["qed"]), abs=1e-3)
    assert qed("") == qed("C(") == qed("not a molecule") == 0.0


def test_options_travel():
    spec = {"smiles": {"max_atoms": 9, "elements": ["C", "O"], "forbidden": ["[OH]"]}}
    assert language_from_spec(spec).spec == spec
    assert Smiles().spec == {"smiles": {}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_atoms": 0}, "max_atoms=0 must be a whole number from 1"),
        ({"min_atoms": True}, "min_atoms=True"),
        ({"min_atoms": 9, "max_atoms": 3}, "min_atoms=9 is above max_atoms=3"),
        ({"elements": ["C", "Qq"]}, "'Qq'.* no element"),
        ({"elements": ["H"]}, "'H'.* no element"),
        ({"elements": []}, "is empty"),
        ({"elements": "CN"}, "must be a list of texts"),
        ({"forbidden": ["C", "(("]}, r"forbidden\[1\] = '\(\(' is no SMARTS"),
        ({"required": [3]}, "list of texts"),
        ({"colour": 1}, "no option 'colour'; it has connected, elements, forbidden, max_atoms, min_atoms, required"),
        ("CCO", "takes an object of options"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(GrammarError, match=message):
        language_from_spec({"smiles": options})


@pytest.mark.parametrize("package", ["partialsmiles", "rdkit"])
def test_a_missing_package_is_an_error_that_says_how_to_get_it(package, monkeypatch):
    find = sys.modules["importlib.util"].find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(GrammarError, match=rf"need the package {package}: pip install 'reweigh\[chem\]'"):
        Smiles()


def test_molecules_are_accepted_with_exactly_their_own_number_of_atoms(molecules: list[str]):
    """What rings and branches still need is never overestimated: no prefix is refused for it. One atom fewer is refused."""

    def read(text: str, max_atoms: int) -> Reading:
        return reduce(lambda place, char: further(place, char, max_atoms), text, Reading(START, "", START))

    for text in molecules:
        whole = read(text, 999).after
        assert whole is not None
        assert read(text, whole.heavy).after == whole
        with pytest.raises(Invalid):
            read(text, whole.heavy - 1)
