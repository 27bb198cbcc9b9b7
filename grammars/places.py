"""What an operator has written as `module:object`."""

from __future__ import annotations

import importlib
from typing import Any

from grammars.errors import ReweighError


def object_at(place: str, who: str, kind: type[ReweighError]) -> Any:
    """The object that stands at `module:object`, where the object may be an attribute's attribute.

    who, kind  what it is wanted for, in messages; the error that is raised where it cannot be imported
    """
    module, _, path = place.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever the operator's module does when it is imported
        raise kind(
            f"{who}: {place} cannot be imported: {type(error).__name__}: {error}; write module:object"
        ) from error
    return found
