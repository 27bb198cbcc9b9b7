"""SQL text in lexemes, piece by piece: what a lexeme is does not hang on where the pieces are cut."""

from __future__ import annotations

import re
from typing import NamedTuple

WORD, QUOTED, NUMBER, STRING, SYMBOL = range(5)

_LEXEME = re.compile(
    rb"""[ \t\r\n]+
    |(?P<word>[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*)
    |(?P<quoted>"(?:[^"]|"")*"?|`(?:[^`]|``)*`?|\[[^\]]*\]?)
    |(?P<number>[0-9][0-9.]*(?:[eE][+-]?[0-9]*)?)
    |(?P<string>'(?:[^']|'')*'?)
    |(?P<symbol><=|>=|<>|<<|>>|!=|==|\|\||::|--|/\*|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_KINDS = {"word": WORD, "quoted": QUOTED, "number": NUMBER, "string": STRING, "symbol": SYMBOL}
# Symbols that nothing written after them can change. An operator is one that PostgreSQL would read on with the next character.
_WHOLE = frozenset([b"(", b")", b",", b";", b".", b"::", b"--", b"/*"])


class Lexeme(NamedTuple):
    """kind; text as written; follower: the byte after it, b"" at the end of what is known."""

    kind: int
    text: bytes
    follower: bytes


def split_lexemes(data: bytes) -> tuple[list[Lexeme], bytes]:
    """The lexemes of some text that no further text can change, and the begun one at its end (white space is neither)."""
    found: list[Lexeme] = []
    end = len(data)
    for match in _LEXEME.finditer(data):
        group = match.lastgroup
        if group is None:
            continue
        stop, text = match.end(), match[0]
        if stop == end and not (group == "symbol" and text in _WHOLE):
            return found, text
        found.append(Lexeme(_KINDS[group], text, data[stop : stop + 1]))
    return found, b""


def begun_lexeme(data: bytes) -> Lexeme:
    """The kind of a lexeme that `split_lexemes` left open."""
    match = _LEXEME.fullmatch(data)
    assert match is not None and match.lastgroup is not None, data
    return Lexeme(_KINDS[match.lastgroup], data, b"")


def is_closed(lexeme: Lexeme) -> bool:
    """Whether an open lexeme would be whole if the text ended here."""
    if lexeme.text.startswith(b"["):
        return lexeme.text.endswith(b"]")
    if lexeme.kind in (STRING, QUOTED):
        return len(lexeme.text) > 1 and lexeme.text.count(lexeme.text[:1]) % 2 == 0
    # Where no number may end in a dot, the grammar has refused it.
    return lexeme.kind != NUMBER or lexeme.text[-1:] not in (b"e", b"E", b"+", b"-")


def unquoted(text: bytes) -> bytes:
    """What a quoted name or string stands for; an open one as far as it is written, be it within a character."""
    quote = text[:1]
    if quote == b"[":
        return text[1:].removesuffix(b"]")
    inside = text[1:-1] if len(text) > 1 and text.count(quote) % 2 == 0 else text[1:]
    return inside.replace(quote * 2, quote)
