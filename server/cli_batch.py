"""A prompt on every line of a file: many in flight together, results as they are done, and resumed where a run ended."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import secrets
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from grammars.errors import EngineError, ReweighError
from server.cli_batch_files import Line, Results, read_lines, results_of
from server.cli_errors import FAILED_LINES, OK, UsageError, name_of
from server.cli_generate import SETTINGS, Asked, asked, check_settings, started
from server.cli_output import envelope, note

if TYPE_CHECKING:
    from tqdm import tqdm

    from decoding.engine import Engine
    from grammars.constraint import Language
    from server.cli_url import Told

_KEYS = (
    "text", "parsed", "weight", "posterior", "log_z", "ess", "seed", "model", "usage", "timings", "checks_per_token",
    "masks_per_token",
)  # fmt: skip


def run_batch(options: argparse.Namespace, language: Language | Told | None, settings: dict[str, Any]) -> int:
    """Draw for every line that is not done yet. Returns 5 where a line of the input stands failed."""
    _check_options(options)
    seed = secrets.randbits(63) if options.seed is None else options.seed
    with read_lines(options.input) as lines, results_of(options.output, options.retry_failed) as results:
        todo, skipped, rows = 0, 0, settings["particles"]
        failed = 0
        for line in lines:
            _check_line(line, settings, seed, options.url is None)
            if line.key in results.done:
                skipped += 1
                failed += line.key in results.failed
            else:
                todo += 1
                rows = max(rows, line.record.get("particles", 1))
        begun = time.perf_counter()
        if todo:
            with started(options, rows) as model:
                begun = time.perf_counter()
                batch = _Batch(model.engine, options, language, settings, seed, results)
                with _bar(todo, options.quiet) as bar:
                    failed += batch.run((line for line in lines if line.key not in results.done), bar)
    if not options.quiet:
        seconds = time.perf_counter() - begun
        note(
            f"{todo} lines done in {seconds:.1f} s ({todo / max(seconds, 1e-9):.2f}/s), {skipped} were done before, "
            f"{failed} failed · seed {seed}"
        )
    return FAILED_LINES if failed else OK


def _check_options(options: argparse.Namespace) -> None:
    if options.input is None:
        raise UsageError("--output is for batches: give their lines with --input")
    for name, given in (
        ("a prompt", options.prompt is not None),
        ("--explain", options.explain),
        ("--n", options.n != 1),
    ):
        if given:
            raise UsageError(f"{name} is for a single prompt: leave it out with --input")
    if options.output is not None and _is_one_file(options.input, options.output):
        raise UsageError(f"--output {options.output} is the input: name another file")
    if options.retry_failed and options.output is None:
        raise UsageError("--retry-failed looks into --output, and there is none")


def _is_one_file(one: str, other: str) -> bool:
    return os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)


def _check_line(line: Line, settings: dict[str, Any], seed: int, here: bool) -> None:
    own = {name: line.record[name] for name in (*SETTINGS, "seed") if name in line.record}
    try:
        check_settings({"seed": seed, **settings, **own}, here)
    except ReweighError as error:
        raise UsageError(f"{line.place}: {error}") from error


def _bar(total: int, quiet: bool) -> tqdm[Any]:
    from tqdm import tqdm

    return tqdm(total=total, unit="line", file=sys.stderr, disable=quiet or not sys.stderr.isatty(), dynamic_ncols=True)


def seed_of(seed: int, key: str) -> int:
    """The seed of an id: the same whatever else is in the file. key  the id as JSON text"""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()) >> 1


class _Batch:
    """Lines on their way through one engine."""

    def __init__(
        self,
        engine: Engine,
        options: argparse.Namespace,
        language: Language | Told | None,
        settings: dict[str, Any],
        seed: int,
        results: Results,
    ) -> None:
        self.engine = engine
        self.options = options
        self.language = language
        self.settings = settings
        self.seed = seed
        self.results = results
        self.failed = 0

    def run(self, lines: Iterable[Line], bar: tqdm[Any]) -> int:
        """Do them all and return how many failed. An engine that ends raises EngineError; what is done is kept."""
        asyncio.run(self._run(iter(lines), bar))
        return self.failed

    async def _run(self, lines: Iterator[Line], bar: tqdm[Any]) -> None:
        # Twice the engine's rows: particles with equal texts share one, and the next prompts should be ready.
        room = 2 * self.engine.max_particles
        under_way: dict[asyncio.Task[dict[str, Any]], int] = {}
        following = next(lines, None)
        try:
            while following is not None or under_way:
                while following is not None and (not under_way or sum(under_way.values()) < room):
                    rows = following.record.get("particles", self.settings["particles"])
                    under_way[asyncio.create_task(self._one(following))] = rows
                    following = next(lines, None)
                done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    del under_way[task]
                    record = task.result()
                    self.results.append(record)
                    self.failed += "error" in record
                    bar.set_postfix(failed=self.failed, refresh=False)
                    bar.update()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _one(self, line: Line) -> dict[str, Any]:
        """The output line of an input line. Raises EngineError where the engine has ended: then no line can be done."""
        record = line.record
        head = {name: record[name] for name in ("id", "metadata") if name in record}
        settings = self.settings | {name: record[name] for name in SETTINGS if name in record}
        try:
            language = self.language if "constraint" not in record else _language(record["constraint"])
            result = await self.engine.agenerate(
                **self._asked(record),
                constraint=language,
                seed=record.get("seed", seed_of(self.seed, line.key)),
                timeout_s=self.options.timeout,
                **settings,
            )
            assert not isinstance(result, list), "one prompt was given"
            made = envelope(result, model=self.engine.model, load_s=None)
            return head | {name: made[name] for name in (*_KEYS, "adaptation") if name in made}
        except EngineError:
            raise
        except (ReweighError, TimeoutError) as error:
            return head | {"error": {"type": name_of(error), "message": str(error)}}

    def _asked(self, record: dict[str, Any]) -> Asked:
        system = record.get("system", self.options.system)
        if "messages" not in record:
            return asked(self.engine, record["prompt"], system, self.options)
        if self.options.raw:
            raise UsageError('--raw gives prompts without a template: leave it out for lines with "messages"')
        first = [] if system is None else [{"role": "system", "content": system}]
        return {"messages": [*first, *record["messages"]]}


def _language(spec: Any) -> Language:
    from grammars.registry import language_from_spec

    return language_from_spec(spec)
