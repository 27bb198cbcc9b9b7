"""Checks of the token samplers' options, made once when a sampler is built."""

from __future__ import annotations

from grammars.errors import RequestError


def check_count(name: str, value: object, least: int, optional: bool = False) -> None:
    """A whole number of at least `least`, or None where that is an option."""
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        wanted = f"a whole number of at least {least}" + (", or None for no limit" if optional else "")
        raise RequestError(f"sampler option {name}={value!r} must be {wanted}.")


def check_share(name: str, value: object) -> None:
    """A number in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value < 1.0:
        raise RequestError(f"sampler option {name}={value!r} must be a number from 0 up to, but not including, 1.")
