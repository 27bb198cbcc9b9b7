"""What a command reads besides its options: the prompt, files, and objects of the user's own modules."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import re
import select
import stat
import sys
from pathlib import Path
from typing import Any

from grammars.errors import GrammarError
from server.cli_errors import UsageError

STDIN_NOTICE_S = 2.0

_OBJECT = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*|[^:\s]+\.py):(?P<name>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)")


def read_prompt(options: argparse.Namespace) -> str:
    """The prompt: the argument, stdin, or both: what is piped in first, then an empty line, then the argument."""
    argument: str | None = options.prompt
    if argument in (None, "-"):
        prompt = _stdin()
    elif _is_piped():
        piped = _stdin()
        prompt = f"{piped.rstrip(chr(10))}\n\n{argument}" if piped.strip() else argument or ""
    else:
        prompt = argument or ""
    if not prompt.strip():
        raise UsageError("the prompt is empty: give it as an argument or on stdin")
    return prompt


def _is_piped() -> bool:
    """Whether stdin is a pipe, a file or a socket: not a terminal, and not /dev/null."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):  # closed, or replaced by something without a descriptor
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def _stdin() -> str:
    if sys.stdin is None:
        raise UsageError("stdin is closed: give the prompt as an argument")
    if sys.stdin.isatty():
        print("reweigh: type the prompt, and end it with Ctrl-D", file=sys.stderr)
    elif _is_piped() and not select.select([sys.stdin], [], [], STDIN_NOTICE_S)[0]:
        # A pipe that nobody writes to, as some supervisors leave open: say what is waited for.
        print("reweigh: waiting for the prompt on stdin (with </dev/null there is none)", file=sys.stderr)
    return _decoded(sys.stdin.buffer.read(), "stdin")


def read_text(path: str) -> str:
    """A UTF-8 file's text; `-` is stdin."""
    if path == "-":
        return _stdin()
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; give a file that can be read") from error
    return _decoded(data, path)


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: not UTF-8 at byte {error.start}; save it as UTF-8") from error


def json_of(text: str, name: str) -> Any:
    """JSON text as Python data; GrammarError says where it is none."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise GrammarError(f"{name} is no JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except RecursionError as error:
        raise GrammarError(f"{name} is nested too deeply to be read") from error


def json_line(data: bytes, place: str) -> Any:
    """The value of one line of a file of JSON lines; UsageError where it is none. place: names the file and the line."""
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{place}: not UTF-8 at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place}: no JSON: {error}") from error


def looks_like_json(text: str) -> bool:
    return text.lstrip().startswith(("{", "[", '"')) or text.strip() in ("true", "false", "null")


def names_an_object(text: str) -> bool:
    """Whether a text has the form `module:name` or `file.py:name`."""
    return _OBJECT.fullmatch(text) is not None


def look_in(folder: str) -> None:
    """Have modules looked for in a folder as well."""
    if folder not in sys.path:
        sys.path.insert(0, folder)


def imported(text: str, option: str) -> Any:
    """The object that `module:name` or `file.py:name` stands for; modules are looked for in the current folder as well."""
    found = _OBJECT.fullmatch(text)
    if found is None:
        raise UsageError(f"{option} {text!r}: module:name or file.py:name was wanted")
    look_in(os.getcwd())
    try:
        value: Any = _module(found["module"], option)
        for name in found["name"].split("."):
            value = getattr(value, name)
    except UsageError:
        raise
    except AttributeError as error:
        raise UsageError(f"{option} {text}: {error}") from error
    return value


def _module(name: str, option: str) -> Any:
    if name.endswith(".py") and not Path(name).is_file():
        raise UsageError(f"{option} {name}: there is no such file")
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location(Path(name).stem, name)
        assert spec is not None and spec.loader is not None, "a .py file always has a loader"
        module = importlib.util.module_from_spec(spec)
        # Pydantic and dataclasses look a class's module up by its name.
        sys.modules.setdefault(spec.name, module)
        spec.loader.exec_module(module)
        return module
    except Exception as error:  # whatever the user's module does when it is loaded
        raise UsageError(f"{option}: {name} cannot be imported: {type(error).__name__}: {error}") from error
