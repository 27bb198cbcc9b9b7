"""The command line: the result alone on stdout, everything else on stderr.

Nothing heavy is imported before a command needs it: `--help` is instant. `cli_errors.py` lists the exit codes.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from grammars.errors import DeadEnd, GrammarError, ReweighError, Unsatisfiable
from server import cli_bench
from server import cli_errors as codes
from server.cli_errors import Terminated, UsageError, name_of
from server.cli_parser import parser

if TYPE_CHECKING:
    from decoding.engine import Engine


def main(arguments: Sequence[str] | None = None, *, engine: Engine | None = None) -> int:
    """Run one command. Returns its exit code.

    engine  one that is running, for commands to use instead of starting their own
    """
    with _terminable():
        try:
            options = _parsed(_arguments(arguments))
            options.engine = engine
            code = int(options.run(options))
            sys.stdout.flush()
            return code
        except Terminated:
            return _interrupted(codes.TERMINATED)
        except KeyboardInterrupt:
            print("reweigh: interrupted", file=sys.stderr)
            return _interrupted(codes.INTERRUPTED)
        except BrokenPipeError:
            # `| head -1` has what it wanted. What is still buffered must not be tried again when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return codes.BROKEN_PIPE
        except (UsageError, ReweighError, OSError) as error:
            print(f"reweigh: {name_of(error)}: {error}", file=sys.stderr)
            return exit_code(error)


def _parsed(arguments: list[str]) -> argparse.Namespace:
    """The options of a command; what `serve` does not know itself is vLLM's, what follows a benchmark's name is its own."""
    if arguments[:1] == ["bench"]:
        arguments, rest = cli_bench.split_arguments(arguments)
        options = parser().parse_args(arguments)
        options.bench_arguments = rest
        return options
    if arguments[:1] != ["serve"]:
        return parser().parse_args(arguments)
    about = [argument for argument in arguments if argument.startswith("--help=")]
    options, rest = parser().parse_known_args([argument for argument in arguments if argument not in about])
    rest += about
    options.vllm = rest
    return options


def _arguments(given: Sequence[str] | None) -> list[str]:
    """The arguments as text: bytes that are no UTF-8 reach Python as halves of characters."""
    arguments = list(sys.argv[1:] if given is None else given)
    for argument in arguments:
        if any("\ud800" <= char <= "\udfff" for char in argument):
            raise UsageError(f"the argument {argument!r} is not UTF-8")
    return arguments


def exit_code(error: BaseException) -> int:
    """The exit code of a command that ends with an error."""
    from grammars.errors import RequestError

    match error:
        case TimeoutError():
            return codes.DEADLINE
        case DeadEnd() | Unsatisfiable():
            return codes.NOTHING
        case GrammarError():
            return codes.INVALID
        case UsageError() | RequestError():
            return codes.USAGE
    return codes.FAILURE


def _interrupted(code: int) -> int:
    """The exit code. Where an engine is being started the process ends here: Python would wait until it has come up."""
    driver = sys.modules.get("decoding.vllm_driver")
    if driver is not None and driver.starting():
        sys.stderr.flush()
        os._exit(code)
    return code


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM unwinds the stack like Ctrl-C, so that engines, files and child processes are closed."""

    def terminate(signum: int, frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
