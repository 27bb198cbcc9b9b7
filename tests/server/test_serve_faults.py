"""One that fails hurts nobody else; who leaves frees its place; the server ends as it should: over the socket."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from server.guard import BODY_TIMEOUT_S
from tests.server.conftest import KEY, MODEL, Serving, start_server, stop_server
from tests.server.test_serve_security import error_of, strictly

ORDINARY = {"model": MODEL, "prompt": "A date: ", "max_tokens": 6, "seed": 5,
            "reweigh": {"constraint": {"regex": "[0-9]{4}-[0-9]{2}"}, "particles": 4}}  # fmt: skip
# Would run for minutes: nobody asks for it to the end.
ENDLESS = {"model": MODEL, "prompt": "Digits: ", "max_tokens": 900, "temperature": 1.0,
           "reweigh": {"constraint": {"regex": "[0-9 ]{3000,}"}, "particles": 8, "resample_every": 4}}  # fmt: skip
ALONE = {"model": MODEL, "prompt": "Digits: ", "max_tokens": 900, "reweigh": {"constraint": {"regex": "[0-9 ]{3000,}"}}}
GONE_S = 1.0
LONG = "REWEIGH_LONG_TESTS" in os.environ


def gauge(serving: Serving, name: str) -> float:
    """A number of /metrics."""
    found = re.search(rf"^vllm:{name}{{[^}}]*}} (\S+)$", serving.get("/metrics").text, re.MULTILINE)
    assert found is not None, f"/metrics has no vllm:{name}"
    return float(found[1])


def under_way(serving: Serving) -> float:
    return gauge(serving, "num_requests_running") + gauge(serving, "num_requests_waiting")


def until(holds: Callable[[], bool], within_s: float) -> float:
    """Seconds until something holds; fails where it does not in time."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < within_s, f"not within {within_s:g} s"
        time.sleep(0.02)
    return time.monotonic() - began


def draws(response: httpx.Response) -> Any:
    """What of an answer a seed determines."""
    assert response.status_code == 200, response.text[:500]
    return [(choice["text"], choice["log_weight"], choice["ess"]) for choice in strictly(response.text)["choices"]]


def about(drawn: Any) -> Any:
    """The same draws: on AVX-512 cores the last digits of a weight depend on what else is in the batch."""
    return [(text, *(pytest.approx(value, abs=1e-3) for value in values)) for text, *values in drawn]


# Hostile constraints


def _two_ways(k: int) -> dict[str, Any]:
    return {"anyOf": [{"properties": {f"a{k}": {"type": "string"}}}, {"properties": {f"b{k}": {"type": "integer"}}}]}


def _nested(depth: int) -> Any:
    schema: Any = {"type": "integer"}
    for k in range(depth):
        schema = (
            {"type": "object", "properties": {f"p{k}": schema}, "required": [f"p{k}"]}
            if k % 2
            else {"type": "array", "items": schema}
        )
    return schema


def _overwhelming(seed: int) -> str:
    """A regular expression that takes the whole compile budget: 200 kB of words with anything between them."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefgh", k=6)) for _ in range(20_000)]
    return "|".join(f"({a}.*{b}){{2,5}}" for a, b in zip(words[::2], words[1::2], strict=True))


def _either(k: int) -> dict[str, Any]:
    """One of two objects, and not both."""
    kinds = ({f"a{k}": {"type": "string"}}, {f"b{k}": {"type": "integer"}})
    return {"oneOf": [{"properties": properties, "required": list(properties)} for properties in kinds]}


HOSTILE: dict[str, dict[str, Any]] = {
    "allOf of 22 two-way anyOf": {"json_schema": {"allOf": [_two_ways(k) for k in range(22)]}},
    "allOf of 20 two-way oneOf": {"json_schema": {"allOf": [_either(k) for k in range(20)]}},
    "its whole budget": {"regex": _overwhelming(1)},
    "repetition of a repetition": {"regex": "(a{1,100}){1,100}"},
    "repetition of it again": {"regex": "((a{1,100}){1,100}){1,100}"},
    "nested 80 deep": {"json_schema": _nested(80)},
    "nested 500 deep": {"json_schema": json.dumps(_nested(500))},
    "enum of 50,000": {"json_schema": {"enum": [f"value number {k}" for k in range(50_000)]}},
    "a regex that backtracks": {"regex": r"(?=(a+)+$)(a|aa)*(?<=b)\1"},
    "look-arounds": {"regex": "(?=" * 100 + "a" + ")" * 100 + "(?:(?!x).)*"},
    "a pattern that backtracks in a schema": {"json_schema": {"type": "string", "pattern": "^(a+)+$(?<!b)", "minLength": 30}},
    "a lark grammar that explodes": {"lark": "start: a\n" + "\n".join(f"{c}: {d} {d}? {d}" for c, d in zip("abcdefghijklmnopqrs", "bcdefghijklmnopqrst")) + '\nt: "x"?'},  # noqa: E501
    "recursion without an end": {"json_schema": {"$ref": "#"}},
    "a reference in a circle": {"json_schema": {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}}},
    "large bounds": {"json_schema": {"type": "array", "minItems": 100_000, "maxItems": 200_000, "items": {"type": "integer"}}},
    "a large multiple": {"json_schema": {"type": "number", "multipleOf": 1e-300, "minimum": -1e300}},
    "complement of complements": {"json_schema": {"not": {"not": {"not": {"anyOf": [{"pattern": f"a{k}*b"} for k in range(99)]}}}}},
    "all of 64 expressions": {"all": [{"regex": f"(?:[a-z]{{1,40}}{k}?)*"} for k in range(64)]},
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_constraint_costs_itself_alone(serving: Serving, name: str) -> None:
    """It is answered or refused with a 4xx; meanwhile others are answered, with constraints that are new as well.

    No clock is trusted: what an ordinary request takes beside the hostile one is compared with what it takes in quiet, and a
    machine that has one core left for it, and a compiler that two wait for, explain a factor of 4; waiting for a budget to end
    would be one of 20.
    """
    serial = itertools.count()

    def ordinary() -> float:
        fresh = {"regex": f"[0-9]{{2}}|{name} {next(serial)}"}
        began = time.monotonic()
        draws(
            serving.post(
                "/v1/completions", json={**ORDINARY, "max_tokens": 3, "reweigh": {"constraint": fresh, "particles": 2}}
            )
        )
        return time.monotonic() - began

    quiet_s = ordinary()
    hostile = {"model": MODEL, "prompt": "x", "max_tokens": 2, "seed": 1, "reweigh": {"constraint": HOSTILE[name]}}
    beside: list[float] = []
    with ThreadPoolExecutor(1) as thread:
        began = time.monotonic()
        out = thread.submit(serving.post, "/v1/completions", json=hostile)
        while not out.done():
            beside.append(ordinary())
        took = time.monotonic() - began
        response = out.result()
    assert response.status_code in (200, 400, 422), response.text[:300]
    if response.status_code != 200:
        error = error_of(response, response.status_code)
        assert error["param"].startswith("reweigh.constraint") and "internal error" not in error["message"], error
    mean_s = took / len(beside)
    print(
        f"{name}: {response.status_code} after {took:.1f} s; {len(beside)} others, {mean_s:.2f} s each, {quiet_s:.2f} s in quiet"
    )
    # Whoever waited for a budget to end would wait 5 s.
    assert mean_s <= max(10 * quiet_s, 4.0)


# Predicates


@pytest.mark.parametrize("name", ["raises", "raises_late", "hangs", "sleeps", "crashes"])
def test_a_predicate_that_fails_ends_its_own_request(serving: Serving, name: str) -> None:
    """Others in the same batch, one with a good predicate, get to the last digit what they get when nobody fails."""
    others = [
        ORDINARY,
        {**ORDINARY, "seed": 6, "reweigh": {"constraint": {"all": ["even", {"regex": "[0-9]{1,4}"}]}, "particles": 6}},
        {**ORDINARY, "seed": 7, "prompt": "Once", "reweigh": {"constraint": {"json_schema": {"type": "integer"}}, "particles": 3}},
    ]  # fmt: skip
    quiet = [about(draws(serving.post("/v1/completions", json=body))) for body in others]
    bad = {
        **ORDINARY,
        "max_tokens": 30,
        "reweigh": {"constraint": {"all": [name, {"regex": "[a-z ]{20}"}]}, "particles": 3},
    }
    with ThreadPoolExecutor(5) as threads:
        failing = [
            threads.submit(serving.post, "/v1/completions", json={**bad, "stream": stream}) for stream in (False, True)
        ]
        beside = [threads.submit(serving.post, "/v1/completions", json=body) for body in others]
        assert [draws(future.result()) for future in beside] == quiet
        whole, stream = (future.result() for future in failing)
    error = error_of(whole, 422)
    assert error["code"] == "predicate_failed" and error["param"] == "reweigh.constraint", error
    if stream.status_code != 200:  # it failed on the empty text already, before the stream began
        assert error_of(stream, 422)["code"] == "predicate_failed"
        return
    last = [line for line in stream.text.split("\n\n") if line.startswith("data: ")][-1]
    assert strictly(last[6:])["error"]["code"] == "predicate_failed", last
    assert "[DONE]" not in stream.text
    until(lambda: under_way(serving) == 0, 10)


# Clients that leave


@contextlib.contextmanager
def asked(serving: Serving, path: str, body: dict[str, Any]) -> Iterator[socket.socket]:
    """A request that has been sent; hanging up is the caller's affair."""
    host, port = serving.url.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(head.encode() + f"Content-Length: {len(content)}\r\n\r\n".encode() + content)
        yield connection


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    "body", [ENDLESS, ALONE, {**ENDLESS, "n": 3}, {"model": MODEL, "prompt": "x", "max_tokens": 900, "ignore_eos": True}],
    ids=["particles", "one particle", "three groups", "plain"],
)  # fmt: skip
def test_who_leaves_frees_its_rows_within_a_second(serving: Serving, body: dict[str, Any], stream: bool) -> None:
    until(lambda: under_way(serving) == 0, 30)
    with asked(serving, "/v1/completions", {**body, "stream": stream}) as connection:
        until(lambda: gauge(serving, "kv_cache_usage_perc") > 0, 60)
        if stream:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    # A second, and what the machine's load adds: a step is under way, and /metrics takes its own time.
    began = time.monotonic()
    serving.get("/metrics")
    looking_s = time.monotonic() - began
    took = until(lambda: under_way(serving) == 0, 30)
    assert took <= 3 * GONE_S + 10 * looking_s, f"{took:.2f} s, where /metrics takes {looking_s:.2f} s"
    until(lambda: gauge(serving, "kv_cache_usage_perc") == 0, 5)


def test_who_leaves_while_its_constraint_is_compiled_costs_nobody(serving: Serving) -> None:
    with asked(serving, "/v1/completions", {**ORDINARY, "reweigh": {"constraint": {"regex": _overwhelming(3)}}}):
        time.sleep(0.3)
    draws(serving.post("/v1/completions", json=ORDINARY))
    until(lambda: under_way(serving) == 0, 10)


def test_many_who_leave_leave_nothing(serving: Serving) -> None:
    quiet = about(draws(serving.post("/v1/completions", json=ORDINARY)))
    for k in range(20):
        with asked(serving, "/v1/completions", {**ENDLESS, "stream": k % 2 == 0, "seed": k}):
            time.sleep(0.05 * (k % 5))
    until(lambda: under_way(serving) == 0, 30)
    assert draws(serving.post("/v1/completions", json=ORDINARY)) == quiet
    until(lambda: gauge(serving, "kv_cache_usage_perc") == 0, 5)


def test_a_body_that_drips_loses_its_place_soon(serving: Serving) -> None:
    until(lambda: under_way(serving) == 0, 30)
    host, port = serving.url.removeprefix("http://").split(":")
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 1000\r\n\r\n"
    began = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=0.5) as connection:
        connection.sendall(head.encode())
        answer = b""
        while b"}" not in answer and time.monotonic() - began < 4 * BODY_TIMEOUT_S:
            if not answer:
                connection.sendall(b" ")
            with contextlib.suppress(TimeoutError):
                answer += connection.recv(2000)
    assert answer.startswith(b"HTTP/1.1 408") and b'"body_timeout"' in answer
    assert time.monotonic() - began > 0.9 * BODY_TIMEOUT_S
    until(lambda: under_way(serving) == 0, 5)


# Servers of their own, since each is broken


def family(serving: Serving) -> list[psutil.Process]:
    """A server's processes, the server first."""
    server = psutil.Process(serving.process.pid)
    return [server, *server.children(recursive=True)]


def called(serving: Serving, name: str) -> psutil.Process:
    """The process of a server that vLLM has given a name."""
    return next(process for process in family(serving) if name in " ".join(process.cmdline()))


@pytest.fixture
def start(operator_folder: Path, model_path: Path) -> Iterator[Callable[..., Serving]]:
    """Starts a server, which is ended after the test."""
    made: list[Serving] = []

    def started(*arguments: str) -> Serving:
        made.append(start_server(operator_folder, *arguments))
        return made[-1]

    yield started
    for server in made:
        stop_server(server.process)


def endless_pair(serving: Serving, threads: ThreadPoolExecutor, body: dict[str, Any]) -> list[Future[httpx.Response]]:
    """The same asked whole and as a stream, and both under way."""
    sent = [
        threads.submit(serving.post, "/v1/completions", json={**body, "stream": stream}, timeout=300)
        for stream in (False, True)
    ]
    until(lambda: under_way(serving) >= 2, 60)
    return sent


@pytest.mark.parametrize(
    "name",
    [
        "core",
        pytest.param("worker", marks=pytest.mark.skipif(not LONG, reason="a server more: set REWEIGH_LONG_TESTS=1")),
    ],
)
def test_kill_9_of_the_engine_is_an_error_and_not_a_hang(start: Callable[..., Serving], name: str) -> None:
    serving = start()
    assert httpx.get(f"{serving.url}/health").status_code == 200
    processes = family(serving)
    with ThreadPoolExecutor(4) as threads:
        plain = {"model": MODEL, "prompt": "x", "max_tokens": 900, "ignore_eos": True}
        whole, stream, *_ = pending = [
            *endless_pair(serving, threads, ENDLESS),
            threads.submit(serving.post, "/v1/completions", json=plain),
        ]
        until(lambda: under_way(serving) >= 3, 60)
        called(serving, {"core": "EngineCore", "worker": "Worker"}[name]).kill()
        until(lambda: httpx.get(f"{serving.url}/health", timeout=30).status_code == 503, 30)
        for future in pending:
            future.result(timeout=30)
    error_of(whole.result(), 500)
    assert '"error"' in stream.result().text.split("data: ")[-1] and "[DONE]" not in stream.result().text
    # What comes later is told so at once.
    began = time.monotonic()
    later = serving.post("/v1/completions", json=ORDINARY)
    assert later.status_code in (500, 503) and later.json()["error"]["message"]
    assert time.monotonic() - began < 20
    assert serving.get("/v1/models").status_code == 200
    serving.process.send_signal(signal.SIGTERM)
    serving.process.wait(60)
    _, alive = psutil.wait_procs(processes, 60)
    assert not alive, [process.cmdline() for process in alive]


def test_the_queue_is_bounded_and_sigterm_drains(start: Callable[..., Serving]) -> None:
    """Full: 429 with Retry-After. SIGTERM: what is under way is finished, what is new is refused, a second one changes nothing."""
    serving = start("--max-requests=3", "--shutdown-timeout=120")
    processes = family(serving)
    long = {**ENDLESS, "max_tokens": 60, "reweigh": {**ENDLESS["reweigh"], "particles": 4}}  # type: ignore[dict-item]
    plain = {"model": MODEL, "prompt": "x", "max_tokens": 60, "ignore_eos": True}
    with ThreadPoolExecutor(4) as threads:

        def held(sent: dict[str, Any]) -> httpx.Response:
            """The answer, once there was a place: who looks whether all are taken takes one for a moment."""
            while (answer := serving.post("/v1/completions", json=sent, timeout=300)).status_code == 429:
                time.sleep(0.05)
            return answer

        sent = [threads.submit(held, asked) for asked in ({**long, "stream": False}, {**long, "stream": True}, plain)]
        until(lambda: serving.post("/tokenize", json={"model": MODEL, "prompt": "x"}).status_code == 429, 60)
        for path in ("/v1/completions", "/v1/chat/completions", "/tokenize"):
            full = serving.post(path, json=ORDINARY)
            assert error_of(full, 429)["code"] == "queue_full" and int(full.headers["retry-after"]) >= 1
        assert serving.get("/v1/models").status_code == 200
        for signal_sent in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            serving.process.send_signal(signal_sent)
            until(lambda: serving.post("/v1/completions", json=ORDINARY).status_code == 503, 60)
        draining = serving.post("/v1/completions", json=ORDINARY)
        assert error_of(draining, 503)["code"] == "draining" and int(draining.headers["retry-after"]) >= 1
        assert not all(future.done() for future in sent), "nothing was under way any more that could be finished"
        whole, stream, bare = (future.result(timeout=300) for future in sent)
    for response in (whole, bare):
        assert response.status_code == 200 and response.json()["usage"]["completion_tokens"] == 60, response.text[:300]
    assert stream.text.rstrip().endswith("data: [DONE]") and '"log_z"' in stream.text
    assert serving.process.wait(60) == 0
    _, alive = psutil.wait_procs(processes, 60)
    assert not alive, [process.cmdline() for process in alive]
    assert "Traceback" not in serving.log.read_text(errors="replace")


# Servers that cannot start


def test_a_start_that_fails_says_why_and_leaves_nothing(
    operator_folder: Path, model_path: Path, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "broken.py").write_text("raise RuntimeError('the rules are broken')\n")
        cases = {
            "taken": ([f"--port={port}"], f"cannot listen on 127.0.0.1:{port}"),
            "no module": (["--port=0", "--constraint=x=nowhere_at_all:f"], "nowhere_at_all"),
            "broken": (["--port=0", f"--constraint=x={tmp_path}/broken.py:f"], "the rules are broken"),
            "unsound": (["--port=0", "--async-scheduling"], "async_scheduling"),
        }
        if LONG:
            cases |= {
                "model": (["--port=0", "--model=/no/such/model"], "/no/such/model"),
                "no file": (["--port=0", "--constraint=x=nowhere.py:f"], "nowhere.py"),
                "no object": (["--port=0", "--constraint=x=rules.py:nothing"], "nothing"),
                "no database": (["--port=0", "--database=x=no-such.sqlite"], "no-such.sqlite"),
            }
        root = str(Path(__file__).resolve().parents[2])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root, "VLLM_CPU_KVCACHE_SPACE": "1"}

        def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "server.cli", "serve", *arguments]
            return subprocess.run(
                command,
                cwd=operator_folder,
                env=environment,
                text=True,
                capture_output=True,
                timeout=200,
                start_new_session=True,
            )

        with ThreadPoolExecutor(2) as threads:
            ended = dict(zip(cases, threads.map(run, [arguments for arguments, _ in cases.values()]), strict=True))
    for name, (_, said) in cases.items():
        process = ended[name]
        assert process.returncode not in (0, None), f"{name}: {process.stderr[-2000:]}"
        assert said in process.stderr, f"{name}: {process.stderr[-2000:]}"
        assert "Traceback" not in process.stderr, f"{name}: {process.stderr[-3000:]}"
        assert process.stdout == "", name
        assert not (operator_folder / "no-such.sqlite").exists()


def test_threads_of_the_tests_are_gone() -> None:
    """A request that never came back would hold the interpreter open at its end."""
    assert threading.active_count() < 64
