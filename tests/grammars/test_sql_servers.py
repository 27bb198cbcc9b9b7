"""SQL against other databases than SQLite: a real PostgreSQL server and DuckDB; MySQL by its grammar alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from grammars.errors import GrammarError
from grammars.queries.schema import BOOL, NUMBER, TEXT, TIME
from grammars.sql import Sql, SqlConstraint
from tests import databases
from tests.grammars.small import SMALL, is_member

TABLES = """
CREATE TABLE singer (id INTEGER PRIMARY KEY, name VARCHAR(40), age INTEGER, born DATE, "Is Male" BOOLEAN, "order" INTEGER);
CREATE TABLE song (id INTEGER PRIMARY KEY, singer_id INTEGER REFERENCES singer (id), title VARCHAR(40), sales NUMERIC(9, 2));
CREATE VIEW old AS SELECT * FROM singer WHERE age > 40;
INSERT INTO singer VALUES (1, 'Ann', 30, '1990-05-01', false, 2), (2, 'Bo', 50, '1970-01-01', true, 1);
"""
BOTH_ACCEPT = (
    "SELECT name FROM singer",
    "SELECT s.name, count(*) FROM singer s LEFT JOIN song ON song.singer_id = s.id GROUP BY s.name ORDER BY 2 DESC",
    'SELECT "Is Male" FROM old WHERE "order" = 3 AND "Is Male" = true',
    "SELECT extract(year FROM born), age::varchar FROM singer WHERE born > '2020-01-01'",
    "WITH x AS (SELECT singer_id, sum(sales) AS total FROM song GROUP BY singer_id) "
    "SELECT name FROM singer JOIN x ON x.singer_id = singer.id WHERE total > 100",
    "SELECT name, rank() OVER (ORDER BY age DESC NULLS LAST) FROM singer WHERE name ILIKE '%a%'",
    "SELECT title FROM song WHERE sales IS NOT DISTINCT FROM 3 INTERSECT ALL SELECT name FROM singer",
    "SELECT date_trunc('month', born) AS m, count(*) FROM singer GROUP BY m HAVING count(*) > 1",
    "SELECT title FROM song WHERE title LIKE '100%' OR title = '%s %(x)s :y'",
)
BOTH_REFUSE = (
    "SELECT name, count(*) FROM singer",
    "SELECT order FROM singer",
    "SELECT lower(age) FROM singer",
    "SELECT name FROM singer WHERE age = 'abc'",
    "SELECT name FROM singer WHERE name > 3.5",
    'SELECT name FROM singer WHERE "Is Male" = 1',
    "SELECT name FROM singer JOIN song WHERE age = 3",
    "SELECT id FROM singer JOIN song ON song.singer_id = singer.id",
    "SELECT nextval('x')",
    "SELECT pg_sleep(10)",
    "SELECT read_text('/etc/passwd')",
    "DELETE FROM song",
)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The URL of a server of its own, that goes with the test."""
    with databases.postgresql(TABLES) as (url, _):
        yield url


@pytest.fixture(scope="module")
def duckdb(tmp_path_factory: pytest.TempPathFactory) -> str:
    driver = pytest.importorskip("duckdb")
    pytest.importorskip("duckdb_engine")
    path = tmp_path_factory.mktemp("duck") / "singers.duckdb"
    with driver.connect(str(path)) as connection:
        connection.execute(TABLES)
    return f"duckdb:///{path}"


@pytest.fixture(scope="module", params=["postgresql", "duckdb"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def constraint(url: str) -> SqlConstraint:
    return Sql(url).compile(SMALL)


def test_the_schema_is_read_with_kinds_and_keys(url: str):
    schema = Sql(url).schema
    assert [(table.name, table.is_view) for table in schema.tables] == [
        ("singer", False),
        ("song", False),
        ("old", True),
    ]
    kinds = {column.name: column.kinds for column in schema.tables[0].columns}
    assert kinds == {"id": NUMBER, "name": TEXT, "age": NUMBER, "born": TIME, "Is Male": BOOL, "order": NUMBER}
    (key,) = schema.tables[1].foreign_keys
    assert (key.columns, key.table, key.to_columns) == (("singer_id",), "singer", ("id",))
    assert schema.tables[0].primary_key == ("id",)


@pytest.mark.parametrize("query", BOTH_ACCEPT)
def test_what_the_database_plans_is_a_member(constraint: SqlConstraint, query: str):
    assert is_member(constraint, query), constraint._refusal(query)


@pytest.mark.parametrize("query", BOTH_REFUSE)
def test_what_it_does_not_plan_is_none(constraint: SqlConstraint, query: str):
    assert not is_member(constraint, query)


def test_case_of_names_counts_as_it_does_there(postgresql: str, duckdb: str):
    for url, folds in ((postgresql, True), (duckdb, False)):
        constraint = Sql(url).compile(SMALL)
        assert is_member(constraint, "SELECT NAME FROM Singer")
        assert is_member(constraint, 'SELECT "is male" FROM singer') != folds
        assert is_member(constraint, 'SELECT "NAME" FROM singer') != folds


def test_a_prompt_shows_values(url: str):
    prompt = Sql(url).prompt("Who?", sample_values=2)
    assert "/* 'Ann', 'Bo' */" in prompt and "CREATE VIEW old" in prompt and '"Is Male" BOOLEAN' in prompt


def test_a_lost_connection_is_opened_again(postgresql: str):
    import psycopg

    constraint = Sql(postgresql).compile(SMALL)
    assert constraint._refusal("SELECT 1") is None
    with psycopg.connect(postgresql.replace("+psycopg", ""), autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename <> ''"
        )
    assert constraint._refusal("SELECT name FROM singer") is None
    assert "nosuch" in str(constraint._refusal("SELECT nosuch FROM singer"))


def test_a_schema_stays_until_it_is_refreshed(postgresql: str):
    import psycopg

    before = Sql(postgresql)
    with psycopg.connect(postgresql.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE TABLE added (a INTEGER)")
        try:
            assert Sql(postgresql).spec == before.spec
            after = Sql(postgresql, refresh=True)
            assert after.spec != before.spec and is_member(after.compile(SMALL), "SELECT a FROM added")
        finally:
            connection.execute("DROP TABLE added")
            Sql(postgresql, refresh=True)


def test_the_dialect_of_a_database_is_its_own(duckdb: str):
    with pytest.raises(GrammarError, match="speaks duckdb, but dialect='mysql' was given; leave dialect out"):
        Sql(duckdb, "mysql")


def test_mysql_is_judged_by_its_grammar_and_by_sqlglot():
    """No MySQL server is at hand: tables are declared, and EXPLAIN is not asked."""
    constraint = Sql(tables={"t": {"a": "INTEGER", "b": "VARCHAR(9)", "key": "TEXT"}}, dialect="mysql").compile(SMALL)
    for query in (
        "SELECT a, `key` FROM t WHERE b = \"x\" OR b = 'y' LIMIT 3",
        "SELECT year(curdate()), if(a > 3, 'x', 'y'), group_concat(b) FROM t GROUP BY a",
        "SELECT t.a FROM t LEFT JOIN t AS u ON t.a = u.a",
    ):
        assert is_member(constraint, query), query
    for query in ('SELECT "a" || b FROM t', "SELECT key FROM t", "SELECT a::char FROM t", "SELECT c FROM t"):
        assert not is_member(constraint, query), query
