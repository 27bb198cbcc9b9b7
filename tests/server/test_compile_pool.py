"""Verdicts of the compile processes are remembered: a client that tries again costs a look-up, not another compilation."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from grammars.errors import GrammarError
from server.compile_pool import CompilePool
from tests.grammars.small import SMALL


def test_what_was_compiled_or_refused_once_is_not_compiled_again():
    async def ask() -> None:
        pool = CompilePool(SMALL, {}, {})
        try:
            good, bad = {"regex": "[0-9]+"}, {"regex": "("}
            written = await pool.compiled(good)
            with pytest.raises(GrammarError, match="malformed") as first:
                await pool.compiled(bad)

            def nobody(*asked: Any) -> None:
                raise AssertionError("a process was asked again")

            for worker in pool._workers:
                worker.ask = nobody  # type: ignore[method-assign]
            assert await pool.compiled(good) == written
            with pytest.raises(GrammarError) as second:
                await pool.compiled(bad)
            assert str(second.value) == str(first.value)
            with pytest.raises(AssertionError, match="asked again"):
                await pool.compiled({"regex": "[a-z]+"})
        finally:
            pool.close()

    asyncio.run(ask())
