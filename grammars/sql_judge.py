"""A finished query judged on its syntax tree, by sqlglot: for dialects of which no database is at hand to be asked."""

from __future__ import annotations

from grammars.sql_dialect import Dialect
from grammars.sql_schema import Schema


def refusal(query: str, schema: Schema, dialect: Dialect) -> str | None:
    """Why a text is not one SELECT whose every name resolves; None where it is."""
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError
    from sqlglot.optimizer.qualify import qualify

    known: dict[str, object] = {
        table.name: {column.name: column.type or "TEXT" for column in table.columns} for table in schema.tables
    }
    try:
        statements = [one for one in sqlglot.parse(query, read=dialect.sqlglot) if one is not None]
        if len(statements) != 1 or not isinstance(statements[0], exp.Query):
            return "not one SELECT"
        for node in statements[0].walk():
            if isinstance(node, exp.DML | exp.DDL | exp.Command | exp.Into | exp.Lock) and not isinstance(
                node, exp.Query
            ):
                return f"{node.key.upper()} is not allowed"
        qualify(statements[0], schema=known, dialect=dialect.sqlglot, quote_identifiers=False)
    except SqlglotError as error:
        return str(error).splitlines()[0]
    return None
