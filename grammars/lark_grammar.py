"""Context-free grammars in llguidance's dialect of Lark."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from grammars.constraint import Constraint, Language
from grammars.errors import GrammarError, Unsatisfiable
from grammars.lark_productive import unproductive
from grammars.registry import Example, grammar
from grammars.vocabulary import Vocabulary

_ARITHMETIC = r"""
start: sum
sum: product | sum ("+" | "-") product
product: atom | product "*" atom
atom: NUMBER | "(" sum ")"
NUMBER: /[0-9]{1,3}/
"""

_PAIRS = r"""
start: pair ("," pair)*
pair: KEY "=" (WORD | list)
list: "[" WORD (";" WORD)* "]"
KEY: /[a-zé]{1,4}/
WORD: "naïve" | "你好" | /x+/
"""

# What is neither text nor a pattern nor a comment is the grammar proper.
_TEXTS = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|#[^\n]*|/(?:\\.|[^/\\\n])+/')
_REFUSED = (
    (re.compile(r"<[^<>\s][^<>\n]*>"), "a special token", "leave it out: special tokens are never written as text"),
    (
        re.compile(r"\bmax_tokens\s*="),
        "max_tokens",
        "bound the repetition, as in /.{0,80}/: tokens decide nothing here",
    ),
    (re.compile(r"\btemperature\s*="), "temperature", "set the request's temperature"),
    (re.compile(r"\bstop\s*="), "stop", "use suffix=, which keeps what it matches"),
)


@grammar("lark")
@dataclass(frozen=True)
class Lark(Language):
    """Texts that a grammar derives from its rule `start`.

    The dialect is llguidance's: Lark's syntax, `%ignore`, `%json {...}` for a JSON Schema, `&` and `~` between terminals.
    Terminals are matched greedily among those that may come, so prefer rules to overlapping terminals. Refused is what
    would make a text's verdict hang on its tokens: special tokens, max_tokens, temperature, stop.

    grammar  the grammar's text
    Source: llguidance, docs/syntax.md.
    """

    grammar: str

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"lark": _ARITHMETIC}, ("1", "(1+2)*3-4", "((999))"), ("", "1+", "(1", "1234", "1 + 2")),
        Example({"lark": _PAIRS}, ("a=x", "é=[naïve;xx],b=你好"), ("", "a=", "a=你", "a=x,", "a=[]")),
    )

    def __post_init__(self) -> None:
        if not isinstance(self.grammar, str):
            raise GrammarError(f"lark must be the grammar's text, not {type(self.grammar).__name__}")
        if any("\ud800" <= char <= "\udfff" for char in self.grammar):
            raise GrammarError("Lark grammar: it has half of a character (a lone surrogate), which is in no text")
        proper = _TEXTS.sub(lambda text: " " * len(text[0]), self.grammar)
        for pattern, what, remedy in _REFUSED:
            if found := pattern.search(proper):
                raise GrammarError(f"Lark grammar, line {self._line(found.start())}: {what} is not supported; {remedy}")
        if (found := re.search(r'"allow_invalid_utf8"\s*:\s*true', self.grammar)) is not None:
            raise GrammarError(
                f"Lark grammar, line {self._line(found.start())}: texts are UTF-8; leave out allow_invalid_utf8"
            )

    def _line(self, position: int) -> int:
        return self.grammar.count("\n", 0, position) + 1

    @property
    def spec(self) -> dict[str, Any]:
        return {"lark": self.grammar}

    def compile(self, vocabulary: Vocabulary) -> Constraint:
        from grammars.llguidance_engine import compile_guided

        constraint = compile_guided(self.grammar, vocabulary, lark_error)
        endless = unproductive(self.grammar)
        if "start" in endless:
            raise Unsatisfiable(
                f"Lark grammar: no text can be derived from `start`, since {_listed(endless)} cannot end; "
                "give one of its alternatives a way out that comes back to none of these"
            )
        return constraint


def _listed(rules: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in rules[:5])
    return shown if len(rules) <= 5 else f"{shown} and {len(rules) - 5} more rules"


def lark_error(message: str) -> GrammarError:
    """llguidance's message, `at 2(8): unknown name: "foo"` with the lines around, as an error that names line and column."""
    if placed := re.match(r"(?:at )?(\d+)\((\d+)\): (.*)", message, re.S):
        line, column, rest = placed.groups()
        what = re.split(r"\n\s*\d+ \|", rest)[0].strip()
        return GrammarError(f"Lark grammar, line {line}, column {column}: {' '.join(what.split())}")
    what = message.partition("\n<backtrace>")[0].strip()
    return GrammarError(f"Lark grammar: {what}; it needs a rule `start` and llguidance's Lark syntax")
