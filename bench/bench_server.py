"""What does `reweigh serve` cost beside vLLM's own server, for plain requests, JSON answers and groups of particles?

Two servers with the same model and engine settings run side by side and are asked in turn: while one answers the other idles
(the CPU time it takes meanwhile is reported). vLLM's is started twice, since a server has one backend for structured outputs.
Every arm is asked the same prompts; plain requests and particles make TOKENS tokens each, JSON answers end when the object does,
so that speed is counted in tokens/s there and the lengths are reported. Ratios are medians over rounds of ours divided by theirs
in the same round: above 1 is faster than vLLM. Closed loop: as many clients as said, each asks again at once. Open loop: Poisson
arrivals at RATE, the same moments for every arm, where latency counts from the planned moment. The model has one thread, so that
one core is left to the servers' other processes and to this load generator.

A status that is not 200, an answer that its schema refuses or one of a wrong length ends the bench with an error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import numpy as np
import psutil

from bench.harness import report, say
from bench.serving import Server, started
from decoding.engine import engine_defaults

MODEL = "bench"
PARTICLES = 8
ENGINE = {
    "dtype": engine_defaults()["dtype"],
    "max-num-seqs": 32,
    "max-model-len": 2048,
    "block-size": 32,
    "enforce-eager": True,
}
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "OMP_NUM_THREADS": "1",
}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 3, "maxLength": 12},
        "city": {"enum": ["Paris", "London", "Berlin"]},
    },
    "required": ["name", "city"],
    "additionalProperties": False,
}
# No text of it is shorter than what is asked for: every particle makes as many tokens as a plain row.
REGEX = r"[a-zA-Z ,.'!?\n-]{2000,4000}"
OURS, XGRAMMAR, GUIDANCE = "reweigh", "vLLM xgrammar", "vLLM guidance"
JSON_TOKENS = 64
# vLLM's processes look for work without rest for a second before they sleep.
SETTLE_S = 1.2


@dataclass(frozen=True)
class Load:
    """One kind of request.

    bodies   server -> the fields that make it, beside model, messages and stream; servers without them are not asked
    prompt   of the user, {k} standing for the request's number
    stream   whether tokens come as they are made; otherwise there is no time to the first one
    schema   what the answers are validated against; without one they have the number of tokens that was asked for
    """

    name: str
    bodies: dict[str, dict[str, Any]]
    stream: bool
    prompt: str
    schema: dict[str, Any] | None = None


@dataclass
class Answer:
    """One request's answer; moments in seconds of `time.perf_counter`. tokens: sampled for it, all particles."""

    began: float
    first: float = 0.0
    ended: float = 0.0
    status: int = 0
    parts: list[tuple[float, bytes]] = field(default_factory=list)
    tokens: int = 0


def cpu_s(server: Server) -> dict[str, float]:
    """CPU seconds so far: of the process that speaks HTTP, of the engine core, of the worker, of all others."""
    spent = dict.fromkeys(("api", "core", "worker", "other"), 0.0)
    for process in (server.process, *server.process.children(recursive=True)):
        try:
            times, title = process.cpu_times(), " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        role = "api" if process == server.process else "core" if "EngineCore" in title else "other"
        spent["worker" if "Worker" in title else role] += times.user + times.system
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=16, help="of a plain answer, and of every particle")
    parser.add_argument(
        "--rate", type=float, default=4.0, help="open-loop arrivals a second; 0 leaves the open loop out"
    )
    parser.add_argument("--open-s", type=float, default=5.0, help="seconds of arrivals of each open-loop arm")
    parser.add_argument("--loads", nargs="*", default=["plain", "JSON", "particles"], help="the kinds of requests")
    parser.add_argument("--without", nargs="*", default=[], choices=[XGRAMMAR, GUIDANCE], help="servers to leave out")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that everything works")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.clients, options.tokens, options.open_s = 1, [1, 4], 8, 1.0
    loads = [load for load in _loads(options.tokens) if load.name.split()[0] in options.loads]
    # An end that is asked for ends the servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    results: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = _started(OURS, folder, stack)
        for name in (name for name in (XGRAMMAR, GUIDANCE) if name not in options.without):
            with ExitStack() as other:
                theirs = _started(name, folder, other)
                servers = {OURS: ours.ready(), name: theirs.ready()}
                asked = [load for load in loads if name in load.bodies]
                results[f"beside {name}"] = asyncio.run(_measured(servers, asked, options))
    settings = {
        **ENGINE, "threads": int(ENVIRONMENT["OMP_NUM_THREADS"]), "rounds": options.rounds, "tokens": options.tokens,
        "particles": PARTICLES, "rate": options.rate, "open_s": options.open_s,
    }  # fmt: skip
    report("server", settings, results)


# Servers


def _started(name: str, folder: Path, stack: ExitStack) -> Server:
    from decoding.embedded_model import embedded_model_path

    flags = [f"--{key}" if value is True else f"--{key}={value}" for key, value in ENGINE.items()]
    flags += ["--host=127.0.0.1", f"--model={embedded_model_path()}", f"--served-model-name={MODEL}"]
    if name == OURS:
        command = ["-m", "server.cli", "serve", *flags]
    else:
        outputs = json.dumps({"backend": name.removeprefix("vLLM "), "disable_any_whitespace": True})
        command = [
            "-m",
            "vllm.entrypoints.launchers.api_server.entry",
            *flags,
            f"--structured-outputs-config={outputs}",
        ]
        command += ["--uvicorn-log-level=warning", "--disable-uvicorn-access-log"]
    return started(name, command, ENVIRONMENT, folder, stack)


# Requests


def _loads(tokens: int) -> list[Load]:
    plain = {"max_tokens": tokens, "ignore_eos": True}
    choices = {"n": PARTICLES, **plain}
    story = "Write about an old fisherman in a village by the sea, and begin with the number {k}."
    # The number comes last: what stands before it is in the prefix cache of either server.
    person = f"A JSON object of this JSON Schema describes a person: {json.dumps(SCHEMA)} Describe person number {{k}}."
    structured = {"max_tokens": JSON_TOKENS, "structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}}

    def ours(**own: Any) -> dict[str, Any]:
        return {"reweigh": {"show_schema": False, **own}}

    return [
        Load("plain", {OURS: plain, XGRAMMAR: plain}, True, story),
        Load(
            "JSON", {OURS: {**structured, **ours()}, XGRAMMAR: structured, GUIDANCE: structured}, True, person, SCHEMA
        ),
        Load(
            f"particles x{PARTICLES}",
            {
                OURS: {
                    "max_tokens": tokens,
                    "structured_outputs": {"regex": REGEX},
                    **ours(particles=PARTICLES),
                },
                XGRAMMAR: choices,
            },
            False,
            story,
        ),
    ]  # fmt: skip


async def _ask(session: aiohttp.ClientSession, server: Server, load: Load, k: int, began: float) -> Answer:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": load.prompt.replace("{k}", str(k))}],
        **load.bodies[server.name],
    }
    if load.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    answer = Answer(began)
    async with session.post(f"{server.url}/v1/chat/completions", json=body) as response:
        answer.status = response.status
        # Read now, understood later: the generator takes as little of the machine as it can.
        async for part in response.content.iter_any():
            answer.parts.append((time.perf_counter(), part))
    answer.ended = time.perf_counter()
    return answer


def _understood(answer: Answer, server: Server, load: Load, tokens: int) -> None:
    """Fill in the tokens and the moment of the first text; AssertionError where an answer is not what was asked for."""
    whole = b"".join(part for _, part in answer.parts)
    assert answer.status == 200, f"{server.name}, {load.name}: {answer.status} {whole[:500]!r}"
    text, reason, read = "", None, 0
    usage: dict[str, Any] = {}
    if load.stream:
        lines = whole.split(b"\n\n")
        assert lines[-2:] == [b"data: [DONE]", b""], f"{server.name}, {load.name}: the stream ended early"
        ends = np.cumsum([len(part) for _, part in answer.parts])
        for line in lines[:-2]:
            read += len(line) + 2
            if line.startswith(b": "):
                continue  # progress, while no text has come for a while
            assert line.startswith(b"data: "), f"{server.name}, {load.name}: {line!r}"
            event = json.loads(line[6:])
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                piece = choice["delta"].get("content") or ""
                if piece and not text:
                    answer.first = answer.parts[int(np.searchsorted(ends, read))][0]
                text += piece
                reason = choice["finish_reason"] or reason
        answer.tokens = usage["completion_tokens"]
    else:
        usage = json.loads(whole)["usage"]
        answer.tokens = usage.get("sampled_tokens", usage["completion_tokens"])
    if load.schema is None:
        wanted = tokens * (1 if load.stream else PARTICLES)
        assert answer.tokens == wanted, f"{server.name}, {load.name}: {answer.tokens} tokens, not {wanted}"
    else:
        assert reason == "stop", f"{server.name}, {load.name}: {reason} after {text!r}"
        jsonschema.validate(json.loads(text), load.schema)


async def _closed(server: Server, load: Load, clients: int, numbers: Sequence[int]) -> list[Answer]:
    """Every client asks its next question once it has its answer."""
    waiting = iter(numbers)

    async def client(session: aiohttp.ClientSession) -> list[Answer]:
        return [await _ask(session, server, load, k, time.perf_counter()) for k in waiting]

    async with _session() as session:
        return [answer for made in await asyncio.gather(*(client(session) for _ in range(clients))) for answer in made]


async def _open(server: Server, load: Load, moments: Sequence[float]) -> list[Answer]:
    """Questions at their moments, whatever is still under way."""
    start = time.perf_counter()

    async def at(session: aiohttp.ClientSession, k: int, moment: float) -> Answer:
        await asyncio.sleep(start + moment - time.perf_counter())
        return await _ask(session, server, load, k, start + moment)

    async with _session() as session:
        return await asyncio.gather(*(at(session, k, moment) for k, moment in enumerate(moments)))


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=120), read_bufsize=1 << 20
    )


# Measurements


@dataclass
class Arm:
    """What a server did with a load: one value a round, and every answer."""

    answers: list[Answer] = field(default_factory=list)
    tokens_per_s: list[float] = field(default_factory=list)
    requests_per_s: list[float] = field(default_factory=list)
    cpu_s: dict[str, float] = field(default_factory=dict)

    def add(self, answers: list[Answer], cpu_s: dict[str, float]) -> None:
        seconds = max(answer.ended for answer in answers) - min(answer.began for answer in answers)
        self.answers += answers
        self.tokens_per_s.append(sum(answer.tokens for answer in answers) / seconds)
        self.requests_per_s.append(len(answers) / seconds)
        for role, spent in cpu_s.items():
            self.cpu_s[role] = self.cpu_s.get(role, 0.0) + spent

    def told(self) -> dict[str, Any]:
        tokens = sum(answer.tokens for answer in self.answers)
        latency = [answer.ended - answer.began for answer in self.answers]
        first = [answer.first - answer.began for answer in self.answers if answer.first]
        return {
            "requests": len(self.answers),
            "requests_per_s": statistics.median(self.requests_per_s),
            "tokens_per_s": statistics.median(self.tokens_per_s),
            "tokens_a_request": tokens / len(self.answers),
            "latency_ms": _quantiles(latency),
            **({"ttft_ms": _quantiles(first)} if first else {}),
            "cpu_ms_a_token": {role: 1e3 * spent / tokens for role, spent in self.cpu_s.items()},
        }


def _quantiles(seconds: list[float]) -> dict[str, float]:
    return {"p50": 1e3 * float(np.quantile(seconds, 0.5)), "p99": 1e3 * float(np.quantile(seconds, 0.99))}


async def _measured(servers: dict[str, Server], loads: list[Load], options: argparse.Namespace) -> dict[str, Any]:
    points = [(load, clients) for load in loads for clients in _points(load, options.clients)]
    arms = {
        (load.name, clients, name): Arm() for load, clients in points for name in load.bodies if name in servers
    }  # fmt: skip
    idle: dict[str, list[float]] = {name: [] for name in servers}
    for load in loads:
        for name in load.bodies:
            if name in servers:
                await _closed(servers[name], load, 2, [10**6, 10**6 + 1])
    for turn in range(options.rounds):
        for load, clients in points:
            names = [name for name in load.bodies if name in servers]
            numbers = range(turn * 1000, turn * 1000 + max(2, clients))
            # Who is first changes from round to round.
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                await asyncio.sleep(SETTLE_S)
                before = {one: cpu_s(servers[one]) for one in servers}
                start = time.perf_counter()
                answers = await _closed(servers[name], load, clients, numbers)
                seconds = time.perf_counter() - start
                spent = {one: _less(cpu_s(servers[one]), before[one]) for one in servers}
                for one in servers:
                    if one != name:
                        idle[one].append(sum(spent[one].values()) / seconds)
                for answer in answers:
                    _understood(answer, servers[name], load, options.tokens)
                arm = arms[load.name, clients, name]
                arm.add(answers, spent[name])
                say(f"  {load.name:14s} {clients:3d} clients  {name:14s} {arm.tokens_per_s[-1]:7.1f} tok/s")
        say(f"round {turn + 1} of {options.rounds}")
    results: dict[str, Any] = {"closed": _told(arms), "idle_cores": {name: max(idle[name]) for name in servers}}
    if options.rate:
        results["open"] = await _opened(servers, [load for load in loads if load.stream], options)
    return results


def _points(load: Load, clients: Sequence[int]) -> list[int]:
    """Numbers of clients; with several rows a request, those that fit into the batch."""
    return list(clients) if load.stream else sorted({max(1, count // PARTICLES) for count in clients})


def _told(arms: dict[tuple[str, int, str], Arm]) -> list[dict[str, Any]]:
    told = []
    for load, clients in dict.fromkeys((load, clients) for load, clients, _ in arms):
        there = {name: arm for (one, count, name), arm in arms.items() if (one, count) == (load, clients)}
        entry: dict[str, Any] = {"load": load, "clients": clients, **{name: arm.told() for name, arm in there.items()}}
        for name, arm in there.items():
            if name != OURS:
                pairs = zip(there[OURS].tokens_per_s, arm.tokens_per_s, strict=True)
                ratios = sorted(ours / theirs for ours, theirs in pairs)
                entry[f"speed_vs_{name}"] = {
                    "median": statistics.median(ratios), "low": ratios[0], "high": ratios[-1],
                }  # fmt: skip
        for name, arm in there.items():
            result = arm.told()
            ratio = entry.get(f"speed_vs_{name}")
            say(
                f"{load:24s} {clients:3d} clients  {name:14s} {result['tokens_per_s']:7.1f} tok/s "
                f"{result['requests_per_s']:6.2f} req/s  latency p50 {result['latency_ms']['p50']:6.0f} "
                f"p99 {result['latency_ms']['p99']:6.0f}  ttft p50 {result.get('ttft_ms', {}).get('p50', 0):5.0f}  cpu ms/token "
                + " ".join(f"{role} {spent:.2f}" for role, spent in result["cpu_ms_a_token"].items())
                + (f"  reweigh x{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]" if ratio else "")
            )
        told.append(entry)
    return told


async def _opened(servers: dict[str, Server], loads: list[Load], options: argparse.Namespace) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    count = max(2, round(options.rate * options.open_s))
    moments = np.cumsum(rng.exponential(1 / options.rate, count)).tolist()
    told = []
    for load in loads:
        entry: dict[str, Any] = {"load": load.name}
        for name in (name for name in load.bodies if name in servers):
            arm, before = Arm(), cpu_s(servers[name])
            answers = await _open(servers[name], load, moments)
            for answer in answers:
                _understood(answer, servers[name], load, options.tokens)
            arm.add(answers, _less(cpu_s(servers[name]), before))
            entry[name] = arm.told()
            latency, first = entry[name]["latency_ms"], entry[name]["ttft_ms"]
            say(
                f"{load.name:24s} open loop    {name:14s} latency p50 {latency['p50']:.0f} p99 {latency['p99']:.0f}  "
                f"ttft p50 {first['p50']:.0f} p99 {first['p99']:.0f}"
            )
        told.append(entry)
    return told


def _less(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {role: after[role] - before[role] for role in after}


if __name__ == "__main__":
    main()
