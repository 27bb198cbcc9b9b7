"""SQL against other databases than SQLite: a real PostgreSQL server and DuckDB; MySQL by its grammar alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from grammars.errors import GrammarError
from grammars.queries.schema import BOOL, NUMBER, TEXT, TIME
from grammars.sql import Sql, SqlConstraint
from tests import databases
from tests.grammars.small import SMALL, by_bytes, is_member

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
    "SELECT name, rank() OVER w FROM singer WINDOW w AS (PARTITION BY name ORDER BY age)",
    "WITH v(a, b) AS (VALUES (1, 'x'), (2, 'y')) SELECT name, b FROM singer JOIN v ON age = a",
    "SELECT * FROM (VALUES (1, 2), (3, 4)) AS v",
    "SELECT v.age, singer.name FROM (VALUES (1, 'x'), (2, 'y')) AS v(age, word) JOIN singer ON word = name WHERE v.age = 1",
    "SELECT v.id FROM (SELECT name, id FROM singer) v (who) WHERE v.who = 'Ann'",
    'SELECT age FROM (SELECT 1, 2) AS v("n m", age), (SELECT 3) AS w(a) WHERE "n m" = a',
    "SELECT * FROM (SELECT id, name FROM singer) AS v(a, b) NATURAL JOIN (SELECT 1 AS a) AS w ORDER BY a",
    "SELECT name FROM singer WHERE (age, name) = (1, 'x') OR (id, age) IN ((1, 2), (3, 4)) OR (id, age) IN (VALUES (1, 2))",
    "SELECT name FROM singer WHERE (id, age) IN (SELECT id, age FROM singer)",
    "SELECT id & 3, id | -4, id << 1, id >> 2, ~id, id % -2 FROM singer WHERE id & 1 = 1",
    "SELECT s.name FROM old JOIN (singer s JOIN song g ON g.singer_id = s.id) ON old.id = s.id",
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
    "SELECT [name] FROM singer",
    "SELECT rowid FROM temp.singer",
    "SELECT id |-4 FROM singer",
    "SELECT id &~ 1 FROM singer",
    "SELECT name FROM singer WHERE id =~ 2",
    "SELECT * FROM (VALUES (1, 2), (3)) AS v",
    "SELECT v.id FROM (VALUES (1, 2)) AS v(a, b)",
    "SELECT age FROM (VALUES (1, 2)) AS v(age, b, c)",
    "SELECT age FROM (VALUES (1, 2)) AS v(age, age)",
    "SELECT v.id FROM (SELECT id FROM singer) AS v(n)",
    "SELECT * FROM (SELECT name FROM singer) AS v(n) WHERE n > 3.5",
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


def test_what_only_one_of_them_can_say(postgresql: str, duckdb: str):
    elephant, duck = (Sql(url).compile(SMALL) for url in (postgresql, duckdb))
    for query, of_elephant in (
        ("SELECT name FROM public.singer", True),
        ("SELECT name FROM main.singer", False),
        ("SELECT name FROM singer WINDOW w AS (ORDER BY age) ORDER BY rank() OVER w", True),
        ("SELECT name FROM singer WHERE (id, age) = (SELECT id, age FROM singer)", True),
        ("SELECT * FROM (VALUES (1, 2)) AS v WHERE column1 = 1", True),
        ("SELECT * FROM (VALUES (1, 2)) AS v WHERE col0 = 1", False),
    ):
        assert is_member(elephant, query) == of_elephant, query
        if "(SELECT" not in query and "WINDOW" not in query:
            assert is_member(duck, query) != of_elephant, query
    for query in (
        "SELECT name FROM singer WINDOW w AS (ORDER BY age) ORDER BY rank() OVER w",
        "SELECT name FROM singer WHERE (id, age) = (SELECT id, age FROM singer)",
        "SELECT rowid FROM singer",
    ):
        assert not is_member(duck, query), query


@pytest.mark.parametrize("dialect", ["postgresql", "mysql"])
@pytest.mark.parametrize(
    "begun", ["v.xy, v.zw FROM {} v", "v.xy, v.zw FROM {} AS v(", "v.xy FROM {} AS v(", "v.a FROM {} AS v(z"]
)
def test_a_list_of_columns_has_room_for_those_named_before_it(dialect: str, begun: str):
    """Walks at random from a sub-query's alias on: none comes to where nothing may follow."""
    constraint = Sql(tables={"t": {"a": "INTEGER"}}, dialect=dialect, forward_column=2).compile(SMALL)
    rng, every = np.random.default_rng(1), np.arange(SMALL.size)
    for _ in range(40):
        state = by_bytes(constraint, b"SELECT " + begun.format("(SELECT a, 3 FROM t)").encode())
        assert state is not None
        for _ in range(25):
            accepted = state.accepts(every)
            accepted[SMALL.eos] = False
            if not accepted.any():
                assert state.is_complete
                break
            state = state.advance(int(rng.choice(np.flatnonzero(accepted))))


def test_mysql_is_judged_by_its_grammar_and_by_sqlglot():
    """No MySQL server is at hand: tables are declared, and EXPLAIN is not asked."""
    constraint = Sql(tables={"t": {"a": "INTEGER", "b": "VARCHAR(9)", "key": "TEXT"}}, dialect="mysql").compile(SMALL)
    for query in (
        "SELECT a, `key` FROM t WHERE b = \"x\" OR b = 'y' LIMIT 3",
        "SELECT year(curdate()), if(a > 3, 'x', 'y'), group_concat(b) FROM t GROUP BY a",
        "SELECT t.a FROM t LEFT JOIN t AS u ON t.a = u.a",
        "SELECT rank() OVER w FROM t WINDOW w AS (ORDER BY a)",
        "SELECT a & 1, a |-1, ~a FROM t WHERE (a, b) = (1, 'x') OR (a, b) IN ((1, 'x'), (2, 'y'))",
        "SELECT t.a FROM (t JOIN t AS u ON t.a = u.a)",
        "SELECT v.b FROM (SELECT a, a FROM t) AS v(c, B)",
        "SELECT A FROM t",
    ):
        assert is_member(constraint, query), query
    for query in (
        'SELECT "a" || b FROM t',
        "SELECT key FROM t",
        "SELECT a::char FROM t",
        "SELECT c FROM t",
        "SELECT [a] FROM t",
        "SELECT rowid FROM t",
        "SELECT a FROM main.t",
        "SELECT a FROM t WHERE a IN (VALUES (1))",
        "SELECT v.b FROM (SELECT a, a FROM t) AS v(b)",
    ):
        assert not is_member(constraint, query), query
