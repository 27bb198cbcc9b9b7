"""Which texts can still become a match: the `regex` module's partial matching, with its blind spots at the text's end removed.

`fullmatch(text, partial=True)` says whether the end of the text cut a match short. Asked of a prefix it errs on the wrong
side in three places, so that texts that do match could not be reached:

- `\\b \\B \\m \\M` at the end of the text look at what is not written yet: `\\b.` refuses "". Written as look-arounds, whose
  look-ahead part notices the end, they do not.
- `$` and `\\Z` inside a look-behind hold at the end of the prefix: the same.
- A repetition that meets the end with nothing begun may be followed by a look-behind that fails there, although one more
  repetition would mend it: `[^aeiou]++(?<!x)` refuses "x". After every repetition an empty test is added that at the end
  of the text says "cut short", and anywhere else nothing.

The third may call a prefix viable that is not (`(?=.*b)a*` does so without our help): such a particle dies later, and no
member is lost. The tests compare with brute force.
"""

from __future__ import annotations

from typing import Any

import regex
from regex import _regex_core as core

from grammars.errors import GrammarError
from grammars.patterns.tree import build, nodes, parse, shown

_BOUNDARIES = {
    (core.Boundary, True): r"(?<=\w)(?!\w)|(?<!\w)(?=\w)",
    (core.Boundary, False): r"(?<=\w)(?=\w)|(?<!\w)(?!\w)",
    (core.StartOfWord, True): r"(?<!\w)(?=\w)",
    (core.EndOfWord, True): r"(?<=\w)(?!\w)",
}
_ENDS = {
    core.EndOfLine: r"(?![^\n])",
    core.EndOfString: r"(?!(?s:.))",
    core.EndOfStringLine: r"(?![^\n]|(?s:..))",
}
_REPEATS = (core.GreedyRepeat, core.LazyRepeat, core.PossessiveRepeat)
_REFUSED = {
    core.Fuzzy: "approximate matching, {e<=1}, unless a backslash before the brace makes it text",
    core.StringSet: "a named list, \\L<...>",
    core.DefaultBoundary: "the flag w",
    core.DefaultStartOfWord: "the flag w",
    core.DefaultEndOfWord: "the flag w",
    core.EndOfLineU: "the flag w",
    core.EndOfStringLineU: "the flag w",
    core.StartOfLineU: "the flag w",
    core.AnyU: "the flag w",
}


class Unsupported(GrammarError):
    """A pattern that the `regex` module reads, and of which something is not supported here."""


def compile_partial(pattern: str) -> regex.Pattern[str]:
    """A pattern with the same matches whose partial matches include every prefix of one."""
    tree, info = parse(pattern)
    for flag, letter in ((regex.REVERSE, "r"), (regex.LOCALE, "L"), (regex.BESTMATCH, "b"), (regex.ENHANCEMATCH, "e")):
        if info.flags & flag:
            raise Unsupported(f"pattern {shown(pattern)} is not supported: it has the flag {letter}; leave it out")
    for node in nodes(tree):
        what = _REFUSED.get(type(node))
        if what is not None:
            raise Unsupported(f"pattern {shown(pattern)} is not supported: it has {what}; spell out what it matches")
    try:
        return build(_opened(tree, False), info, pattern)
    except RecursionError as error:
        raise GrammarError(f"pattern of {len(pattern)} characters is nested too deeply; simplify it") from error


def _opened(node: Any, behind: bool) -> Any:
    """The tree with its blind spots removed. behind: inside a look-behind, which reads backwards and never meets the end."""
    kind = type(node)
    if (written := _BOUNDARIES.get((kind, getattr(node, "positive", True)))) is not None:
        return _parsed(written, node.encoding)
    if (written := _ENDS.get(kind)) is not None:
        return _parsed(written, 0)
    if isinstance(node, core.SetBase):
        return node
    inside = behind or (kind in (core.LookAround, core.LookAroundConditional) and node.behind)
    for name in ("items", "branches"):
        if hasattr(node, name):
            setattr(node, name, [_opened(child, behind) for child in getattr(node, name)])
    for name in ("yes_item", "no_item"):
        if hasattr(node, name):
            setattr(node, name, _opened(getattr(node, name), behind))
    if hasattr(node, "subpattern"):
        node.subpattern = _opened(node.subpattern, inside)
    if kind in _REPEATS and not behind and node.min_count != node.max_count:
        return core.Sequence([node, _parsed("(?=(?s:.))(?!)|", 0)])
    return node


def _parsed(written: str, encoding: int) -> Any:
    flag = "a" if encoding == core.ASCII_ENCODING else "u"
    return parse(f"(?{flag}:{written})")[0]
