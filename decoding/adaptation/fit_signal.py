"""Fit a linear signal to texts of your own.

    python -m decoding.adaptation.fit_signal --texts scored_text.jsonl --output head.npz [--start profanity]

The lines are such as {"text": "...", "toxicity": 0.3}. Every fifth pair of lines is held out (a prompt and its continuation stay
together), and what the signal is worth on them is printed. The file's path is then the signal's name: `signal_named("head.npz")`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from decoding.adaptation.identity_terms import ALL_IDENTITY_TERMS
from decoding.adaptation.linear_signal import LinearSignal
from decoding.adaptation.logistic import fit_logistic
from decoding.adaptation.scored_texts import ScoredTexts, auc, read_scored_texts
from decoding.adaptation.signals import signal_named
from decoding.adaptation.tfidf import tfidf, vocabulary_of
from grammars.errors import RequestError, ReweighError

# Of the squared weights of words, in nats a text.
PENALTY = 3e-5
# How far a start may be scaled is next to free.
SCALE_PENALTY = 1e-6
LEAST_TEXTS = 2


def fit_signal(
    texts: ScoredTexts,
    name: str,
    start: LinearSignal | None = None,
    keep_identity: bool = False,
    penalty: float = PENALTY,
) -> LinearSignal:
    """One head over the words of the texts (those in two of them or more), by logistic regression with their scores as targets.

    start          a signal to go on from: its words come in, with its idf, and the new head is its heads' mean times a factor that
                   is fitted, plus what the texts teach beyond it. Its identity terms stay as they are in it
    keep_identity  let the texts teach something about words that say who somebody is; otherwise they mean nothing
    penalty        of the squared weights, or of their distance from the scaled start
    """
    if not 0 < penalty < float("inf"):
        raise RequestError(f"penalty={penalty}: wanted a number above 0")
    own, own_idf = vocabulary_of(texts.texts, LEAST_TEXTS)
    words = dict(start.words) if start else {}
    new = [word for word in own if word not in words]
    words |= {word: column for column, word in enumerate(new, start=len(words))}
    if not words:
        raise RequestError(
            f"no word stands in {LEAST_TEXTS} of the {len(texts.texts)} texts: there is nothing to learn from"
        )
    idf = np.concatenate([start.idf if start else np.zeros(0), own_idf[[own[word] for word in new]]])
    known = np.zeros(len(words))
    if start:
        known[: len(start.words)] = (-start.slopes[:, None] * start.coefficients).mean(0)
    rows, columns, values = tfidf(texts.texts, words, idf)
    fixed = np.array([not keep_identity and word in ALL_IDENTITY_TERMS for word in words])
    said = np.bincount(rows, values * known[columns], minlength=len(texts.texts))  # by the start, of every text
    free = ~fixed[columns]
    count, width = len(texts.texts), len(words)
    weights, intercept = fit_logistic(
        np.concatenate([rows[free], np.arange(count)]),
        np.concatenate([columns[free], np.full(count, width)]),
        np.concatenate([values[free], said]),
        texts.toxicity,
        np.concatenate([np.full(width, penalty), [SCALE_PENALTY]]),
    )
    return LinearSignal(
        name=name,
        words=words,
        idf=idf,
        coefficients=(weights[:width] + weights[width] * known)[None],
        intercepts=np.array([intercept]),
        slopes=np.array([-1.0]),
        offsets=np.zeros(1),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m decoding.adaptation.fit_signal", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--texts", type=Path, required=True, help="JSON lines with text and toxicity")
    parser.add_argument("--output", type=Path, required=True, help="the .npz file to write")
    parser.add_argument("--start", help="a linear signal to go on from: profanity, or a .npz file")
    parser.add_argument(
        "--held-out", type=float, default=0.2, help="share of the pairs of lines to judge by (default .2)"
    )
    parser.add_argument("--penalty", type=float, default=PENALTY, help=f"of squared weights (default {PENALTY:g})")
    parser.add_argument("--keep-identity", action="store_true", help="learn about words that say who somebody is, too")
    options = parser.parse_args(arguments)
    try:
        if options.output.suffix != ".npz":
            raise RequestError(
                f"--output {options.output}: wanted a name that ends in .npz, by which the signal is then found"
            )
        start = signal_named(options.start) if options.start else None
        if start is not None and not isinstance(start, LinearSignal):
            raise RequestError(f"--start {options.start}: only a linear signal can be gone on from")
        fitted, held_out = read_scored_texts(options.texts).split(options.held_out)
        for part in (fitted, held_out):
            if len(set(part.toxic)) < 2:
                raise RequestError(
                    f"{options.texts}: of {len(part.texts)} texts {part.toxic.sum()} are toxic (>= .5); wanted some of both, "
                    "to fit on and to judge by: give more texts"
                )
        signal = fit_signal(fitted, options.output.stem, start, options.keep_identity, options.penalty)
        signal.save(options.output)
    except (ReweighError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    scores = {"fitted": signal} | ({options.start: start} if start else {})
    line = {
        "output": str(options.output),
        "texts": len(fitted.texts),
        "words": len(signal.words),
        "held_out": len(held_out.texts),
        "auc": {name: round(auc(each.log_odds(held_out.texts), held_out.toxic), 4) for name, each in scores.items()},
    }
    print(json.dumps(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
