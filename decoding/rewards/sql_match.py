"""Whether a query gives the rows that were wanted."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from decoding.killable import at_once
from decoding.sql_execution import ExecutionError, Limits, Rows, execute
from grammars.errors import RequestError, RewardError
from samplers.reward import Candidate, reward

_ORDERED = re.compile(r"\border\s+by\b", re.IGNORECASE)
# Sums that are added up in another order differ in their last digits.
_DIGITS = 12


@reward("sql_match")
class SqlMatch:
    """1 where the text is a SELECT that gives the rows of the reference query, otherwise 0: also where it does not run.

    Rows are compared as a bag, and in their order where the reference asks for one and `ordered` is not False; columns in
    their order, names apart; numbers to 12 digits. A query is read only and runs in a process that is killed at its
    limits (see `decoding.sql_execution`); one that takes too long, too much memory, or gives more than `max_rows`, is wrong.

    database   a SQLite file or an SQLAlchemy URL
    reference  the query whose rows are wanted
    ordered    whether the order of the rows counts; None: where the reference has ORDER BY
    processes  queries run at once
    timeout_s, max_rows, max_bytes, memory_mib   limits of each query
    """

    def __init__(
        self,
        database: str | os.PathLike[str],
        reference: str,
        ordered: bool | None = None,
        processes: int | None = None,
        timeout_s: float = Limits.timeout_s,
        max_rows: int = Limits.max_rows,
        max_bytes: int = Limits.max_bytes,
        memory_mib: int = Limits.memory_mib,
    ) -> None:
        if not isinstance(reference, str) or not reference.strip():
            raise RequestError(f"sql_match: reference={reference!r:.80}: a query was wanted")
        if ordered not in (None, True, False):
            raise RequestError(f"sql_match: ordered={ordered!r:.80}: True, False or None was wanted")
        if not isinstance(database, str | os.PathLike) or not Path(database).is_file():
            raise RequestError(f"sql_match: database={database!r:.200}: the path of an SQLite file was wanted")
        try:
            self._limits = Limits(timeout_s, max_rows, max_bytes, memory_mib)
        except ValueError as error:
            raise RequestError(f"sql_match: {error}") from error
        self._database, self._reference = os.fspath(database), reference
        self._ordered = bool(_ORDERED.search(reference)) if ordered is None else ordered
        self._processes = at_once(processes, "sql_match")

    def __repr__(self) -> str:
        return "reward sql_match"

    def score(self, candidates: Sequence[Candidate]) -> np.ndarray:
        if not candidates:
            return np.empty(0)
        wanted = self._wanted
        with ThreadPoolExecutor(self._processes) as pool:
            found = list(pool.map(self._rows, [one.text for one in candidates]))
        return np.array([float(rows is not None and self._comparable(rows) == wanted) for rows in found])

    @cached_property
    def _wanted(self) -> Any:
        try:
            rows = execute(self._database, self._reference, self._limits)
        except ExecutionError as error:
            raise RewardError(f"sql_match: the reference query does not run: {error}") from error
        if rows.truncated:
            raise RewardError(
                f"sql_match: the reference gives more than the limit of {rows.truncated}: raise max_{rows.truncated}"
            )
        return self._comparable(rows)

    def _rows(self, query: str) -> Rows | None:
        """A query's rows; None where it is no query that runs within its limits."""
        try:
            rows = execute(self._database, query, self._limits)
        except ExecutionError as error:
            if error.kind == "connection":
                raise RewardError(f"sql_match: {error}") from error
            return None
        return None if rows.truncated else rows

    def _comparable(self, rows: Rows) -> Any:
        plain = [tuple(_plain(value) for value in row) for row in rows.rows]
        return plain if self._ordered else Counter(plain)


def _plain(value: Any) -> Any:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
