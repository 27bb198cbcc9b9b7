"""`reweigh sql`: the query, or with --execute its rows."""

from __future__ import annotations

import argparse
from pathlib import Path

from server import cli_generate
from server.cli_errors import OK, UsageError
from server.cli_output import note, summary, write


def run(options: argparse.Namespace) -> int:
    """Draw a query; print it, or run it read-only in a process of its own and print what it gives."""
    if not options.execute:
        for name in ("csv", "jsonl", "max_rows", "query_timeout"):
            if getattr(options, name) not in (None, False):
                raise UsageError(f"--{name.replace('_', '-')} is about the rows of --execute, which was not given")
        return cli_generate.run(options)
    if options.input is not None or options.output is not None:
        raise UsageError("--execute is for a single question: leave it out with --input")
    if options.n != 1:
        raise UsageError("--execute runs the likeliest query: leave out --n")
    if options.db is None:
        raise UsageError("--execute runs the query on --db, which was not given")
    from decoding.sql_execution import Limits, execute, render

    given = {"max_rows": options.max_rows, "timeout_s": options.query_timeout}
    try:
        limits = Limits(**{name: value for name, value in given.items() if value is not None})
    except ValueError as error:
        raise UsageError(str(error)) from error
    drawn = cli_generate.draw(options)
    query = drawn.result.parsed
    if not options.quiet:
        note(query)
        note(summary(drawn.result))
    database = options.db if "://" in options.db else str(Path(options.db).absolute())
    rows = execute(database, query, limits)
    form = "csv" if options.csv else "jsonl" if options.jsonl else "json" if options.as_json else "table"
    write(render(rows, form))
    if rows.truncated and form != "table":
        note(f"reweigh: the result was cut at the limit of {rows.truncated}")
    return OK
