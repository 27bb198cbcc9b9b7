"""Things found by name, one a file: registered by a decorator, made from a name or from {name: options}."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from grammars.errors import RequestError
from grammars.options import option_problem

T = TypeVar("T")
Made = TypeVar("Made", bound=Callable[..., Any])


class Named(Generic[T]):
    """A family of things, such as rewards.

    what     one of them, in messages
    package  whose modules register them; they are loaded when a name is first asked for
    remedy   what else could be given, said where a name is none of theirs
    """

    def __init__(self, what: str, package: str, remedy: str = "") -> None:
        self._what, self._remedy = what, remedy
        self._makers: dict[str, Callable[..., T]] = {}
        self._packages = [package]

    def register(self, name: str) -> Callable[[Made], Made]:
        """Register a class under a name: `{name: options}` is `cls(**options)`."""

        def register(maker: Made) -> Made:
            assert name not in self._makers, f"two {self._what}s are called {name!r}"
            self._makers[name] = maker
            return maker

        return register

    def add_package(self, package: str) -> None:
        """Have the modules of another package register theirs too. Idempotent."""
        self._packages.append(package)

    def names(self) -> list[str]:
        while self._packages:
            package = importlib.import_module(self._packages.pop())
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{package.__name__}.{module.name}")
        return sorted(self._makers)

    def made(self, spec: Any) -> T:
        """The thing that a spec names. Raises RequestError naming what is wrong."""
        what = self._what
        parts = name_and_options(spec)
        if parts is None:
            raise RequestError(f"{what}={spec!r:.80}: a name was wanted, or an object with one name and its options")
        name, options = parts
        if name not in self.names():
            raise RequestError(f"there is no {what} {name!r:.80}; there are {', '.join(self.names())}{self._remedy}")
        return made_with(self._makers[name], options, f"{what} {name!r}")


def made_with(maker: Callable[..., T], options: Mapping[str, Any], what: str) -> T:
    """What a maker makes of options. Raises RequestError for one that it does not take, or needs and has not got."""
    if problem := option_problem(maker, options):
        raise RequestError(f"{what} {problem}")
    try:
        return maker(**options)
    except TypeError as error:  # a value of a type that it has no use for
        raise RequestError(f"{what}: {error}") from error


def name_and_options(spec: Any) -> tuple[str, Mapping[str, Any]] | None:
    """A spec's name and options: of a name, or of {name: options}; None where it is neither."""
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, Mapping) and len(spec) == 1:
        ((name, options),) = spec.items()
        if isinstance(name, str) and isinstance(options, Mapping):
            return name, options
    return None
