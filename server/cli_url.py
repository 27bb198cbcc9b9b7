"""`--url`: the commands' questions to a server that runs, over OpenAI's protocol, in place of an engine in this process.

`RemoteEngine` answers what the commands ask of an `Engine`. The constraint travels as its spec; the particles come back with
their weights, so that everything that is printed is made of the same numbers.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from grammars.errors import (
    DeadEnd,
    EngineError,
    GrammarError,
    OverBudget,
    PredicateError,
    RequestError,
    ReweighError,
    Unsatisfiable,
)
from server.cli_errors import UsageError

if TYPE_CHECKING:
    import argparse

    import httpx

    from decoding.request import Result
    from grammars.constraint import Language

KEY_VARIABLE = "REWEIGH_API_KEY"
CONNECT_S = 10.0
# Requests under way at once: a server has its own limit, and answers 429 beyond it.
IN_FLIGHT = 32
# How often a server that is full is asked again, and the longest that its Retry-After is waited for.
TRIES = 6
LONGEST_WAIT_S = 30.0

_ERRORS: dict[str, type[ReweighError]] = {
    "unsatisfiable": Unsatisfiable,
    "dead_end": DeadEnd,
    "compile_budget_exceeded": OverBudget,
    "predicate_failed": PredicateError,
    "invalid_constraint": GrammarError,
}


@dataclass(frozen=True)
class Told:
    """A constraint as the server is told of it, and what its texts stand for."""

    spec: Mapping[str, Any]
    parse: Callable[[str], Any]


class RemoteEngine:
    """A server's model, as the commands ask an engine: `generate`, `agenerate`.

    url    the server's address, with or without /v1; model: one of its models, by default the first
    Raises UsageError, EngineError.
    """

    max_particles = IN_FLIGHT
    # Whether the model has a chat template is the server's to know: it says so where there is none.
    tokenizer = SimpleNamespace(chat_template="the server's own")

    def __init__(self, url: str, model: str | None) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"--url {url}: an address such as http://127.0.0.1:8000 was wanted")
        self.url = url.rstrip("/").removesuffix("/v1")
        self.model = asyncio.run(self._first_model()) if model is None else model

    async def _first_model(self) -> str:
        async with self._client() as client:
            listed = await self._asked(client, "GET", "/v1/models", None)
        try:
            return str(listed["data"][0]["id"])
        except (KeyError, IndexError, TypeError) as error:
            raise UsageError(f"--url {self.url}: it lists no model; name one with --model") from error

    def generate(self, **asked: Any) -> list[Result]:
        """A result for a list of one prompt or of one list of messages; what went wrong with it stands in it."""
        single = {name: value[0] if name in ("prompts", "messages") else value for name, value in asked.items()}
        return [asyncio.run(self.agenerate(**single))]

    async def agenerate(
        self,
        *,
        prompts: str | None = None,
        messages: list[dict[str, Any]] | None = None,
        constraint: Language | Told | None,
        seed: int | None,
        timeout_s: float | None = None,
        trace: bool = False,
        **settings: Any,
    ) -> Result:
        """Draw for one prompt or one list of messages. Raises the errors that an engine raises, and EngineError without one."""
        assert not trace, "the command line refuses --explain with --url"
        own: dict[str, Any] = {
            name: settings[name]
            for name in ("particles", "sampler", "ess_threshold", "resampling", "detox", "debias", "adaptation")
            if name in settings
        }
        own |= {"return_particles": True, "show_schema": False, "select": "best"}
        if constraint is not None:
            own["constraint"] = told_of(constraint).spec
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": settings["max_tokens"],
            "temperature": settings["temperature"],
            "top_p": settings["top_p"],
            "reweigh": own,
        }
        if seed is not None:
            body["seed"] = seed
        if messages is not None:
            path = "/v1/chat/completions"
            body["messages"] = messages
        else:
            path = "/v1/completions"
            body["prompt"] = prompts
        try:
            async with asyncio.timeout(timeout_s), self._client() as client:
                answer = await self._asked(client, "POST", path, body)
        except TimeoutError as error:
            raise TimeoutError(f"no answer within timeout_s={timeout_s:g}") from error
        return result_of(answer, constraint, settings["max_tokens"])

    def _client(self) -> httpx.AsyncClient:
        import httpx

        key = os.environ.get(KEY_VARIABLE)
        return httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            # How long an answer may take is --timeout's to say.
            timeout=httpx.Timeout(None, connect=CONNECT_S),
        )

    async def _asked(self, client: httpx.AsyncClient, method: str, path: str, body: Any) -> Any:
        """The JSON of an answer. A server that is full is asked again after the time it says."""
        import httpx

        for attempt in range(TRIES):
            try:
                response = await client.request(method, path, json=body)
            except httpx.HTTPError as error:
                raise EngineError(f"--url {self.url}: no answer ({str(error) or type(error).__name__})") from error
            if response.status_code not in (429, 503) or attempt == TRIES - 1:
                break
            await asyncio.sleep(_wait_s(response.headers.get("Retry-After"), attempt))
        try:
            answer = response.json()
        except ValueError as error:
            raise EngineError(
                f"--url {self.url}: HTTP {response.status_code}, and no JSON: is it such a server?"
            ) from error
        if response.status_code >= 400:
            raise _error_of(response.status_code, answer, self.url)
        return answer


def _wait_s(said: str | None, attempt: int) -> float:
    return min(float(said) if said is not None and said.isdigit() else 2.0**attempt, LONGEST_WAIT_S)


def _error_of(status: int, answer: Any, url: str) -> Exception:
    """An answer's error as this project's."""
    told = answer.get("error") if isinstance(answer, Mapping) else None
    told = told if isinstance(told, Mapping) else {"message": answer}
    message, code = str(told.get("message")), told.get("code")
    if code in _ERRORS:
        return _ERRORS[code](message)
    if status in (401, 403):
        return UsageError(f"--url {url}: {message}; the key is taken from the environment, {KEY_VARIABLE}")
    if status < 500 and status != 429:
        return RequestError(f"--url {url}: {message}")
    return EngineError(f"--url {url}: HTTP {status}: {message}")


def result_of(answer: Mapping[str, Any], constraint: Language | Told | None, max_tokens: int) -> Result:
    """A response as a result. Texts that did not end within max_tokens have no weight: where none did, that is its error."""
    import numpy as np

    from decoding.request import Result, Stats, Steered, Usage

    try:
        (choice,) = answer["choices"]
        particles, told, usage = choice["particles"], answer["reweigh"], answer["usage"]
        reasons = [one["finish_reason"] for one in particles]
        ended = [
            one["log_weight"] is not None and reason == "stop" for one, reason in zip(particles, reasons, strict=True)
        ]
        sampled = usage["sampled_tokens"]
        history = tuple(choice["ess_history"])
        steered = None
        if "adaptation" in choice:
            pieces = [one["adaptation"] for one in particles]
            kl, ratios = (tuple(tuple(one[name]) for one in pieces) for name in ("kl_tokens", "log_ratios"))
            told_of = choice["adaptation"]
            named = {axis: tuple(one["named"][axis] for one in pieces) for axis in told_of["group_shares"]}
            left = tuple(told_of["named_by_prompt"])
            steered = Steered(kl, ratios, told_of["is_proposal"], named, told_of["group_shares"], left)
        error = None if any(ended) else DeadEnd(f"no text came to its end within max_tokens={max_tokens}: raise it")
        return Result(
            texts=[one["text"] for one in particles],
            tokens=[[] for _ in particles],
            log_weights=np.array(
                [one["log_weight"] if end else -math.inf for one, end in zip(particles, ended, strict=True)]
            ),
            # A server does not tell the model's own probability of a text.
            log_probs=np.full(len(particles), math.nan),
            finish_reasons=reasons,
            usage=Usage(usage["prompt_tokens"], usage["completion_tokens"], sampled),
            stats=Stats(
                steps=len(history),
                checks=round(told["checks_per_token"] * sampled),
                masks=round(told["masks_per_token"] * sampled),
                resamplings=told["resamplings"],
                wall_s=told["wall_s"],
                queued_s=told["queued_s"],
                ess_history=history,
                sampled_tokens=sampled,
            ),
            seed=told["seed"],
            ancestry=[(step, list(parents)) for step, parents in choice["ancestry"]],
            constraint=constraint,  # type: ignore[arg-type]  # of a language only `parse` is asked here
            adaptation=steered,
            error=error,
        )
    except (KeyError, TypeError, ValueError) as wrong:
        raise EngineError(
            f"the answer has no weights ({type(wrong).__name__}: {wrong}): --url wants a server started by reweigh serve"
        ) from wrong


def check_options(options: argparse.Namespace) -> None:
    """Raise UsageError for what a server far away cannot do, and for --named where there is no server."""
    if options.url is None:
        if options.named is not None:
            raise UsageError("--named is what a server's operator has set up, and there is no --url")
        return
    for name, given, why in (
        ("--explain", options.explain, "what was tested is told where the model runs"),
        ("--engine-arg", options.engine_args, "the server's operator has set those"),
        ("--and", options.named and options.also, "with --named the server has the whole constraint"),
        ("--after", options.named and options.after, "with --named the server has the whole constraint"),
    ):
        if given:
            raise UsageError(f"{name} does not go with --url: {why}")


def told_of(language: Language | Told) -> Told:
    """A language as a server is told of it: as data. A file of names goes as the names.

    Raises UsageError for code and databases, which only an operator sets up.
    """
    from grammars.choice import Choice

    if isinstance(language, Told):
        return language
    if isinstance(language, Choice):
        return Told({"choice": list(language.options)}, language.parse)
    if (found := _local_part(language.spec)) is not None:
        raise UsageError(
            f"--url: a {found} of yours is not sent to a server; its operator sets it up under a name (reweigh serve "
            "--constraint, --database), which you give with --named"
        )
    return Told(language.spec, language.parse)


def named(name: str, language: Language | None) -> Told:
    """What the operator has set up under a name. language: the same as it is known here, for what its texts stand for"""
    return Told({"named": name}, _itself if language is None else language.parse)


def _itself(text: str) -> str:
    return text


def _local_part(spec: Any) -> str | None:
    """The kind of the first part of a spec that only this machine has."""
    waiting = [spec]
    while waiting:
        one = waiting.pop()
        if not isinstance(one, Mapping):
            continue
        for kind, known_as in (("predicate", "function"), ("sql", "database")):
            if kind in one:
                return known_as
        waiting += [*(one.get("all") or ()), *(one.get("any") or ()), (one.get("then") or {}).get("constraint")]
    return None
