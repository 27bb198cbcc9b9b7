"""Languages that go by a name: what an operator has set up, found by that name in every process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from grammars.constraint import Constraint, Language
from grammars.errors import GrammarError
from grammars.places import object_at
from grammars.registry import Example, grammar, language_from_arguments
from grammars.vocabulary import Vocabulary

_LANGUAGES: dict[str, Language] = {}


@grammar("named")
class Named(Language):
    """The language that was registered under a name in this process: `register(name, language)`.

    A request can ask for it without seeing what stands behind it (a database's URL, somebody's Python), and a language that
    cannot travel as data, such as one with a predicate in it, is made in each process by `register_from`.
    """

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"named": "example: digits"}, ("1", "42"), ("", "a", "1a")),
        Example({"all": [{"named": "example: digits"}, {"regex": "4.*"}]}, ("4", "42"), ("1", "4a")),
    )

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or name not in _LANGUAGES:
            known = ", ".join(registered()) or "none"
            raise GrammarError(f"there is no constraint named {name!r:.80}; the operator has set up: {known}")
        self.name = name
        self.language = _LANGUAGES[name]

    def __repr__(self) -> str:
        return f"Named({self.name!r})"

    @property
    def spec(self) -> dict[str, Any]:
        return {"named": self.name}

    def compile(self, vocabulary: Vocabulary) -> Constraint:
        return self.language.compile(vocabulary)

    def parse(self, text: str) -> Any:
        return self.language.parse(text)


def register(name: str, constraint: Any) -> None:
    """Let a language go by a name in this process. constraint: as `generate(constraint=...)` takes it."""
    language = language_from_arguments(constraint=constraint)
    if language is None:
        raise GrammarError(
            f"the constraint named {name!r} is None: a language, a type, a function or a spec was wanted"
        )
    _LANGUAGES[name] = language


def register_from(places: Mapping[str, str], databases: Mapping[str, str], processes: int | None = None) -> None:
    """Register what stands at `module:object` under each name, and databases (files or URLs) under theirs.

    processes  a plain function is made a predicate that runs in so many processes of its own: it may then hang anywhere, or
               crash, and the process that asks it goes on

    Raises GrammarError for one that cannot be imported or read.
    """
    for name, place in places.items():
        value = object_at(place, f"constraint {name!r}", GrammarError)
        register(name, _in_processes(value, processes) if processes else value)
    for name, database in databases.items():
        register(name, {"sql": database})


def _in_processes(value: Any, processes: int) -> Any:
    """A plain function as a predicate in processes of its own; anything else as it is."""
    from grammars.predicate import Predicate
    from grammars.predicate_incremental import is_incremental

    plain = callable(value) and not isinstance(value, Language | type) and not is_incremental(value)
    return Predicate(value, processes=processes) if plain else value


def registered() -> list[str]:
    """The names, in order; those of the tests left out."""
    return sorted(name for name in _LANGUAGES if not name.startswith("example: "))


register("example: digits", {"regex": "[0-9]+"})
