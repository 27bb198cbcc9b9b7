"""Queries run read only, within limits, in a process that can be killed; hostile ones among them."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from decoding.sql_execution import ExecutionError, ExecutionTimeout, Limits, Rows, execute, render
from tests import databases

COUNT_FOR_EVER = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) "


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return databases.sqlite(
        tmp_path / "singers.sqlite",
        "CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT, age REAL, photo BLOB);"
        "INSERT INTO singer VALUES (1, 'Ann', 30, x'00ff'), (2, 'Bo é', NULL, NULL), (3, '你好', 1e999, NULL);",
    )


def test_rows_come_with_their_columns(database: Path):
    rows = execute(str(database), "SELECT id, name, age, photo FROM singer ORDER BY id;")
    assert rows == Rows(
        ("id", "name", "age", "photo"), ((1, "Ann", 30.0, "00ff"), (2, "Bo é", None, None), (3, "你好", "inf", None))
    )


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM singer",
        "UPDATE singer SET age = 1",
        "INSERT INTO singer SELECT * FROM singer RETURNING *",
        "WITH x AS (SELECT 1) DELETE FROM singer",
        "CREATE TEMP TABLE x (a)",
        "DROP TABLE singer",
        "ATTACH '{folder}/made.db' AS other",
        "VACUUM INTO '{folder}/made.db'",
        "PRAGMA journal_mode = WAL",
        "PRAGMA writable_schema = ON",
        "SELECT * FROM pragma_database_list",
        "BEGIN IMMEDIATE",
        "SELECT load_extension('x')",
        "SELECT fts3_tokenizer('x', x'00')",
        "SELECT 1; DELETE FROM singer",
        "REINDEX",
        "ANALYZE",
        "",
    ],
)
def test_nothing_but_reading_is_run(database: Path, statement: str):
    before = database.read_bytes(), sorted(database.parent.iterdir())
    with pytest.raises(ExecutionError) as caught:
        execute(str(database), statement.format(folder=database.parent))
    assert caught.value.kind in ("refused", "database"), caught.value
    assert caught.value.kind == "refused" or "fts3" in statement or "pragma" in statement, caught.value
    assert (database.read_bytes(), sorted(database.parent.iterdir())) == before


@pytest.mark.parametrize(
    "query",
    [
        COUNT_FOR_EVER + "SELECT count(*) FROM c",
        "SELECT printf('%.*c', 900000000, 'x')",
        COUNT_FOR_EVER + "SELECT n FROM c WHERE n < 0",
        "SELECT count(*) FROM " + ", ".join(f"singer s{k}" for k in range(40)),
    ],
)
def test_a_query_without_end_is_killed_at_its_time(database: Path, query: str):
    begun = time.monotonic()
    with pytest.raises(ExecutionTimeout, match=r"stopped after 0\.5 s") as caught:
        execute(str(database), query, Limits(timeout_s=0.5))
    assert caught.value.kind == "timeout" and time.monotonic() - begun < 15
    assert isinstance(caught.value, TimeoutError)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT zeroblob(900000000)",
        "SELECT hex(randomblob(900000000))",
        COUNT_FOR_EVER + "SELECT group_concat(n) FROM (SELECT n FROM c LIMIT 300000)",
        COUNT_FOR_EVER + "SELECT n, randomblob(90000) FROM (SELECT n FROM c LIMIT 20000) ORDER BY 2",
    ],
)
def test_a_query_that_needs_too_much_memory_is_stopped(database: Path, query: str):
    with pytest.raises(ExecutionError, match=r"too big|MiB") as caught:
        execute(str(database), query, Limits(timeout_s=30, memory_mib=64))
    assert caught.value.kind in ("database", "memory")


def test_results_are_cut_at_rows_and_bytes(database: Path):
    rows = execute(str(database), COUNT_FOR_EVER + "SELECT n FROM c", Limits(max_rows=3))
    assert rows.rows == ((1,), (2,), (3,)) and rows.truncated == "rows"
    rows = execute(str(database), COUNT_FOR_EVER + "SELECT hex(zeroblob(500)) FROM c", Limits(max_bytes=5500))
    assert len(rows.rows) == 5 and rows.truncated == "bytes"
    assert execute(str(database), "SELECT id FROM singer", Limits(max_rows=3)).truncated == ""


def test_errors_say_what_and_whose(database: Path):
    with pytest.raises(ExecutionError, match="no such column: nosuch") as caught:
        execute(str(database), "SELECT nosuch FROM singer")
    assert caught.value.kind == "database"
    with pytest.raises(ExecutionError, match="no SQLite file at") as caught:
        execute(str(database) + "x", "SELECT 1")
    assert caught.value.kind == "connection" and not Path(str(database) + "x").exists()
    with pytest.raises(ExecutionError, match=r"me:\*\*\*@127") as caught:
        execute("postgresql+psycopg://me:secret@127.0.0.1:1/x", "SELECT 1")
    assert caught.value.kind == "connection" and "secret" not in str(caught.value)
    for bad in ({"timeout_s": 0}, {"max_rows": -1}, {"memory_mib": True}):
        with pytest.raises(ValueError, match=r"must be a (whole )?number above 0"):
            Limits(**bad)


def test_a_database_in_a_folder_that_cannot_be_written_is_read(database: Path, tmp_path: Path):
    folder = tmp_path / "locked"
    folder.mkdir()
    path = folder / "a b?#.sqlite"
    shutil.copyfile(database, path)
    path.chmod(0o444)
    folder.chmod(0o555)
    try:
        assert execute(str(path), "SELECT count(*) FROM singer").rows == ((3,),)
    finally:
        folder.chmod(0o755)


def test_a_query_can_be_interrupted_and_leaves_no_process(database: Path, monkeypatch: pytest.MonkeyPatch):
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    class Interrupted(popen):  # type: ignore[misc, valid-type]
        def communicate(self, data: bytes | None = None, timeout: float | None = None) -> tuple[bytes, bytes]:
            if data is not None:
                started.append(self)
                assert self.stdin is not None
                raise KeyboardInterrupt
            return super().communicate(data, timeout)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(str(database), COUNT_FOR_EVER + "SELECT count(*) FROM c", Limits(timeout_s=60))
    assert started[0].poll() is not None


ROWS = Rows(("n", "name", "n"), ((1, 'a,"b"\n', None), (20, "你\x1b[31m", 2.5)))


def test_rows_are_rendered_in_every_form():
    assert render(ROWS).splitlines() == [
        "n   name        n",
        "--  ----------  ----",
        ' 1  a,"b"\\n     NULL',
        "20  你\\x1b[31m   2.5",
        "(2 rows)",
    ]
    assert list(csv.reader(io.StringIO(render(ROWS, "csv")))) == [
        ["n", "name", "n"], ["1", 'a,"b"\n', ""], ["20", "你\x1b[31m", "2.5"],
    ]  # fmt: skip
    objects = [{"n": 1, "name": 'a,"b"\n', "n_2": None}, {"n": 20, "name": "你\x1b[31m", "n_2": 2.5}]
    assert json.loads(render(ROWS, "json")) == objects
    assert [json.loads(line) for line in render(ROWS, "jsonl").splitlines()] == objects
    assert json.loads(render(Rows(("a",), ()), "json")) == [] and render(Rows(("a",), ()), "jsonl") == ""
    assert render(Rows(("a",), ((1,),), "rows")).endswith("(1 row, cut at the limit of rows)\n")
    assert len(render(Rows(("a",), (("x" * 500,),))).splitlines()[2]) == 60
    with pytest.raises(ValueError, match="form='xml' must be one of table, csv, json, jsonl"):
        render(ROWS, "xml")


def test_duckdb_reads_its_tables_and_no_files(tmp_path: Path):
    driver = pytest.importorskip("duckdb")
    pytest.importorskip("duckdb_engine")
    path = tmp_path / "x.duckdb"
    with driver.connect(str(path)) as connection:
        connection.execute("CREATE TABLE t (a INTEGER, d DATE); INSERT INTO t VALUES (1, '2020-01-02')")
    url = f"duckdb:///{path}"
    assert execute(url, "SELECT * FROM t").rows == ((1, "2020-01-02"),)
    for query in ("SELECT * FROM read_csv('/etc/passwd')", f"COPY t TO '{tmp_path}/o.csv'", "SELECT 1; DROP TABLE t"):
        with pytest.raises(ExecutionError):
            execute(url, query)
    assert not (tmp_path / "o.csv").exists()
    with pytest.raises(ExecutionTimeout):
        execute(url, "SELECT count(*) FROM range(100000000000) r(i) WHERE i % 7 = 3", Limits(timeout_s=0.5))


def test_postgresql_reads_in_a_transaction_that_is_rolled_back():
    tables = "CREATE TABLE t (id SERIAL, d DATE); INSERT INTO t (d) VALUES ('2020-01-02')"
    with databases.postgresql(tables) as (url, connection):
        assert execute(url, "SELECT d, 1.50 FROM t;").rows == (("2020-01-02", "1.50"),)
        rows = execute(url, "SELECT n FROM generate_series(1, 1000) n", Limits(max_rows=2))
        assert rows.rows == ((1,), (2,)) and rows.truncated == "rows"
        for query, kind in (
            ("SELECT 1; COMMIT; DROP TABLE t", "refused"),
            ("WITH gone AS (DELETE FROM t RETURNING *) SELECT * FROM gone", "refused"),
            ("SELECT * INTO made FROM t", "refused"),
            ("SELECT pg_read_file('/etc/passwd')", "refused"),
            ("SELECT pg_sleep(100)", "refused"),
            ("SELECT nextval('t_id_seq')", "refused"),
            ("COPY t TO '/tmp/reweigh-never'", "refused"),
            ("SELECT nosuch FROM t", "database"),
        ):
            with pytest.raises(ExecutionError) as caught:
                execute(url, query)
            assert caught.value.kind == kind, (query, caught.value)
        with pytest.raises(ExecutionTimeout):
            execute(url, "SELECT count(*) FROM generate_series(1, 100000000000)", Limits(timeout_s=0.5))
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (1,)
