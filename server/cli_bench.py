"""`reweigh bench`: the benchmarks of a checkout."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from server.cli_errors import OK, UsageError


def run(options: argparse.Namespace) -> int:

    folder = Path(__file__).resolve().parent.parent / "bench"
    there = {path.stem.removeprefix("bench_"): path for path in sorted(folder.glob("bench_*.py"))}
    if not there:
        raise UsageError("there is no bench/ folder beside the package: benchmarks need a checkout of the repository")
    unknown = [name for name in options.names if name not in there]
    if unknown:
        raise UsageError(f"no benchmark {unknown[0]!r}; there are {', '.join(there)}")
    for name in options.names or there:
        print(f"== {name}", file=sys.stderr)
        code = subprocess.run(
            [sys.executable, "-m", f"bench.{there[name].stem}"], cwd=folder.parent, check=False
        ).returncode
        if code:
            return code
    return OK
