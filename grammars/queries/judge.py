"""A query judged on its syntax tree, by sqlglot: where no database is at hand, or before one is given a text of unknown origin."""

from __future__ import annotations

from typing import Any

from grammars.queries.dialect import Dialect, dialect_named
from grammars.queries.schema import Schema


def not_a_select(query: str, dialect: str) -> str | None:
    """Why a text is not one statement that only reads, by its syntax; None where it is. `dialect` is SQLAlchemy's name."""
    tree = _tree(query, dialect_named({"mariadb": "mysql"}.get(dialect, dialect)))
    return tree if isinstance(tree, str) else None


def refusal(query: str, schema: Schema, dialect: Dialect) -> str | None:
    """Why a text is not one SELECT whose every name resolves in a schema; None where it is."""
    from sqlglot.errors import SqlglotError
    from sqlglot.optimizer.qualify import qualify

    known: dict[str, object] = {
        table.name: {column.name: column.type or "TEXT" for column in table.columns} for table in schema.tables
    }
    tree = _tree(query, dialect)
    if isinstance(tree, str):
        return tree
    try:
        qualify(tree, schema=known, dialect=dialect.sqlglot, quote_identifiers=False)
    except SqlglotError as error:
        return str(error).splitlines()[0]
    return None


def _tree(query: str, dialect: Dialect) -> Any:
    """The tree of a text that is one SELECT; otherwise what it is instead, as a str."""
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    try:
        statements = [one for one in sqlglot.parse(query, read=dialect.sqlglot) if one is not None]
    except SqlglotError as error:
        return f"the text is not understood ({str(error).splitlines()[0]})"
    except RecursionError:
        return "the text is nested too deeply"
    if len(statements) != 1:
        return f"the text has {len(statements)} statements"
    (tree,) = statements
    if not isinstance(tree, exp.Query):
        return f"the statement is {tree.key.upper()}"
    for node in tree.walk():
        if isinstance(node, exp.DDL | exp.DML | exp.Command | exp.Into | exp.Lock) and not isinstance(node, exp.Query):
            return f"{node.key.upper()} is not reading"
        # What sqlglot does not know by name may read files, sleep or end other sessions.
        if isinstance(node, exp.Anonymous) and str(node.this).lower() not in dialect.functions:
            return f"the function {node.this} is not among those allowed"
    return tree
