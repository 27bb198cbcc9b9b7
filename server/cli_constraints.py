"""From a command's options to the language they ask for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.cli_errors import UsageError
from server.cli_inputs import imported, json_of, looks_like_json, names_an_object, read_text
from server.cli_short_schema import schema_from_short_form

if TYPE_CHECKING:
    from grammars.constraint import Language


# What a command asks for: one of these, unless --named says what a server has.
_WANTED = {
    "json": ("schema",),
    "regex": ("pattern",),
    "grammar": ("lark",),
    "choice": ("options", "names"),
    "predicate": ("function",),
    "pddl": ("problem",),
    "sql": ("db",),
}


def language_of(options: argparse.Namespace) -> Language | None:
    """The language that a generating command's options ask for: its own, what --and adds, and --after around them.

    Raises GrammarError for one that is malformed or not supported, UsageError for a file or object that is not there.
    """
    wanted = _WANTED.get(options.kind, ())
    if wanted and all(getattr(options, name) is None for name in wanted):
        if options.named is not None:
            return None
        listed = " or ".join(f"--{name}" for name in wanted)
        raise UsageError(f"{listed} is required, or with --url the --named that a server has")
    language = LANGUAGES[options.kind](options)
    for given in options.also or ():
        part = constraint_of(given, "--and")
        language = part if language is None else language & part
    if options.after is not None:
        if language is None:
            raise UsageError("--after says where the constraint begins, and there is none: give one with --constraint")
        from grammars.then import Then

        language = Then(options.max_before, options.after, language)
    elif options.max_before is not None:
        raise UsageError("--max-before bounds what stands before the marker of --after, and there is none")
    return language


def constraint_of(given: str, option: str) -> Language:
    """A language by its spec (JSON text, or a file with it), or by `module:name`: a language, a type or a function."""
    from grammars.registry import language_from_arguments, language_from_spec

    if names_an_object(given) and not Path(given).is_file():
        value = imported(given, option)
        language = language_from_arguments(constraint=value)
        if language is None:
            raise UsageError(f"{option} {given} is None: a constraint was wanted")
        return language
    return language_from_spec(json_of(given if looks_like_json(given) else read_text(given), option))


def schema_of(given: str) -> Any:
    """What --schema stands for: JSON text, a file, `module:name` (a type or a schema), or the short form."""
    if looks_like_json(given):
        return json_of(given, "--schema")
    if given == "-" or Path(given).is_file():
        return json_of(read_text(given), f"--schema {given}")
    if names_an_object(given):
        return imported(given, "--schema")
    if given.endswith((".json", ".py", ".yaml", ".yml")) or "/" in given.split(" ")[0]:
        raise UsageError(f"--schema {given}: there is no such file")
    return schema_from_short_form(given)


def _there(path: str, option: str) -> str:
    if not Path(path).is_file():
        raise UsageError(f"{option} {path}: there is no such file")
    return path


def _json(options: argparse.Namespace) -> Language:
    from grammars.json_schema import JsonSchema

    return JsonSchema(
        schema_of(options.schema),
        whitespace=options.whitespace,
        order=options.key_order,
        spelling=options.spelling,
        formats=options.formats,
        registry=_registry(options.refs),
    )


def _registry(given: list[str] | None) -> dict[str, Any] | None:
    """Documents for `$ref` by their URIs; None where there are none."""
    if not given:
        return None
    documents = {}
    for text in given:
        uri, equals, path = text.partition("=")
        if not equals or not uri or not path:
            raise UsageError(f"--ref {text!r}: URI=FILE was wanted")
        documents[uri] = json_of(read_text(path), f"--ref {path}")
    return documents


def _regex(options: argparse.Namespace) -> Language:
    from grammars.regex import Regex

    return Regex(options.pattern)


def _grammar(options: argparse.Namespace) -> Language:
    from grammars.lark_grammar import Lark
    from grammars.membership import byte_vocabulary
    from grammars.registry import compile_cached

    language = Lark(read_text(options.lark))
    # A mistake in a grammar is found where it is compiled: say it before a model is loaded.
    compile_cached(language, byte_vocabulary())
    return language


def _choice(options: argparse.Namespace) -> Language:
    from grammars.choice import Choice

    return Choice(options.options if options.names is None else Path(_there(options.names, "--names")))


def _predicate(options: argparse.Namespace) -> Language:
    from grammars.predicate import Predicate

    function = imported(options.function, "--function")
    return Predicate(
        function,
        timeout_s=options.call_timeout,
        batched=options.batched or None,
        processes=options.processes,
    )


def _smiles(options: argparse.Namespace) -> Language:
    from grammars.smiles import Smiles

    given = {
        "min_atoms": options.min_atoms,
        "max_atoms": options.max_atoms,
        "elements": options.elements and tuple(options.elements),
        "required": options.required and tuple(options.required),
        "forbidden": options.forbidden and tuple(options.forbidden),
        "connected": options.connected or None,
    }
    return Smiles(**{name: value for name, value in given.items() if value is not None})


def _pddl(options: argparse.Namespace) -> Language:
    from grammars.pddl import Pddl

    if options.domain is None:
        raise UsageError("--problem needs its --domain")
    return Pddl(
        read_text(options.domain), read_text(options.problem), write=options.write, consistent=options.consistent
    )


def _sql(options: argparse.Namespace) -> Language:
    from grammars.sql import Sql

    return Sql(options.db if "://" in options.db else _there(options.db, "--db"))


def _text(options: argparse.Namespace) -> Language | None:
    return None if options.constraint is None else constraint_of(options.constraint, "--constraint")


LANGUAGES: dict[str, Callable[[argparse.Namespace], Language | None]] = {
    "json": _json,
    "regex": _regex,
    "grammar": _grammar,
    "choice": _choice,
    "predicate": _predicate,
    "smiles": _smiles,
    "pddl": _pddl,
    "sql": _sql,
    "text": _text,
}
