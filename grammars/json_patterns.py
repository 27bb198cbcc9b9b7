"""Patterns of JSON Schema: ECMA-262's syntax, searched for anywhere in a text, judged on prefixes as well.

A pattern is written anew twice: for the package `regex`, which matches prefixes partially, and, where it is regular, for
Rust's regex crate, which the mask engine reads. \\d, \\w, \\s, `.` and `$` mean what ECMA-262 says in both.
Source: ECMA-262, section 22.2 (with the flag u), and its annex B where a pattern is not strict.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from grammars.errors import GrammarError, PredicateError

# One search may take this long. Back-tracking can take for ever.
SEARCH_SECONDS = 0.5

_DIGITS = "0-9"
_WORDS = "0-9A-Za-z_"
_SPACES = (
    0x09,
    0x0A,
    0x0B,
    0x0C,
    0x0D,
    0x20,
    0xA0,
    0x1680,
    *range(0x2000, 0x200B),
    0x2028,
    0x2029,
    0x202F,
    0x205F,
    0x3000,
    0xFEFF,
)
_LINE_ENDS = (0x0A, 0x0D, 0x2028, 0x2029)
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D, "0": 0x00}
_BOUNDARY = "(?:(?<=[0-9A-Za-z_])(?![0-9A-Za-z_])|(?<![0-9A-Za-z_])(?=[0-9A-Za-z_]))"
_NO_BOUNDARY = "(?:(?<=[0-9A-Za-z_])(?=[0-9A-Za-z_])|(?<![0-9A-Za-z_])(?![0-9A-Za-z_]))"


@dataclass(frozen=True)
class Pattern:
    """A pattern read once.

    python    for the package `regex`
    rust      for Rust's regex crate; None where the pattern is not regular or has classes that differ there
    growing   once it is found in a prefix it is found in all that goes on from it: nothing in it looks ahead or at the end
    partial   whether partial matching can be trusted: what looks ahead must not itself ask where the text ends
    """

    source: str
    python: str
    rust: str | None
    growing: bool
    partial: bool

    @cached_property
    def _compiled(self) -> Any:
        import regex

        return regex.compile(self.python)

    def found_in(self, text: str) -> bool:
        return self._search(text, False)

    def may_come(self, prefix: str) -> bool:
        """Whether some text that begins like this may have it: False only where none does."""
        return not self.partial or self._search(prefix, True)

    def _search(self, text: str, partial: bool) -> bool:
        try:
            return self._compiled.search(text, partial=partial, timeout=SEARCH_SECONDS) is not None
        except TimeoutError as error:
            raise PredicateError(
                f"JSON Schema pattern {self.source!r} took over {SEARCH_SECONDS} s on a text of {len(text)} characters: "
                "write it without nested repetition"
            ) from error


@functools.lru_cache(maxsize=4096)
def pattern_of(source: str, strict: bool = False) -> Pattern:
    """Read a pattern; ValueError with the reason where it is malformed.

    strict  refuse what only annex B, or Python, allows
    """
    import regex

    python, rust = _Reader(source, strict, rust=False), _Reader(source, strict, rust=True)
    written = python.read()
    pattern = Pattern(source, written, rust.read() if python.regular else None, python.growing, python.partial)
    try:
        _ = pattern._compiled
    except (regex.error, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return pattern


def pattern_at(source: str, place: str) -> Pattern:
    """The same for a schema's keyword; GrammarError names its place."""
    try:
        return pattern_of(source)
    except ValueError as error:
        raise GrammarError(f"JSON Schema pattern {source!r} at {place or '/'} is malformed: {error}") from error


class _Reader:
    """One pass over a pattern's characters."""

    def __init__(self, source: str, strict: bool, rust: bool) -> None:
        self.source, self.strict, self.rust = source, strict, rust
        self.regular = self.growing = self.partial = True
        self.at = 0
        # The groups that are open: whether each looks ahead.
        self.groups: list[bool] = []

    def read(self) -> str:
        written = []
        while self.at < len(self.source):
            written.append(self._item())
        return "".join(written)

    def _take(self, pattern: str) -> re.Match[str] | None:
        found = re.compile(pattern).match(self.source, self.at)
        if found:
            self.at = found.end()
        return found

    def _item(self) -> str:
        char = self.source[self.at]
        if char == "\\":
            return self._escape(False)
        if char == "[":
            return self._class()
        if char == "(":
            return self._group()
        self.at += 1
        if char == ")" and self.groups:
            self.groups.pop()
        if char == "$":
            self._ends()
            return "$" if self.rust else r"\Z"
        if char == ".":
            return f"[^{self._set(_LINE_ENDS)}]"
        if char in "^|)*+?":
            return char
        if char == "{":
            if self._take(r"(\d+)(,\d*)?\}"):
                return self.source[self.source.rindex("{", 0, self.at) : self.at]
            if self.strict:
                raise ValueError("a { that begins no repetition")
        return self._char(ord(char))

    def _group(self) -> str:
        if found := self._take(r"\(\?(?:(=|!)|(<=|<!)|(P?<(\w+)>)|(:)|([aimsx]+(?:-[imsx]+)?)(:|\)))"):
            if found[1]:
                self._ends()
                self.regular = False
            if found[7] != ")":
                self.groups.append(bool(found[1]))
            if found[2]:
                self.regular = False
            if found[3]:
                if self.strict and found[3].startswith("P"):
                    raise ValueError("ECMA-262 has no group (?P<")
                return f"(?P<{found[4]}>"
            if found[6]:
                if self.strict:
                    raise ValueError("ECMA-262 has no flags inside a pattern")
                self.regular = False
            return found[0]
        self.at += 1
        if self.source.startswith("?", self.at):
            raise ValueError(f"unknown group (?{self.source[self.at + 1 : self.at + 2]}")
        self.groups.append(False)
        return "("

    def _ends(self) -> None:
        """Note that what is read here depends on what comes after, or on nothing coming."""
        self.growing = False
        self.partial = self.partial and not any(self.groups)

    def _escape(self, inside: bool) -> str:
        if self._take(r"\\([dDwWsS])"):
            letter = self.source[self.at - 1]
            members = {"d": _DIGITS, "w": _WORDS, "s": self._set(_SPACES)}[letter.lower()]
            if inside and letter.islower():
                return members
            if inside and not self.rust:
                # A class inside a class: as the complement, spelled out.
                return {"D": r"\x00-/:-\U0010ffff", "W": r"\x00-/:-@\[-\^`{-\U0010ffff", "S": self._complement()}[
                    letter
                ]
            return f"[^{members}]" if letter.isupper() else f"[{members}]"
        if found := self._take(r"\\([pP])\{([\w=]+)\}"):
            # Classes of other Unicode versions may differ by a few characters: the predicate has the last word.
            self.regular = False
            return f"\\{found[1]}{{{_property(found[2])}}}"
        if not inside and self._take(r"\\b"):
            self._ends()
            self.regular = False
            return _BOUNDARY
        if not inside and self._take(r"\\B"):
            self._ends()
            self.regular = False
            return _NO_BOUNDARY
        if not inside and (found := self._take(r"\\([1-9]\d?)")):
            self.regular = False
            return f"(?:\\{found[1]})"
        if not inside and (found := self._take(r"\\k<(\w+)>")):
            self.regular = False
            return f"(?P={found[1]})"
        if not self.strict and not inside and self._take(r"\\([AzZ])"):
            if self.source[self.at - 1] == "A":
                return "^"
            self._ends()
            return "$" if self.rust else r"\Z"
        return self._char(self._code(inside))

    def _code(self, inside: bool) -> int:
        """The code point of a character, escaped or not."""
        if self.source[self.at] != "\\":
            self.at += 1
            return ord(self.source[self.at - 1])
        if found := self._take(r"\\u[dD]([89abAB][\da-fA-F]{2})\\u[dD]([c-fC-F][\da-fA-F]{2})"):
            return 0x10000 + ((int(found[1], 16) - 0x800) << 10) + int(found[2], 16) - 0xC00
        if found := self._take(r"\\(?:u([\da-fA-F]{4})|u\{([\da-fA-F]+)\}|x([\da-fA-F]{2}))"):
            code = int(found[1] or found[2] or found[3], 16)
            if code > 0x10FFFF:
                raise ValueError(f"no character has the code {code:x}")
            return code
        if found := self._take(r"\\c([A-Za-z])"):
            return ord(found[1]) % 32
        if inside and self._take(r"\\b"):
            return 0x08
        if found := self._take(r"\\([tnvfr0])"):
            return _CONTROLS[found[1]]
        if self.at + 1 >= len(self.source):
            raise ValueError("it ends in a backslash")
        char = self.source[self.at + 1]
        if self.strict and char not in "^$\\.*+?()[]{}|/" and not (inside and char == "-"):
            raise ValueError(f"ECMA-262 has no escape \\{char}")
        self.at += 2
        return ord(char)

    def _class(self) -> str:
        self.at += 1
        negated = self._take(r"\^") is not None
        members: list[str] = []
        while not self._take(r"\]"):
            if self.at >= len(self.source):
                raise ValueError("a [ without its ]")
            if re.compile(r"\\(?:[dDwWsS]|[pP]\{)").match(self.source, self.at):
                members.append(self._escape(True))
                continue
            low = self._code(True)
            if re.compile(r"-(?!\]|\\[dDwWsSpP])").match(self.source, self.at) and self.at + 1 < len(self.source):
                self.at += 1
                high = self._code(True)
                if high < low:
                    raise ValueError(f"the range {chr(low)}-{chr(high)} is out of order")
                members.append(f"{self._char(low)}-{self._char(high)}")
            else:
                members.append(self._char(low))
        if not members:
            everything = r"[\x00-\x{10ffff}]" if self.rust else r"[\x00-\U0010ffff]"
            return everything if negated else (r"[a&&b]" if self.rust else r"(?!)")
        return f"[{'^' * negated}{''.join(members)}]"

    def _char(self, code: int) -> str:
        char = chr(code)
        if char.isascii() and char.isalnum():
            return char
        if self.rust:
            if 0xD800 <= code <= 0xDFFF:
                # No text has one; a class without it is the same.
                return r"\x{fffff}"
            return f"\\x{{{code:x}}}"
        return f"\\U{code:08x}"

    def _set(self, codes: tuple[int, ...]) -> str:
        return "".join(self._char(code) for code in codes)

    @staticmethod
    def _complement() -> str:
        """Every character that \\s does not mean, as ranges."""
        edges = [-1, *_SPACES, 0x110000]
        gaps = [(low + 1, high - 1) for low, high in pairwise(edges) if high - low > 1]
        return "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in gaps)


def _property(name: str) -> str:
    """A Unicode property as the package `regex` calls it."""
    return name.replace("Script_Extensions=", "scx=").replace("Script=", "script=").replace("General_Category=", "gc=")
