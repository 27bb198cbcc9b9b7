"""Where the probability went: what was proposed at each token of the best particle, and who refused it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from grammars.errors import ReweighError
from server.cli_output import note, table
from server.cli_steering import explain_steering

if TYPE_CHECKING:
    from decoding.request import Proposal, Result, TraceStep
    from grammars.constraint import ConstraintState, Language
    from grammars.vocabulary import Vocabulary

SHOWN_REFUSALS = 3
PREFIX_TAIL = 24


def explain(result: Result, vocabulary: Vocabulary) -> None:
    """Print the steps of the likeliest particle on stderr; of the longest where all are dead.

    Each step: the text before it, the token chosen and its probability under the model, the share of the model's
    probability that the constraint lets through there (an estimate where no exact mask is to be had), how many candidates
    were tested (none where an exact mask says it all), and the likeliest that were refused, with the part that refused them.
    """
    assert result.trace is not None, "asked without trace=True"
    best = _best(result)
    steps = result.trace[best]
    refuser = _Refuser(result.constraint)
    rows = [["step", "text so far", "chosen", "p", _paid(result, "allowed"), "tested", "refused"]]
    data = b""
    for k, step in enumerate(steps):
        rows.append(
            [
                str(k + 1),
                _tail(step.prefix),
                _chosen(step),
                _share(step.logprob) if np.isfinite(step.log_weight) else "",
                _share(step.log_weight),
                str(len(step.tested)),
                _refusals(step, refuser.at(data)),
            ]
        )
        if k < len(result.tokens[best]):
            data += vocabulary.bytes_of(result.tokens[best][k])
    total = len(result.texts)
    weight = float(result.weights[best])
    log_weight = float(result.log_weights[best])
    note(f"particle {best} of {total}: {result.finish_reasons[best]}, weight {weight:.1%}, log weight {log_weight:.3f}")
    for line in table(rows, right=frozenset({0, 3, 4, 5})):
        note(line)
    note(_bill(steps, result))
    if result.adaptation is not None:
        explain_steering(result, vocabulary, best)


def _paid(result: Result, of_constraint: str) -> str:
    """What the weight of a step is: the mass that a constraint allows; with steering, what drawing from q leaves to be paid."""
    return of_constraint if result.adaptation is None else "weight"


def _best(result: Result) -> int:
    if np.isfinite(result.log_weights).any():
        return int(np.argmax(result.log_weights))
    return int(np.argmax([len(tokens) for tokens in result.tokens]))


def _bill(steps: list[TraceStep], result: Result) -> str:
    """The log weight as the sum of its steps, and the steps that cost most."""
    paid = sum(step.log_weight for step in steps)
    dearest = sorted(range(len(steps)), key=lambda k: steps[k].log_weight)[:3]
    where = ", ".join(
        f"step {k + 1} ({_chosen(steps[k])}) {steps[k].log_weight:.3f}" for k in dearest if steps[k].log_weight < 0
    )
    text = f"log of the {_paid(result, 'mass allowed')}, all steps: {paid:.3f}"
    if where:
        text += f"; most of it went at {where}"
    if result.stats.resamplings:
        text += f"; {result.stats.resamplings} resamplings shared the weights out in between"
    return text


def _refusals(step: TraceStep, refused_by: Callable[[Proposal], str]) -> str:
    """The likeliest refused candidates, those that were tested and those that stood out, with who refused them."""
    refused: dict[str, Proposal] = {}
    for proposal in (*step.likeliest, *step.tested):
        if not proposal.accepted:
            refused.setdefault(proposal.text, proposal)
    ordered = sorted(refused.values(), key=lambda proposal: -proposal.logprob)
    by_reason: dict[str, list[str]] = {}
    for proposal in ordered[:SHOWN_REFUSALS]:
        shown = f"{_token(proposal.text)} {_share(proposal.logprob)}"
        by_reason.setdefault(refused_by(proposal), []).append(shown)
    text = "; ".join(f"{', '.join(shown)}: {reason}" for reason, shown in by_reason.items())
    more = len(ordered) - SHOWN_REFUSALS
    return f"{text}; {more} more" if more > 0 else text


class _Refuser:
    """Which part of a constraint refuses a candidate: the parts are asked one by one, byte by byte."""

    def __init__(self, language: Language | None) -> None:
        from grammars.compose import All
        from grammars.membership import byte_vocabulary
        from grammars.registry import compile_cached

        self._vocabulary = byte_vocabulary()
        parts = language.parts if isinstance(language, All) else ()
        self._states: list[tuple[str, ConstraintState]] = [
            (_name(part), compile_cached(part, self._vocabulary).start()) for part in parts
        ]
        self._read = 0

    def at(self, data: bytes) -> Callable[[Proposal], str]:
        """The same for the text so far, which goes on from the last one asked about."""
        states = []
        for name, state in self._states:
            for byte in data[self._read :]:
                state = state.advance(byte)
            states.append((name, state))
        self._states, self._read = states, len(data)
        return self._reason

    def _reason(self, proposal: Proposal) -> str:
        if "�" in proposal.text or not self._states:
            return "outside the language" if proposal.text else "not complete yet"
        from grammars.membership import after

        for name, state in self._states:
            try:
                if not proposal.text and not state.is_complete:
                    return f"not complete yet for {name}"
                if after(state, proposal.text.encode(), self._vocabulary) is None:
                    return name
            except ReweighError as error:
                return f"{name}: {error}"
        return "the parts together"


def _name(part: Language) -> str:
    """A part by its name and the beginning of what it says."""
    name, value = next(iter(part.spec.items()))
    if name == "predicate":
        return repr(part)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{name} {text if len(text) <= 30 else text[:29] + '…'}"


def _share(log_share: float) -> str:
    share = math.exp(min(log_share, 0.0))
    return f"{share:.3f}" if share >= 0.001 or share == 0.0 else f"{share:.0e}"


def _chosen(step: TraceStep) -> str:
    """What was taken; nothing where the particle died."""
    return _token(step.token) if np.isfinite(step.log_weight) else "nothing"


def _token(text: str) -> str:
    return repr(text) if text else "<end>"


def _tail(text: str) -> str:
    return repr(text if len(text) <= PREFIX_TAIL else "…" + text[-PREFIX_TAIL:])
