"""A database by its name: a SQLite file, an SQLAlchemy URL, or tables that are only declared. Schemas and connections are kept."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from grammars.errors import GrammarError
from grammars.queries.schema import Schema, Table, ddl_of_tables

if TYPE_CHECKING:
    import sqlite3

KEPT_DATABASES = 64


class Explainer(Protocol):
    def refusal(self, query: str) -> str | None:
        """Why the database refuses a query; None where it compiles it."""


@dataclass(frozen=True, eq=False)
class Database:
    """What a constraint knows of a database.

    dialect    sqlite, postgresql, mysql or duckdb
    explainer  the final judge; None for declared tables in a dialect that no database at hand speaks
    """

    schema: Schema
    dialect: str
    explainer: Explainer | None


_KNOWN: dict[tuple[Any, ...], Database] = {}
_KNOWN_LOCK = threading.Lock()


def open_database(database: str | Mapping[str, Any], dialect: str | None, refresh: bool = False) -> Database:
    """Read a database's schema, or take the one read before: of a file as long as it is the same, of a server until `refresh`.

    database  a path, an SQLAlchemy URL, {"tables": {table: {column: type}}} or {"ddl": "CREATE TABLE ..."}
    Raises GrammarError where it cannot be read.
    """
    if isinstance(database, Mapping):
        ddl = _ddl(database)
        key: tuple[Any, ...] = ("ddl", ddl, dialect)
    elif (path := sqlite_file(database)) is not None:
        status = path.stat() if path.is_file() else None
        key = ("file", str(path), status and (status.st_mtime_ns, status.st_size), dialect)
    else:
        key = ("url", database, dialect)
    with _KNOWN_LOCK:
        known = _KNOWN.get(key)
    if known is None or refresh:
        known = _opened(database, dialect)
        with _KNOWN_LOCK:
            _KNOWN[key] = known
            while len(_KNOWN) > KEPT_DATABASES:
                del _KNOWN[next(iter(_KNOWN))]
    return known


def first_values(name: str | Mapping[str, Any], database: Database, table: Table, count: int) -> list[list[Any]]:
    """Up to `count` different values of each column of a table, from its first rows; none of a view's or a declared table's."""
    from grammars.queries import server, sqlite

    if isinstance(name, Mapping) or table.is_view:
        return [[] for _ in table.columns]
    if (path := sqlite_file(name)) is not None:
        connection = sqlite.open_read_only(path)
        try:
            seen = sqlite.first_values(connection, table)
        finally:
            connection.close()
    else:
        seen = server.first_values(name, table)
    return [[*dict.fromkeys(value for value in values if value is not None)][:count] for values in seen]


def sqlite_file(database: str) -> Path | None:
    """The SQLite file that a path or a sqlite:// URL names; None for other URLs."""
    if "://" not in database:
        return Path(database)
    from grammars.queries.server import dialect_of_url, sqlite_path

    return Path(sqlite_path(database)) if dialect_of_url(database) == "sqlite" else None


def _opened(database: str | Mapping[str, Any], dialect: str | None) -> Database:
    from grammars.queries import server, sqlite

    if isinstance(database, Mapping):
        ddl = _ddl(database)

        def declared() -> sqlite3.Connection:
            return sqlite.open_declared(ddl)

        spoken = dialect or "sqlite"
        explainer = sqlite.SqliteExplainer(declared) if spoken == "sqlite" else None
        schema = _read_sqlite(declared())
        if schema.left_out:
            raise GrammarError(f"the declared schema has what cannot be read: {'; '.join(schema.left_out)}")
        if spoken != "sqlite":
            schema = Schema(tuple(replace(table, has_rowid=False) for table in schema.tables))
        return _checked(Database(schema, spoken, explainer), "the declared schema")
    if (path := sqlite_file(database)) is not None:
        if dialect not in (None, "sqlite"):
            raise GrammarError(f"{path} is a SQLite database, but dialect={dialect!r} was given; leave dialect out")

        def file() -> sqlite3.Connection:
            return sqlite.open_read_only(path)

        return _checked(Database(_read_sqlite(file()), "sqlite", sqlite.SqliteExplainer(file)), str(path))
    spoken = {"mariadb": "mysql"}.get(kind := server.dialect_of_url(database), kind)
    if dialect not in (None, spoken):
        raise GrammarError(
            f"{server.hidden(database)} speaks {spoken}, but dialect={dialect!r} was given; leave dialect out"
        )
    schema = server.read_schema(database)
    return _checked(Database(schema, spoken, server.ServerExplainer(database)), server.hidden(database))


def _read_sqlite(connection: sqlite3.Connection) -> Schema:
    from grammars.queries import sqlite

    try:
        return sqlite.read_schema(connection)
    finally:
        connection.close()


def _checked(database: Database, name: str) -> Database:
    if not any(table.columns for table in database.schema.tables):
        left_out = f" but {'; '.join(database.schema.left_out)}" if database.schema.left_out else ""
        raise GrammarError(
            f"{name} has no tables{left_out}: a query needs at least one; check the name of the database"
        )
    return database


def _ddl(declared: Mapping[str, Any]) -> str:
    match dict(declared):
        case {"tables": tables, **rest} if not rest:
            return ddl_of_tables(tables)
        case {"ddl": str(ddl), **rest} if not rest:
            return ddl
    raise GrammarError(
        'a declared schema is {"tables": {"t": {"a": "INTEGER"}}} or {"ddl": "CREATE TABLE t (a INTEGER)"}'
    )
