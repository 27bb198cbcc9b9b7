"""Patterns that call their own groups, as context-free grammars: exactly their matches, so that a mask is all that is needed.

`(?R)`, `(?1)` and `(?&name)` are rules: the `regex` module tries whatever else the called group could match, as a grammar
does. Partial matching of such a pattern may take exponential time; a chart does not. Every terminal is one character, since
llguidance's lexer is greedy and does not go back. A group that only calls itself matches nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from regex import _regex_core as core

from grammars.lark_productive import unproductive
from grammars.patterns.classes import NO_CHARACTER, Classes
from grammars.patterns.mask import LONGEST, NOTHING
from grammars.patterns.tree import groups_of, is_class, parse

_AT_START = (core.StartOfString, core.StartOfLine, core.SearchAnchor)
_AT_END = (core.EndOfString, core.EndOfStringLine, core.EndOfLine)


class NotContextFree(Exception):
    """The pattern has look-arounds, back-references, atomic groups or the like, or would be too large a grammar."""


def context_free(pattern: str) -> str:
    """A grammar in llguidance's dialect of Lark, whose texts are those that `pattern` matches in full."""
    tree, info = parse(pattern)
    tree.fix_groups(pattern, False, False)
    rules = _Rules(Classes(info), groups_of(tree))
    try:
        start = rules.expression(tree, True, True)
        text = rules.text(start)
    except RecursionError as error:
        raise NotContextFree from error
    # A rule that derives nothing would be followed for ever.
    for name in unproductive(text):
        rules.bodies[name] = NO_CHARACTER
    return rules.text(start)


@dataclass
class _Rules:
    """The rules made so far. `bodies` are those of the called groups by their rule's name."""

    classes: Classes
    groups: dict[int, list[Any]]
    bodies: dict[str, str] = field(default_factory=dict)

    def text(self, start: str) -> str:
        rules = [f"start: {self.bodies.get('start', start)}"]
        rules += [f"{name}: {body}" for name, body in self.bodies.items() if name != "start"]
        return "\n".join([*rules, *self.classes.lines()])

    def expression(self, node: Any, first: bool, last: bool) -> str:
        """A node as an expression of rules; first, last: whether it begins, or ends, where the text does."""
        written = self._expression(node, first, last)
        if len(written) > LONGEST:
            raise NotContextFree
        return written

    def _expression(self, node: Any, first: bool, last: bool) -> str:
        if is_class(node):
            return self._one(node)
        kind = type(node)
        if kind is core.Sequence:
            return self._sequence(node.items, first, last)
        if kind is core.Branch:
            return _bracketed(" | ".join(self.expression(branch, first, last) for branch in node.branches))
        if kind in (core.GreedyRepeat, core.LazyRepeat):
            least, most = node.min_count, node.max_count
            once = most == 1
            body = self.expression(node.subpattern, first and once, last and once)
            if body == NOTHING or most == 0:
                return NOTHING
            return f"{_bracketed(body)}{{{least},{'' if most is None else most}}}"
        if kind is core.Group:
            return self.expression(node.subpattern, first, last)
        if kind is core.CallGroup:
            return self._called(node.group)
        if kind is core.Conditional and node.group == 0:
            # (?(DEFINE)...) matches nothing itself.
            return self.expression(node.no_item, first, last)
        if isinstance(node, core.String):
            return " ".join(self._one(core.Character(code, case_flags=node.case_flags)) for code in node.characters)
        if (first and kind in _AT_START) or (last and kind in _AT_END):
            return NOTHING
        raise NotContextFree

    def _sequence(self, items: list[Any], first: bool, last: bool) -> str:
        takes = [not _is_empty(item) for item in items]
        parts = [
            self.expression(item, first and not any(takes[:k]), last and not any(takes[k + 1 :]))
            for k, item in enumerate(items)
        ]
        kept = [part for part in parts if part != NOTHING]
        return _bracketed(" ".join(kept)) if kept else NOTHING

    def _one(self, node: Any) -> str:
        written = self.classes.of(node)
        if written is None:
            raise NotContextFree
        return written

    def _called(self, group: int) -> str:
        name = "start" if group == 0 else f"group_{group}"
        bodies = self.groups.get(group, [])
        if len(bodies) != 1:
            raise NotContextFree
        if name not in self.bodies:
            self.bodies[name] = NOTHING  # it may call itself
            self.bodies[name] = self.expression(bodies[0], False, False)
        return name


def _is_empty(node: Any) -> bool:
    """Whether a node takes no text, wherever it stands."""
    return (isinstance(node, core.ZeroWidthBase) and not is_class(node)) or (
        type(node) is core.Conditional and node.group == 0 and _is_empty(node.no_item)
    ) or (type(node) is core.Sequence and all(map(_is_empty, node.items)))  # fmt: skip


def _bracketed(written: str) -> str:
    return f"({written})"
