"""Regular expressions: the texts that a pattern of Python's `re`, or of the `regex` module, matches in full."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import cache
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser as sre  # type: ignore[attr-defined]
from typing import Any, ClassVar

from grammars.constraint import Constraint, Language
from grammars.errors import GrammarError
from grammars.pattern import Pattern
from grammars.registry import Example, grammar
from grammars.vocabulary import Vocabulary

# What the `regex` module may read as approximate matching.
_MAYBE_FUZZY = re.compile(r"\{[^{}]*[dies][^{}]*\}")


@grammar("regex")
@dataclass(frozen=True)
class Regex(Language):
    """Texts x with `re.fullmatch(pattern, x)`: the syntax and the meaning are those of Python's `re`.

    A regular pattern is a mask, and nothing else. Any other is a `Pattern`, read by the `regex` module: look-around,
    back-references, `\\b`, anchors inside, atomic groups, possessive repetition; and so is what only that module can read:
    recursion, `\\p{...}`, look-behind of any width. There a few things mean what that module says: `\\w` takes combining
    marks and no superscript digits, `\\s` not the separators U+001C to U+001F, `\\B` holds in the empty text, and
    `[[:alpha:]]` is a class of letters.

    pattern  a pattern, or a compiled one with its flags
    """

    pattern: str

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"regex": r"\d{4}-\d{2}-\d{2}"}, ("2024-02-30", "٢٠٢٤-01-01"), ("2024-2-3", "", "2024-02-30\n")),
        Example({"regex": r"^(?:yes|no|yes, but .*)$"}, ("yes", "no", "yes, but é"), ("y", "yesno", "yes, but \n")),
        Example({"regex": r"(?i:straße|[^a-c/\s]+)?"}, ("", "STRAßE", "xyz"), ("ab", "B", "x y", "/")),
        Example(
            {"regex": r"(?P<word>\w+?)(?:[ \]&&[]\S)*"}, ("naïve", "你好 x]]&é", "_"), ("", " ", "a ", "a b ", "aéb(c")
        ),
        Example({"regex": r"(?s).{2}\u00e9*(?-s:.)"}, ("\n\nx", "a\néé"), ("\n\n\n", "ab")),
    )

    def __post_init__(self) -> None:
        pattern = self.pattern
        if isinstance(pattern, re.Pattern):
            letters = {re.I: "i", re.M: "m", re.S: "s", re.X: "x", re.A: "a"}
            flags = "".join(letter for flag, letter in letters.items() if pattern.flags & flag)
            pattern = f"(?{flags}){pattern.pattern}" if flags else pattern.pattern
            object.__setattr__(self, "pattern", pattern)
        if not isinstance(pattern, str):
            raise GrammarError(f"regex must be a str or a compiled str pattern, not {type(pattern).__name__}")
        self._translated()

    def _translated(self) -> str | Pattern:
        """The pattern in Rust's syntax; where it is none of a regular language, the language that tests it."""
        from grammars.patterns.partial import Unsupported

        try:
            translated = to_rust(self.pattern)
        except Malformed:
            # Perhaps only `re` cannot read it; if neither can, what `re` says is what its users know.
            try:
                return Pattern(self.pattern)
            except Unsupported:
                raise
            except GrammarError:
                pass
            raise
        except NotRegular:
            return Pattern(self.pattern)
        if _MAYBE_FUZZY.search(self.pattern):
            # To `re` it is the text {e<=1}, to the other module approximate matching: which was meant?
            try:
                Pattern(self.pattern)
            except Unsupported:
                raise
            except GrammarError:
                pass
        return translated

    @property
    def spec(self) -> dict[str, Any]:
        return {"regex": self.pattern}

    def compile(self, vocabulary: Vocabulary) -> Constraint:
        from grammars.llguidance_engine import compile_guided

        def explain(message: str) -> GrammarError:
            return GrammarError(f"regex {self.pattern!r} cannot be compiled: {message}")

        translated = self._translated()
        if isinstance(translated, Pattern):
            return translated.compile(vocabulary)
        return compile_guided(f"start: /{translated}/", vocabulary, explain)


def _flattened(low: int, high: int, inner: Any) -> tuple[int, int, Any]:
    """A repetition of a repetition as one, where the counts leave no gap: (a{1,100}){1,100} is a{1,10000}, and far cheaper."""
    while len(inner) == 1:
        kind, value = inner[0]
        if kind is op.SUBPATTERN and not value[1] and not value[2]:
            inner = value[3]
            continue
        if kind not in (op.MAX_REPEAT, op.MIN_REPEAT):
            break
        least, most, body = value
        # From k to k + 1 times: the longest of the one must reach the shortest of the other.
        if most is not op.MAXREPEAT and high != low and max(low, 1) * most + 1 < (max(low, 1) + 1) * least:
            break
        if low == 0 and least > 1:
            break
        unbounded = high != 0 and most != 0 and op.MAXREPEAT in (high, most)
        low, high, inner = low * least, op.MAXREPEAT if unbounded else int(high) * int(most), body
    return low, high, inner


class Malformed(GrammarError):
    """A pattern that Python's `re` cannot read."""


class NotRegular(GrammarError):
    """A pattern with look-around, back-references and the like."""


def to_rust(pattern: str) -> str:
    """The pattern in the syntax of Rust's regex crate, ASCII only: it matches anywhere what `pattern` matches in full.

    Raises NotRegular where a pattern says more than that syntax can. Translated from the parse tree of Python's own
    parser, so that `[a&&b]`, `\\s` or `\\Z` mean what Python says.
    """
    try:
        with warnings.catch_warnings():
            # "Possible set intersection" and the like: the tree has today's meaning, whatever the syntax becomes.
            warnings.simplefilter("ignore")
            tree = sre.parse(pattern)
        return _Translation(pattern).sequence(tree, tree.state.flags, True, True)
    except re.error as error:
        place = "" if error.pos is None else f" at position {error.pos}"
        raise Malformed(f"regex {pattern!r} is malformed{place}: {error.msg}") from error
    except (OverflowError, RecursionError) as error:
        raise GrammarError(
            f"regex of {len(pattern)} characters is nested or repeated too deeply; simplify it"
        ) from error


_CLASSES = {
    op.CATEGORY_DIGIT: (str.isdecimal, "0-9"),
    op.CATEGORY_SPACE: (str.isspace, r"\t-\r\x20"),
    op.CATEGORY_WORD: (lambda char: char.isalnum() or char == "_", "0-9A-Za-z_"),
}
_OPPOSITES = {
    op.CATEGORY_NOT_DIGIT: op.CATEGORY_DIGIT,
    op.CATEGORY_NOT_SPACE: op.CATEGORY_SPACE,
    op.CATEGORY_NOT_WORD: op.CATEGORY_WORD,
}


@cache
def _members(category: Any) -> str:
    """The characters of \\d, \\s or \\w as ranges. Rust's own classes differ a little, and follow a newer Unicode."""
    belongs, _ = _CLASSES[category]
    # None lies above: planes 4 to 13 are unassigned, and 14 to 16 hold tags and private characters.
    codes = [code for code in range(0x40000) if belongs(chr(code))]
    starts = [code for before, code in zip([-2, *codes], codes) if code != before + 1]
    ends = [code for code, beyond in zip(codes, [*codes[1:], -2]) if beyond != code + 1]
    return "".join(f"\\u{{{start:x}}}-\\u{{{end:x}}}" for start, end in zip(starts, ends))


@dataclass(frozen=True)
class _Translation:
    pattern: str

    def sequence(self, items: Any, flags: int, first: bool, last: bool) -> str:
        """Translate a sequence; first, last: whether it begins, or ends, where the text does."""
        items = list(items)
        anchored_after = [all(kind is op.AT for kind, _ in items[k + 1 :]) for k in range(len(items))]
        parts = []
        for item, ends in zip(items, anchored_after):
            parts.append(self.item(item, flags, first, last and ends))
            first = first and item[0] is op.AT
        return "".join(parts)

    def item(self, item: tuple[Any, Any], flags: int, first: bool, last: bool) -> str:
        kind, value = item
        if kind is op.LITERAL or kind is op.NOT_LITERAL or kind is op.IN:
            text = self.characters(item, flags)
            return f"(?i:{text})" if flags & re.I else text
        if kind is op.ANY:
            return r"[\x00-\u{10ffff}]" if flags & re.S else r"[^\n]"
        if kind is op.BRANCH:
            return "(?:" + "|".join(self.sequence(branch, flags, first, last) for branch in value[1]) + ")"
        if kind is op.SUBPATTERN:
            _, added, removed, inner = value
            return "(?:" + self.sequence(inner, (flags | added) & ~removed, first, last) + ")"
        if kind is op.MAX_REPEAT or kind is op.MIN_REPEAT:
            low, high, inner = _flattened(*value)
            once = high == 1
            body = self.sequence(inner, flags, first and once, last and once)
            return f"(?:{body}){{{low},{'' if high is op.MAXREPEAT else high}}}"
        if kind is op.AT:
            if (value in (op.AT_BEGINNING, op.AT_BEGINNING_STRING) and first) or (
                value in (op.AT_END, op.AT_END_STRING) and last
            ):
                return ""
            raise NotRegular(f"regex {self.pattern!r} has an anchor or \\b inside")
        raise NotRegular(f"regex {self.pattern!r} has {kind}")

    def characters(self, item: tuple[Any, Any], flags: int) -> str:
        kind, value = item
        if kind is op.LITERAL:
            return self.character(value)
        if kind is op.NOT_LITERAL:
            return f"[^{self.character(value)}]"
        negated = value[0][0] is op.NEGATE
        members = []
        for member, what in value[1:] if negated else value:
            if member is op.LITERAL:
                members.append(self.character(what))
            elif member is op.RANGE:
                members.append(f"{self.character(what[0])}-{self.character(what[1])}")
            else:
                assert member is op.CATEGORY
                negative = what in _OPPOSITES
                category = _OPPOSITES.get(what, what)
                ranges = _CLASSES[category][1] if flags & re.A else _members(category)
                members.append(f"[{'^' * negative}{ranges}]")
        return f"[{'^' * negated}{''.join(members)}]"

    def character(self, code: int) -> str:
        if 0xD800 <= code <= 0xDFFF:
            raise self.refused(f"the lone surrogate U+{code:04X}, which no text has")
        char = chr(code)
        return char if char.isascii() and char.isalnum() else f"\\u{{{code:x}}}"

    def refused(self, what: str) -> GrammarError:
        return GrammarError(f"regex {self.pattern!r} is not supported: it has {what}")
