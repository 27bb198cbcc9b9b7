"""The constraint of a request body as a spec: what a body may say, with every operator's secret behind a name.

Code, files and URLs never come in a body: predicates, databases and files of names are set up by the operator and go by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from samplers.inference_scaling_profile import Profile
from server.api_errors import bad
from server.api_numbers import short
from server.api_schemas import checked_schema

Spec = dict[str, Any]

LARGEST_CHOICE = 10_000
MOST_PARTS = 64
DEEPEST = 8
_PLAIN = ("regex", "lark", "json_schema", "smiles")
KINDS = (*_PLAIN, "choice", "pddl", "all", "any", "then", "named", "sql", "predicate")


@dataclass(frozen=True)
class Names:
    """What the operator has set up. databases are the names among `constraints` that stand for databases.

    judges           names of models elsewhere that judge
    partial_rewards  names of rewards on partial text
    signals          name -> what `signal_named` makes a signal of
    """

    constraints: frozenset[str] = frozenset()
    databases: frozenset[str] = frozenset()
    rewards: frozenset[str] = frozenset()
    judges: frozenset[str] = frozenset()
    partial_rewards: frozenset[str] = frozenset()
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    signals: Mapping[str, str] = field(default_factory=dict)


def spec_of(given: Any, param: str, names: Names, depth: int = 0) -> Spec:
    """A constraint of a body as a spec of `grammars.registry`; ApiError (400) names the place and the remedy.

    given   a name that the operator has set up, or an object with one of KINDS
    param   where it stands in the body
    """
    if isinstance(given, str):
        return _named(given, param, names.constraints)
    if not isinstance(given, Mapping):
        raise bad(f"{param} is {short(given)}: an object with one of {', '.join(KINDS)} was wanted, or a name", param)
    found = [kind for kind in KINDS if kind in given]
    if len(found) != 1:
        what = "none of them" if not found else " and ".join(found)
        raise bad(f"{param} has {what}: exactly one of {', '.join(KINDS)} was wanted", param)
    if depth > DEEPEST:
        raise bad(f"{param} is nested more than {DEEPEST} deep", param)
    (kind,) = found
    value, options = given[kind], {key: given[key] for key in given if key != kind}
    place = f"{param}.{kind}"
    if kind in ("all", "any"):
        _no_options(options, kind, param)
        return {kind: [spec_of(part, f"{place}[{k}]", names, depth + 1) for k, part in enumerate(_parts(value, place))]}
    if kind == "then":
        _no_options(options, kind, param)
        if not isinstance(value, Mapping) or not {"marker", "constraint"} <= value.keys():
            raise bad(f'{place}: an object with "marker" and "constraint" was wanted', place)
        return {kind: {**value, "constraint": spec_of(value["constraint"], f"{place}.constraint", names, depth + 1)}}
    if kind in ("named", "predicate", "sql"):
        _no_options(options, kind, param)
        return _named(value, place, names.databases if kind == "sql" else names.constraints)
    if kind == "choice":
        _no_options(options, kind, param)
        return {kind: _options(value, place)}
    if kind == "pddl":
        _texts(value, ("domain", "problem"), place)
    elif kind in ("regex", "lark") and not isinstance(value, str):
        raise bad(f"{place} is {short(value)}: a text was wanted", place)
    elif kind == "json_schema":
        value = checked_schema(value, place)
    return {kind: value, **options}


def _named(name: Any, param: str, known: frozenset[str]) -> Spec:
    if not isinstance(name, str) or name not in known:
        listed = ", ".join(sorted(known)) or "none"
        raise bad(f"{param}: {short(name)} is no name that the operator has set up; there are: {listed}", param)
    return {"named": name}


def _parts(value: Any, param: str) -> Sequence[Any]:
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_PARTS:
        raise bad(f"{param}: a list of 1 to {MOST_PARTS} constraints was wanted", param)
    return value


def _options(value: Any, param: str) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise bad(f"{param} is {short(value)}: a list of texts was wanted", param)
    if len(value) > LARGEST_CHOICE:
        raise bad(
            f"{param} has {len(value)} texts, more than {LARGEST_CHOICE}: have the operator set the list up by name "
            "(--constraint name=module:object)",
            param,
        )
    return value


def _texts(value: Any, parts: Sequence[str], param: str) -> None:
    """Parts that elsewhere may be the names of files: here only texts."""
    for part in parts:
        text = value.get(part) if isinstance(value, Mapping) else None
        if not isinstance(text, str) or "(" not in text:
            raise bad(f"{param}.{part}: the text itself was wanted", f"{param}.{part}")


def _no_options(options: Mapping[str, Any], kind: str, param: str) -> None:
    if options:
        name = min(options)
        raise bad(f"{param}.{name}: {kind!r} takes no option {name!r} here", f"{param}.{name}")
