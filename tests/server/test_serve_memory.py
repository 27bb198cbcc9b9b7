"""Memory does not grow with the requests that were served: all of a server's processes, thousands of different constraints."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from tests.server.conftest import MODEL, Serving
from tests.server.test_serve_faults import asked, family, gauge, under_way, until

CLIENTS = 16
MIB = 1 << 20
# What a cache may keep of one constraint, in all the processes that keep it: measured .2 MiB, for schemas like these.
KEPT = MIB // 2


def schema(k: int) -> dict[str, Any]:
    """A schema that no other k has."""
    names = [f"field{k}_{j}" for j in range(1 + k % 5)]
    kinds: list[dict[str, Any]] = [
        {"type": "string", "maxLength": 5 + k % 40}, {"type": "integer", "minimum": k}, {"enum": [f"a{k}", f"b{k}"]},
        {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}, {"type": "string", "pattern": f"^[a-z]{{2}}{k}$"},
    ]  # fmt: skip
    return {"type": "object", "properties": {n: kinds[(k + j) % 5] for j, n in enumerate(names)}, "required": names[:1]}


def steering(k: int) -> dict[str, Any]:
    """Steering that no other k has: its own words, strength, budget and method."""
    words = {"near": [f"here{k}", "home", "inside"], "far": [f"there{k}", "away", "outside"]}
    return {
        "particles": (1, 4)[k % 2],
        "detox": 0.5 + k % 97 / 97,
        "debias": ["gender", {"name": f"place{k}", "groups": words}],
        "adaptation": {"budget": 1.0 + k % 11, "method": ("tilt", "offset", "both")[k % 3], "gate": k % 5 / 100,
                       "balance": ("token", "population")[k % 2], "signal": ("profanity", "mild", "loud")[k // 3 % 3]},
    }  # fmt: skip


def steered(serving: Serving, client: httpx.Client, k: int) -> None:
    """The k-th of a traffic that is all steered: alone, in groups, in streams."""
    body = {"model": MODEL, "prompt": f"The man at {k} said: you", "max_tokens": 6, "seed": k, "stream": k % 4 == 1}
    own = steering(k) | {"ess_threshold": 1.0}
    response = client.post("/v1/completions", json=body | {"reweigh": own})
    assert response.status_code == 200 and "adaptation" in response.text, f"{k}: {response.text[:300]}"


def request(serving: Serving, client: httpx.Client, k: int) -> None:
    """The k-th of a mixed traffic: answers, streams, several particles, refusals, failures, plain ones, and clients that leave."""
    body: dict[str, Any] = {"model": MODEL, "prompt": f"Object {k}: ", "max_tokens": 4, "seed": k}
    form = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema(k)}}}
    kind, wanted = k % 10, (200,)
    if kind == 0:
        body |= {"ignore_eos": True}
    elif kind == 1:
        body |= {
            "reweigh": {
                "constraint": {"json_schema": {"type": "object", "properties": {f"x{k}": False}, "required": [f"x{k}"]}}
            }
        }
        wanted = (422,)
    elif kind == 2:
        body |= {"reweigh": {"constraint": {"all": ["raises", {"regex": f"[a-z]+{k}"}]}}}
        wanted = (422,)
    elif kind == 3:
        with asked(serving, "/v1/completions", {**body, **form, "max_tokens": 500, "stream": k % 4 == 1}):
            return
    elif kind == 4:
        body |= {**form, "reweigh": {"particles": 6, "return_particles": True}, "logprobs": 2}
    elif kind == 5:
        body |= {**form, "stream": True}
    elif kind == 6:
        body |= {"reweigh": {"constraint": {"regex": f"({k}|[0-9]{{3}}) [a-z]{{{1 + k % 7}}}"}}}
    elif kind == 7:
        body |= {"reweigh": steering(k)}
    else:
        body |= form
    response = client.post("/v1/completions", json=body)
    assert response.status_code in wanted, f"{k}: {response.status_code} {response.text[:300]}"


def resident(serving: Serving) -> list[tuple[str, int]]:
    """Bytes of each process that are its own (shared pages are counted once, where it can be told)."""
    found = []
    for process in family(serving):
        try:
            found.append((" ".join(process.cmdline())[-40:], process.memory_full_info().uss))
        except psutil.Error:  # it ended between the list and the look, or has been killed and is started again
            continue
    return found


def traffic(serving: Serving, numbers: range, send: Callable[[Serving, httpx.Client, int], None] = request) -> int:
    """Send these requests; bytes of all processes once all have ended."""
    order = list(numbers)
    random.Random(numbers.start).shuffle(order)
    with (
        httpx.Client(base_url=serving.url, headers=serving.headers, timeout=300) as client,
        ThreadPoolExecutor(CLIENTS) as threads,
    ):
        for done in [threads.submit(send, serving, client, k) for k in order]:
            done.result()
    until(lambda: under_way(serving) == 0, 60)
    return sum(size for _, size in resident(serving))


def test_memory_grows_by_no_more_than_caches_may_hold(serving: Serving) -> None:
    """The caches are not full yet: growth beyond what they keep of each constraint would be a leak."""
    traffic(serving, range(1_000_180, 1_000_210))  # what a server allocates once
    first = traffic(serving, range(1_000_000, 1_000_060))
    last = traffic(serving, range(1_000_060, 1_000_180))
    assert last - first <= 120 * KEPT, f"{(last - first) / 120 / 1024:.0f} KiB a request"
    until(lambda: gauge(serving, "kv_cache_usage_perc") == 0, 5)


LONG = pytest.mark.skipif("REWEIGH_LONG_TESTS" not in os.environ, reason="some minutes: set REWEIGH_LONG_TESTS=1")


def quarters_of(serving: Serving, count: int, send: Callable[[Serving, httpx.Client, int], None]) -> list[int]:
    """Bytes after each quarter of so many requests."""
    quarters = []
    for k in range(4):
        quarters.append(traffic(serving, range(count // 4 * k, count // 4 * (k + 1)), send))
        print(
            f"quarter {k + 1}: {quarters[-1] / MIB:.1f} MiB",
            [(n[-16:], round(s / MIB, 1)) for n, s in resident(serving)],
            flush=True,
        )
    return quarters


@LONG
def test_memory_is_flat_over_2000_requests_with_2000_schemas(serving: Serving) -> None:
    """By quarter; the caches (256 constraints a process) are full after the second, and from then on nothing may grow."""
    quarters = quarters_of(serving, 2000, request)
    assert quarters[3] - quarters[1] <= 0.02 * quarters[1], [round(size / MIB, 1) for size in quarters]


@LONG
def test_memory_is_flat_over_1000_requests_steered_in_1000_ways(serving: Serving) -> None:
    quarters = quarters_of(serving, 1000, steered)
    assert quarters[3] - quarters[0] <= 0.02 * quarters[0], [round(size / MIB, 1) for size in quarters]
