"""Whether a Lark grammar derives any text at all: llguidance follows `start: "a" start` for ever.

A rule is productive where one of its alternatives has only productive parts; terminals are. The rules are the least
fixpoint of that. Source: Hopcroft, Motwani & Ullman, "Introduction to Automata Theory", section 7.1.2.

The grammar is one that llguidance has compiled, so names are defined and brackets match. What this file does not read
(parametric rules, operators between terminals, brackets 100 deep) counts as productive: no grammar that has a text is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

# Texts, patterns and comments, first of all: whatever stands in them is not grammar.
_OPAQUE = re.compile(r'("(?:\\.|[^"\\\n])*"|/(?!/)(?:\\.|[^/\\\n])+/)[a-z]*|//[^\n]*|#[^\n]*')
_EMBEDDED = re.compile(r"%(?:json|regex|lark)\s*(?=\{)")
_HEAD = re.compile(r"^[ \t]*(?:[?!]*([A-Za-z_]\w*)(?:\.-?\d+)?\s*(?:\[[^\]\n]*\])?\s*:(?!:)|%[a-z]+)", re.MULTILINE)
_PART = re.compile(r"->\s*\w+|\s+|(\w+|\.\.|\{[^{}]*\}|~\s*\d+(?:\s*\.\.\s*\d+)?|[()\[\]|?*+])")
_RULE = re.compile(r"_*[a-z]\w*")
_MAY_BE_NONE = re.compile(r"[?*]|\{\s*(?:0\s*(?:,.*)?|,.*)\}|~\s*0+(?:\s*\.\..*)?$")
_TERMINAL = "T"
# Brackets within brackets, well below Python's limit of recursion.
_DEEPEST = 100

# A body: a name that must be productive, or whether all of some bodies or any of them must be.
Body = str | tuple[str, list["Body"]]
_NOTHING: Body = ("all", [])


def unproductive(grammar: str) -> list[str]:
    """The rules from which no text can be derived, in the grammar's order."""
    rules = _rules(grammar)
    users: dict[str, list[str]] = {}
    for name, bodies in rules.items():
        for used in {used for body in bodies if body is not None for used in _names(body)}:
            users.setdefault(used, []).append(name)
    known: set[str] = set()
    waiting = list(rules)
    while waiting:
        name = waiting.pop()
        if name not in known and any(body is None or _derives(body, rules, known) for body in rules[name]):
            known.add(name)
            waiting += users.get(name, [])
    return [name for name in rules if name not in known]


def _names(body: Body) -> Iterator[str]:
    if isinstance(body, str):
        yield body
    else:
        for part in body[1]:
            yield from _names(part)


def _derives(body: Body, rules: Mapping[str, object], known: set[str]) -> bool:
    if isinstance(body, str):
        return body in known or body not in rules
    parts = (_derives(part, rules, known) for part in body[1])
    return all(parts) if body[0] == "all" else any(parts)


def _rules(grammar: str) -> dict[str, list[Body | None]]:
    """The bodies of every rule; None stands for one that is not read."""
    text = _without_embedded(_OPAQUE.sub(lambda found: f" {_TERMINAL} " if found[1] else " ", grammar))
    heads = list(_HEAD.finditer(text))
    rules: dict[str, list[Body | None]] = {}
    for head, following in zip(heads, [*heads[1:], None]):
        if head[1] and _RULE.fullmatch(head[1]):
            body = text[head.end() : following.start() if following else len(text)]
            rules.setdefault(head[1], []).append(_body(body))
    return rules


def _without_embedded(text: str) -> str:
    """Schemas, patterns and grammars in braces are terminals here."""
    kept, end = [], 0
    for found in _EMBEDDED.finditer(text):
        if found.start() < end:
            continue
        kept += [text[end : found.start()], f" {_TERMINAL} "]
        depth, end = 0, found.end()
        while end < len(text):
            depth += (text[end] == "{") - (text[end] == "}")
            end += 1
            if depth == 0:
                break
    return "".join([*kept, text[end:]])


class _Unread(Exception):
    """A body with what this file does not know."""


def _body(text: str) -> Body | None:
    try:
        parts = _parts(text)
        body, closing = _alternatives(parts)
    except _Unread:
        return None
    return body if closing == "" else None


def _parts(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        found = _PART.match(text, at)
        if found is None:
            raise _Unread
        at = found.end()
        if found[1]:
            yield found[1]


def _alternatives(parts: Iterator[str], depth: int = 0) -> tuple[Body, str]:
    """Alternatives up to a closing bracket or the end, and that bracket."""
    if depth > _DEEPEST:
        raise _Unread
    sequence: list[Body] = []
    alternatives: list[Body] = [("all", sequence)]
    for part in parts:
        if part in (")", "]"):
            return ("any", alternatives), part
        if part == "|":
            sequence = []
            alternatives.append(("all", sequence))
        elif part in ("(", "["):
            inner, closing = _alternatives(parts, depth + 1)
            if (part, closing) not in (("(", ")"), ("[", "]")):
                raise _Unread
            sequence.append(inner if part == "(" else _NOTHING)
        elif _MAY_BE_NONE.match(part):
            sequence[-1:] = [_NOTHING]
        elif part[0].isalpha() or part[0] == "_":
            sequence.append(part)
        # What is left says "at least once", or is the middle of a range of characters.
    return ("any", alternatives), ""
