"""`reweigh bench`: the benchmarks of a checkout."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from server.cli_errors import FAILURE, OK, UsageError

ABOUT = "Run benchmarks from bench/ of a checkout, or list them, each with the question it answers."
MORE = """\
examples:
  reweigh bench                                    what there is
  reweigh bench overhead sql                       these, one after another
  reweigh bench json_schema generation --schemas 20   one, with arguments of its own
  reweigh bench json_schema --help                 which those are"""

FOLDER = Path(__file__).resolve().parent.parent / "bench"


def add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "names", nargs="*", metavar="NAME", help="which ones; what follows a single name goes to that benchmark"
    )
    command.add_argument(
        "--all", action="store_true", help="run every one: hours; some need what `make bench-*` installs"
    )


def split_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """`bench` and its own arguments, and those of the one benchmark that is named."""
    there = _benchmarks()
    named = 1
    while named < len(arguments) and arguments[named] in there:
        named += 1
    return (arguments[:named], arguments[named:]) if named == 2 else (arguments, [])


def run(options: argparse.Namespace) -> int:
    there = _benchmarks()
    if not there:
        raise UsageError("there is no bench/ folder beside the package: benchmarks need a checkout of the repository")
    unknown = [name for name in options.names if name not in there]
    if unknown:
        raise UsageError(f"no benchmark {unknown[0]!r}; there are {', '.join(there)}")
    if options.all and options.names:
        raise UsageError("--all and names of benchmarks exclude each other")
    if not options.names and not options.all:
        width = max(map(len, there))
        for name, path in there.items():
            print(f"{name:{width}}  {_question(path)}")
        return OK
    failed = []
    for name in there if options.all else options.names:
        print(f"== {name}", file=sys.stderr)
        command = [sys.executable, "-m", f"bench.{there[name].stem}", *options.bench_arguments]
        if subprocess.run(command, cwd=FOLDER.parent, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"reweigh: failed: {', '.join(failed)}", file=sys.stderr)
    return FAILURE if failed else OK


def _benchmarks() -> Mapping[str, Path]:
    return {path.stem.removeprefix("bench_"): path for path in sorted(FOLDER.glob("bench_*.py"))}


def _question(path: Path) -> str:
    """What a benchmark asks: its docstring up to the first question mark."""
    import ast

    about = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())
    return about[: about.find("?") + 1] or about
