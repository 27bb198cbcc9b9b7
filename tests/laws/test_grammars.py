"""What every registered language obeys, checked on its own examples along random walks."""

from __future__ import annotations

import json
import re
import sqlite3
import warnings
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

import jsonschema
import lark
import numpy as np
import partialsmiles
import pytest
import regex
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, rdBase

from grammars.constraint import Constraint
from grammars.laws import check_chunking, check_end, check_mask, check_pieces
from grammars.predicate import Predicate
from grammars.registry import Example, compile_cached, language_from_spec, languages
from tests.grammars.small import EVERY_TOKEN, SMALL, after, by_bytes, is_member, walk

EXAMPLES = [
    pytest.param(example, id=f"{name}-{k}")
    for name, cls in languages().items()
    for k, example in enumerate(cls.examples)
]
WALKS = 12
LONGEST = 40


def constraint_of(example: Example) -> Constraint:
    return compile_cached(language_from_spec(example.spec), SMALL)


def checker(spec: dict[str, Any]) -> Callable[[str], bool]:
    """Membership by other people's code: re, jsonschema, lark; by the definition where that is all there is."""
    match spec:
        case {"regex": str(pattern)}:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                compiled = re.compile(pattern)
            return lambda text: compiled.fullmatch(text) is not None
        case {"pattern": str(pattern)}:
            full = regex.compile(pattern)
            return lambda text: full.fullmatch(text) is not None
        case {"pddl": {"problem": str(problem)}}:
            return lambda text: is_goal(problem, text)
        case {"smiles": dict(options)}:
            return lambda text: is_molecule(options, text)
        case {"choice": list(options)}:
            return lambda text: text in options
        case {"json_schema": schema}:
            return lambda text: is_valid_json(schema, text)
        case {"lark": str(grammar)}:
            return lambda text: parses(grammar, text)
        case {"predicate": str(name)}:
            return lambda text: Predicate(name).ask(text, True)
        case {"sql": dict(declared)}:
            return lambda text: is_select(declared, str(spec.get("dialect", "sqlite")), text)
        case {"all": list(parts)}:
            checkers = [checker(part) for part in parts]
            return lambda text: all(check(text) for check in checkers)
        case {"any": list(parts)}:
            checkers = [checker(part) for part in parts]
            return lambda text: any(check(text) for check in checkers)
        case {"then": {"marker": str(marker), "constraint": dict(constraint), **more}}:
            check, bound = checker(constraint), more.get("max_free_characters", float("inf"))
            return lambda text: marker in text and text.index(marker) <= bound and check(text.split(marker, 1)[1])
        case {"named": "example: digits"}:
            return lambda text: re.fullmatch("[0-9]+", text) is not None
    raise NotImplementedError(f"write an independent checker for {spec}")


def is_goal(problem: str, text: str) -> bool:
    """By hand for the two problems of the examples: states listed, or brackets matched by regexes from the inside out."""
    fact, gap = r"\((?:clear [abtu]|(?:on|fits) [abtu] [abtu])\)", r"(?: |\r?\n[ \t]{0,24})"
    if "domain blocks" in problem:
        found = re.fullmatch(rf"\(:goal{gap}?(?:{fact}|\(and(?:{gap}?{fact})+{gap}?\)){gap}?\)", re.sub(gap, " ", text))
        if found is None or re.search(rf"{gap}{gap}", re.sub(r"\n[ \t]{1,24}", "\n", text)):
            return False
        facts = re.findall(r"\(((?:clear|on|fits)[^()]*)\)", re.sub(gap, " ", text))
        # A block leaves its place on the table only for the other block, so no block reaches the other's place.
        standing = [{"on a t", "on b u", "clear a", "clear b"}, {"on a b", "on b u", "clear a", "clear t"}]
        standing.append({"on a t", "on b a", "clear b", "clear u"})
        always = {"fits a t", "fits a b", "fits b u", "fits b a"}
        return len(set(facts)) == len(facts) and any(set(facts) <= facts_then | always for facts_then in standing)
    formula = rf"\((?:at{gap}[cv]{gap}[xy]|full{gap}v|day|={gap}[cvxy]{gap}[cvxy])\)"
    while (smaller := re.sub(formula, "F", text)) != text:
        text = smaller
        whole = rf"\((?:not{gap}F|(?:and|or)(?:{gap}?F)+{gap}?|imply{gap}?F{gap}?F)\)"
        text = re.sub(whole, "F", text)
        formula = whole
    return text == "F"


def is_molecule(options: dict[str, Any], text: str) -> bool:
    """By RDKit and partialsmiles, without wildcards, reactions and hydrogen atoms."""
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(text)
    if molecule is None or not molecule.GetNumAtoms() or re.search(r"[*>\s]|%0|\[\d*H[^efgos]|\[[^]]*[+-]0", text):
        return False
    try:
        partialsmiles.ParseSmiles(text)
    except (partialsmiles.Error, LookupError):
        return False
    elements = {atom.GetSymbol() for atom in molecule.GetAtoms()} - {"H"}
    return (
        options.get("min_atoms", 1) <= molecule.GetNumHeavyAtoms() <= options.get("max_atoms", 999)
        and elements <= set(options.get("elements", elements))
        and not (options.get("connected", False) and "." in text)
        and not any(molecule.HasSubstructMatch(Chem.MolFromSmarts(smarts)) for smarts in options.get("forbidden", ()))
    )


def is_valid_json(schema: Any, text: str) -> bool:
    try:
        value = json.loads(text)
        jsonschema.validate(value, schema, format_checker=jsonschema.FormatChecker())
    except (ValueError, jsonschema.ValidationError):
        return False
    return text == text.strip()


def is_select(declared: dict[str, Any], dialect: str, text: str) -> bool:
    """Whether SQLite compiles a text, turned into its dialect by sqlglot, as one SELECT over some declared tables."""
    connection = sqlite3.connect(":memory:")
    try:
        for table, columns in declared.get("tables", {}).items():
            connection.execute(
                f"CREATE TABLE {table} ({', '.join(f'{name} {kind}' for name, kind in columns.items())})"
            )
        connection.executescript(declared.get("ddl", ""))
        if dialect != "sqlite":
            (text,) = sqlglot.transpile(text, read={"postgresql": "postgres"}[dialect], write="sqlite")
        connection.execute("EXPLAIN " + text)
    except (sqlite3.Error, sqlite3.Warning, sqlglot.errors.SqlglotError, ValueError):
        return False
    finally:
        connection.close()
    return re.match(r"\s*(select|with)\b", text, re.IGNORECASE) is not None


@cache
def earley(grammar: str) -> lark.Lark:
    return lark.Lark(grammar, parser="earley", lexer="dynamic_complete")


def parses(grammar: str, text: str) -> bool:
    try:
        earley(grammar).parse(text)
    except lark.exceptions.LarkError:
        return False
    return True


def test_every_language_has_examples_of_both_kinds():
    for name, cls in languages().items():
        assert any(example.accepts for example in cls.examples), name
        assert any(example.rejects for example in cls.examples), name


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_are_accepted_and_rejected_as_they_say(example: Example):
    constraint, check = constraint_of(example), checker(dict(example.spec))
    for text in example.accepts:
        assert is_member(constraint, text), f"refuses {text!r}"
        assert check(text), f"the checker refuses {text!r}"
    for text in example.rejects:
        assert not is_member(constraint, text), f"accepts {text!r}"


@pytest.mark.parametrize("example", EXAMPLES)
def test_specs_travel_as_json(example: Example):
    language = language_from_spec(example.spec)
    again = language_from_spec(json.loads(json.dumps(language.spec)))
    assert again.spec == language.spec
    assert compile_cached(again, SMALL) is compile_cached(language, SMALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_mask_is_what_accepts_says_token_by_token(example: Example):
    """Exactly where `mask_is_exact`; a superset elsewhere, of which `accepts(masked=True)` leaves the rest."""
    constraint, random = constraint_of(example), Random(1)
    for _ in range(WALKS):
        tokens, _ = walk(constraint, random, LONGEST)
        for k in {0, len(tokens), random.randint(0, len(tokens))}:
            state = after(constraint, tokens[:k])
            assert state.bitmask() is not None or not constraint.can_mask
            check_mask(state, SMALL, f"after {SMALL.decode(tokens[:k])!r}")


@pytest.mark.parametrize("example", EXAMPLES)
def test_eos_is_accepted_exactly_when_complete_and_special_or_padded_ids_never(example: Example):
    constraint, random = constraint_of(example), Random(2)
    silent = [t for t in range(SMALL.size) if not SMALL.bytes_of(t) and t != SMALL.eos]
    assert set(SMALL.eos_ids[1:]) < set(silent)
    for _ in range(WALKS):
        tokens, _ = walk(constraint, random, LONGEST)
        for k in {0, len(tokens) // 2, len(tokens)}:
            check_end(after(constraint, tokens[:k]), SMALL, f"after {SMALL.decode(tokens[:k])!r}")


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_verdict_hangs_on_the_bytes_not_on_their_tokenisation(example: Example):
    constraint, random, rng = constraint_of(example), Random(3), np.random.default_rng(3)
    for _ in range(WALKS):
        tokens, _ = walk(constraint, random, LONGEST)
        text = SMALL.decode(tokens)
        assert by_bytes(constraint, text) is not None, f"{text!r} is refused byte by byte"
        check_chunking(constraint, text, SMALL, rng)
        check_pieces(after(constraint, tokens), SMALL, f"after {text!r}", rng)


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_state_is_a_value_whatever_other_states_do(example: Example):
    """States of one tree of histories, asked and advanced in random order, say what a history of their own says."""
    constraint, random = constraint_of(example), Random(4)
    known = [([], constraint.start())]
    for _ in range(120):
        tokens, state = random.choice(known[-12:])
        accepted = state.accepts(EVERY_TOKEN)
        if random.random() < 0.3:
            state.bitmask()
        accepted[SMALL.eos] = False
        if (choices := np.flatnonzero(accepted)).size:
            token = int(random.choice(choices.tolist()))
            known.append(([*tokens, token], state.advance(token)))
    random.shuffle(known)
    for tokens, state in known:
        alone = after(constraint, tokens)
        assert state.is_complete == alone.is_complete
        assert np.array_equal(state.accepts(EVERY_TOKEN), alone.accepts(EVERY_TOKEN))
        if constraint.can_mask:
            assert np.array_equal(state.bitmask(), alone.bitmask())


@pytest.mark.parametrize("example", EXAMPLES)
def test_eos_adds_no_text(example: Example):
    constraint, random = constraint_of(example), Random(5)
    for _ in range(WALKS):
        tokens, finished = walk(constraint, random, LONGEST)
        if finished:
            state = after(constraint, tokens)
            assert state.advance(SMALL.eos).is_complete


@pytest.mark.parametrize("example", EXAMPLES)
def test_finished_texts_pass_an_independent_checker(example: Example):
    constraint, random, check = constraint_of(example), Random(6), checker(dict(example.spec))
    finished = {
        SMALL.decode(tokens).decode() for tokens, ended in (walk(constraint, random, 60) for _ in range(60)) if ended
    }
    assert finished
    for text in finished:
        assert check(text), repr(text)
    language = language_from_spec(example.spec)
    for text in finished:
        language.parse(text)


@pytest.mark.parametrize("example", EXAMPLES)
@settings(max_examples=30)
@given(data=st.data())
def test_near_misses_are_judged_as_the_independent_checker_does(example: Example, data: st.DataObject):
    """Texts of the language with a character changed, added or lost: never accepted where the checker refuses."""
    constraint, check = constraint_of(example), checker(dict(example.spec))
    text = data.draw(st.sampled_from([*example.accepts, *example.rejects]))
    at = data.draw(st.integers(0, len(text)))
    lost = data.draw(st.integers(0, 1))
    put = data.draw(
        st.one_of(st.sampled_from(["", "a", "é", "你", '"', "1", " ", "]", "}", ",", "x", "-"]), st.characters())
    )
    try:
        near = (text[:at] + put + text[at + lost :]).encode().decode()
    except UnicodeEncodeError:
        return
    accepted = is_member(constraint, near)
    assert check(near) or not accepted
    # Of JSON and SQL a constraint accepts a part on purpose (white space, order, spelling), and so do conjunctions with it.
    if not any(name in json.dumps(example.spec) for name in ("json_schema", '"sql"')):
        assert accepted == check(near), repr(near)


@pytest.mark.parametrize("example", EXAMPLES)
def test_deep_walks_never_raise(example: Example):
    constraint, random = constraint_of(example), Random(7)
    state = constraint.start()
    for step in range(300):
        accepted = np.flatnonzero(state.accepts(EVERY_TOKEN))
        accepted = accepted[accepted != SMALL.eos]
        if accepted.size == 0:
            state = constraint.start()
            continue
        state = state.advance(int(random.choice(accepted.tolist())))
        if step % 50 == 0:
            state.bitmask()
