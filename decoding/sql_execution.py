"""Run a query that a model wrote: read only, in a process of its own that is killed when it takes too long or too much."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import signal
import subprocess
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decoding.killable import answered
from grammars.errors import GrammarError, ReweighError

CELL_WIDTH = 60
FORMATS = ("table", "csv", "json", "jsonl")


class ExecutionError(ReweighError):
    """The query did not run to its end. `kind` is database (its own error), refused (it would do more than read), connection,
    timeout or memory."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class ExecutionTimeout(ExecutionError, TimeoutError):
    """The query was killed at its time limit."""


@dataclass(frozen=True)
class Limits:
    """timeout_s: wall clock, after which the process is killed; memory_mib: what it may allocate; the rest cuts the result."""

    timeout_s: float = 10.0
    max_rows: int = 1000
    max_bytes: int = 1_000_000
    memory_mib: int = 512

    def __post_init__(self) -> None:
        for name in ("timeout_s", "max_rows", "max_bytes", "memory_mib"):
            value, kind = getattr(self, name), int | float if name == "timeout_s" else int
            if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value < math.inf:
                raise ValueError(f"{name}={value!r} must be a {'' if kind is not int else 'whole '}number above 0")


@dataclass(frozen=True)
class Rows:
    """What a query gave. truncated: "" for all of it, else which limit cut it: rows or bytes."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: str = ""


def execute(database: str, query: str, limits: Limits | None = None) -> Rows:
    """Run one SELECT.

    database  a SQLite file or an SQLAlchemy URL, as `Sql` takes it
    query     the statement; a `;` may follow it

    SQLite: the file is opened read-only, an authorizer lets statements read and call functions and nothing else (ATTACH,
    VACUUM INTO and PRAGMA are refused), values are bounded, temporary tables stay in bounded memory. Other databases: a
    read-only transaction that is rolled back, one statement of SELECT form that calls well-known functions only (none that
    reads the server's files), a time limit of the server's own. Give an account that may do no more than read all the same.
    Raises ExecutionError, ExecutionTimeout.
    """
    limits = limits or Limits()
    query = query.strip().removesuffix(";")
    if any("\ud800" <= char <= "\udfff" for char in query):
        raise ExecutionError("the query has half of a character (a lone surrogate), which is no text", "database")
    _check(database, query)
    request = {
        "database": database, "query": query, "timeout_s": limits.timeout_s,
        "max_rows": limits.max_rows, "max_bytes": limits.max_bytes, "memory_mib": limits.memory_mib,
    }  # fmt: skip
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    try:
        answer = answered(["-m", "decoding.sql_worker"], request, {**os.environ, "PYTHONPATH": path}, limits.timeout_s)
    except subprocess.TimeoutExpired:
        raise _too_late(limits) from None
    return _read(*answer, limits)


def _check(database: str, query: str) -> None:
    """Refuse for other databases than SQLite, which has its authorizer, what is not one SELECT by its syntax."""
    from grammars.queries.database import sqlite_file
    from grammars.queries.judge import not_a_select
    from grammars.queries.server import dialect_of_url

    try:
        if sqlite_file(database) is not None:
            return
        reason = not_a_select(query, dialect_of_url(database))
    except GrammarError as error:
        raise ExecutionError(str(error), "connection") from error
    if reason is not None:
        raise ExecutionError(f"{reason}: one SELECT that only reads is run, nothing else", "refused")


def _too_late(limits: Limits) -> ExecutionTimeout:
    return ExecutionTimeout(
        f"the query was stopped after {limits.timeout_s:g} s: raise the time limit, or ask for less", "timeout"
    )


def _read(out: bytes, complaints: bytes, code: int, limits: Limits) -> Rows:
    lines = [json.loads(line) for line in out.decode().splitlines() if line]
    if not lines or not isinstance(lines[-1], dict) or not ({"truncated", "error"} & lines[-1].keys()):
        if code in (-signal.SIGALRM, -signal.SIGXCPU, -signal.SIGKILL):
            raise _too_late(limits)
        said = complaints.decode(errors="replace").strip().splitlines()
        if said and any(sign in said[-1] for sign in ("MemoryError", "cannot allocate memory", "bad_alloc")):
            raise ExecutionError(f"the query needs more than {limits.memory_mib} MiB", "memory")
        raise ExecutionError(f"the query's process ended with code {code}{': ' + said[-1] if said else ''}", "database")
    last = lines[-1]
    if "error" in last:
        raise ExecutionError(last["error"], last["kind"])
    return Rows(tuple(lines[0]["columns"]), tuple(tuple(row) for row in lines[1:-1]), last["truncated"])


def render(rows: Rows, form: str = "table") -> str:
    """Rows as text: an aligned table, CSV, one JSON array of objects, or an object a line. It ends with a line end."""
    if form not in FORMATS:
        raise ValueError(f"form={form!r} must be one of {', '.join(FORMATS)}")
    if form == "table":
        return _table(rows)
    if form == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(rows.columns)
        writer.writerows(rows.rows)
        return text.getvalue()
    names = _distinct(rows.columns)
    objects = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) for row in rows.rows]
    if form == "jsonl":
        return "".join(line + "\n" for line in objects)
    return "[" + ",\n ".join(objects) + "]\n"


def _distinct(columns: tuple[str, ...]) -> list[str]:
    """Names for the members of an object: a column that comes again is numbered."""
    names: list[str] = []
    for column in columns:
        name, count = column, 1
        while name in names:
            count += 1
            name = f"{column}_{count}"
        names.append(name)
    return names


def _table(rows: Rows) -> str:
    cells = [[_cell(value) for value in row] for row in (rows.columns, *rows.rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    numeric = [
        bool(rows.rows) and all(isinstance(row[k], int | float) or row[k] is None for row in rows.rows)
        for k in range(len(widths))
    ]
    lines = []
    for n, row in enumerate(cells):
        padded = [
            " " * (width - _width(cell)) + cell if right and n else cell + " " * (width - _width(cell))
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
        if n == 0:
            lines.append("  ".join("-" * width for width in widths))
    counted = f"({len(rows.rows)} row{'' if len(rows.rows) == 1 else 's'}"
    lines.append(counted + (f", cut at the limit of {rows.truncated})" if rows.truncated else ")"))
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    text = "NULL" if value is None else str(value)
    # A line of the table is a line: control characters, the terminal's own among them, are shown as they are written.
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return text if len(text) <= CELL_WIDTH else text[: CELL_WIDTH - 1] + "…"


def _width(text: str) -> int:
    """Columns on a terminal."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )
