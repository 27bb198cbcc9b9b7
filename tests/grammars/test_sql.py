"""SQL against live SQLite databases: every gold query of Spider's, what is refused and where, schemas, errors."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pytest

from decoding.sql_execution import execute
from grammars.errors import GrammarError
from grammars.queries.schema import NUMBER, TEXT, TIME
from grammars.registry import compile_cached, language_from_spec
from grammars.sql import Sql, SqlConstraint
from tests import databases
from tests.grammars.small import SMALL, by_bytes, is_member


@cache
def constraint_of(path: Path, **options: int) -> SqlConstraint:
    constraint = compile_cached(Sql(str(path), **options), SMALL)
    assert isinstance(constraint, SqlConstraint)
    return constraint


@pytest.fixture(scope="module")
def questions(data: Path) -> list[tuple[Path, str]]:
    """Database and gold query of each question."""
    rows = [json.loads(line) for line in (data / "sql" / "questions.jsonl").read_text().splitlines()]
    return [(data / "sql" / "database" / row["db_id"] / f"{row['db_id']}.sqlite", row["query"]) for row in rows]


@pytest.fixture(scope="module")
def singers(data: Path) -> SqlConstraint:
    return constraint_of(data / "sql" / "database" / "concert_singer" / "concert_singer.sqlite")


def refused_at(constraint: SqlConstraint, text: str) -> int | None:
    """How many bytes of a text are taken before one is refused; its length where only the end is; None for a member."""
    written, ids = SMALL.by_bytes
    state, data = constraint.start(), text.encode()
    for k in range(len(data)):
        token = ids[written.index(data[k : k + 1])]
        if not state.accepts(np.array([token]))[0]:
            return k
        state = state.advance(token)
    return None if state.is_complete else len(data)


def test_every_gold_query_is_accepted_token_by_token(questions, vocabulary, tokenizer):
    assert len(questions) == 100
    for path, query in questions:
        state = compile_cached(Sql(str(path)), vocabulary).start()
        for token in tokenizer(query, add_special_tokens=False)["input_ids"]:
            assert state.accepts(np.array([token]))[0], (query, vocabulary.bytes_of(token))
            mask = state.bitmask()
            assert mask is not None and mask[token >> 5] >> (token & 31) & 1
            state = state.advance(token)
        assert state.is_complete, query


def test_changed_gold_queries_are_never_accepted_where_the_database_refuses_them(questions):
    """Words of gold queries exchanged for others, lost or doubled: nearly all bad ones are refused without asking SQLite."""
    random = Random(1)
    bad = early = good = accepted_good = 0
    for path, query in questions:
        constraint = constraint_of(path)
        names = [
            name for table in Sql(str(path)).schema.tables for name in (table.name, *(c.name for c in table.columns))
        ]
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        for _ in range(3):
            changed = changed_query(query, names, random)
            try:
                connection.execute("EXPLAIN " + changed)
                compiles = True
            except (sqlite3.Error, sqlite3.Warning):
                compiles = False
            state = by_bytes(constraint, changed.encode())
            if compiles:
                good += 1
                accepted_good += state is not None and state.is_complete
                continue
            bad += 1
            assert state is None or not state.is_complete, changed
            early += state is None or not constraint.reader.finish(state._frame, state._begun)
        connection.close()
    assert bad > 100 and early >= 0.99 * bad
    # What compiles and is refused all the same compares a name with a number, takes a column for a string, and the like.
    assert accepted_good >= 0.5 * good


def changed_query(query: str, names: list[str], random: Random) -> str:
    words = list(re.finditer(r"[A-Za-z_][\w.]*|[()*,]", query))
    word = random.choice(words)
    match random.randrange(4):
        case 0:
            put = random.choice(names)
        case 1:
            put = random.choice(["nosuch", "count(*)", "3", "'x'", "DISTINCT", ",", ")"])
        case 2:
            put = ""
        case _:
            put = f"{word[0]}, {word[0]}"
    return query[: word.start()] + put + query[word.end() :]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT name, row_number() OVER (PARTITION BY country ORDER BY age DESC) AS r FROM singer",
        "WITH x AS (SELECT name, age FROM singer), y AS (SELECT * FROM x) SELECT y.name FROM y JOIN x ON y.age = x.age",
        "WITH x(a, b) AS (SELECT name, age FROM singer) SELECT a FROM x WHERE b > 3",
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 5) SELECT n FROM c",
        "SELECT country, count(*) AS n FROM singer GROUP BY country HAVING n > 2 ORDER BY n DESC, country LIMIT 3 OFFSET 1",
        "SELECT avg(x.age) FROM (SELECT age FROM singer) AS x WHERE x.age > 2",
        "SELECT name FROM (SELECT name, age + 1 AS later FROM singer) WHERE later > 30 ORDER BY later",
        "SELECT name FROM singer WHERE age > (SELECT avg(age) FROM singer)",
        "SELECT s.name FROM singer s WHERE EXISTS (SELECT 1 FROM singer_in_concert c WHERE c.singer_id = s.singer_id)",
        "SELECT T1.name, (SELECT count(*) FROM concert WHERE concert.stadium_id = T1.stadium_id) FROM stadium AS T1",
        "SELECT T1.name FROM singer T1 WHERE T1.age IN (SELECT T1.capacity FROM stadium T1 WHERE T1.name LIKE 'A%')",
        "SELECT stadium_id, theme FROM stadium JOIN concert USING (stadium_id)",
        "SELECT stadium_id FROM stadium NATURAL JOIN concert",
        "SELECT concert_name FROM stadium s LEFT OUTER JOIN concert c ON s.stadium_id = c.stadium_id CROSS JOIN singer",
        "SELECT CASE WHEN age > 30 THEN 'old' ELSE 'young' END AS c, count(*) FROM singer GROUP BY c",
        "SELECT CASE country WHEN 'France' THEN 1 END FROM singer",
        "SELECT CAST(age AS TEXT) || name FROM singer WHERE name NOT LIKE 'A%' AND age NOT BETWEEN 20 AND 40",
        "SELECT name FROM singer WHERE name IS NOT NULL AND NOT (age > 3 OR age = -1)",
        "SELECT max(age) - min(age), sum(age) / count(*) FROM singer",
        "SELECT max(age, 3) FROM singer WHERE max(age, 3) > 2",
        "SELECT max(count(*), 3) FROM singer",
        "SELECT sum(age) OVER (ORDER BY age ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) FROM singer",
        "SELECT count(*) FILTER (WHERE age > 3) FROM singer",
        "SELECT *, s.name FROM singer s, stadium WHERE s.name = stadium.name",
        'SELECT "Name", `age` FROM "singer" WHERE country IN (\'France\', "US")',
        "SELECT name FROM singer WHERE name = 'it''s' OR song_name = 'é'",
        "SELECT year FROM concert WHERE year = 2014 OR year = '2014'",
        "SELECT (SELECT count(*) FROM singer) - (SELECT count(*) FROM stadium);",
        "SELECT name AS n FROM singer UNION ALL SELECT name FROM stadium ORDER BY n",
        "SELECT a.name, b.name FROM singer a JOIN singer b ON a.country = b.country AND a.age < b.age",
        "SELECT singer.name FROM singer\n  WHERE\n  (age) > (3)",
        "SELECT strftime('%Y', 'now'), date('now')",
        "SELECT name FROM singer NATURAL LEFT JOIN stadium",
        "SELECT sum(age) OVER (ORDER BY age ROWS 2 PRECEDING), max(age) OVER (ORDER BY age GROUPS BETWEEN 1 FOLLOWING AND "
        "UNBOUNDED FOLLOWING) FROM singer",
        "SELECT name FROM singer WHERE name LIKE '10!%' ESCAPE '!' ORDER BY name COLLATE NOCASE DESC LIMIT 2, 3",
        "SELECT -age, - (age + 1), +3 FROM singer WHERE age > -1.5e3",
        "SELECT name FROM singer WHERE country IS 'France' OR age IS NOT 3 OR name IS NULL",
        "SELECT concert.theme FROM (SELECT theme FROM concert) AS concert",
        "SELECT count(*) FILTER (WHERE age > 3) OVER (ORDER BY age) FROM singer",
        "SELECT printf('%.1f', age) AS a FROM singer",
        "SELECT group_concat(DISTINCT name) FROM singer ORDER BY count(*)",
        "SELECT name, sum(age) OVER w FROM singer WINDOW w AS (PARTITION BY country ORDER BY age)",
        "SELECT rank() OVER w, sum(age) OVER v FROM singer GROUP BY age HAVING age > 3 WINDOW w AS (ORDER BY count(*)), v AS () "
        "ORDER BY max(age) OVER w LIMIT 3",
        "SELECT name FROM singer WINDOW w AS (ORDER BY age ROWS 2 PRECEDING) ORDER BY lag(age) OVER w",
        "SELECT * FROM (VALUES (1, 'x'), (2, 'y')) AS v WHERE v.column1 > 1 ORDER BY column2",
        "WITH v(a, b) AS (VALUES (1, 'x'), (2, 'y')) SELECT name, b FROM singer JOIN v ON age = a",
        "WITH v AS (VALUES (1, 'x')) SELECT column2 FROM v WHERE column1 = 1",
        "WITH RECURSIVE c(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c WHERE n < 5) SELECT n FROM c",
        "SELECT name FROM singer WHERE age IN (VALUES (1), (2)) OR (age, name) NOT IN (VALUES (1, 'x'))",
        "SELECT name FROM singer WHERE (age, name) = (1, 'x') OR (age, 2) < (SELECT age, capacity FROM stadium)",
        "SELECT name FROM singer WHERE (age, name) IN ((1, 'x'), (2, 'y')) AND (age, name) IN (SELECT age, name FROM singer)",
        "SELECT (age, 1) = (1, 2) AS same FROM singer GROUP BY age, name HAVING (count(*), max(age)) > (1, 2)",
        "SELECT [name], [singer].[age] AS [a b] FROM [singer] ORDER BY [a b]",
        "SELECT s.name FROM main.singer s JOIN [main].concert c ON s.age = c.year",
        'WITH x AS (SELECT name FROM main.singer) SELECT x.name FROM x JOIN "main".stadium q ON x.name = q.name',
        "SELECT rowid, name FROM singer WHERE rowid > 3 GROUP BY oid ORDER BY _rowid_",
        "SELECT s.rowid FROM singer s JOIN stadium t ON s.rowid = t.rowid",
        "SELECT age & 3, age | 4, age << 1 >> 2, ~age FROM singer WHERE age & 1 = 1",
        "SELECT s.name FROM (singer s JOIN concert c ON s.singer_id = c.concert_id)",
        "SELECT x.theme FROM singer CROSS JOIN ((stadium t NATURAL JOIN concert x) LEFT JOIN singer q ON x.year = q.age) "
        "WHERE x.year > 3",
        "SELECT theme FROM (stadium JOIN concert USING (stadium_id)) JOIN singer ON singer.age = stadium_id",
        'SELECT main.singer.name, main.s.capacity FROM singer, stadium s WHERE [main].s.name = "main".singer.name',
        "SELECT name FROM singer WHERE EXISTS (SELECT 1 FROM concert WHERE main.concert.year = main.singer.age)",
        "SELECT main.singer.rowid FROM main.singer GROUP BY main.singer.age HAVING max(main.singer.age) > 3",
        "SELECT name FROM singer WHERE (age, name) BETWEEN (1, 'a') AND (2, 'b') AND age NOT BETWEEN 3 AND 4",
        "SELECT (age, name) NOT BETWEEN (SELECT age, name FROM singer) AND (2, 'b') FROM singer WHERE (age, 1) IS NOT (2, 1)",
        "SELECT sum(age) OVER (w ORDER BY age), rank() OVER (w) FROM singer WINDOW w AS (PARTITION BY country)",
        "SELECT sum(age) OVER (v ROWS 2 PRECEDING) FROM singer WINDOW w AS (PARTITION BY country), v AS (w ORDER BY age)",
        "SELECT name FROM singer WINDOW w AS (ORDER BY age) ORDER BY rank() OVER (w), sum(age) OVER (ROWS 1 PRECEDING)",
        "SELECT singer.name, main.stadium.name FROM (singer), (main.stadium s)",
        "SELECT x.name, y.name FROM (singer s) x, ((stadium) AS z) y",
        "SELECT name FROM stadium JOIN (singer) USING (name)",
        "SELECT age FROM stadium NATURAL JOIN (singer)",
        "SELECT x.name, singer.age, main.c.year FROM (singer JOIN concert c ON age = year) AS x ORDER BY x.theme",
        "SELECT x.name FROM (singer JOIN stadium ON 1 = 1) x LEFT JOIN concert ON x.age = year",
        "SELECT capacity FROM stadium JOIN (singer JOIN concert c ON age = year) j USING (stadium_id) WHERE j.theme = 'x'",
        "SELECT x.age FROM ((SELECT age FROM singer) y JOIN stadium ON 1 = 1) AS x",
        "SELECT s.age FROM singer s WHERE EXISTS (SELECT 1 FROM (stadium t JOIN concert ON t.capacity = s.age AND age = year))",
        "SELECT name FROM singer GROUP BY 1, 2.5 ORDER BY 1., 0.5, 7.5e1, 1e0, 99999999999",
    ],
)
def test_what_sql_can_say_is_accepted(singers: SqlConstraint, query: str):
    assert refused_at(singers, query) is None
    assert is_member(singers, " " + query.replace(" FROM ", "\nfrom   "))


@pytest.mark.parametrize(
    ("taken", "refused"),
    [
        ("SELECT", "name FROM singer"),
        ("SELECT fo", "o FROM singer"),
        ("SELECT singer.nam", " FROM singer"),
        ("SELECT T1.", "foo FROM singer AS T1"),
        ("SELECT name FROM ", "nosuch"),
        ("SELECT name FROM s", "qlite_master"),
        ("SELECT name FROM singer WHERE ca", "pacity > 3"),
        ("SELECT name FROM concert ", "WHERE year = 2014"),
        ("SELECT name FROM singer JOIN stadium O", "N age = capacity"),
        ("SELECT name FROM singer WHERE name > ", "3.5"),
        ("SELECT name FROM singer WHERE age = '", "abc'"),
        ("SELECT name FROM singer WHERE age BETWEEN '", "a' AND 'b'"),
        ("SELECT name FROM singer WHERE age IN (1, '", "a')"),
        ("SELECT name FROM singer WHERE 3 < ", "name AND 1 = 1"),
        ("SELECT name FROM singer H", "AVING age > 3"),
        ("SELECT name FROM singer WHERE c", "ount(*) > 3"),
        ("SELECT name FROM singer WHERE max(age", ") > 3"),
        ("SELECT name FROM singer GROUP BY s", "um(age)"),
        ("SELECT max(count(*)", ") FROM singer"),
        ("SELECT name FROM singer WHERE r", "ow_number() OVER () > 3"),
        ("SELECT sum(DISTINCT age) O", "VER () FROM singer"),
        ("SELECT substr(name", ") FROM singer"),
        ("SELECT length(name", ", age) FROM singer"),
        ("SELECT lo", "ad_extension()"),
        ("SELECT name FROM singer ORDER BY 2", " LIMIT 1"),
        ("SELECT name FROM singer UNION SELECT name FROM stadium ORDER BY 1", ".5"),
        ("SELECT name FROM singer UNION SELECT name", ", age FROM singer"),
        ("SELECT name, age FROM singer UNION SELECT name F", "ROM stadium"),
        ("SELECT name FROM singer UNION SELECT name FROM stadium ORDER BY ", "age"),
        ("SELECT name FROM singer WHERE age IN (SELECT age", ", name FROM singer)"),
        ("SELECT age FROM singer WHERE age > (SELECT name F", "ROM singer)"),
        ("SELECT name FROM singer s JOIN stadium s", " ON s.name = s.name"),
        ("SELECT T1.name FROM concert AS T", "1 JOIN singer AS T2 ON 1 = 1"),
        ("SELECT s.name FROM singer AS t ", "WHERE t.age > 3"),
        ("SELECT stadium_id FROM stadium JOIN concert USING (", "name)"),
        ("SELECT s.name FROM singer s WHERE EXISTS (SELECT 1 FROM concert WHERE s.c", "apacity > 3)"),
        ("SELECT s.name FROM singer s JOIN (SELECT s.age FROM concert", ") x ON 1 = 1"),
        ("SELECT x.age FROM (SELECT name FROM singer) AS x", " WHERE 1 = 1"),
        ("WITH x AS (SELECT name FROM singer) SELECT age FROM x ", "WHERE 1 = 1"),
        ("WITH singer", " AS (SELECT 1) SELECT 1 FROM singer"),
        ("WITH x AS (SELECT 1), x", " AS (SELECT 2) SELECT 1 FROM x"),
        ('SELECT "', 'nosuch" FROM singer'),
        ("SELECT name FROM singer;", " DELETE FROM singer"),
        ("SELECT name FROM singer ", "-- comment"),
        ("SELECT name FROM singer ", "/* comment */"),
        ("SELECT 1 -", "- 2"),
        ("SELECT b", "y"),
        ("SELECT age a ", "IN (1)"),
        ("SELECT age e", "lse"),
        ("SELECT name FROM singer ", "recursive"),
        ("SELECT name FROM singer ", "on 1 = 1"),
        ("SELECT age FROM singer CROSS JOIN stadium s ", "on 1 = 1"),
        ("SELECT name FROM singer WHERE name = ", "count(*)"),
        ("SELECT name FROM singer WHERE name = ", "exists (SELECT 1)"),
        ("SELECT name FROM singer WHERE name LIKE ", "not"),
        ("SELECT abs(age OR ", "select 1)"),
        ("SELECT abs(", "distinct age)"),
        ("SELECT max(", "lag(age))"),
        ("SELECT row_number(", "age) OVER ()"),
        ("SELECT name FROM stadium JOIN concert USING (stadium_id) ", "or 1"),
        ("SELECT a.name FROM singer a, stadium b NATURAL JOIN singer", " WHERE 1 = 1"),
        ("SELECT age FROM singer JOIN stadium ON ", "name = 3"),
        ("SELECT name FROM singer UNION SELECT name FROM stadium ORDER BY name", " || 'x'"),
        ("SELECT name FROM singer UNION SELECT name FROM stadium ORDER BY ", "lower(name)"),
        ("SELECT name FROM singer ORDER BY -1", " LIMIT 1"),
        ("SELECT a.name FROM singer a JOIN concert ON name = 'x' JOIN stadium ", "ON 1 = 1"),
        ("SELECT name FROM singer WHERE age IN (SELECT name F", "ROM stadium)"),
        ('SELECT name FROM "sing', '" WHERE 1 = 1'),
        ('SELECT "nam', '" FROM singer'),
        ("SELECT capacity FROM (SELECT 1 AND capacity FROM stadium", ") WHERE 1 = 1"),
        ("SELECT * ", "UNION SELECT * FROM singer"),
        ("", "DELETE FROM singer"),
        ("", "PRAGMA table_info(singer)"),
        ("", "EXPLAIN SELECT 1"),
        ("", "VALUES (1)"),
        ("SELECT rank() OVER w FROM singer L", "IMIT 3"),
        ("SELECT rank() OVER w U", "NION SELECT 1"),
        ("SELECT rank() OVER w FROM singer WINDOW v AS (ORDER BY age)", " ORDER BY 1"),
        ("SELECT rank() OVER w FROM singer WINDOW w AS (), w", " AS ()"),
        ("SELECT rank() OVER w FROM singer WINDOW w AS (ORDER BY ca", "pacity)"),
        ("SELECT rank() OVER w FROM singer WINDOW w AS (ORDER BY r", "ank() OVER ())"),
        ("SELECT name FROM singer WINDOW w AS (ORDER BY age) ORDER BY rank() OVER ", "v"),
        ("SELECT name O", "VER w FROM singer"),
        ("SELECT * FROM (VALUES (1, 2), (3", "))"),
        ("SELECT * FROM (VALUES (1, 2), (3, 4", ", 5))"),
        ("SELECT * FROM singer, (VALUES (a", "ge))"),
        ("SELECT * FROM (VALUES (c", "ount(*)))"),
        ("WITH v(a, b) AS (VALUES (1", ")) SELECT a FROM v"),
        ("WITH v AS (VALUES (1)) SELECT column", "2 FROM v"),
        ("WITH v AS (VALUES (1, 'x')) SELECT column1 FROM v WHERE column2 > ", "3.5"),
        ("SELECT name FROM singer WHERE age IN (VALUES ('", "x'))"),
        ("SELECT name FROM singer WHERE age IN (VALUES (1", ", 2))"),
        ("SELECT name FROM singer WHERE (age, name) = (1, ", "2.5)"),
        ("SELECT name FROM singer WHERE (age, name) = (1, 'x'", ", 3)"),
        ("SELECT name FROM singer WHERE (age, name) = (1", ")"),
        ("SELECT name FROM singer WHERE (age, name) = ", "1"),
        ("SELECT (age, name) ", "FROM singer"),
        ("SELECT name FROM singer WHERE age = (1", ", 2)"),
        ("SELECT name FROM singer WHERE (age, name) IN ((1, 'x'), (2", "))"),
        ("SELECT name FROM singer WHERE (age, name) IN (SELECT age F", "ROM singer)"),
        ("SELECT name FROM singer WHERE (age, name) = (SELECT age, name", ", 3 FROM singer)"),
        ("SELECT [n", "osuch] FROM singer"),
        ("SELECT [name", " FROM singer"),
        ("SELECT name FROM ", "temp.singer"),
        ("SELECT name FROM main", " WHERE 1 = 1"),
        ("SELECT name FROM main.", "main.singer"),
        ("WITH x AS (SELECT 1 a) SELECT a FROM main.", "x"),
        ("SELECT rowid FROM singer", ", stadium"),
        ("SELECT rowid FROM singer J", "OIN stadium ON 1 = 1"),
        ("SELECT name FROM singer JOIN stadium USING (", "rowid)"),
        ("SELECT rowid FROM (SELECT rowid FROM singer)", " WHERE 1 = 1"),
        ("SELECT name ", "& 1 FROM singer"),
        ("SELECT age & '", "x' FROM singer"),
        ("SELECT ~", "name FROM singer"),
        ("SELECT name FROM singer, s", "tadium WHERE 1 = 1"),
        ("SELECT name FROM singer CROSS JOIN s", "tadium"),
        ("SELECT name FROM (singer s JOIN concert c ON s.singer_id = t", ".concert_id)"),
        ("SELECT singer.name FROM (singer) x", " WHERE 1 = 1"),
        ("SELECT y.name FROM stadium JOIN (singer y)", " WHERE 1 = 1"),
        ("SELECT name FROM (singer JOIN stadium", ") AS x"),
        ("SELECT x.* FROM (singer JOIN concert ON 1 = 1) AS ", "x WHERE 1 = 1"),
        ("SELECT x.capacity FROM (singer JOIN concert ON 1 = 1) AS ", "x WHERE 1 = 1"),
        ("SELECT age FROM (singer JOIN (stadium JOIN concert) AS y ON 1 = 1) AS x WHERE ", "y.year = 1"),
        ("SELECT age FROM stadium JOIN (singer s JOIN concert ON 1 = 1) ON s.", "rowid = 1"),
        ("SELECT stadium_id FROM stadium JOIN concert USING (stadium_id) JOIN concert c ", "ON 1 = 1"),
        ("SELECT main.s", "inger.* FROM singer"),
        ("SELECT main.x.age FROM (SELECT age FROM singer) ", "x WHERE 1 = 1"),
        ("WITH q AS (SELECT age FROM singer) SELECT main.q.age FROM q", " WHERE 1 = 1"),
        ("SELECT name FROM singer s WHERE main.s", "inger.age = 3"),
        ("SELECT name FROM singer WHERE (age, name) BETWEEN (1, 'x'", ", 3) AND (2, 'y')"),
        ("SELECT name FROM singer WHERE (age, name) BETWEEN (1, 'x') AND (2", ")"),
        ("SELECT name FROM singer WHERE (age, name) BETWEEN (SELECT age F", "ROM singer) AND (2, 'y')"),
        ("SELECT name FROM singer WHERE (age, name) IS ", "NULL"),
        ("SELECT sum(age) OVER (w ORDER BY age) FROM singer L", "IMIT 1"),
        ("SELECT sum(age) OVER (w ORDER BY age) FROM singer WINDOW w AS (", "ORDER BY name)"),
        ("SELECT sum(age) OVER (w) FROM singer WINDOW w AS (ORDER BY name ", "ROWS 1 PRECEDING)"),
        ("SELECT sum(age) OVER (w ", "PARTITION BY age) FROM singer WINDOW w AS ()"),
        ("SELECT 1 FROM singer WINDOW w AS (ORDER BY age), v AS (w ", "ORDER BY name)"),
        ("SELECT 1 FROM singer WINDOW w AS (ROWS 1 PRECEDING), v AS (", "w)"),
        ("SELECT 1 FROM singer WINDOW w AS (), v AS (", "u)"),
        ("SELECT age FROM singer WINDOW w AS (ORDER BY age) ORDER BY sum(age) OVER (w ", "ORDER BY name)"),
        ("SELECT name FROM (singer JOIN stadium O", "N 1 = 1)"),
        ("SELECT name FROM singer JOIN (concert JOIN stadium O", "N 1 = 1) ON 1 = 1"),
        ("SELECT age FROM singer s JOIN (stadium s", " JOIN concert ON 1 = 1) ON 1 = 1"),
        ("SELECT age FROM singer s JOIN (stadium t JOIN concert ON t.capacity = s", ".age) ON 1 = 1"),
        ("SELECT name FROM singer NATURAL JOIN (", "concert JOIN stadium ON 1 = 1)"),
        ("SELECT s.name FROM (singer s JOIN concert c ", "USING (age))"),
    ],
)
def test_what_cannot_become_right_is_refused_early(singers: SqlConstraint, taken: str, refused: str):
    """The first part is taken; somewhere in the second, before its end, the text is refused."""
    at = refused_at(singers, taken + refused)
    assert at is not None and len(taken) <= at < len(taken) + len(refused)


def test_finished_queries_that_sqlite_refuses_are_not_members(singers: SqlConstraint):
    for query in (
        "SELECT sum(a) FROM (SELECT count(*) AS a FROM singer)",
        "SELECT 1 LIMIT 2",
        "SELECT name FROM singer",
    ):
        assert (refused_at(singers, query) is None) == (singers._refusal(query) is None) or "a)" in query
    assert refused_at(singers, "SELECT *") == len("SELECT *")
    assert singers._refusal("SELECT name FROM singer; SELECT 1") is not None
    assert singers._refusal("DELETE FROM singer") is not None


def test_names_used_before_they_are_defined_are_an_option(data: Path):
    path = data / "sql" / "database" / "concert_singer" / "concert_singer.sqlite"
    query = "SELECT avg(cnt) FROM (SELECT count(*) AS cnt FROM singer GROUP BY country)"
    assert refused_at(constraint_of(path), query) is not None
    assert refused_at(constraint_of(path, forward_column=5), query) is None
    assert refused_at(constraint_of(path, forward_column=5), query.replace("cnt)", "nct)")) is not None
    aliased = "SELECT person.name FROM singer AS person"
    assert refused_at(constraint_of(path), aliased) is not None
    assert refused_at(constraint_of(path, forward_alias=6), aliased) is None
    assert refused_at(constraint_of(path), "SELECT singer_2.name FROM singer AS singer_2") is None


def test_comparisons_of_types_are_an_option():
    schema = {"t": {"a": "TEXT", "n": "INTEGER"}}
    strict, loose = (Sql(tables=schema, check_types=check).compile(SMALL) for check in (True, False))
    for query in ("SELECT a FROM t WHERE a > 3.5", "SELECT a FROM t WHERE n = 'x'", "SELECT a FROM t WHERE a = n"):
        assert not is_member(strict, query) and is_member(loose, query), query


def test_kinds_of_sqlite_columns_come_from_types_values_and_keys(tmp_path: Path):
    path = tmp_path / "k.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            """CREATE TABLE a (id INTEGER PRIMARY KEY, name TEXT, code TEXT, at DATETIME, mixed INTEGER, bare);
            CREATE TABLE b (a_id TEXT REFERENCES a (id), note VARCHAR(9));
            CREATE VIEW v AS SELECT name, id FROM a;
            INSERT INTO a VALUES (1, 'x', '12', '2020-01-01', 'n/a', 1), (2, 'y 2', 'none', '2020-01-02', 3, 2)"""
        )
    connection.close()
    schema = Sql(str(path)).schema
    kinds = {(table.name, column.name): column.kinds for table in schema.tables for column in table.columns}
    assert kinds["a", "name"] == TEXT and kinds["a", "code"] == TEXT | NUMBER and kinds["b", "note"] == TEXT
    assert kinds["a", "at"] == TEXT | TIME and kinds["a", "mixed"] == TEXT | NUMBER
    assert kinds["b", "a_id"] == kinds["a", "id"] == TEXT | NUMBER
    assert [table.name for table in schema.tables if table.is_view] == ["v"]
    assert schema.tables[1].foreign_keys[0].to_columns == ("id",)


def test_names_that_need_quotes_are_written_with_them():
    language = Sql(
        tables={"order": {"18 x": "TEXT", "group": "INTEGER", "é": "TEXT", 'say "a"': "TEXT", "last": "TEXT"}}
    )
    constraint = language.compile(SMALL)
    for query in (
        'SELECT "18 x", `group`, "é", last FROM "order"',
        'SELECT é FROM "order"',
        'SELECT "say ""a""" FROM `ORDER` WHERE "group" = 1',
    ):
        assert is_member(constraint, query), query
    for query in (
        'SELECT "18 x" FROM order',
        'SELECT group FROM "order"',
        'SELECT "É" FROM "order"',
    ):
        assert not is_member(constraint, query), query


def test_a_name_may_be_cut_within_a_character():
    constraint = Sql(tables={"日本": {"日本語": "TEXT", "straße": "TEXT", "order": "INTEGER"}}).compile(SMALL)
    for query in ('SELECT "日本語", "日本"."straße" FROM "日本"', "SELECT 日本語, straße FROM 日本"):
        assert refused_at(constraint, query) is None, query
    # The first byte of another character is refused already.
    assert refused_at(constraint, 'SELECT "日é" FROM "日本"') == len('SELECT "日'.encode())
    # A name that needs quotes is not begun without them.
    assert refused_at(constraint, "SELECT ord") == len("SELECT o")


def test_a_backslash_is_in_no_string_of_a_dialect_where_it_escapes():
    tables = {"t": {"a": "TEXT"}}
    query = r"SELECT a FROM t WHERE a = 'x\' OR a = 'y'".replace("\\\\", "\\")
    assert not is_member(Sql(tables=tables, dialect="mysql").compile(SMALL), query)
    assert is_member(Sql(tables=tables).compile(SMALL), query)


def test_tables_where_a_virtual_table_keeps_its_data_are_not_shown(tmp_path: Path):
    path = tmp_path / "f.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE VIRTUAL TABLE notes USING fts5(title, body)")
    connection.close()
    assert [table.name for table in Sql(str(path)).schema.tables] == ["notes"]


def test_virtual_tables_are_read_and_what_sqlite_cannot_read_is_left_out(tmp_path: Path):
    path = databases.sqlite(
        tmp_path / "v.sqlite",
        """CREATE TABLE t (a INTEGER); CREATE VIEW v AS SELECT a AS "x y" FROM t; CREATE VIEW broken AS SELECT * FROM gone;
        CREATE VIRTUAL TABLE notes USING fts5(body); CREATE VIRTUAL TABLE old_notes USING fts4(content);
        CREATE VIRTUAL TABLE boxes USING rtree(id, low, high); INSERT INTO notes VALUES ('hello');
        INSERT INTO boxes VALUES (1, 2, 3);""",
    )
    language = Sql(str(path))
    assert language.schema.left_out == ("view broken (no such table: main.gone)",)
    constraint = language.compile(SMALL)
    for query, rows in (
        ("SELECT body, rowid FROM notes", (("hello", 1),)),
        ("SELECT low FROM boxes JOIN t ON a < high", ()),
        ("SELECT count(content) FROM old_notes", ((0,),)),
        ('SELECT "x y" FROM v', ()),
    ):
        assert is_member(constraint, query), constraint._refusal(query)
        assert execute(str(path), query).rows == rows
    assert not is_member(constraint, "SELECT * FROM broken")
    with pytest.raises(GrammarError, match="declared schema has what cannot be read: view broken"):
        Sql(ddl="CREATE TABLE t (a INTEGER); CREATE VIEW broken AS SELECT * FROM gone;")
    with pytest.raises(GrammarError, match=r"has no tables but view broken \(no such table: main.gone\)"):
        Sql(str(databases.sqlite(tmp_path / "b.sqlite", "CREATE VIEW broken AS SELECT * FROM gone;")))


def test_walks_at_random_do_not_come_to_where_nothing_may_follow(data: Path):
    """Tokens drawn evenly among those accepted lead further astray than any model; none of these 40 texts is a dead end."""
    path = data / "sql" / "database" / "concert_singer" / "concert_singer.sqlite"
    constraint, rng, dead = constraint_of(path), np.random.default_rng(0), 0
    every = np.arange(SMALL.size)
    for _ in range(40):
        state = constraint.start()
        for _ in range(40):
            accepted = state.accepts(every)
            accepted[SMALL.eos] = False
            if not accepted.any():
                dead += not state.is_complete
                break
            state = state.advance(int(rng.choice(np.flatnonzero(accepted))))
    assert dead == 0


def test_only_tables_that_have_a_rowid_give_one(tmp_path: Path):
    path = tmp_path / "r.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            """CREATE TABLE a (x TEXT, oid TEXT); CREATE TABLE b (y TEXT PRIMARY KEY) WITHOUT ROWID;
            CREATE VIEW c AS SELECT x AS z FROM a"""
        )
    connection.close()
    constraint = Sql(str(path)).compile(SMALL)
    for query in ("SELECT rowid, oid FROM a WHERE oid = 'x'", "SELECT a.rowid, y FROM a JOIN b ON a.x = b.y"):
        assert is_member(constraint, query), query
    for query in ("SELECT y, rowid FROM b", "SELECT c.rowid FROM c", "SELECT rowid FROM a WHERE oid = 3.5"):
        assert not is_member(constraint, query), query


def test_a_schema_is_read_again_when_its_file_changes(tmp_path: Path):
    path = tmp_path / "s.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (a INTEGER)")
    first = Sql(str(path))
    assert Sql(str(path))._opened is first._opened
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE much_later (b TEXT)")
    connection.close()
    second = Sql(str(path))
    assert [table.name for table in second.schema.tables] == ["t", "much_later"]
    # The specs differ, so a constraint compiled for the old schema is not taken for the new one.
    assert first.spec != second.spec and first.spec["sql"] == second.spec["sql"]
    assert is_member(compile_cached(second, SMALL), "SELECT b FROM much_later")
    assert language_from_spec(json.loads(json.dumps(second.spec))).spec == second.spec


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"database": "/nowhere/x.sqlite"}, "no SQLite file at /nowhere/x.sqlite: give the path"),
        ({"database": __file__}, "cannot be read as a SQLite database"),
        ({}, "give one of database, tables= and ddl="),
        ({"database": "x", "ddl": "y"}, "give one of database"),
        ({"tables": {}}, "tables must be an object such as"),
        ({"tables": {"t": {}}}, "table 't' must list its columns"),
        ({"tables": {"t": {"a": "INT); DROP TABLE x; --"}}}, "write a type such as INTEGER"),
        ({"ddl": "CREATE TABLE t (a INT); ATTACH '/tmp/reweigh-never' AS x"}, "not authorized; only CREATE TABLE"),
        ({"ddl": "SELECT 1"}, "the declared schema has no tables"),
        ({"ddl": "CREATE TABL t"}, "CREATE statements are refused: near"),
        ({"tables": {"t": {"a": "INT"}}, "dialect": "oracle"}, "dialect='oracle' is not supported; use one of sqlite"),
        (
            {"tables": {"t": {"a": "INT"}}, "string_length": 10**6},
            "string_length=1000000 must be a whole number from 0 to 1000",
        ),
        ({"database": "sqlite://"}, "names no file"),
        ({"database": "no such ://"}, "neither a file nor an SQLAlchemy URL"),
        ({"database": "snowflake://me:secret@x/y"}, r"me:\*\*\*@x/y: databases of kind 'snowflake' are not supported"),
        ({"database": "postgresql+psycopg2://me:secret@x/y"}, r"me:\*\*\*@x/y: the driver 'psycopg2' is not installed"),
        (
            {"database": "postgresql+psycopg://me:secret@127.0.0.1:1/y"},
            r"cannot connect to .*me:\*\*\*@127.0.0.1:1/y: .*check host",
        ),
    ],
)
def test_bad_databases_and_options_are_named_without_passwords(arguments, message):
    with pytest.raises(GrammarError, match=message) as caught:
        Sql(**arguments)
    assert "secret" not in str(caught.value)


def test_a_sqlite_url_is_its_file(data: Path, tmp_path: Path):
    source = data / "sql" / "database" / "pets_1" / "pets_1.sqlite"
    path = tmp_path / "p e.sqlite"
    shutil.copyfile(source, path)
    assert Sql(f"sqlite:///{path}").schema == Sql(str(source)).schema
    assert is_member(Sql(f"sqlite:///{path}").compile(SMALL), "SELECT count(*) FROM pets")


def test_a_prompt_shows_the_schema_within_its_bound(data: Path):
    language = Sql(str(data / "sql" / "database" / "concert_singer" / "concert_singer.sqlite"))
    prompt = language.prompt("How many singers\nare there?", sample_values=2)
    assert "Name TEXT /* 'Joe Sharp', 'Timbaland' */" in prompt and prompt.endswith("-- How many singers are there?\n")
    assert "FOREIGN KEY (Singer_ID) REFERENCES singer (Singer_ID)" in prompt
    for text in re.findall(r"^SELECT .*;$", prompt, re.M):
        assert is_member(compile_cached(language, SMALL), text)
    for size in (3000, 1500, 900, 500):
        assert len(language.prompt("How many?", 10, max_chars=size)) <= size
    assert "more tables" in language.prompt("How many?", max_chars=500)
    messages = language.messages("How many?")
    assert messages[0]["role"] == "system" and "CREATE TABLE singer (Singer_ID INT" in messages[0]["content"]
    assert messages[-1] == {"role": "user", "content": "How many?"}
    with pytest.raises(GrammarError, match="sample_values=11 must be a whole number from 0 to 10"):
        language.prompt("?", sample_values=11)


def test_reading_goes_on_from_the_last_lexeme_however_long_the_text(singers: SqlConstraint):
    """What a state holds of the text, beside the text itself, does not grow with it."""
    query = "SELECT name FROM singer WHERE age IN (1" + ", 23" * 500 + ") AND name = 'x"
    state = by_bytes(singers, query.encode())
    assert state is not None and state._begun == b"'x"
    depth, frame = 0, state._frame
    while frame is not None:
        depth, frame = depth + 1, frame.up
    assert depth == 1


class _Random:
    """Queries at random over three small tables: joins in brackets with every kind of name, windows on windows, rows."""

    ddl = "CREATE TABLE t (a INT, b INT); CREATE TABLE u (a INT, c INT); CREATE TABLE v (b INT, d INT);"

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.named: list[str] = []

    def alias(self) -> str:
        if self.random.random() < 0.5 or len(self.named) == 8:
            return ""
        self.named.append("xyzwpqrs"[len(self.named)])
        return self.random.choice([" AS ", " "]) + self.named[-1]

    def column(self) -> str:
        qualifier = self.random.choice(["", *(f"{name}." for name in (*self.named, "t", "u", "v"))])
        schema = "main." if qualifier and self.random.random() < 0.3 else ""
        return schema + qualifier + self.random.choice("abcd")

    def source(self, depth: int, free: list[str]) -> str:
        if free and self.random.random() < 0.5:
            return free.pop(self.random.randrange(len(free))) + self.alias()
        if depth and free and self.random.random() < 0.8:
            return f"({self.sources(depth - 1, free)})" + self.alias()
        return "(SELECT a, b FROM t)" + self.alias()

    def sources(self, depth: int, free: list[str]) -> str:
        text = self.source(depth, free)
        for _ in range(self.random.choice([0, 1, 1, 2])):
            join = self.random.choice([" JOIN ", " LEFT JOIN ", ", ", " CROSS JOIN "])
            text += join + self.source(depth, free)
            if join in (" JOIN ", " LEFT JOIN "):
                text += self.random.choice([*(f" ON {self.column()} = {self.column()}",) * 3, " USING (a)", "", ""])
        return text

    def joins(self) -> str:
        self.named = []
        sources = self.sources(2, ["t", "u", "v"])
        if self.random.random() < 0.3:
            inner = self.sources(1, ["t", "u", "v"])
            condition = f" WHERE EXISTS (SELECT 1 FROM {inner} WHERE {self.column()} = {self.column()})"
        else:
            condition = f" WHERE {self.column()} = 1"
        return f"SELECT {self.column()} FROM {sources}{condition}"

    def windows(self) -> str:
        def over() -> str:
            uses = (
                "w",
                "y",
                "(w)",
                "(w ORDER BY a)",
                "(y ORDER BY b)",
                "(w ROWS 1 PRECEDING)",
                "(PARTITION BY a ROWS 1 PRECEDING)",
            )
            return self.random.choice(uses)

        parts = "", "PARTITION BY b", "ORDER BY a", "ORDER BY a ROWS 1 PRECEDING", "ROWS 1 PRECEDING"
        names = "wyz"[: self.random.randrange(4)]
        bases = [self.random.choice(["", "w ", "y "]) if k else "" for k in range(len(names))]
        defined = ", ".join(
            f"{name} AS ({(base + self.random.choice(parts)).strip()})" for name, base in zip(names, bases, strict=True)
        )
        order = f" ORDER BY sum(b) OVER {over()}" if self.random.random() < 0.3 else ""
        return f"SELECT a, sum(a) OVER {over()} FROM t{' WINDOW ' * bool(defined)}{defined}{order}"

    def rows(self) -> str:
        def row() -> str:
            return self.random.choice(
                ["(1, 2)", "(a, b)", "(1, 2, 3)", "(SELECT a, b FROM v)", "(SELECT a FROM u)", "(3, c)"]
            )

        either = self.random.choice(["", "NOT "])
        compared = self.random.choice(
            [f"{either}BETWEEN {row()} AND {row()}", f"IS {either}{row()}", f"= {row()}", "IS NULL"]
        )
        end = self.random.choice(
            ["", " AND a = 1", " GROUP BY 1.5", " ORDER BY 0.5", " ORDER BY 1, 2.", " ORDER BY 2", " ORDER BY -1"]
        )
        return f"SELECT a FROM t WHERE (a, b) {compared}{end}"


@pytest.mark.parametrize("kind", ["joins", "windows", "rows"])
def test_random_queries_are_read_as_sqlite_reads_them(kind: str):
    """Before SQLite is asked at all, nearly every query is judged as EXPLAIN judges it."""
    constraint = Sql(ddl=_Random.ddl).compile(SMALL)
    assert isinstance(constraint, SqlConstraint)
    drawn, counts = _Random(3), {(here, there): 0 for here in (True, False) for there in (True, False)}
    queries = list({getattr(drawn, kind)(): None for _ in range(1200)})
    for compiles in (True, False):
        for query in [query for query in queries if (constraint._refusal(query) is None) == compiles][:50]:
            state = by_bytes(constraint, query.encode())
            read = state is not None and state._guided.is_complete
            counts[read and constraint.reader.finish(state._frame, state._begun), compiles] += 1
    # SQLite takes USING (a) where a stands twice on one side, and in brackets within brackets forgets what USING made one.
    assert counts[True, False] <= 1 and counts[False, True] <= 6, counts
    assert counts[True, True] >= 40 and counts[False, False] >= 49, counts
