"""A regular superset of a pattern's matches, as a grammar in llguidance's Lark dialect: what a mask can be had for.

Where nothing had to be widened it is the language itself. Look-arounds, anchors and word boundaries that stand outside
repetitions are kept exactly: a look-ahead says something of the whole rest of the text, a look-behind of all before it,
and regular languages are closed under intersection (`&`) and complement (`~`). What is widened:

- a back-reference becomes any text of its group; a call is the group once more, and one from inside itself any text at
  all (`context_free` says such patterns exactly, where they have nothing else of this list);
- an atomic group or possessive repetition matches whatever it could match if it gave characters back;
- look-arounds inside repetitions, or with look-arounds or back-references of their own, are left out; and so are
  look-behinds after a look-ahead that still holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import regex
from regex import _regex_core as core

from grammars.patterns.classes import ANY_CHARACTER, Classes
from grammars.patterns.tree import children, groups_of, is_class, nodes, parse

ANY = r"/[\x00-\u{10ffff}]*/"
NOTHING = '""'
# A superset that is longer is not cheap any more, nor is one of more cases.
LONGEST = 60_000
MOST_CASES = 24
_ATOMIC = (core.Atomic, core.PossessiveRepeat)
_REPEATS = (core.GreedyRepeat, core.LazyRepeat, core.PossessiveRepeat)


_FULL_CASE = regex.FULLCASE | regex.IGNORECASE


class TooCostly(Exception):
    """No superset within the limits."""


@dataclass(frozen=True)
class Superset:
    """lark  a grammar; exact  whether it is the pattern's own language"""

    lark: str
    exact: bool


@dataclass(frozen=True)
class _Text:
    """A stretch of text: a Lark expression, NOTHING for the empty one."""

    expression: str


@dataclass(frozen=True)
class _Rest:
    """What is said of a place in the text: of all that follows it (ahead), or all before it; a Lark expression."""

    ahead: bool
    expression: str


_Case = tuple[_Text | _Rest, ...]


def superset(pattern: str) -> Superset:
    """Raises TooCostly where the superset would be too large to be of use."""
    tree, info = parse(pattern)
    tree.fix_groups(pattern, False, False)
    if any(getattr(node, "case_flags", 0) == _FULL_CASE for node in nodes(tree)):
        raise TooCostly  # ß is ss
    translation = _Translation(Classes(info), groups_of(tree))
    try:
        cases = translation.cases(tree)
        expression = " | ".join(translation.joined(case) for case in cases)
    except RecursionError as error:
        raise TooCostly from error
    if len(expression) > LONGEST:
        raise TooCostly
    lines = ["start: TEXT", f"TEXT: {expression}", *translation.classes.lines()]
    return Superset("\n".join(lines), translation.exact)


@dataclass
class _Translation:
    classes: Classes
    groups: dict[int, list[Any]]
    exact: bool = True
    open_calls: list[int] = field(default_factory=list)

    def widened(self) -> None:
        self.exact = False

    # Regular parts -------------------------------------------------------------------------------------------------

    def plain(self, node: Any) -> str:
        """A superset of what a node matches, as an expression; what it says of the text around it is left out."""
        expression = self._plain(node)
        if len(expression) > LONGEST:
            raise TooCostly
        return expression

    def _plain(self, node: Any) -> str:
        if is_class(node):
            return self._class(node)
        kind = type(node)
        if kind is core.Sequence:
            return _row(self.plain(item) for item in node.items)
        if isinstance(node, core.Branch):
            return _either(self.plain(branch) for branch in node.branches)
        if kind in _REPEATS:
            if kind is core.PossessiveRepeat:
                self.widened()
            return _repeated(self.plain(node.subpattern), node.min_count, node.max_count)
        if kind is core.Group:
            return self.plain(node.subpattern)
        if kind is core.Atomic:
            if any(isinstance(inner, core.Branch | core.Conditional | core.RefGroup | core.CallGroup) or type(inner) in _REPEATS
                   for inner in nodes(node.subpattern)):  # fmt: skip
                self.widened()
            return self.plain(node.subpattern)
        if kind is core.Conditional and node.group == 0:
            # (?(DEFINE)...) matches nothing itself.
            return self.plain(node.no_item)
        if kind in (core.Conditional, core.LookAroundConditional):
            self.widened()
            return _either([self.plain(node.yes_item), self.plain(node.no_item)])
        if kind is core.RefGroup:
            self.widened()
            return self._called(node)
        if kind is core.CallGroup:
            return self._called(node)
        if isinstance(node, core.String):
            return _row(self._class(core.Character(code, case_flags=node.case_flags)) for code in node.characters)
        self.widened()
        if kind is core.Grapheme:
            return f"{ANY_CHARACTER}+"
        assert isinstance(node, core.ZeroWidthBase | core.LookAround), f"a node of kind {kind.__name__}"
        return NOTHING

    def _called(self, node: Any) -> str:
        bodies = self.groups.get(node.group)
        if bodies is None or self.open_calls.count(node.group) >= 2 or int(getattr(node, "case_flags", 0)):
            self.widened()
            return ANY
        if len(bodies) > 1:
            self.widened()
        self.open_calls.append(node.group)
        try:
            return _either(self.plain(body) for body in bodies)
        finally:
            self.open_calls.pop()

    def _class(self, node: Any) -> str:
        written = self.classes.of(node)
        if written is None:
            self.widened()
            return f"{ANY_CHARACTER}{{1,3}}"
        return written

    # Cases: what a node matches as sequences of stretches of text and of statements about a place -----------------------

    def cases(self, node: Any) -> list[_Case]:
        """The ways a node can match; its statements about places stay where they are."""
        if not _says_something(node):
            return [(_Text(self.plain(node)),)]
        kind = type(node)
        if kind is core.Sequence:
            parts = [self.cases(item) for item in node.items]
            self._few(parts)
            return [tuple(itertools.chain.from_iterable(choice)) for choice in itertools.product(*parts)]
        if kind is core.Branch:
            return [case for branch in node.branches for case in self.cases(branch)]
        if kind in (core.Group, core.Atomic):
            if kind is core.Atomic:
                self.widened()
            return self.cases(node.subpattern)
        if kind is core.GreedyRepeat and (node.min_count, node.max_count) == (0, 1):
            return [*self.cases(node.subpattern), ()]
        if kind is core.LookAround:
            return self._around(node.subpattern, node.behind, node.positive)
        if kind is core.LookAroundConditional:
            yes = self._around(node.subpattern, node.behind, node.positive)
            no = self._around(node.subpattern, node.behind, not node.positive)
            chosen = [(said, self.cases(item)) for said, item in ((yes, node.yes_item), (no, node.no_item))]
            return [(*place, *case) for said, cases in chosen for place in said for case in cases]
        if isinstance(node, core.ZeroWidthBase):
            return self._place(node)
        return [(_Text(self.plain(node)),)]

    def _few(self, parts: list[list[_Case]]) -> None:
        """Leave statements out until the product of the cases is small: those with the most cases first."""
        while _product(len(part) for part in parts) > MOST_CASES:
            worst = max(range(len(parts)), key=lambda k: len(parts[k]))
            self.widened()
            parts[worst] = [(_Text(_either(_texts(case) for case in parts[worst])),)]

    def _around(self, body: Any, behind: bool, positive: bool) -> list[_Case]:
        """A look-around as one statement, or as nothing where its body says something inside itself."""
        if behind and any(isinstance(node, core.LookAroundConditional) for node in nodes(body)):
            # Read backwards, such a condition is asked at the end of what hangs on it.
            self.widened()
            return [()]
        before = self.exact
        self.exact = True
        ways = []
        for case in self.cases(body):
            # An anchor at the far edge bounds the statement: (?=ab$) is about all of the rest.
            edge = case[0] if behind and case else case[-1] if case else None
            inner = case
            bound = ANY
            if isinstance(edge, _Rest) and edge.ahead != behind:
                inner, bound = (case[1:] if behind else case[:-1]), edge.expression
            if any(isinstance(item, _Rest) for item in inner):
                self.exact = False
                inner = tuple(item for item in inner if isinstance(item, _Text))
            text = _texts(inner)
            ways.append(f"({bound} {text})" if behind else f"({text} {bound})")
        said = f"({' | '.join(ways)})"
        kept = self.exact or positive
        self.exact = self.exact and before
        if not kept:
            return [()]
        return [(_Rest(not behind, said if positive else f"(~{said})"),)]

    def _place(self, node: Any) -> list[_Case]:
        kind = type(node)
        if kind is core.StartOfString or kind is core.SearchAnchor:
            return [(_Rest(False, NOTHING),)]
        if kind is core.EndOfString:
            return [(_Rest(True, NOTHING),)]
        if kind is core.EndOfStringLine:
            return [(_Rest(True, r"/\n?/"),)]
        if kind is core.StartOfLine:
            return [(_Rest(False, rf"({ANY} /\n/)?"),)]
        if kind is core.EndOfLine:
            return [(_Rest(True, rf"(/\n/ {ANY})?"),)]
        if kind in (core.Boundary, core.StartOfWord, core.EndOfWord):
            word = self._class(core.Property(_word_property(), encoding=node.encoding))
            behind, ahead = f"({ANY} {word})", f"({word} {ANY})"
            ends: _Case = (_Rest(False, behind), _Rest(True, f"(~{ahead})"))
            starts: _Case = (_Rest(False, f"(~{behind})"), _Rest(True, ahead))
            if kind is core.Boundary and not node.positive:
                return [(ends[0], starts[1]), (starts[0], ends[1])]
            return {core.StartOfWord: [starts], core.EndOfWord: [ends]}.get(kind, [ends, starts])
        # \K, (*PRUNE), (*SKIP), (*FAIL): they change how a match is found.
        self.widened()
        return [()]

    # One case as one regular language ----------------------------------------------------------------------------------

    def joined(self, case: _Case) -> str:
        """The texts of a case: stretches in a row, each statement met by what precedes or follows its place.

        Statements of both kinds nest as long as no look-behind comes after a look-ahead; those at the text's ends hold of
        the whole text and always do.
        """
        whole: list[str] = []
        last_text = max((k for k, item in enumerate(case) if isinstance(item, _Text)), default=-1)
        kept: list[_Text | _Rest] = []
        for k, item in enumerate(case):
            if isinstance(item, _Rest):
                at_start = not any(isinstance(before, _Text) for before in case[:k])
                if (item.ahead and at_start) or (not item.ahead and k > last_text):
                    whole.append(item.expression)
                    continue
            kept.append(item)
        first_ahead = next((k for k, item in enumerate(kept) if isinstance(item, _Rest) and item.ahead), len(kept))
        left = _nested(kept[:first_ahead], forward=True)
        rest = kept[first_ahead:]
        if any(isinstance(item, _Rest) and not item.ahead for item in rest):
            self.widened()
            rest = [item for item in rest if isinstance(item, _Text) or item.ahead]
        right = _nested(rest[::-1], forward=False)
        expression = f"({left} {right})" if rest else left
        for said in whole:
            expression = f"({expression} & {said})"
        return expression


def _nested(items: Sequence[_Text | _Rest], forward: bool) -> str:
    """Items from the text's edge inwards: each statement is met by all of the text between it and the edge."""
    expression = NOTHING
    for item in items:
        if isinstance(item, _Rest):
            expression = f"({expression} & {item.expression})"
        else:
            expression = _row([expression, item.expression] if forward else [item.expression, expression])
    return expression


def _texts(case: _Case) -> str:
    return _row(item.expression for item in case if isinstance(item, _Text))


def _row(expressions: Iterable[str]) -> str:
    kept = [expression for expression in expressions if expression != NOTHING]
    return f"({' '.join(kept)})" if len(kept) > 1 else kept[0] if kept else NOTHING


def _either(expressions: Iterable[str]) -> str:
    kept = list(dict.fromkeys(expressions))
    return f"({' | '.join(kept)})" if len(kept) > 1 else kept[0]


def _repeated(expression: str, low: int, high: int | None) -> str:
    if expression == NOTHING or high == 0:
        return NOTHING
    if high is None:
        return f"({expression})*" if low == 0 else f"({expression}){{{low},}}"
    return f"({expression}){{{low},{high}}}"


def _says_something(node: Any) -> bool:
    """Whether a node has look-arounds, anchors or boundaries that are not shut into a repetition."""
    kind = type(node)
    if isinstance(node, core.ZeroWidthBase | core.LookAround | core.LookAroundConditional):
        return True
    if is_class(node) or (
        kind in _REPEATS and (kind is not core.GreedyRepeat or (node.min_count, node.max_count) != (0, 1))
    ):
        return False
    if kind is core.Conditional:
        return False
    return any(
        _says_something(child)
        for _, part in children(node)
        for child in (part if isinstance(part, list | tuple) else [part])
    )


def _word_property() -> int:
    word = core.lookup_property(None, "WORD", True)
    return int(word.value)


def _product(numbers: Any) -> int:
    product = 1
    for number in numbers:
        product *= number
    return product
