"""Servers that benchmarks ask: started side by side, waited for, ended with all their processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.harness import ROOT, say


@dataclass
class Server:
    """A server's process. url: without /v1; log: what it has printed."""

    name: str
    url: str
    process: psutil.Process
    log: Path

    def ready(self, timeout_s: float = 300.0) -> Server:
        """Wait until it answers; RuntimeError with what it printed where it does not."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    say(f"{self.name} is ready")
                    return self
            except OSError:  # it does not listen yet
                pass
            ended = not self.process.is_running() or self.process.status() == psutil.STATUS_ZOMBIE
            if ended or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.5)


def started(
    name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path, stack: ExitStack
) -> Server:
    """Start a Python command with a --port of its own; it ends with the stack."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / f"{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *command, f"--port={port}"], env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
            stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    stack.callback(_stop, process)
    return Server(name, f"http://127.0.0.1:{port}", psutil.Process(process.pid), log)


def _stop(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
