"""One real server for all tests that need one: `reweigh serve` in processes of its own, on a port of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from decoding.adaptation.linear_signal import LinearSignal

KEY = "a-key-for-tests"
MODEL = "smollm2-135m-instruct"
# k = 5, and T = .5 standard deviations of .4 each.
PROFILE: dict[str, Any] = {
    "reweigh_profile": 1, "k": 5, "temperature": 0.5, "normalisation": {"method": "prompt_sd", "typical_sd": 0.4},
    "evidence": {},
}  # fmt: skip
START_S = 240.0
RULES = '''
"""What an operator sets up: predicates good and bad."""
import os
import signal
import time

import numpy as np


def even(text, complete):
    return text == "" or text.isdigit() if not complete else text.isdigit() and int(text) % 2 == 0


def raises(text, complete):
    raise RuntimeError("this predicate always raises")


def raises_late(text, complete):
    if len(text) > 2:
        raise RuntimeError("this predicate raises late")
    return True


def short(prompt, text):
    return -len(text)


def fails(text):
    raise RuntimeError("this reward fails")


def dawdles(text):
    time.sleep(30)
    return 1.0


def few_zeros(text, complete):
    return -text.count("0")


def sleeps(text, complete):
    if len(text) > 2:
        time.sleep(1e6)
    return True


class Shouting:
    """A signal: capital letters are what is unwanted."""

    name = "shouting"

    def log_odds(self, texts):
        return np.array([2.0 * sum(c.isupper() for c in text) - 4.0 for text in texts])


def crashes(text, complete):
    if len(text) > 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return True


def hangs(text, complete):
    while len(text) > 2:
        pass
    return True
'''


@dataclass
class Serving:
    """A server that runs. url: without /v1; log: what it has printed."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    key: str | None = KEY

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def client(self, **options: object) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=self.key or "none", max_retries=0, timeout=120, **options
        )  # type: ignore[arg-type]

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=self.key or "none", max_retries=0, timeout=120)

    def post(self, path: str, **options: object) -> httpx.Response:
        return httpx.post(self.url + path, **{"headers": self.headers, "timeout": 120, **options})  # type: ignore[arg-type]

    def get(self, path: str, **options: object) -> httpx.Response:
        return httpx.get(self.url + path, **{"headers": self.headers, "timeout": 60, **options})  # type: ignore[arg-type]


def start_server(folder: Path, *arguments: str, key: str | None = KEY) -> Serving:
    """Start `reweigh serve` in a folder and wait until it is ready; fails with what it printed.

    arguments  {port} in them is the server's own; the variable OWN_KEY has its key
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / f"serve-{port}.log"
    command = [sys.executable, "-m", "server.cli", "serve", "--port", str(port)]
    command += ["--dtype", "float32", "--max-num-seqs", "32", "--max-model-len", "1024"]
    command += [argument.replace("{port}", str(port)) for argument in arguments]
    command += ["--api-key", key] if key else []
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    environment |= {"OWN_KEY": key} if key else {}
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out, start_new_session=True)
    deadline = time.monotonic() + START_S
    while f"ready at http://127.0.0.1:{port}" not in log.read_text(errors="replace"):
        if process.poll() is not None or time.monotonic() > deadline:
            stop_server(process)
            pytest.fail(f"the server did not start:\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.2)
    return Serving(f"http://127.0.0.1:{port}", process, log, key)


def stop_server(process: subprocess.Popen[bytes]) -> None:
    """End a server and all its processes, whatever state they are in."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(40)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


@pytest.fixture(scope="session")
def operator_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an operator has: rules.py, and a database."""
    folder = tmp_path_factory.mktemp("operator")
    (folder / "rules.py").write_text(RULES)
    with sqlite3.connect(folder / "shop.sqlite") as database:
        database.execute("CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, age INTEGER)")
        database.execute("INSERT INTO customer VALUES (1, 'Zoe', 31), (2, 'Li', 45)")
    database.close()
    (folder / "short.json").write_text(json.dumps(PROFILE))
    heads = {"intercepts": [-0.5], "slopes": [-8.0], "offsets": [0.0]}
    mild = LinearSignal("mild", {"idiot": 0, "man": 1}, [1.0, 1.0], [[1.0, 1.0]], **heads)  # type: ignore[arg-type]
    mild.save(folder / "mild.npz")
    return folder


@pytest.fixture(scope="session")
def serving(operator_folder: Path, model_path: Path) -> Iterator[Serving]:
    """The server that tests share; one that a test must break, it starts itself."""
    names = ("even", "raises", "raises_late", "hangs", "sleeps", "crashes")
    constraints = [f"--constraint={name}=rules.py:{name}" for name in names]
    rewards = [f"--reward={name}=rules.py:{name}" for name in ("short", "fails", "dawdles")]
    partial = [f"--partial-reward={name}=rules.py:{name}" for name in ("few_zeros", "raises_late", "hangs", "crashes")]
    # The server as a judge at the other end of HTTP: its own.
    judge = f"--judge=itself=http://127.0.0.1:{{port}}/v1,model={MODEL},key_env=OWN_KEY"
    signals = ("--signal=mild=mild.npz", "--signal=loud=rules.py:Shouting")
    more = ("--database=shop=shop.sqlite", judge, "--profile=brief=short.json", *signals)
    server = start_server(operator_folder, *constraints, *rewards, *partial, *more)
    yield server
    # A server that is killed says goodbye to nobody: all its processes are to end by themselves.
    family = psutil.Process(server.process.pid).children(recursive=True)
    server.process.kill()
    server.process.wait()
    _, alive = psutil.wait_procs(family, 30)
    stop_server(server.process)
    assert not alive, f"left behind by a server that was killed: {alive}"
