"""What a request says of its adaptation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from decoding.adaptation.held_signals import handle_of, signal_of
from decoding.adaptation.lexicons import Axis, axis_of
from decoding.adaptation.naming import Groups
from grammars.errors import RequestError

# Strength 1 of `detox` is this power of p(wanted | text), and this many nats a text at the most.
POWER = 8.0
BUDGET = 12.0
MOST_STRENGTH = 10.0
# Every group of every axis is summed up for each token of the text.
MOST_AXES = 8
METHODS = ("tilt", "offset", "both")
BALANCES = ("token", "population")


@dataclass(frozen=True)
class Adaptation:
    """How the law of the next token is changed for one request.

    detox            strength, 0 to 10; the target's factor is p(wanted | text) to the power POWER * detox. 0: off
    signal           the name of the classifier that says p(unwanted | text); its handle where it has none
    debias           axes whose groups are named alike: each one's name, and group -> token ids, as `Axis.tokens` tells them
    lexicons         axis -> group -> words, for texts that are finished
    balance          token (default): the next word names the groups of an axis alike; population: the texts do, by weight, and
                     the balanced law of a token is no more than what it is drawn from
    debias_strength  0 to 1: how far towards equal masses
    budget           nats, KL(b ‖ p) + KL(q ‖ b) of all its tokens, that a text may spend before detox steers it no further
    gate             the mass of p on what the signal objects to, from which on a token is steered
    balance_gate     the difference between two groups' masses, from which on a token is balanced
    method           tilt (default): p·ψ^β on the candidates, others as they are; offset: its natural-gradient offset of the
                     final hidden state, on the candidates and all tokens of mass 1e-4 and more; both: the tilt where it is known
                     and the offset elsewhere. Offsets reach tokens that the signal does not know, and spend some ten times the KL
    candidates       K, the likeliest tokens, whose texts the signal reads where the gate is open
    tail             letters the prompt ends in, which a text may go on with
    named            axes of which the prompt has named a group: they are balanced no more
    """

    detox: float = 0.0
    signal: str = "profanity"
    debias: tuple[tuple[str, Groups], ...] = ()
    lexicons: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    balance: str = "token"
    debias_strength: float = 1.0
    budget: float = BUDGET
    gate: float = 0.005
    balance_gate: float = 0.01
    method: str = "tilt"
    candidates: int = 64
    tail: str = ""
    named: tuple[str, ...] = ()

    def travelling(self) -> dict[str, Any]:
        """The same as plain data."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


SETTINGS = ("detox", "debias", "adaptation")
_OWN = ("signal", "budget", "gate", "balance", "balance_gate", "method", "candidates", "debias_strength")


def adaptation_of(
    options: Mapping[str, Any], place: str = "", signal_here: bool = True
) -> tuple[Adaptation, tuple[Axis, ...]] | None:
    """What `detox=`, `debias=` and `adaptation=` ask for; None where they ask for nothing.

    Axes come beside it: their tokens are found when the vocabulary is at hand. place: before the names, in messages;
    signal_here: false where another server's operator has named the signal, and it is there that it is looked for.
    Raises RequestError naming what is out of range or unknown.
    """
    detox = _number(0.0 if options.get("detox") is None else options["detox"], f"{place}detox", 0.0, MOST_STRENGTH)
    axes = _axes(options.get("debias"), f"{place}debias")
    own = options.get("adaptation")
    own = {} if own is None else own
    if not isinstance(own, Mapping):
        raise RequestError(f"{place}adaptation={own!r:.80}: an object of settings was wanted: {', '.join(_OWN)}")
    for name in own:
        if name not in _OWN:
            raise RequestError(f"{place}adaptation: unknown setting {name!r}; there are {', '.join(_OWN)}")
    if own and not detox and not axes:
        raise RequestError(f"{place}adaptation is given, but neither detox nor debias: it would do nothing")
    if not detox and not axes:
        return None
    where = f"{place}adaptation."
    chosen = {}
    for name, there in (("method", METHODS), ("balance", BALANCES)):
        chosen[name] = own.get(name, getattr(Adaptation, name))
        if chosen[name] not in there:
            raise RequestError(f"{where}{name}={chosen[name]!r:.80}: one of {', '.join(there)} was wanted")
    if chosen["balance"] == "population" and not axes:
        raise RequestError(f"{where}balance='population' balances the groups of debias: name them there")
    candidates = own.get("candidates", Adaptation.candidates)
    if isinstance(candidates, bool) or not isinstance(candidates, int) or not 2 <= candidates <= 1024:
        raise RequestError(f"{where}candidates={candidates!r:.80}: a whole number from 2 to 1024 was wanted")
    made = Adaptation(
        detox=detox,
        signal=handle_of(own.get("signal", Adaptation.signal)),
        debias_strength=_number(own.get("debias_strength", 1.0), f"{where}debias_strength", 0.0, 1.0),
        budget=_number(own.get("budget", BUDGET), f"{where}budget", 0.0, 1e6),
        gate=_number(own.get("gate", Adaptation.gate), f"{where}gate", 0.0, 1.0),
        balance_gate=_number(own.get("balance_gate", Adaptation.balance_gate), f"{where}balance_gate", 0.0, 1.0),
        **chosen,
        candidates=candidates,
    )
    if detox and signal_here:
        signal_of(made.signal)  # what is not there is told now
    return made, axes


def _axes(given: Any, place: str) -> tuple[Axis, ...]:
    several = () if given is None else (given,) if isinstance(given, str | Mapping) else given
    if not isinstance(several, Sequence):
        raise RequestError(f"{place}={given!r:.80}: a list of axes was wanted")
    if len(several) > MOST_AXES:
        raise RequestError(f"{place} has {len(several)} axes: at most {MOST_AXES} are balanced")
    axes = tuple(axis_of(one, f"{place}[{k}]") for k, one in enumerate(several))
    names = [axis.name for axis in axes]
    for name in names:
        if names.count(name) > 1:
            raise RequestError(f"{place}: axis {name!r} is there twice: give each a name of its own")
    return axes


def _number(given: Any, place: str, least: float, most: float) -> float:
    if isinstance(given, bool) and place.endswith("detox"):
        return float(given)
    # NaN lies nowhere.
    if isinstance(given, bool) or not isinstance(given, int | float | np.number) or not least <= given <= most:
        raise RequestError(f"{place}={given!r:.80}: a number from {least:g} to {most:g} was wanted")
    return float(given)


def settle(
    adaptation: Adaptation, axes: Sequence[Axis], prompt: bytes, vocabulary: Any, added: str | None = None
) -> dict[str, Any]:
    """The adaptation of one prompt on one model, as plain data. prompt: its text's last part is looked at, 400 characters.

    added  what stands in the prompt and is not its author's, such as a schema that the model is told: it names nobody
    """
    whole = prompt.decode("utf-8", errors="replace")
    text = (whole.replace(added.strip(), " ") if added and added.strip() else whole)[-400:]
    # \Z, for $ looks past a newline: a chat's prompt ends in "assistant\n", and no answer goes on with that word.
    letters = re.search(r"\w*\Z", text)
    return replace(
        adaptation,
        debias=tuple((axis.name, axis.tokens(vocabulary)) for axis in axes),
        lexicons={axis.name: dict(axis.groups) for axis in axes},
        tail=letters.group() if letters else "",
        named=tuple(axis.name for axis in axes if axis.is_named_in(text)),
    ).travelling()
