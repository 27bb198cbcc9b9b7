"""Name → language, by decorator; and a language from what a request carries: a spec, or the Python API's arguments."""

from __future__ import annotations

import enum
import importlib
import json
import pkgutil
import re
import threading
import typing
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import grammars
from grammars.constraint import Constraint, Language
from grammars.errors import GrammarError
from grammars.llguidance_probe import timeout_s, too_slow
from grammars.memory import give_back
from grammars.options import option_problem
from grammars.predicate_deadline import OutOfTime, within
from grammars.vocabulary import Vocabulary

L = TypeVar("L", bound=type[Language])

CACHED_CONSTRAINTS = 256
# Constraints dropped from the cache between two calls for their memory.
DROPPED_BEFORE_TRIM = 128

_REGISTERS = re.compile(r'^@grammar\("(\w+)"\)$', re.MULTILINE)
_LANGUAGES: dict[str, type[Language]] = {}
_COMPILED: OrderedDict[tuple[str, Vocabulary], Constraint] = OrderedDict()
_COMPILED_LOCK = threading.Lock()
_dropped = 0


@dataclass(frozen=True)
class Example:
    """Texts a spec accepts and rejects: every language class lists some as `examples`, and the law tests use them."""

    spec: Mapping[str, Any]
    accepts: tuple[str, ...]
    rejects: tuple[str, ...]


def grammar(name: str) -> Callable[[L], L]:
    """Register a language class under the key of its specs: `{name: value, **options}` is `cls(value, **options)`.

    A class with a classmethod `from_spec` has that called instead. Its `examples` are a tuple of `Example`.
    """

    def register(cls: L) -> L:
        assert name not in _LANGUAGES, f"two languages are called {name!r}"
        _LANGUAGES[name] = cls
        return cls

    return register


@cache
def _files() -> Mapping[str, str]:
    """Name -> the module that registers it, read off the files' text: a module is loaded when its language is asked for."""
    found = {}
    for module in pkgutil.iter_modules(grammars.__path__):
        text = (
            (Path(grammars.__path__[0]) / f"{module.name}.py").read_text(encoding="utf-8") if not module.ispkg else ""
        )
        for name in _REGISTERS.findall(text):
            found[name] = f"grammars.{module.name}"
    return found


def language_class(name: str) -> type[Language]:
    """The class registered under a name; KeyError where there is none."""
    if name not in _LANGUAGES:
        importlib.import_module(_files()[name])
    return _LANGUAGES[name]


def names() -> list[str]:
    return sorted(_files().keys() | _LANGUAGES.keys())


def languages() -> Mapping[str, type[Language]]:
    """Every language class by its name; loads them all."""
    return {name: language_class(name) for name in names()}


def language_from_spec(spec: Mapping[str, Any]) -> Language:
    """The language of a spec such as {"regex": "a+"} or {"all": [{"regex": "a+"}, {"predicate": "short"}]}."""
    found = [name for name in spec if name in names()] if isinstance(spec, Mapping) else []
    if len(found) != 1:
        raise GrammarError(
            f"constraint {_shown(spec)} must be an object with exactly one of the keys {', '.join(names())}; "
            'write for example {"regex": "[0-9]+"}'
        )
    name = found[0]
    options = {key: value for key, value in spec.items() if key != name}
    cls = language_class(name)
    make: Callable[..., Language] = getattr(cls, "from_spec", cls)
    if problem := option_problem(make, options, given=1):
        raise GrammarError(f"constraint {_shown(spec)}: {name!r} {problem}")
    try:
        return make(spec[name], **options)
    except TypeError as error:
        what = str(error).partition("() ")[2] or str(error)
        raise GrammarError(f"constraint {_shown(spec)}: {name!r} {what}; see the options of {cls.__name__}") from error


def language_from_arguments(
    regex: Any = None,
    json_schema: Any = None,
    lark: Any = None,
    choice: Any = None,
    predicate: Any = None,
    constraint: Any = None,
) -> Language | None:
    """The one language among the arguments of `generate`; None where all of them are None.

    constraint  a Language, a spec, a compiled regex, a callable (a predicate), or a type: a Pydantic model, a dataclass, a
                TypedDict, an enumeration, or an annotation such as Literal["yes", "no"]
    """
    arguments = {"regex": regex, "json_schema": json_schema, "lark": lark, "choice": choice, "predicate": predicate}
    given = [name for name, value in (arguments | {"constraint": constraint}).items() if value is not None]
    if len(given) > 1:
        raise GrammarError(
            f"{' and '.join(f'{name}=' for name in given)} were given; give one, or combine languages with &: "
            "constraint=Regex(...) & Predicate(...)"
        )
    if not given:
        return None
    if given != ["constraint"]:
        name, value = given[0], arguments[given[0]]
        if name != "choice" and isinstance(value, list | tuple):
            each = f"{{{json.dumps(name)}: ...}}"
            raise GrammarError(
                f"{name}={_shown(value)} is a {type(value).__name__}, but {name}= is one constraint, of every prompt; give one for "
                f'each prompt with constraint=[{each}, ...], or allow any of them with constraint={{"any": [{each}, ...]}}'
            )
        return _make(name, value)
    if isinstance(constraint, Language):
        return constraint
    if isinstance(constraint, Mapping):
        return language_from_spec(constraint)
    if isinstance(constraint, re.Pattern):
        return _make("regex", constraint)
    if _is_annotation(constraint):
        return _make("json_schema", constraint)
    if callable(constraint):
        return _make("predicate", constraint)
    raise GrammarError(
        f"constraint={_shown(constraint)} is of type {type(constraint).__name__}; give a language such as Regex(...), a spec, "
        "a type or a callable, or use regex=, json_schema=, lark= or choice="
    )


def _make(name: str, value: Any) -> Language:
    make: Callable[..., Language] = language_class(name)
    return make(value)


def _is_annotation(value: Any) -> bool:
    """Whether a value describes data (a model, a dataclass, a Literal, ...) rather than judging texts."""
    if typing.get_origin(value) is not None:
        return True
    return isinstance(value, type) and (
        is_dataclass(value)
        or typing.is_typeddict(value)
        or issubclass(value, (enum.Enum, bool, int, float, str, list, dict))
        or hasattr(value, "model_json_schema")
    )


def compile_cached(language: Language, vocabulary: Vocabulary) -> Constraint:
    """The compiled constraint, kept for the next request with the same spec and vocabulary: least recently used go first."""
    return _compiled(json.dumps(language.spec), vocabulary, lambda: language)


def compile_spec(spec: str, vocabulary: Vocabulary) -> Constraint:
    """The same for a spec as JSON text, as json.dumps writes it: only one that is not compiled yet is parsed."""
    return _compiled(spec, vocabulary, lambda: language_from_spec(json.loads(spec)))


def _compiled(spec: str, vocabulary: Vocabulary, language: Callable[[], Language]) -> Constraint:
    key = (spec, vocabulary)
    with _COMPILED_LOCK:
        if key in _COMPILED:
            _COMPILED.move_to_end(key)
            return _COMPILED[key]
    # Outside the lock: two threads may compile the same constraint, and the later one is kept.
    seconds = timeout_s()
    try:
        constraint = within(seconds, lambda: language().compile(vocabulary), cpu=True)
    except OutOfTime:
        raise too_slow(seconds) from None
    dropped = []
    with _COMPILED_LOCK:
        _COMPILED[key] = constraint
        while len(_COMPILED) > CACHED_CONSTRAINTS:
            dropped.append(_COMPILED.popitem(last=False))
    _forget(dropped)
    return constraint


def _forget(dropped: list[Any]) -> None:
    global _dropped
    before = _dropped
    _dropped += len(dropped)
    dropped.clear()
    if _dropped // DROPPED_BEFORE_TRIM > before // DROPPED_BEFORE_TRIM:
        give_back()


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
