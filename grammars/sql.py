"""SQL against a live database: SELECT statements that it accepts, every name in scope."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np

from grammars.constraint import ConstraintState, Language
from grammars.errors import GrammarError
from grammars.registry import Example, grammar
from grammars.vocabulary import Vocabulary

# grammars/queries/ is loaded where it is used: the registry loads this file for every command.
if TYPE_CHECKING:
    from grammars.queries.database import Database
    from grammars.queries.schema import Schema
    from grammars.queries.scope import Frame

REMEMBERED_VERDICTS = 4096
PATIENCE = 16
# Every byte, those that most often may come next before the others.
FIRST_TRIED = tuple(dict.fromkeys(bytes([byte]) for byte in (*b" ,)(se\n.;'\"1_", *range(256))))
_BEGINNINGS: WeakKeyDictionary[Vocabulary, dict[bytes, np.ndarray]] = WeakKeyDictionary()
# Characters of an alias without AS, whatever it abbreviates.
BARE_LENGTH = 12

_DEFAULTS: dict[str, Any] = {
    "check_types": True,
    "forward_alias": 2,
    "forward_column": 0,
    "name_length": 32,
    "string_length": 80,
}
_SINGERS = {
    "singer": {"id": "INTEGER", "name": "TEXT", "age": "INTEGER"},
    "song": {"id": "INTEGER", "singer_id": "INTEGER"},
}


@grammar("sql")
class Sql(Language):
    """SELECT statements (WITH, joins, sub-queries, VALUES, rows, set operations, windows, ...) that a database accepts.

    The mask follows the dialect's syntax with the database's own names in their places. Beside it every name is judged as it
    is written: it must be in scope, not ambiguous, and of a type that makes sense where it is compared. A finished query must
    pass the database's EXPLAIN, on a connection that can only read; of declared tables in another dialect than SQLite,
    which no database can be asked about, sqlglot is the judge.

    database        a SQLite file; an SQLAlchemy URL (postgresql+psycopg://user@host/name, mysql+pymysql://..., duckdb:///file);
                    or tables without a database, as `tables` and `ddl` give them
    dialect         sqlite, postgresql, mysql or duckdb: only where tables are declared, and sqlite is not meant
    tables          {"singer": {"name": "TEXT", "age": "INTEGER"}}, instead of a database; ddl: the same as CREATE statements
    check_types     whether `name > 3.5` is refused where no value of `name` is a number. In SQLite, where a column keeps what
                    it is given, the first 200 rows decide
    forward_alias   characters of any alias that may be used before FROM defines it, as in SELECT s.name FROM singer AS s, or
                    be given to a table without AS. Abbreviations of a table's name (sing, sgr, singer_2) and letters with a
                    number (T12) always may; any other unknown word would have to be taken for an alias, and most are none
    forward_column  the same for columns that a sub-query in FROM will define, as in SELECT avg(n) FROM (SELECT count(*) AS n
                    ...); 0: write WITH, which defines them first
    name_length     longest alias; string_length: longest string literal
    refresh         read the schema again; it is kept for as long as the file is the same, or the process lives

    Raises GrammarError where the database cannot be read, naming it (without password) and the remedy.
    """

    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            {"sql": {"tables": _SINGERS}},
            (
                "SELECT name FROM singer",
                "select count(*) from singer as s join song t2 on s.id = t2.singer_id where s.age >= 20;",
                "SELECT 1",
                "WITH o AS (SELECT name n, age FROM singer) SELECT n FROM o ORDER BY age DESC LIMIT 3",
                "SELECT name FROM singer WHERE id NOT IN (SELECT singer_id FROM song) UNION SELECT 'é'",
            ),
            (
                "",
                "SELECT nam FROM singer",
                "SELECT name FROM song",
                "SELECT id FROM singer JOIN song ON age = singer_id",
                "SELECT name FROM singer WHERE name > 3.5",
                "SELECT name FROM singer WHERE sum(age) > 3",
                "SELECT name FROM singer; SELECT 1",
                "DELETE FROM singer",
                "SELECT s.name FROM singer AS t",
                "SELECT name FROM singer UNION SELECT id, age FROM singer",
            ),
        ),
        Example(
            {
                "sql": {"ddl": 'CREATE TABLE t ("a b" INT, c TEXT)'},
                "dialect": "postgresql",
                "forward_alias": 0,
                "name_length": 2,
                "string_length": 2,
            },
            ('SELECT "a b" FROM t', "SELECT lower(c) FROM t WHERE c ILIKE 'x%'", "SELECT c::integer FROM t"),
            ("SELECT a b FROM t", "SELECT c FROM T2", 'SELECT "C" FROM t', "SELECT glob FROM t"),
        ),
    )  # fmt: skip

    def __init__(
        self,
        database: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        dialect: str | None = None,
        *,
        tables: Mapping[str, Mapping[str, str]] | None = None,
        ddl: str | None = None,
        check_types: bool = _DEFAULTS["check_types"],
        forward_alias: int = _DEFAULTS["forward_alias"],
        forward_column: int = _DEFAULTS["forward_column"],
        name_length: int = _DEFAULTS["name_length"],
        string_length: int = _DEFAULTS["string_length"],
        refresh: bool = False,
        version: str | None = None,
    ) -> None:
        from grammars.queries.database import open_database
        from grammars.queries.dialect import dialect_named

        given = [one for one in (database, tables, ddl) if one is not None]
        if len(given) != 1:
            raise GrammarError("give one of database, tables= and ddl=: a file, a URL, or a schema without a database")
        if dialect is not None:
            dialect_named(dialect)
        if tables is not None:
            database = {"tables": tables}
        elif ddl is not None:
            database = {"ddl": ddl}
        assert database is not None
        if not isinstance(database, Mapping):
            # The spec may be read in another folder.
            database = str(database) if "://" in str(database) else str(Path(database).absolute())
        self.database: str | Mapping[str, Any] = database
        self.options = {
            "check_types": check_types, "forward_alias": forward_alias, "forward_column": forward_column,
            "name_length": name_length, "string_length": string_length,
        }  # fmt: skip
        for option, least, most in (
            ("forward_alias", 0, 64), ("forward_column", 0, 64), ("name_length", 1, 64), ("string_length", 0, 1000),
        ):  # fmt: skip
            value = self.options[option]
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise GrammarError(f"{option}={value!r} must be a whole number from {least} to {most}")
        self._given_dialect = dialect
        self._opened = open_database(self.database, dialect, refresh)
        if version is not None and version != self._opened.schema.fingerprint:
            # The spec was made when the tables were others: look again, once.
            self._opened = open_database(self.database, dialect, refresh=True)
        self.dialect = dialect_named(self._opened.dialect)

    def __repr__(self) -> str:
        return f"Sql({self.dialect.name}: {', '.join(table.name for table in self.schema.tables)})"

    @property
    def schema(self) -> Schema:
        return self._opened.schema

    @property
    def spec(self) -> dict[str, Any]:
        """As data. `version` tells one state of the schema from another, so that no stale constraint is taken for this one."""
        spec: dict[str, Any] = {"sql": self.database}
        if self._given_dialect is not None:
            spec["dialect"] = self._given_dialect
        spec |= {name: value for name, value in self.options.items() if value != _DEFAULTS[name]}
        if not isinstance(self.database, Mapping):
            spec["version"] = self.schema.fingerprint
        return spec

    def compile(self, vocabulary: Vocabulary) -> SqlConstraint:
        return SqlConstraint(self, self._opened, vocabulary)

    def prompt(self, question: str, sample_values: int = 0, max_chars: int = 6000) -> str:
        """The schema as CREATE TABLE statements, two questions with their queries, and the question: for a model to go on from.

        sample_values  values of every column to show, at most 10
        max_chars      of the whole: samples go first, then types, then tables, and the prompt says so
        """
        from grammars.queries.prompt import completion

        return completion(self.database, self._opened, question, sample_values, max_chars)

    def messages(self, question: str, sample_values: int = 0, max_chars: int = 6000) -> list[dict[str, str]]:
        """The same as a conversation, for a model with a chat template."""
        from grammars.queries.prompt import conversation

        return conversation(self.database, self._opened, question, sample_values, max_chars)


class SqlConstraint:
    """The mask of the syntax, the reader of names, and the database's own word on what is finished."""

    can_mask = True

    def __init__(self, language: Sql, database: Database, vocabulary: Vocabulary) -> None:
        from grammars.llguidance_engine import compile_guided
        from grammars.queries.reader import Reader
        from grammars.queries.scope import Names
        from grammars.queries.syntax import lark_of_schema

        options, dialect = language.options, language.dialect
        names = Names(database.schema, dialect, options["forward_alias"], options["forward_column"])
        text = lark_of_schema(
            database.schema,
            dialect,
            options["name_length"],
            BARE_LENGTH,
            options["string_length"],
            bool(options["forward_column"]),
        )
        self.vocabulary = vocabulary
        self.guided = compile_guided(text, vocabulary, lambda message: _explained(language, message))
        self.reader = Reader(names, bool(options["check_types"]))
        self._database = database
        self._dialect = dialect
        self._verdicts: OrderedDict[bytes, bool] = OrderedDict()
        self.beginnings = _beginnings(vocabulary)

    def start(self) -> SqlState:
        return SqlState(self, self.guided.start(), self.reader.start, b"", b"")

    def judge(self, text: bytes) -> bool:
        """The final verdict on a query, remembered."""
        verdict = self._verdicts.get(text)
        if verdict is None:
            verdict = self._verdicts[text] = self._refusal(text.decode()) is None
            if len(self._verdicts) > REMEMBERED_VERDICTS:
                self._verdicts.popitem(last=False)
        return verdict

    def _refusal(self, query: str) -> str | None:
        if self._database.explainer is not None:
            return self._database.explainer.refusal(query)
        from grammars.queries.judge import refusal

        return refusal(query, self._database.schema, self._dialect)


class SqlState:
    """A place in the grammar, a place among the names, and the text so far."""

    __slots__ = ("_begun", "_complete", "_constraint", "_firsts", "_frame", "_guided", "_mask", "_tested", "_text")

    mask_is_exact = False

    def __init__(
        self, constraint: SqlConstraint, guided: ConstraintState, frame: Frame, begun: bytes, text: bytes
    ) -> None:
        self._constraint = constraint
        self._guided = guided
        self._frame = frame
        self._begun = begun
        self._text = text
        self._complete: bool | None = None
        self._mask: np.ndarray | None = None
        self._tested = 0
        self._firsts: dict[bytes, bool] = {}

    @property
    def is_complete(self) -> bool:
        if self._complete is None:
            self._complete = (
                self._guided.is_complete
                and self._constraint.reader.finish(self._frame, self._begun)
                and self._constraint.judge(self._text)
            )
        return self._complete

    def bitmask(self) -> np.ndarray | None:
        """The syntax's mask; that of a dead end where names leave none of its tokens."""
        if self._mask is None:
            mask = self._guided.bitmask()
            assert mask is not None
            if not self._goes_on(mask):
                vocabulary = self._constraint.vocabulary
                mask = vocabulary.bitmask([vocabulary.eos] if self.is_complete else [])
            self._mask = mask
        return self._mask

    def _goes_on(self, mask: np.ndarray) -> bool:
        """Whether some byte may come next, and some token of the mask begins with it. The first bytes tried mostly do."""
        feed = self._constraint.reader.feed
        # The reader is only asked about what the syntax allows.
        return any(
            (mask & tokens).any() and feed(self._frame, self._begun, byte) is not None
            for byte, tokens in self._constraint.beginnings.items()
        )

    def accepts(self, tokens: np.ndarray, masked: bool = False) -> np.ndarray:
        verdicts = np.ones(len(tokens), dtype=bool) if masked else self._guided.accepts(tokens)
        bytes_of = self._constraint.vocabulary.bytes_of
        for k in np.flatnonzero(verdicts).tolist():
            written = bytes_of(int(tokens[k]))
            verdicts[k] = self._may_go_on(written) if written else self.is_complete
        if masked and verdicts.any():
            # Random walks have twice met a mask of llguidance's with a token that it then refused: it is asked again.
            verdicts[verdicts] = self._guided.accepts(tokens[verdicts])
        return verdicts

    def _may_go_on(self, written: bytes) -> bool:
        feed = self._constraint.reader.feed
        self._tested += 1
        if self._tested > PATIENCE:
            # Many candidates have been refused here: that no text goes on with some byte is found out once for all tokens.
            first = written[:1]
            if first not in self._firsts:
                self._firsts[first] = feed(self._frame, self._begun, first) is not None
            if not self._firsts[first]:
                return False
        return feed(self._frame, self._begun, written) is not None

    def advance(self, token: int) -> SqlState:
        constraint = self._constraint
        if token == constraint.vocabulary.eos:
            return self
        written = constraint.vocabulary.bytes_of(token)
        place = constraint.reader.feed(self._frame, self._begun, written)
        assert place is not None, f"token {token} ({written!r}) is not accepted here"
        return SqlState(constraint, self._guided.advance(token), *place, self._text + written)


def _explained(language: Sql, message: str) -> GrammarError:
    columns = sum(len(table.columns) for table in language.schema.tables)
    return GrammarError(
        f"the grammar of {len(language.schema.tables)} tables and {columns} columns cannot be built "
        f"({message.partition(chr(10))[0]}); use a database user or views that show fewer"
    )


def _beginnings(vocabulary: Vocabulary) -> dict[bytes, np.ndarray]:
    """The tokens by their first byte, as bitmasks; made once a vocabulary."""
    if vocabulary not in _BEGINNINGS:
        tokens: dict[bytes, list[int]] = {byte: [] for byte in FIRST_TRIED}
        for token, written in enumerate(vocabulary.tokens):
            if written:
                tokens[written[:1]].append(token)
        _BEGINNINGS[vocabulary] = {byte: vocabulary.bitmask(found) for byte, found in tokens.items() if found}
    return _BEGINNINGS[vocabulary]
