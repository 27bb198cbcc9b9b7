"""What a constraint is: which text is allowed, and which token may come next.

A *language* (`Regex(...)`, `JsonSchema(...)`, a predicate, ...) is what the user writes; it knows nothing of tokens.
`Language.compile(vocabulary)` makes a `Constraint`; its states are values, one per sequence.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from grammars.errors import GrammarError
from grammars.vocabulary import Vocabulary


class ConstraintState(Protocol):
    """One sequence's place in a constraint. A value: `advance` returns a new state and leaves this one alone."""

    @property
    def is_complete(self) -> bool:
        """Whether the text so far is a member of the language: exactly then EOS is accepted."""

    @property
    def mask_is_exact(self) -> bool:
        """Whether `bitmask()` is the whole truth; otherwise a token inside it still has to pass `accepts`."""

    def bitmask(self) -> np.ndarray | None:
        """Tokens that may come next, or a superset of them; None where no mask is to be had.

        returns  int32 [ceil(vocabulary.size / 32)], bit t % 32 of word t // 32 is token t. Read-only: it may be shared.
        EOS is the bit `vocabulary.eos`; the other EOS ids and the padded ids are never set.
        """

    def accepts(self, tokens: np.ndarray, masked: bool = False) -> np.ndarray:
        """Test candidates for the next token; EOS (`vocabulary.eos`) is accepted exactly when `is_complete`.

        tokens   int64 [K]
        masked   the tokens have already passed `bitmask()`: test only what it leaves open
        returns  bool [K]
        """

    def advance(self, token: int) -> ConstraintState:
        """The state after one more accepted token. Undefined (an assertion) for a token that `accepts` refuses.

        EOS adds no text: the state stays the same.
        """


class Constraint(Protocol):
    """A language compiled for one vocabulary: immutable, cached, shared by every sequence that uses it."""

    @property
    def can_mask(self) -> bool:
        """Whether states give a bitmask."""

    def start(self) -> ConstraintState:
        """The state before the first token. Raises Unsatisfiable where no token at all may come."""


class Language:
    """Base of everything a user writes as a constraint. `A & B` accepts what both accept, `A | B` what either does.

    `spec` is the language as JSON-able data, so that it travels to another process: `registry.language_from_spec`.
    """

    @property
    def spec(self) -> dict[str, Any]:
        raise NotImplementedError

    def compile(self, vocabulary: Vocabulary) -> Constraint:
        """Compile for a vocabulary; raises GrammarError naming the place and the remedy."""
        raise NotImplementedError

    def parse(self, text: str) -> Any:
        """The Python value a finished text stands for; the text itself unless the language knows better."""
        return text

    def __and__(self, other: Language) -> Language:
        from grammars.compose import All

        return All((self, other))

    def __or__(self, other: Language) -> Language:
        from grammars.any_of import AnyOf

        return AnyOf((self, other))


__all__ = ["Constraint", "ConstraintState", "GrammarError", "Language"]
