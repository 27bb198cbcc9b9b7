"""`reweigh check`: what a constraint enforces and how, and where a text leaves it."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.cli_constraints import LANGUAGES
from server.cli_errors import NOTHING, OK
from server.cli_inputs import read_text
from server.cli_output import as_line, emit, table

if TYPE_CHECKING:
    from grammars.constraint import Language
    from grammars.json_report import Report
    from grammars.json_schema import JsonSchema
    from server.cli_verdict import Verdict

# The option that names the constraint, and the command that has the same.
KINDS = {
    "schema": "json",
    "pattern": "regex",
    "lark": "grammar",
    "options": "choice",
    "names": "choice",
    "smiles": "smiles",
    "problem": "pddl",
    "db": "sql",
    "function": "predicate",
    "constraint": "text",
}


def run(options: argparse.Namespace) -> int:
    """Print the report, then the verdict on --text. Returns 3 for a text that is not accepted."""
    kind = next(kind for name, kind in KINDS.items() if getattr(options, name) not in (None, False))
    language = LANGUAGES[kind](options)
    assert language is not None, "the parser asks for a constraint"
    found: dict[str, Any] = {"version": 1, "constraint": kind}
    if kind == "json":
        report = _json_report(language)
        found |= asdict(report)
        lines = _json_lines(report)
    else:
        enforced, compile_ms = _enforcement(language)
        found |= {"enforced_by": enforced, "compile_ms": compile_ms}
        lines = [f"{kind}: enforced by {enforced}, compiled in {compile_ms:.2f} ms"]
    verdict = None
    if options.text is not None:
        from server.cli_verdict import verdict_on

        verdict = verdict_on(language, _text_of(options.text))
        found["verdict"] = asdict(verdict)
        lines.append(_verdict_line(verdict))
    if options.as_json:
        emit(as_line(found))
    else:
        for line in lines:
            emit(line)
    return OK if verdict is None or verdict.accepted else NOTHING


def _json_report(language: Language) -> Report:
    from grammars.json_report import report
    from grammars.json_schema import JsonSchema
    from grammars.membership import byte_vocabulary
    from grammars.registry import compile_cached

    assert isinstance(language, JsonSchema)
    # Its time is limited; the report then compiles once more, which takes no longer.
    compile_cached(language, byte_vocabulary())
    return report(language.schema, byte_vocabulary(), **_options_of(language))


def _options_of(language: JsonSchema) -> dict[str, Any]:
    return {name: getattr(language, name) for name in ("whitespace", "order", "spelling", "formats", "registry")}


def _json_lines(report: Report) -> list[str]:
    rows = [["path", "keyword", "value", "enforced by"]]
    rows += [[row.path, row.keyword, row.value, row.enforced_by] for row in report.rows]
    how = "the mask alone enforces it" if report.mask_is_exact else "a mask, and a test of what passes it"
    return [*table(rows), "", f"{how}; compiled in {report.compile_ms:.2f} ms"]


def _enforcement(language: Language) -> tuple[str, float]:
    """What enforces a constraint at its first token, and milliseconds to compile it. Raises Unsatisfiable as `start` does."""
    from grammars.membership import byte_vocabulary
    from grammars.registry import compile_cached

    begun = time.perf_counter()
    constraint = compile_cached(language, byte_vocabulary())
    compile_ms = 1e3 * (time.perf_counter() - begun)
    if not constraint.can_mask:
        constraint.start()
        return "a test of each candidate", compile_ms
    exact = constraint.start().mask_is_exact
    return "a mask" if exact else "a mask, and a test of what passes it", compile_ms


def _text_of(given: str) -> str:
    """The text to judge; of a file the last line's end does not count."""
    if given != "-" and not _is_file(given):
        return given
    text = read_text(given)
    return text[:-1] if text.endswith("\n") else text


def _is_file(given: str) -> bool:
    try:
        return Path(given).is_file()
    except (OSError, ValueError):  # too long for a name, or with a NUL
        return False


def _verdict_line(verdict: Verdict) -> str:
    if verdict.accepted:
        return "accepted"
    place = f"character {verdict.character + 1} (line {verdict.line}, column {verdict.column}; byte {verdict.byte})"
    after = f"after {verdict.before!r}"
    if verdict.found is None:
        line = f"refused: it ends too early, at {place}, {after}"
    else:
        line = f"refused: {verdict.found!r} at {place}, {after}"
    return f"{line}; wanted: {', '.join(verdict.wanted)}" if verdict.wanted else line
