"""Options by name, as requests and specs bring them: checked against what takes them before it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any


def option_problem(maker: Callable[..., Any], options: Mapping[str, Any], given: int = 0) -> str | None:
    """What is wrong with the options of a call: one that is not known, or is needed and not there. None: nothing.

    given  how many of the maker's first parameters are passed without a name
    """
    known = dict(list(inspect.signature(maker).parameters.items())[given:])
    for name in options:
        if name not in known:
            listed = f"there are {', '.join(known)}" if known else "it has none"
            return f"has no option {name!r:.80}; {listed}"
    missing = [name for name, one in known.items() if one.default is one.empty and name not in options]
    return f"needs {' and '.join(missing)}: {{name: {{{missing[0]!r}: ...}}}}" if missing else None
