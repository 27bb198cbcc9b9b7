"""Classes of characters as terminals of a grammar in llguidance's dialect of Lark."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from regex import _regex_core as core

from grammars.patterns.tree import class_ranges

ANY_CHARACTER = r"/[\x00-\u{10ffff}]/"
# A class without members.
NO_CHARACTER = r"/[^\x00-\u{10ffff}]/"
# A class of more text than this is written once, as a terminal of its own: \w takes 12 kB.
LONG_CLASS = 100


@dataclass(frozen=True)
class Classes:
    """The classes that a grammar under way has used; `info` is the parser's notes on its pattern."""

    info: Any
    named: dict[str, str] = field(default_factory=dict)

    def of(self, node: Any) -> str | None:
        """A class as a terminal; None where one of its characters may stand for several, as ß for ss."""
        if getattr(node, "case_flags", 0) & core.FULLIGNORECASE == core.FULLIGNORECASE:
            return None
        ranges = class_ranges(node, self.info)
        if not ranges:
            return NO_CHARACTER
        text = "/[" + "".join(f"\\u{{{low:x}}}-\\u{{{high:x}}}" for low, high in ranges) + "]/"
        return text if len(text) <= LONG_CLASS else self.named.setdefault(text, f"CLASS_{len(self.named)}")

    def lines(self) -> list[str]:
        """The terminals that have names."""
        return [f"{name}: {text}" for text, name in self.named.items()]
