"""A database's schema and a question, as a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from grammars.errors import GrammarError
from grammars.queries.database import Database, first_values
from grammars.queries.dialect import Dialect, dialect_named
from grammars.queries.schema import Table
from grammars.queries.syntax import usable_unquoted

MOST_SAMPLES = 10
SAMPLE_CHARS = 30
_NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MySQL", "duckdb": "DuckDB"}


def completion(
    name: str | Mapping[str, Any], database: Database, question: str, sample_values: int, max_chars: int
) -> str:
    """Text for a model to go on from: each query stands under its question, as a comment."""
    asked = [*_examples(database), (question, "")]
    turns = "".join(f"\n-- {' '.join(text.split())}\n{query}{';' if query else ''}" for text, query in asked)
    return _schema_text(name, database, sample_values, max_chars - len(turns)) + "\n" + turns


def conversation(
    name: str | Mapping[str, Any], database: Database, question: str, sample_values: int, max_chars: int
) -> list[dict[str, str]]:
    """Chat messages: the schema, two questions with their queries, the question."""
    begin = f"You write {_NAMES[database.dialect]} queries. Reply with one SELECT statement and nothing else.\n\n"
    examples = _examples(database)
    room = max_chars - len(begin) - len(question) - sum(len(text) + len(query) for text, query in examples)
    messages = [{"role": "system", "content": begin + _schema_text(name, database, sample_values, room)}]
    for text, query in examples:
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": query}]
    return [*messages, {"role": "user", "content": question.strip()}]


def _examples(database: Database) -> list[tuple[str, str]]:
    """Two questions that any table answers: they show the form of an answer."""
    dialect = dialect_named(database.dialect)
    table = next(table for table in database.schema.tables if table.columns)
    column = table.columns[-1]
    source = _as_written(table.name, dialect)
    return [
        (f"How many rows does {table.name} have?", f"SELECT count(*) FROM {source}"),
        (f"List the {column.name} of each {table.name}.", f"SELECT {_as_written(column.name, dialect)} FROM {source}"),
    ]


def _schema_text(name: str | Mapping[str, Any], database: Database, sample_values: int, room: int) -> str:
    """The schema in at most `room` characters, if there is room for anything: what is left out is said."""
    if isinstance(sample_values, bool) or not isinstance(sample_values, int) or not 0 <= sample_values <= MOST_SAMPLES:
        raise GrammarError(f"sample_values={sample_values!r} must be a whole number from 0 to {MOST_SAMPLES}")
    tables = database.schema.tables
    samples = (
        {table.name: first_values(name, database, table, sample_values) for table in tables} if sample_values else {}
    )
    written = _whole(database, samples, True)
    if len(written) > room and samples:
        written = _whole(database, {}, True) + "\n-- (values left out)"
    if len(written) > room:
        written = _whole(database, {}, False)
    if len(written) > room:
        kept: list[str] = []
        for table in tables:
            shown = _table(database, table, [], False)
            if sum(len(one) + 1 for one in kept) + len(shown) + 40 > room:
                break
            kept.append(shown)
        written = "\n".join([*kept, f"-- and {len(tables) - len(kept)} more tables"])
    return written


def _whole(database: Database, samples: Mapping[str, list[list[Any]]], typed: bool) -> str:
    return "\n".join(_table(database, table, samples.get(table.name, []), typed) for table in database.schema.tables)


def _table(database: Database, table: Table, samples: list[list[Any]], typed: bool) -> str:
    dialect = dialect_named(database.dialect)

    def quoted(name: str) -> str:
        return _as_written(name, dialect)

    def lines() -> Iterator[str]:
        for k, column in enumerate(table.columns):
            shown = ", ".join(_shown(value) for value in samples[k]) if samples else ""
            yield f"{quoted(column.name)} {column.type if typed else ''}".rstrip() + (
                f" /* {shown} */" if shown else ""
            )
        if table.primary_key:
            yield f"PRIMARY KEY ({', '.join(map(quoted, table.primary_key))})"
        for key in table.foreign_keys:
            to = f" ({', '.join(map(quoted, key.to_columns))})" if key.to_columns else ""
            yield f"FOREIGN KEY ({', '.join(map(quoted, key.columns))}) REFERENCES {quoted(key.table)}{to}"

    what = "VIEW" if table.is_view else "TABLE"
    separator = ",\n  " if samples else ", "
    opening, closing = ("(\n  ", "\n);") if samples else ("(", ");")
    return f"CREATE {what} {quoted(table.name)} {opening}{separator.join(lines())}{closing}"


def _as_written(name: str, dialect: Dialect) -> str:
    quote = dialect.quotes[0]
    return name if usable_unquoted(name, dialect) else quote + name.replace(quote, quote * 2) + quote


def _shown(value: Any) -> str:
    """A value as a literal, short, and unable to end the comment it stands in."""
    if isinstance(value, bytes):
        return "a blob"
    text = str(value) if isinstance(value, int | float) else "'" + " ".join(str(value).split()) + "'"
    return (text if len(text) <= SAMPLE_CHARS else text[: SAMPLE_CHARS - 3] + "...").replace("*/", "* /")
