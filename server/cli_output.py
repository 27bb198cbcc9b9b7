"""What a result looks like on stdout, and its summary on stderr."""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decoding.request import Result

ENVELOPE_VERSION = 1
_SURROGATE = re.compile("[\\ud800-\\udfff]")


def envelope(result: Result, *, model: str, load_s: float | None) -> dict[str, Any]:
    """A result as one JSON object: no NaN, no infinity. Raises the result's error, where it has one."""
    from decoding.request import jsonable

    values: dict[str, Any] = {}
    for text, value in zip(result.texts, result.values, strict=True):
        values.setdefault(text, jsonable(value))
    posterior = [
        {"text": text, "weight": weight, "parsed": values[text]} for text, weight in result.posterior().items()
    ]
    best = posterior[0]
    plain = result.as_dict()
    return {
        "version": ENVELOPE_VERSION,
        "text": best["text"],
        "parsed": best["parsed"],
        "weight": best["weight"],
        "posterior": posterior,
        "log_z": plain["log_z"],
        "ess": plain["ess"],
        "seed": plain["seed"],
        "model": model,
        "usage": plain["usage"],
        "timings": {"load_s": load_s, "wall_s": result.stats.wall_s, "queued_s": result.stats.queued_s},
        "checks_per_token": result.stats.checks_per_token,
        "masks_per_token": result.stats.masks_per_token,
        "texts": plain["texts"],
        "log_weights": plain["log_weights"],
        "weights": plain["weights"],
        "finish_reasons": plain["finish_reasons"],
        "values": [values[text] for text in result.texts],
        **({"adaptation": plain["adaptation"]} if "adaptation" in plain else {}),
        "stats": plain["stats"],
        "ancestry": plain["ancestry"],
    }


def as_line(value: Any) -> str:
    """A value as one line of JSON, in UTF-8 unless it holds half a character, which only an escape can say."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return line if line.isascii() or not _SURROGATE.search(line) else json.dumps(value, allow_nan=False)


def show(result: Result, options: argparse.Namespace, *, model: str, load_s: float | None) -> None:
    """The result alone on stdout; its summary on stderr."""
    if options.as_json:
        emit(as_line(envelope(result, model=model, load_s=load_s)))
    else:
        for text, _ in result.n_best(options.n):
            emit(text)
    if not options.quiet:
        note(summary(result))


def emit(text: str) -> None:
    """A line on stdout."""
    write(f"{text}\n")


def write(text: str) -> None:
    """Text on stdout, at once and in UTF-8 whatever the locale says."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def note(text: str) -> None:
    """A line for the user, on stderr."""
    print(text, file=sys.stderr, flush=True)


def summary(result: Result) -> str:
    stats = result.stats
    return (
        f"log_z {result.log_z:.3f} · ess {result.ess:.2f} of {len(result.texts)} · {result.usage.sampled_tokens} tokens sampled · "
        f"{stats.checks_per_token:.2f} checks and {stats.masks_per_token:.2f} masks a token · {stats.wall_s:.2f} s · "
        + ("" if result.adaptation is None else f"{result.adaptation.kl_per_token:.4f} nats of steering a token · ")
        + f"seed {result.seed}"
    )


def table(rows: list[list[str]], *, right: frozenset[int] = frozenset()) -> list[str]:
    """Lines of a table whose first row is its head. right  columns aligned to the right"""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if k in right else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
