"""SQLite databases, opened so that nothing can be written: what is in them, and whether a query compiles."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grammars.errors import GrammarError
from grammars.queries.schema import ANY, BOOL, NUMBER, TEXT, TIME, Column, ForeignKey, Schema, Table, kinds_of_type

if TYPE_CHECKING:
    import sqlite3

SAMPLED_ROWS = 200
INTROSPECTION_S = 5.0
EXPLAIN_S = 2.0
# Of the values of a text column this part must read as numbers for it to be compared with numbers.
NUMERIC_SHARE = 0.1

_NUMERIC = re.compile(r"\s*[+-]?[0-9]+(\.[0-9]*)?\s*")


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection to a file that is not created, changed or locked for writing."""
    import sqlite3

    if not path.is_file():
        raise GrammarError(f"no SQLite file at {path}: give the path of an existing database, or an SQLAlchemy URL")
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        connection.close()
        raise GrammarError(
            f"{path} cannot be read as a SQLite database ({error}): give the path of a database file"
        ) from error
    return connection


def open_declared(ddl: str) -> sqlite3.Connection:
    """An empty database in memory with the tables and views of some CREATE statements, and nothing else that they could do."""
    import sqlite3

    allowed = {
        sqlite3.SQLITE_CREATE_TABLE,
        sqlite3.SQLITE_CREATE_VIEW,
        sqlite3.SQLITE_CREATE_INDEX,
        sqlite3.SQLITE_INSERT,  # into sqlite_master, where the statement is kept
        sqlite3.SQLITE_UPDATE,
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_FUNCTION,
        sqlite3.SQLITE_TRANSACTION,
        sqlite3.SQLITE_REINDEX,
    }

    def authorize(action: int, first: str | None, *_: str | None) -> int:
        if action in (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE) and first not in ("sqlite_master", "sqlite_schema"):
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY

    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.set_authorizer(authorize)
    try:
        with _deadline(connection, INTROSPECTION_S):
            connection.executescript(ddl)
    except sqlite3.Error as error:
        connection.close()
        raise GrammarError(
            f"the schema's CREATE statements are refused: {error}; only CREATE TABLE, VIEW and INDEX are taken"
        ) from error
    connection.set_authorizer(None)
    return connection


def allow_only_reading(connection: sqlite3.Connection) -> None:
    """Let statements read tables and call functions, and nothing else: no ATTACH, VACUUM, transaction or extension."""
    import sqlite3

    _connect_virtual_tables(connection)
    allowed = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}
    refused_functions = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"}

    def authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
        if action == sqlite3.SQLITE_FUNCTION:
            return sqlite3.SQLITE_DENY if (second or "").lower() in refused_functions else sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_PRAGMA and first in ("data_version", "page_size") and second is None:
            return sqlite3.SQLITE_OK  # what a full-text table asks before it is read
        return sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY

    connection.set_authorizer(authorize)


def _connect_virtual_tables(connection: sqlite3.Connection) -> None:
    """Let SQLite open every virtual table (full-text, R-tree) once: it asks for more than reading then, and never again."""
    import sqlite3

    listed = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%'"
    for (name,) in connection.execute(listed).fetchall():
        with contextlib.suppress(sqlite3.Error):  # of a module that is not there: no query can name the table
            connection.execute(f"SELECT 1 FROM {_quoted(name)} LIMIT 0").fetchall()


def read_schema(connection: sqlite3.Connection) -> Schema:
    """Tables and views with columns, keys, and the kinds of values that the first rows show.

    What SQLite cannot read itself, a view of a table that is gone or a table of a module that is not there, is left out.
    """
    import sqlite3

    tables, left_out = [], []
    # A virtual table keeps its data in tables that are its own affair; SQLite tells which since 3.37, and which have a rowid.
    tells = sqlite3.sqlite_version_info >= (3, 37)
    shadows = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'shadow'"
    no_shadows = f"AND name NOT IN ({shadows})" if tells else ""
    rowids = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type <> 'view' AND NOT wr" if tells else ""
    with _deadline(connection, INTROSPECTION_S):
        listed = connection.execute(
            "SELECT name, type FROM sqlite_master WHERE type IN ('table', 'view') "
            f"AND name NOT LIKE 'sqlite!_%' ESCAPE '!' {no_shadows} ORDER BY rowid"
        ).fetchall()
        with_rowid = {name for (name,) in connection.execute(rowids)} if rowids else set()
        for name, kind in listed:
            try:
                table = _table(connection, name, kind == "view")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                    raise
                left_out.append(f"{kind} {name} ({error})")
                continue
            tables.append(replace(table, has_rowid=name in with_rowid))
    return Schema(_with_kinds_of_keys(tables), "main", tuple(left_out))


def _table(connection: sqlite3.Connection, name: str, is_view: bool) -> Table:
    # hidden = 1: a column of a virtual table that only its own syntax reads.
    rows = connection.execute("SELECT name, type, pk FROM pragma_table_xinfo(?) WHERE hidden <> 1", (name,)).fetchall()
    # The rows of a view may take long to make, and its columns have the types of the tables beneath.
    values = [()] * len(rows) if is_view else _samples(connection, name, [row[0] for row in rows])
    columns = tuple(
        Column(column, declared, _kinds(declared, seen))
        for (column, declared, _), seen in zip(rows, values, strict=True)
    )
    keys: dict[int, list[tuple[str, str, str | None]]] = {}
    for key, table, source, target in connection.execute(
        'SELECT id, "table", "from", "to" FROM pragma_foreign_key_list(?) ORDER BY id, seq', (name,)
    ).fetchall():
        keys.setdefault(key, []).append((table, source, target))
    return Table(
        name,
        columns,
        tuple(row[0] for row in sorted(rows, key=lambda row: row[2]) if row[2]),
        tuple(
            ForeignKey(tuple(k[1] for k in key), key[0][0], tuple(k[2] for k in key if k[2] is not None))
            for _, key in sorted(keys.items(), reverse=True)
        ),
        is_view,
    )


def first_values(connection: sqlite3.Connection, table: Table) -> list[tuple[Any, ...]]:
    """The values of each column in the first rows."""
    with _deadline(connection, INTROSPECTION_S):
        return _samples(connection, table.name, [column.name for column in table.columns])


def _samples(connection: sqlite3.Connection, table: str, columns: list[str]) -> list[tuple[Any, ...]]:
    """The first rows' values, a tuple for each column."""
    # Python's own text factory would fail on text that is not UTF-8.
    factory, connection.text_factory = connection.text_factory, lambda data: data.decode(errors="replace")
    try:
        listed = ", ".join(map(_quoted, columns))
        rows = connection.execute(f"SELECT {listed} FROM {_quoted(table)} LIMIT {SAMPLED_ROWS}").fetchall()
    finally:
        connection.text_factory = factory
    return list(zip(*rows, strict=True)) if rows else [()] * len(columns)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _kinds(declared: str, values: Iterable[Any]) -> int:
    """What a column may be compared with: its type says, and SQLite keeps what it is given, so its values do."""
    kinds = kinds_of_type(declared)
    if kinds in (ANY, BOOL):
        return ANY
    if kinds == TIME:
        kinds |= TEXT
    texts = [value for value in values if isinstance(value, str)]
    numeric = sum(_NUMERIC.fullmatch(text) is not None for text in texts)
    if numeric < len(texts):
        kinds |= TEXT
    if (numeric and numeric >= NUMERIC_SHARE * len(texts)) or any(isinstance(value, int | float) for value in values):
        kinds |= NUMBER
    return kinds


def _with_kinds_of_keys(tables: list[Table]) -> tuple[Table, ...]:
    """What a foreign key joins can be compared, whatever the types say."""
    kinds = {(table.name.lower(), column.name.lower()): column.kinds for table in tables for column in table.columns}
    primary = {table.name.lower(): table.primary_key for table in tables}
    for table in tables:
        for key in table.foreign_keys:
            for here, there in zip(key.columns, key.to_columns or primary.get(key.table.lower(), ()), strict=False):
                ends = (table.name.lower(), here.lower()), (key.table.lower(), there.lower())
                if all(end in kinds for end in ends):
                    kinds[ends[0]] = kinds[ends[1]] = kinds[ends[0]] | kinds[ends[1]]
    return tuple(
        replace(
            table,
            columns=tuple(replace(c, kinds=kinds[table.name.lower(), c.name.lower()]) for c in table.columns),
        )
        for table in tables
    )


class _deadline:
    """Statements within are interrupted after so many seconds."""

    def __init__(self, connection: sqlite3.Connection, seconds: float) -> None:
        self._connection, self._seconds = connection, seconds

    def __enter__(self) -> None:
        end = time.monotonic() + self._seconds
        self._connection.set_progress_handler(lambda: time.monotonic() > end, 10_000)

    def __exit__(self, *_: object) -> None:
        self._connection.set_progress_handler(None, 0)


class SqliteExplainer:
    """EXPLAIN on one read-only connection, opened when first asked. Threads take turns."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def refusal(self, query: str) -> str | None:
        """Why the database refuses a query; None where it compiles it."""
        import sqlite3

        with self._lock:
            if self._connection is None:
                connection = self._connect()
                # Compiling folds constants: keep what it may allocate small, whatever the text asks for.
                connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1_000_000)
                allow_only_reading(connection)
                self._connection = connection
            try:
                with _deadline(self._connection, EXPLAIN_S):
                    self._connection.execute("EXPLAIN " + query).fetchone()
            except (sqlite3.Error, sqlite3.Warning) as error:
                return str(error)
        return None
