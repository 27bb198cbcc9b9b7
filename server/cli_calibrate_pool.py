"""A pool of judged candidates, read line by line: of a candidate's text nothing is kept."""

from __future__ import annotations

import json
import math
import sys
from array import array
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from samplers.inference_scaling_pool import Judged
from server.cli_errors import UsageError
from server.cli_inputs import json_line

NEEDED = ("prompt", "candidate", "reward", "correct")
LARGEST = 1e100  # its square is still a number
EVERY = 100_000  # lines between two words of progress


@dataclass
class _Group:
    line: int
    rewards: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))
    tokens: array[float] = field(default_factory=lambda: array("d"))


def read_pool(path: str, progress: Callable[[str], None]) -> list[Judged]:
    """The prompts of a pool in the order in which they come, each with its candidates wherever they stand.

    path      a file of JSON lines, or - for stdin
    progress  is told of every 100,000 lines
    Raises UsageError naming the line and the field.
    """
    name = "stdin" if path == "-" else path
    groups: dict[str, _Group] = {}
    boolean: bool | None = None
    counted: bool | None = None
    first = number = 0
    with _opened(path) as file:
        for number, data in enumerate(file, start=1):
            if not data.strip():
                continue
            record = _record(data, f"{name} line {number}")
            place = f"{name} line {number}"
            prompt = record["prompt"]
            if not isinstance(prompt, str):
                raise UsageError(
                    f"{place}: prompt is {_shown(prompt)}; text was wanted, the same for all its candidates"
                )
            if not isinstance(record["candidate"], str):
                raise UsageError(f"{place}: candidate is {_shown(record['candidate'])}; text was wanted")
            is_boolean, has_tokens = isinstance(record["correct"], bool), record.get("tokens") is not None
            if boolean is None:
                boolean, counted, first = is_boolean, has_tokens, number
            if is_boolean != boolean:
                raise UsageError(
                    f"{place}: correct is {_shown(record['correct'])}, but on line {first} it is "
                    f"{'true or false' if boolean else 'a number'}; one kind was wanted throughout"
                )
            if has_tokens != counted:
                raise UsageError(
                    f"{place}: tokens {'is there' if has_tokens else 'is missing'}, but line {first} has "
                    f"{'them' if counted else 'none'}; give them on every line or on none"
                )
            group = groups.setdefault(prompt, _Group(number))
            group.rewards.append(_number(record, "reward", place))
            group.values.append(float(record["correct"]) if is_boolean else _number(record, "correct", place))
            if has_tokens:
                tokens = _number(record, "tokens", place)
                if tokens < 0:
                    raise UsageError(f"{place}: tokens is {_shown(record['tokens'])}; a count of at least 0 was wanted")
                group.tokens.append(tokens)
            if number % EVERY == 0:
                progress(f"reweigh: {number} lines read, {len(groups)} prompts")
    if not groups:
        raise UsageError(
            f'{name}: empty; lines such as {{"prompt": "...", "candidate": "...", "reward": 0.3, "correct": 1}} were wanted'
        )
    for prompt, group in groups.items():
        if len(group.rewards) < 2:
            raise UsageError(
                f"{name} line {group.line}: the prompt {_shown(prompt)} has one candidate; at least 2 were wanted for each prompt "
                f"({sum(len(one.rewards) < 2 for one in groups.values())} of {len(groups)} prompts have one)"
            )
    return [
        Judged(
            prompt,
            np.frombuffer(group.rewards),
            np.frombuffer(group.values),
            np.frombuffer(group.tokens) if counted else None,
        )
        for prompt, group in groups.items()
    ]


def _opened(path: str) -> AbstractContextManager[IO[bytes]]:
    if path == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise UsageError(f"--pool {path}: {error.strerror}; give a file of JSON lines") from error


def _record(data: bytes, place: str) -> dict[str, Any]:
    record = json_line(data, place)
    if not isinstance(record, dict):
        raise UsageError(f"{place}: {_shown(record)}; an object with {', '.join(NEEDED)} was wanted")
    for name in NEEDED:
        if name not in record:
            raise UsageError(f"{place}: {name} is missing; {', '.join(NEEDED)} were wanted")
    return record


def _number(record: dict[str, Any], name: str, place: str) -> float:
    value = record[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        hint = "; leave out candidates that could not be judged" if value is None and name == "reward" else ""
        raise UsageError(f"{place}: {name} is {_shown(value)}; a number was wanted{hint}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not abs(number) <= LARGEST:
        raise UsageError(f"{place}: {name} is {_shown(value)}; a number of at most {LARGEST:g} in size was wanted")
    return number


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
