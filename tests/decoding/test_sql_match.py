"""Queries as answers: the rows decide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from decoding.rewarding import reward_of
from grammars.errors import RequestError, RewardError
from samplers.reward import Candidate
from tests import databases


@pytest.fixture
def shop(tmp_path: Path) -> str:
    path = databases.sqlite(
        tmp_path / "shop.sqlite",
        "CREATE TABLE item (name TEXT, price REAL);"
        "INSERT INTO item VALUES ('a', 0.1), ('b', 0.2), ('c', 0.3), ('a', 0.1);",
    )
    return str(path)


def scores(database: str, reference: str, *queries: str, **options: Any) -> list[float]:
    reward = reward_of({"sql_match": {"database": database, "reference": reference, **options}})
    return reward.score([Candidate("q", query) for query in queries]).tolist()


def test_rows_are_a_bag_unless_an_order_is_asked_for(shop: str):
    forwards, backwards = "SELECT name FROM item ORDER BY name", "SELECT name FROM item ORDER BY name DESC"
    assert scores(shop, "SELECT name FROM item", forwards, backwards, "SELECT DISTINCT name FROM item") == [1, 1, 0]
    assert scores(shop, forwards, "SELECT name AS n FROM item ORDER BY 1;", backwards) == [1, 0]
    assert scores(shop, forwards, backwards, ordered=False) == [1]


def test_numbers_are_compared_to_twelve_digits(shop: str):
    assert scores(shop, "SELECT 0.1 + 0.2 + 0.3", "SELECT 0.3 + 0.2 + 0.1", "SELECT 0.6000001", "SELECT '0.6'") == [
        1,
        0,
        0,
    ]


def test_what_does_not_run_within_its_limits_is_wrong_and_does_no_harm(shop: str):
    endless = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"
    many = "SELECT a.name FROM item a, item b, item c"
    bad = ("", "hello", "SELECT nope FROM item", "DROP TABLE item", "DELETE FROM item", many)
    assert scores(shop, "SELECT name FROM item", *bad, max_rows=20) == [0] * 6
    assert scores(shop, "SELECT name FROM item", endless, "SELECT name FROM item", timeout_s=1.0) == [0, 1]


def test_gold_queries_of_spider_match_themselves_only(data: Path):
    rows = [json.loads(line) for line in (data / "sql" / "questions.jsonl").read_text().splitlines()][:4]
    for row in rows:
        database = str(data / "sql" / "database" / row["db_id"] / f"{row['db_id']}.sqlite")
        assert scores(database, row["query"], row["query"], "SELECT 'no such row'") == [1, 0]


def test_a_reference_that_cannot_be_is_named(shop: str, tmp_path: Path):
    for reference, options, told in (
        ("SELECT nope FROM item", {}, "reference query does not run"),
        ("SELECT name FROM item", {"max_rows": 2}, "raise max_rows"),
    ):
        with pytest.raises(RewardError, match=told):
            scores(shop, reference, "SELECT 1", **options)
    with pytest.raises(RequestError, match="the path of an SQLite file was wanted"):
        scores(str(tmp_path / "none.sqlite"), "SELECT 1", "SELECT 1")
    for options in ({"reference": ""}, {"ordered": 3}, {"processes": 0}, {"timeout_s": 0}, {"gold": "x"}):
        with pytest.raises(RequestError, match="sql_match"):
            scores(shop, **{"reference": "SELECT 1", **options})
