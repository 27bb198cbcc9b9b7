"""Databases that SQLAlchemy reaches: what is in them, and whether a query compiles. Nothing is written, all is rolled back."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from grammars.errors import GrammarError
from grammars.queries.schema import ANY, BOOL, NUMBER, TEXT, TIME, Column, ForeignKey, Schema, Table, kinds_of_type

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

EXPLAIN_MS = 5_000
CONNECT_S = 10
SAMPLED_ROWS = 200
FETCHED_ROWS = 100

# What to install for a driver that is not there.
_EXTRAS = {
    "psycopg": "pip install 'reweigh[postgresql]'",
    "pymysql": "pip install 'reweigh[mysql]'",
    "duckdb_engine": "pip install duckdb-engine",
}
# The drivers' own names for how long connecting may take.
_CONNECT_ARGUMENTS: dict[str, dict[str, Any]] = {
    "postgresql": {"connect_timeout": CONNECT_S},
    "mysql": {"connect_timeout": CONNECT_S},
    "mariadb": {"connect_timeout": CONNECT_S},
    # Without external access off, a SELECT could read, and a COPY write, any file. A thread for every core takes address space,
    # which the process of a query has little of.
    "duckdb": {
        "read_only": True,
        "config": {"enable_external_access": "false", "lock_configuration": "true", "threads": "2"},
    },
}
# How a transaction is bounded: before anything else is said in it.
_READ_ONLY: dict[str, tuple[str, ...]] = {
    "postgresql": ("SET TRANSACTION READ ONLY", "SET LOCAL statement_timeout = {ms}"),
    "mysql": ("SET SESSION MAX_EXECUTION_TIME = {ms}", "START TRANSACTION READ ONLY"),
    "mariadb": ("SET SESSION max_statement_time = {ms} / 1000.0", "START TRANSACTION READ ONLY"),
    "duckdb": (),
}


def dialect_of_url(url: str) -> str:
    """The database's kind as SQLAlchemy names it: postgresql, mysql, duckdb, sqlite."""
    return str(_parsed(url).get_backend_name())


def sqlite_path(url: str) -> str:
    """The file of a sqlite:/// URL."""
    path = _parsed(url).database
    if not path or path == ":memory:":
        raise GrammarError(f"{hidden(url)} names no file: an empty database has no tables; give a file, or tables=")
    return str(path)


def hidden(url: str) -> str:
    """The URL without its password."""
    return str(_parsed(url).render_as_string(hide_password=True))


def open_engine(url: str) -> Engine:
    """An engine that opens one connection at a time, each read-only. Raises GrammarError with the remedy."""
    import sqlalchemy
    from sqlalchemy.pool import NullPool

    parsed = _parsed(url)
    kind = parsed.get_backend_name()
    if kind not in _READ_ONLY:
        raise GrammarError(
            f"{hidden(url)}: databases of kind {kind!r} are not supported; use SQLite, PostgreSQL, MySQL, MariaDB or DuckDB"
        )
    try:
        return sqlalchemy.create_engine(parsed, connect_args=dict(_CONNECT_ARGUMENTS.get(kind, {})), poolclass=NullPool)
    except (ModuleNotFoundError, sqlalchemy.exc.NoSuchModuleError) as error:
        driver = getattr(error, "name", None) or (f"{kind}_engine" if kind == "duckdb" else parsed.get_driver_name())
        remedy = _EXTRAS.get(driver, f"install the driver, or name another one as in {kind}+DRIVER://")
        raise GrammarError(f"{hidden(url)}: the driver {driver!r} is not installed; {remedy}") from error


def connect(engine: Engine, timeout_ms: int) -> Connection:
    """A connection inside a read-only transaction whose statements end after timeout_ms. Raises GrammarError."""
    import sqlalchemy

    try:
        connection = engine.connect()
        for statement in _READ_ONLY[engine.dialect.name]:
            connection.exec_driver_sql(statement.format(ms=timeout_ms))
    except sqlalchemy.exc.SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip()
        raise GrammarError(
            f"cannot connect to {engine.url.render_as_string(hide_password=True)}: {reason.splitlines()[0] if reason else error}; "
            "check host, port, name and password"
        ) from error
    return connection


def read_schema(url: str) -> Schema:
    """Tables and views of the connection's default schema, with columns, types and keys."""
    import sqlalchemy

    engine = open_engine(url)
    with connect(engine, EXPLAIN_MS) as connection:
        try:
            if engine.dialect.name == "duckdb":
                return _duckdb_schema(connection)
            inspector = sqlalchemy.inspect(connection)
            views = inspector.get_view_names()
            names = [name for name in inspector.get_table_names() if name not in views]
            tables = tuple(_table(inspector, name, name in views) for name in [*names, *views])
            return Schema(tables, inspector.default_schema_name or "")
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise GrammarError(f"{hidden(url)}: its tables cannot be read: {str(error).splitlines()[0]}") from error


def read_rows(connection: Connection, query: str) -> tuple[list[str], Iterator[Sequence[Any]]]:
    """The columns of a query's result, and its rows as they are fetched. Raises sqlalchemy.exc.DBAPIError."""
    if connection.dialect.name != "postgresql":
        result = connection.exec_driver_sql(
            query, execution_options={"no_parameters": True, "stream_results": True, "max_row_buffer": FETCHED_ROWS}
        )
        return list(result.keys()), iter(result)
    # A cursor on the server: rows come as they are asked for, and the protocol takes one statement only, so that no COMMIT
    # can end the read-only transaction.
    from sqlalchemy import exc

    driver = connection.connection.dbapi_connection
    assert driver is not None

    def rows() -> Iterator[Sequence[Any]]:
        try:
            while found := cursor.fetchmany(FETCHED_ROWS):
                yield from found
        except driver_error as error:
            raise exc.DBAPIError(query, None, error) from error

    driver_error = connection.dialect.dbapi.Error  # type: ignore[union-attr]
    cursor: Any = driver.cursor(name="reweigh")
    try:
        cursor.execute(query)
    except driver_error as error:
        raise exc.DBAPIError(query, None, error) from error
    return [column[0] for column in cursor.description], rows()


def _table(inspector: Any, name: str, is_view: bool) -> Table:
    columns = tuple(Column(c["name"], _type_name(c["type"]), _kinds(c["type"])) for c in inspector.get_columns(name))
    if is_view:
        return Table(name, columns, is_view=True)
    return Table(
        name,
        columns,
        tuple(inspector.get_pk_constraint(name).get("constrained_columns") or ()),
        tuple(
            ForeignKey(tuple(key["constrained_columns"]), key["referred_table"], tuple(key["referred_columns"]))
            for key in inspector.get_foreign_keys(name)
        ),
    )


def _duckdb_schema(connection: Connection) -> Schema:
    """From DuckDB's own catalogue: its SQLAlchemy dialect asks PostgreSQL's, of which DuckDB has a part."""
    here = "schema_name = current_schema() AND database_name = current_database()"
    columns: dict[str, list[Column]] = {}
    for table, name, declared in connection.exec_driver_sql(
        f"SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE {here} AND NOT internal ORDER BY column_index"
    ):
        columns.setdefault(table, []).append(Column(name, declared, kinds_of_type(declared)))
    views = {
        row[0]
        for row in connection.exec_driver_sql(f"SELECT view_name FROM duckdb_views() WHERE {here} AND NOT internal")
    }
    primary: dict[str, tuple[str, ...]] = {}
    foreign: dict[str, list[ForeignKey]] = {}
    for table, kind, names, to_table, to_names in connection.exec_driver_sql(
        "SELECT table_name, constraint_type, constraint_column_names, referenced_table, referenced_column_names "
        f"FROM duckdb_constraints() WHERE {here} ORDER BY constraint_index"
    ):
        if kind == "PRIMARY KEY":
            primary[table] = tuple(names)
        elif kind == "FOREIGN KEY":
            foreign.setdefault(table, []).append(ForeignKey(tuple(names), to_table, tuple(to_names)))
    order = sorted(columns, key=lambda table: table in views)
    tables = tuple(
        Table(table, tuple(columns[table]), primary.get(table, ()), tuple(foreign.get(table, ())), table in views)
        for table in order
    )
    return Schema(tables, str(connection.exec_driver_sql("SELECT current_schema()").scalar()))


def first_values(url: str, table: Table) -> list[tuple[Any, ...]]:
    """The values of each column in the first rows."""
    import sqlalchemy

    listed = sqlalchemy.table(table.name, *(sqlalchemy.column(column.name) for column in table.columns))
    with connect(open_engine(url), EXPLAIN_MS) as connection:
        rows = connection.execute(sqlalchemy.select(listed).limit(SAMPLED_ROWS)).all()
    return list(zip(*rows, strict=True)) if rows else [()] * len(table.columns)


def _type_name(declared: Any) -> str:
    import sqlalchemy

    try:
        return str(declared)
    except sqlalchemy.exc.CompileError:
        return str(getattr(declared, "__visit_name__", type(declared).__name__))


def _kinds(declared: Any) -> int:
    from sqlalchemy import types

    for kind, classes in (
        (BOOL, (types.Boolean,)),
        (TIME, (types.Date, types.DateTime, types.Time, types.Interval)),
        (NUMBER, (types.Integer, types.Numeric)),
        (TEXT, (types.String, types.Enum)),
    ):
        if isinstance(declared, classes):
            return kind
    return ANY


class ServerExplainer:
    """EXPLAIN in a read-only transaction that is rolled back. One connection, kept while it works; threads take turns."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine: Engine | None = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def refusal(self, query: str) -> str | None:
        """Why the database refuses a query; None where it plans it. GrammarError where it cannot be asked."""
        with self._lock:
            for attempt in (1, 2):
                fresh = self._connection is None
                try:
                    return self._ask(query)
                except _Gone as error:
                    self._connection = None
                    # A kept connection may have been closed by the server: one new one is tried.
                    if fresh or attempt == 2:
                        raise GrammarError(f"{hidden(self._url)} went away: {error}") from error
        raise AssertionError("unreachable")

    def _ask(self, query: str) -> str | None:
        import sqlalchemy

        if self._engine is None:
            self._engine = open_engine(self._url)
        if self._connection is None:
            self._connection = connect(self._engine, EXPLAIN_MS)
        else:
            for statement in _READ_ONLY[self._engine.dialect.name]:
                try:
                    self._connection.exec_driver_sql(statement.format(ms=EXPLAIN_MS))
                except sqlalchemy.exc.DBAPIError as error:
                    raise _Gone(str(error)) from error
        try:
            # Without parameters a driver leaves every % in the text alone.
            self._connection.exec_driver_sql("EXPLAIN " + query, execution_options={"no_parameters": True}).close()
        except sqlalchemy.exc.DBAPIError as error:
            if error.connection_invalidated:
                raise _Gone(str(error)) from error
            return str(error.orig).strip() or type(error.orig).__name__
        finally:
            if not self._connection.invalidated:
                self._connection.rollback()
        return None


class _Gone(Exception):
    """The connection is lost."""


def _parsed(url: str) -> Any:
    from sqlalchemy import exc, make_url

    try:
        return make_url(url)
    except exc.ArgumentError as error:
        # The text may hold a password: it is not repeated.
        raise GrammarError(
            "the database is neither a file nor an SQLAlchemy URL such as postgresql+psycopg://user@host/name"
        ) from error
