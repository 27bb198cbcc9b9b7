"""Where a closed set comes from: texts given by hand, an iterator, or a file with one name a line."""

from __future__ import annotations

import hashlib
import os
import typing
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from grammars.choice_trie import ByteTrie
from grammars.errors import GrammarError

# Some 13 million names of 20 bytes; building takes some five times that in memory.
MAX_BYTES = 256 << 20
MAX_NAME_BYTES = 1 << 14

_FROM_FILE: WeakValueDictionary[tuple[str, str], ByteTrie] = WeakValueDictionary()
# (path, size in bytes, time of the last change in ns) -> SHA-256 of the content: a file is read again only if it changed.
_HASHES: dict[tuple[str, int, int], str] = {}


def encoded(options: Iterable[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Texts as UTF-8 end to end, and where each starts and stops; GrammarError naming the first that will not do.

    returns  uint8 [B], int64 [n], int64 [n]
    """
    rest = iter(options)
    blocks: list[bytes] = []
    sizes: list[np.ndarray] = []
    total = count = 0
    # By the thousand: a million Python objects more would cost more memory than all else.
    while some := list(islice(rest, 1 << 14)):
        parts = [_encoded(option, count + k) for k, option in enumerate(some)]
        blocks.append(b"".join(parts))
        sizes.append(np.fromiter(map(len, parts), np.int64, len(parts)))
        total, count = total + len(blocks[-1]), count + len(some)
        if total > MAX_BYTES:
            raise GrammarError(
                f"choice has more than {MAX_BYTES >> 20} MiB of options in the first {count}: give fewer"
            )
    if not count:
        raise GrammarError("choice has no options: give at least one text")
    lengths = np.concatenate(sizes)
    _check_lengths(lengths, "option")
    stops = lengths.cumsum()
    return np.frombuffer(b"".join(blocks), np.uint8), stops - lengths, stops


def _encoded(option: Any, place: int) -> bytes:
    if not isinstance(option, str):
        raise GrammarError(
            f"choice option {place} is {_shown(option)}, of type {type(option).__name__}; give texts: str({_shown(option)})"
        )
    try:
        name = option.encode()
    except UnicodeEncodeError as error:
        raise GrammarError(f"choice option {place}, {_shown(option)}, is not text: {error.reason}") from error
    if not name:
        raise GrammarError(f"choice option {place} is empty: leave it out, or use a regex such as (yes|no)?")
    return name


def digest_of(trie: ByteTrie) -> str:
    """The same for the same set, however it was given."""
    found = hashlib.blake2b(digest_size=16)
    for part in (trie.labels, trie.first.tobytes(), trie.ends):
        found.update(part)
    return found.hexdigest()


def read_file(path: Any, sha256: Any = None) -> tuple[str, str, ByteTrie]:
    """The names of a UTF-8 text file, one a line; blank lines and the line ends are left out, all else counts.

    sha256   what the content must be, in hexadecimal; None takes it as it is
    returns  the absolute path, the SHA-256, the names
    """
    if not isinstance(path, str | os.PathLike):
        raise GrammarError(f"choice file must be a path, not {_shown(path)}")
    if sha256 is not None and not isinstance(sha256, str):
        raise GrammarError(f"choice sha256 must be a text in hexadecimal, not {_shown(sha256)}")
    file = Path(os.path.abspath(os.path.expanduser(path)))
    try:
        stat = file.stat()
        if not file.is_file():
            raise GrammarError(f"choice file {str(file)!r} is not a regular file; write the names to one, one a line")
        if stat.st_size > MAX_BYTES:
            raise GrammarError(
                f"choice file {str(file)!r} has {stat.st_size >> 20} MiB, more than {MAX_BYTES >> 20}: split it up"
            )
        version = (str(file), stat.st_size, stat.st_mtime_ns)
        digest = _HASHES.get(version)
        trie = None if digest is None else _FROM_FILE.get((str(file), digest))
        if digest is None or trie is None:
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            trie = _FROM_FILE.get((str(file), digest))
    except (OSError, ValueError) as error:
        if isinstance(error, GrammarError):
            raise
        raise GrammarError(f"choice file {str(file)!r} cannot be read: {error}") from error
    if sha256 is not None and sha256 != digest:
        raise GrammarError(
            f"choice file {str(file)!r} is not the one that was meant: its SHA-256 is {digest}, not {sha256}; it changed, or "
            "another machine has another file there"
        )
    if trie is None:
        trie = ByteTrie(*_lines(content, file))
        _FROM_FILE[str(file), digest] = trie
    if len(_HASHES) >= 256:
        _HASHES.clear()
    _HASHES[version] = digest
    return str(file), digest, trie


def _lines(content: bytes, file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The content without a byte order mark, and where each name starts and stops."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise GrammarError(f"choice file {str(file)!r} is not UTF-8 in line {line}: {error.reason}") from error
    block = np.frombuffer(content.removeprefix(b"\xef\xbb\xbf"), np.uint8)
    stops = np.append(np.flatnonzero(block == ord("\n")), len(block))
    starts = np.concatenate([[0], stops[:-1] + 1])
    # A carriage return before the line's end belongs to the end.
    last = block[np.maximum(stops - 1, 0)] if len(block) else np.zeros(len(stops), np.uint8)
    stops = stops - ((stops > starts) & (last == ord("\r")))
    starts, stops = starts[stops > starts], stops[stops > starts]
    if len(starts):
        # From one start to the next, each with the line's end behind it: that is white space too.
        visible = np.logical_or.reduceat(~np.isin(block, np.frombuffer(b" \t\r\n\v\f", np.uint8)), starts)
        starts, stops = starts[visible], stops[visible]
    if not len(starts):
        raise GrammarError(f"choice file {str(file)!r} has no names: write one a line")
    _check_lengths(stops - starts, f"file {str(file)!r}: name")
    return block, starts, stops


def _check_lengths(lengths: np.ndarray, what: str) -> None:
    longest = int(lengths.argmax())
    if lengths[longest] > MAX_NAME_BYTES:
        raise GrammarError(
            f"choice {what} {longest} has {lengths[longest]} bytes, more than {MAX_NAME_BYTES}: leave it out"
        )


def listed(options: Any) -> Iterator[Any] | Iterable[Any]:
    """The texts of a list, an iterator, or Literal[...]; GrammarError for what is none of these."""
    if typing.get_origin(options) is typing.Literal:
        return typing.get_args(options)
    if isinstance(options, str | bytes | Mapping) or not isinstance(options, Iterable):
        raise GrammarError(
            f"choice must be a list of texts, not {type(options).__name__}: write choice=['yes', 'no']; for a file with one "
            'name a line choice=pathlib.Path("names.txt"), in a spec {"choice": {"file": "names.txt"}}'
        )
    return options


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
