"""A mask and a reader side by side: the mask offers, the reader refuses what no valid text goes on from."""

from __future__ import annotations

import numpy as np

from grammars.constraint import ConstraintState
from grammars.json_evaluation import Plan
from grammars.json_machine import JsonState
from grammars.llguidance_engine import GuidedConstraint
from grammars.vocabulary import Vocabulary

# Tokens whose verdict a state keeps: whoever tests a token often takes it next.
REMEMBERED_TOKENS = 4_096


class JsonConstraint:
    """JSON texts under a plan.

    mask    a superset of them
    layout  whether only the layout of json.dumps(indent=2) is allowed
    """

    can_mask = True

    def __init__(self, mask: GuidedConstraint, plan: Plan, layout: bool, vocabulary: Vocabulary) -> None:
        self.mask = mask
        self.vocabulary = vocabulary
        self._text = JsonState.before(plan, layout)

    def start(self) -> JsonConstraintState:
        return JsonConstraintState(self, self.mask.start(), self._text)


class JsonConstraintState:
    __slots__ = ("_constraint", "_following", "_mask", "_text")

    mask_is_exact = False

    def __init__(self, constraint: JsonConstraint, mask: ConstraintState, text: JsonState) -> None:
        self._constraint = constraint
        self._mask = mask
        self._text = text
        self._following: dict[int, JsonState | None] = {}

    @property
    def is_complete(self) -> bool:
        return self._text.is_complete and self._mask.is_complete

    def bitmask(self) -> np.ndarray:
        mask = self._mask.bitmask()
        assert mask is not None
        eos = self._constraint.vocabulary.eos
        if mask[eos >> 5] >> (eos & 31) & 1 and not self._text.is_complete:
            mask = mask.copy()
            mask[eos >> 5] &= ~np.array(1 << (eos & 31), dtype=np.uint32).view(np.int32)
            mask.flags.writeable = False
        return mask

    def accepts(self, tokens: np.ndarray, masked: bool = False) -> np.ndarray:
        vocabulary = self._constraint.vocabulary
        eos = vocabulary.eos
        verdicts = np.ones(len(tokens), dtype=bool) if masked else self._mask.accepts(tokens)
        for k, token in enumerate(tokens.tolist()):
            if verdicts[k]:
                verdicts[k] = self._text.is_complete if token == eos else self._after(token) is not None
        return verdicts

    def _after(self, token: int) -> JsonState | None:
        if token in self._following:
            return self._following[token]
        if len(self._following) >= REMEMBERED_TOKENS:
            self._following.clear()
        text = self._following[token] = self._text.read(self._constraint.vocabulary.bytes_of(token))
        return text

    def advance(self, token: int) -> JsonConstraintState:
        if token == self._constraint.vocabulary.eos:
            return self
        text = self._after(token)
        assert text is not None, f"token {token} ({self._constraint.vocabulary.bytes_of(token)!r}) is not accepted here"
        return JsonConstraintState(self._constraint, self._mask.advance(token), text)
