"""Patterns in the full syntax of the `regex` module: look-around, back-references, recursion, possessive repetition, \\p{...}."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from grammars.compose import AllConstraint
from grammars.constraint import Constraint, Language
from grammars.errors import GrammarError, PredicateError, Unsatisfiable
from grammars.patterns.tree import shown
from grammars.predicate import Predicate
from grammars.registry import Example, grammar
from grammars.vocabulary import Vocabulary

if TYPE_CHECKING:
    import regex

TIMEOUT_S = 0.5


@grammar("pattern")
@dataclass(frozen=True)
class Pattern(Language):
    """Texts x with `regex.fullmatch(pattern, x)`: the syntax and the meaning are those of PyPI's `regex` module.

    A mask follows the part of the pattern that a regular language can say, or a grammar, where groups call themselves. If
    that is all of it (letters, classes, repetitions, alternatives, calls; look-arounds, anchors and boundaries outside
    repetitions) nothing more is needed, and a token costs the same anywhere in the text. Else the tokens that pass the mask
    are tested by partial matching, which reads the text from its start: .1 to 1 µs a character and test.

    Refused: approximate matching, named lists, the flags b, e, L, r and w.

    pattern    a pattern; its flags are written inside, as in (?i)...
    timeout_s  a single test that takes longer ends the request with a PredicateError: catastrophic backtracking
    """

    pattern: str
    timeout_s: float = TIMEOUT_S

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"pattern": r"(a|é|你好)-?\1"}, ("aa", "é-é", "你好你好"), ("", "a", "aé", "你好-你", "aaa")),
        Example({"pattern": r"(?=.*\d)(?!.*aa)\w{2,8}\b"}, ("a1", "1é", "12"), ("", "ab", "aa1", "1", "1 a")),
        Example(
            {"pattern": r"(?<op>\d|\((?&op)[+*](?&op)\))"}, ("1", "(1+2)", "(1*(2+3))"), ("", "(1", "1+2", "(1+2", "()")
        ),
        Example({"pattern": r"(?>a+|[^aeiou]++)(?<!x)"}, ("aa", "bc", "你"), ("", "ab", "bx", "x")),
        Example({"pattern": r"(?i)\p{Lu}{2}(?(?<=é)1|[^\P{L}a])"}, ("aé1", "ABx"), ("", "aba", "a1")),
    )

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, str):
            raise GrammarError(f"pattern must be a str, not {type(self.pattern).__name__}")
        if (
            not isinstance(self.timeout_s, int | float)
            or isinstance(self.timeout_s, bool)
            or not 0 < self.timeout_s <= 60
        ):
            raise GrammarError(f"timeout_s={self.timeout_s!r} must be a number of seconds above 0 and up to 60")
        from grammars.patterns.partial import compile_partial

        compile_partial(self.pattern)

    @property
    def spec(self) -> dict[str, Any]:
        own: dict[str, Any] = {"pattern": self.pattern}
        return own if self.timeout_s == TIMEOUT_S else own | {"timeout_s": self.timeout_s}

    def compile(self, vocabulary: Vocabulary) -> Constraint:
        mask, exact = self._mask(vocabulary)
        if mask is not None and exact:
            return mask
        from grammars.patterns.completion import CompletionConstraint, Kinds
        from grammars.patterns.partial import compile_partial

        matcher = _Matcher(self, compile_partial(self.pattern))
        # The matcher keeps its own time: this box is for what its clock does not see.
        tested = Predicate(matcher, timeout_s=self.timeout_s + 1).compile(vocabulary)
        whole = tested if mask is None else AllConstraint((mask, tested), vocabulary)
        return CompletionConstraint(whole, Kinds(self.pattern), vocabulary)

    def _mask(self, vocabulary: Vocabulary) -> tuple[Constraint | None, bool]:
        """A constraint that lets every match through, and whether it lets nothing else; none where it would cost too much."""
        from grammars.llguidance_engine import compile_guided
        from grammars.patterns.context_free import NotContextFree, context_free
        from grammars.patterns.mask import Superset, TooCostly, superset

        try:
            wider = superset(self.pattern)
            if not wider.exact:
                with suppress(NotContextFree):
                    wider = Superset(context_free(self.pattern), True)
            constraint = compile_guided(wider.lark, vocabulary, lambda message: GrammarError(message))
            constraint.start()
        except Unsatisfiable as error:
            # The superset has no text, so neither has the pattern.
            raise Unsatisfiable(f"pattern {self.pattern!r} matches no text at all") from error
        except (TooCostly, GrammarError):
            # Partial matching alone decides the language; a mask only makes it quicker.
            return None, False
        return constraint, wider.exact


class _Matcher:
    """The test that a pattern stands for, with a time limit on each call."""

    def __init__(self, language: Pattern, compiled: regex.Pattern[str]) -> None:
        self._language = language
        self._compiled = compiled
        self.__name__ = f"pattern {shown(language.pattern)}"

    def __call__(self, text: str, complete: bool) -> bool:
        timeout = self._language.timeout_s
        try:
            return self._compiled.fullmatch(text, partial=not complete, timeout=timeout) is not None
        except TimeoutError:
            raise PredicateError(
                f"pattern {self._language.pattern!r} took longer than {timeout} s on a text of {len(text)} characters: it "
                "backtracks catastrophically; make repetitions possessive, as in (?:a+)++, or raise timeout_s"
            ) from None
        except MemoryError:
            raise PredicateError(
                f"pattern {self._language.pattern!r} ran out of memory on a text of {len(text)} characters: it calls itself "
                "without end; make it match something before each call"
            ) from None
