"""What a database holds, as a value: tables, columns, the kinds of their values, keys."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from grammars.errors import GrammarError

# Kinds of values, as bits: two values can sensibly be compared where they have a kind in common.
NUMBER, TEXT, TIME, BOOL = 1, 2, 4, 8
ANY = NUMBER | TEXT | TIME | BOOL


@dataclass(frozen=True)
class Column:
    """A column. `type` is as declared; `kinds` are the bits of what its values can sensibly be compared with."""

    name: str
    type: str
    kinds: int = ANY


@dataclass(frozen=True)
class ForeignKey:
    columns: tuple[str, ...]
    table: str
    to_columns: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    is_view: bool = False
    has_rowid: bool = False


@dataclass(frozen=True)
class Schema:
    """The tables and views that a query may name, in the database's own order.

    namespace  the schema they are in, as in main.singer; "" where a query cannot say so
    left_out   what the database has and cannot read itself, each with its reason
    """

    tables: tuple[Table, ...]
    namespace: str = ""
    left_out: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that differ where anything does."""
        return hashlib.sha256(repr((self.namespace, self.tables)).encode()).hexdigest()[:16]


def kinds_of_type(declared: str) -> int:
    """The kinds of a declared SQL type, by the words in it: the rules of SQLite's affinity, with dates and truth values apart."""
    words = declared.upper()
    if not words:
        return ANY
    if "BOOL" in words:
        return BOOL
    if re.search(r"DATE|TIME|INTERVAL|YEAR", words):
        return TIME
    if re.search(r"INT|REAL|FLOA|DOUB|NUM|DEC|SERIAL|MONEY", words):
        return NUMBER
    if re.search(r"CHAR|CLOB|TEXT|STRING|ENUM|UUID|CITEXT", words):
        return TEXT
    return ANY


def ddl_of_tables(tables: Mapping[str, Mapping[str, str]]) -> str:
    """CREATE TABLE statements for tables given as {"table": {"column": "TYPE"}}."""
    if not isinstance(tables, Mapping) or not tables:
        raise GrammarError('tables must be an object such as {"singer": {"name": "TEXT", "age": "INTEGER"}}')
    statements = []
    for table, columns in tables.items():
        if not isinstance(columns, Mapping) or not columns:
            raise GrammarError(f"table {table!r} must list its columns with their types: {{'name': 'TEXT'}}")
        for column, declared in columns.items():
            if not isinstance(declared, str) or not re.fullmatch(r"[A-Za-z][\w ]{0,40}(\([0-9, ]{1,10}\))?|", declared):
                raise GrammarError(
                    f"column {column!r} of table {table!r} has the type {declared!r}; write a type such as INTEGER"
                )
        listed = ", ".join(f"{_quoted(column)} {declared}".rstrip() for column, declared in columns.items())
        statements.append(f"CREATE TABLE {_quoted(table)} ({listed});")
    return "\n".join(statements)


def _quoted(name: str) -> str:
    return '"' + str(name).replace('"', '""') + '"'
