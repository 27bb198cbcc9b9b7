"""Where a text was steered: its tokens in colour, and the laws before and after."""

from __future__ import annotations

import math
import os
import sys
from typing import TYPE_CHECKING

from server.cli_output import note, table

if TYPE_CHECKING:
    from decoding.request import Result
    from grammars.vocabulary import Vocabulary

SHOWN = 8
# A token whose probability steering at least doubled, or halved.
MOVED = math.log(2.0)
_RAISED, _LOWERED, _OPEN, _END = "\x1b[32m", "\x1b[31m", "\x1b[33m", "\x1b[0m"


def explain_steering(result: Result, vocabulary: Vocabulary, particle: int) -> None:
    """Print one particle's text on stderr with what steering did to each token, and its KL.

    In colour on a terminal: green where a token became at least twice as likely, red where at most half, yellow where the gate
    was open and it did not move so far. Elsewhere, and with NO_COLOR, marked {+token+}, {-token-}, {token}.
    """
    assert result.adaptation is not None
    kl, ratios = result.adaptation.kl_tokens[particle], result.adaptation.log_ratios[particle]
    tokens = result.tokens[particle]
    texts = [vocabulary.bytes_of(token).decode("utf-8", errors="replace") for token in tokens]
    texts += ["<end>"] * (len(kl) - len(texts))
    opened = [k for k, nats in enumerate(kl) if nats > 0.0]
    total = sum(kl)
    note(
        f"steered at {len(opened)} of {len(kl)} tokens: {total:.3f} nats of KL, {total / max(len(kl), 1):.4f} a token"
        + ("; a draw from the steered law, which its weight corrects" if result.adaptation.is_proposal else "")
    )
    for axis in result.adaptation.named_by_prompt:
        note(f"{axis}: not balanced, the prompt names somebody itself")
    for axis, shares in result.adaptation.group_shares.items():
        if any(shares.values()):
            told = ", ".join(f"{group} {share:.2f}" for group, share in shares.items())
            note(f"{axis}, by the texts' weights: {told} of those that name somebody")
    if not opened:
        return
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    note("".join(_marked(text, nats, ratio, colour) for text, nats, ratio in zip(texts, kl, ratios, strict=True)))
    dearest = sorted(opened, key=lambda k: -kl[k])[:SHOWN]
    rows = [["step", "token", "q / p", "KL"]]
    rows += [
        [str(k + 1), repr(texts[k]), f"{math.exp(min(ratios[k], 700.0)):.3g}", f"{kl[k]:.4f}"] for k in sorted(dearest)
    ]
    for line in table(rows, right=frozenset({0, 2, 3})):
        note(line)


def _marked(text: str, nats: float, ratio: float, colour: bool) -> str:
    if nats <= 0.0:
        return text
    kind = _RAISED if ratio >= MOVED else _LOWERED if ratio <= -MOVED else _OPEN
    if colour:
        return f"{kind}{text}{_END}"
    sign = {_RAISED: "+", _LOWERED: "-", _OPEN: ""}[kind]
    return f"{{{sign}{text}{sign}}}"
