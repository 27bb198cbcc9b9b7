"""The files of a batch: lines in, checked before anything is drawn; results out, whole lines only."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from grammars.errors import ReweighError
from server.cli_errors import UsageError
from server.cli_inputs import json_line
from server.cli_output import as_line, emit

PROMPTS = ("prompt", "messages")
OPTIONS = (
    "system", "seed", "constraint", "particles", "sampler", "ess_threshold", "resampling", "temperature", "max_tokens",
    "top_p", "detox", "debias", "adaptation", "metadata",
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One line of the input. key: its id as JSON text, so that 1 and "1" are two; place: file and line, for messages."""

    key: str
    place: str
    record: dict[str, Any]


class Lines:
    """The lines of a file, read anew at each iteration. Raises UsageError naming the line that is wrong."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._name = name

    def __iter__(self) -> Iterator[Line]:
        self._file.seek(0)
        seen: dict[str, int] = {}
        for number, data in enumerate(self._file, start=1):
            if data.strip():
                line = _line(data, f"{self._name} line {number}")
                if line.key in seen:
                    raise UsageError(f"{line.place}: the id {line.key} is that of line {seen[line.key]} already")
                seen[line.key] = number
                yield line


def _line(data: bytes, place: str) -> Line:
    record = json_line(data, place)
    if not isinstance(record, dict):
        raise UsageError(f'{place}: an object was wanted, such as {{"id": 1, "prompt": "..."}}')
    key = record.get("id")
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise UsageError(f'{place}: "id" must be a text or a whole number, not {key!r:.40}')
    if unknown := set(record) - {"id", *PROMPTS, *OPTIONS}:
        raise UsageError(f"{place}: unknown key {min(unknown)!r}; there are id, {', '.join((*PROMPTS, *OPTIONS))}")
    if len([name for name in PROMPTS if name in record]) != 1:
        raise UsageError(f'{place}: either "prompt" or "messages" was wanted')
    for name in ("prompt", "system"):
        if name in record and not isinstance(record[name], str):
            raise UsageError(f'{place}: "{name}" must be a text')
    if "prompt" in record and not record["prompt"].strip():
        raise UsageError(f"{place}: the prompt is empty")
    if "messages" in record and not (isinstance(record["messages"], list) and record["messages"]):
        raise UsageError(f'{place}: "messages" must be a list of messages')
    for name in ("prompt", "system", "messages"):
        if any("\ud800" <= char <= "\udfff" for char in json.dumps(record.get(name), ensure_ascii=False)):
            raise UsageError(f'{place}: "{name}" has half of a character (a lone surrogate), which is no text')
    if "constraint" in record and not isinstance(record["constraint"], dict):
        raise UsageError(f'{place}: "constraint" must be an object such as {{"regex": "[0-9]+"}}')
    return Line(json.dumps(key), place, record)


@contextmanager
def read_lines(path: str) -> Iterator[Lines]:
    """The lines of a file, or of stdin (`-`), which is put aside so that it can be read twice."""
    if path == "-":
        with tempfile.TemporaryFile() as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
            yield Lines(file, "stdin")
        return
    try:
        opened = Path(path).open("rb")  # noqa: SIM115  # closed below; what the caller's block raises is not ours to name
    except OSError as error:
        raise UsageError(f"--input {path}: {error.strerror}; give a file that can be read") from error
    with opened as file:
        if not file.seekable():
            with tempfile.TemporaryFile() as copy:
                shutil.copyfileobj(file, copy)
                yield Lines(copy, path)
            return
        yield Lines(file, path)


class Results:
    """Where results go: stdout, which remembers nothing.

    done, failed  keys of the ids that were there before; those with an error are in both
    """

    def __init__(self) -> None:
        self.done: set[str] = set()
        self.failed: set[str] = set()

    def append(self, record: dict[str, Any]) -> None:
        emit(as_line(record))


class FileResults(Results):
    """A results file: a line is there whole, or not at all once the file is opened again."""

    def __init__(self, path: Path, retry_failed: bool) -> None:
        super().__init__()
        self._path = path
        self._file = self._opened()
        try:
            self._mend()
            self._read()
            if retry_failed and self.failed:
                self._drop_failed()
        except BaseException:
            self._file.close()
            raise

    def _opened(self) -> IO[bytes]:
        if self._path.exists() and not self._path.is_file():
            raise UsageError(f"--output {self._path} is no regular file; leave --output out to write to stdout")
        try:
            file = self._path.open("a+b", buffering=0)
        except OSError as error:
            raise UsageError(f"--output {self._path}: {error.strerror}; give a file that can be written") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise UsageError(f"--output {self._path}: another run is writing to it") from error
        return file

    def _lines(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            yield from file

    def _mend(self) -> None:
        """A last line without its end: a whole record gets it, a part of one goes."""
        end = 0
        torn = b""
        for data in self._lines():
            if data.endswith(b"\n"):
                end += len(data)
            else:
                torn = data
        if torn:
            try:
                whole = isinstance(json.loads(torn), dict)
            except ValueError:
                whole = False
            if whole:
                self._write(b"\n")
            else:
                self._file.truncate(end)

    def _read(self) -> None:
        for number, data in enumerate(self._lines(), start=1):
            if not data.strip():
                continue
            try:
                record = json.loads(data)
                key = json.dumps(record["id"])
            except (ValueError, TypeError, KeyError) as error:
                raise UsageError(
                    f"--output {self._path} line {number}: no result of a batch; name a new file, or one that a batch wrote"
                ) from error
            self.done.add(key)
            if "error" in record:
                self.failed.add(key)
            else:
                self.failed.discard(key)

    def _drop_failed(self) -> None:
        """Write the file anew without the lines that failed, beside it first: at every moment one of the two is whole."""
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}.partial")
        try:
            with beside.open("wb") as file:
                file.writelines(data for data in self._lines() if data.strip() and "error" not in json.loads(data))
            shutil.copymode(self._path, beside)
            os.replace(beside, self._path)
        except OSError as error:
            raise UsageError(f"--output {self._path}: {error.strerror}; the file is as it was") from error
        finally:
            beside.unlink(missing_ok=True)
        self._file.close()
        self._file = self._opened()
        self.done -= self.failed
        self.failed.clear()

    def append(self, record: dict[str, Any]) -> None:
        self._write(f"{as_line(record)}\n".encode())

    def _write(self, data: bytes) -> None:
        """A line in a single write, which other processes see whole."""
        try:
            while data:
                data = data[self._file.write(data) or 0 :]
        except OSError as error:
            raise ReweighError(f"--output {self._path}: {error.strerror}; what is written is kept") from error

    def close(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()


@contextmanager
def results_of(path: str | None, retry_failed: bool) -> Iterator[Results]:
    """Results to a file, or to stdout without one."""
    if path is None or path == "-":
        yield Results()
        return
    results = FileResults(Path(path), retry_failed)
    try:
        yield results
    finally:
        results.close()
