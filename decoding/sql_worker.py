"""The process in which a query runs: it reads, it cannot write, and it may be killed at any time.

stdin: one JSON object with database, query, timeout_s, max_rows, max_bytes, memory_mib. stdout: JSON lines, first the columns,
then a list for each row, last an object with `truncated`, or one with `error` and its kind.
"""

from __future__ import annotations

import json
import math
import resource
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from grammars.errors import GrammarError

# An interpreter's own address space, beside what the query may have.
INTERPRETER_MIB = 400


def main() -> None:
    request = json.load(sys.stdin)
    seconds = math.ceil(request["timeout_s"]) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    space = (request["memory_mib"] + INTERPRETER_MIB) << 20
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    # Nobody handles this signal, so the kernel ends the process, whatever native code is at work.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    try:
        _emit(_capped(*_run(request), request))
    except MemoryError:
        _emit([{"error": f"the query needs more than {request['memory_mib']} MiB", "kind": "memory"}])
    except GrammarError as error:
        _emit([{"error": str(error), "kind": "connection"}])
    except _Refused as error:
        _emit([{"error": str(error), "kind": "refused"}])
    except _Failed as error:
        _emit([{"error": str(error), "kind": "database"}])


class _Refused(Exception):
    """A statement that does more than read."""


class _Failed(Exception):
    """The database's own error."""


Rows = tuple[list[str], Iterator[Iterable[Any]]]


def _run(request: dict[str, Any]) -> Rows:
    from grammars.queries.database import sqlite_file

    path = sqlite_file(request["database"])
    return _run_sqlite(path, request) if path is not None else _run_server(request)


def _run_sqlite(path: Path, request: dict[str, Any]) -> Rows:
    import sqlite3

    from grammars.queries.sqlite import allow_only_reading, open_read_only

    # Whatever a statement may find to write to a file with: not more than a read-only database's own shared-memory index.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    connection = open_read_only(path)
    for pragma in ("query_only = ON", "temp_store = MEMORY", "trusted_schema = OFF", "cell_size_check = ON"):
        connection.execute(f"PRAGMA {pragma}")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(request["max_bytes"], 1000))
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.text_factory = lambda data: data.decode(errors="replace")
    signal.setitimer(signal.ITIMER_REAL, request["timeout_s"])
    try:
        allow_only_reading(connection)
        cursor = connection.execute(request["query"])
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise _of_sqlite(error) from error
    if cursor.description is None:
        raise _Refused("the statement gives no rows: only SELECT is run")

    def rows() -> Iterator[Iterable[Any]]:
        try:
            yield from cursor
        except sqlite3.Error as error:
            raise _of_sqlite(error) from error

    return [column[0] for column in cursor.description], rows()


def _of_sqlite(error: Exception) -> Exception:
    text = str(error)
    if any(part in text for part in ("not authorized", "authorization denied", "prohibited", "one statement")):
        return _Refused(f"{text}: one SELECT that only reads is run, nothing else")
    return MemoryError() if "out of memory" in text else _Failed(text)


def _run_server(request: dict[str, Any]) -> Rows:
    import sqlalchemy

    from grammars.queries.server import connect, open_engine, read_rows

    connection = connect(open_engine(request["database"]), int(1000 * request["timeout_s"]))
    try:
        signal.setitimer(signal.ITIMER_REAL, request["timeout_s"])
        columns, found = read_rows(connection, request["query"])
    except sqlalchemy.exc.DBAPIError as error:
        raise _Failed(str(error.orig).strip()) from error

    def rows() -> Iterator[Iterable[Any]]:
        try:
            yield from found
        except sqlalchemy.exc.DBAPIError as error:
            raise _Failed(str(error.orig).strip()) from error
        finally:
            connection.rollback()

    return columns, rows()


def _capped(columns: list[str], rows: Iterator[Iterable[Any]], request: dict[str, Any]) -> Iterator[Any]:
    yield {"columns": columns}
    written = 0
    for k, row in enumerate(rows):
        if k >= request["max_rows"]:
            yield {"truncated": "rows"}
            return
        values = [_plain(value) for value in row]
        written += sum(len(value) if isinstance(value, str) else 8 for value in values)
        if written > request["max_bytes"]:
            yield {"truncated": "bytes"}
            return
        yield values
    yield {"truncated": ""}


def _plain(value: Any) -> Any:
    """A value that JSON has: bytes as hexadecimal digits, dates and decimals as their text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value.hex() if isinstance(value, bytes | bytearray | memoryview) else str(value)


def _emit(lines: Iterable[Any]) -> None:
    for line in lines:
        sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
