"""The vLLM endpoint plugin: reweigh's routes on vLLM's own API server, and nothing beside the routes that are promised."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from argparse import Namespace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from grammars.errors import EngineError, RequestError
from grammars.places import object_at
from server.api_constraints import Names
from server.api_errors import ApiError
from server.api_routes import Backend, error_response
from server.api_routes import router as completion_router
from server.compile_pool import CompilePool
from server.guard import Gate

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient

    from decoding.vllm_service import Service
    from samplers.reward import Reward

ROUTES = frozenset({
    "/", "/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{model:path}", "/health", "/metrics",
    "/version", "/tokenize", "/detokenize",
})  # fmt: skip
PAGE = Path(__file__).with_name("page.html")
# Rewards that need nothing but the text: what the page offers beside the operator's own.
SHIPPED_REWARDS = ["mean_logprob", "self_certainty"]

router = APIRouter()


@router.get("/", include_in_schema=False)
async def page(raw_request: Request) -> Response:
    """The page for people, told what the operator has set up."""
    state = raw_request.app.state
    names: Names = state.reweigh.names
    setup = {
        "constraints": sorted(names.constraints - names.databases),
        "databases": sorted(names.databases),
        "rewards": sorted(names.rewards),
        "shipped": SHIPPED_REWARDS,
        "judges": sorted(names.judges),
        "partial_rewards": sorted(names.partial_rewards),
        "signals": sorted(names.signals),
        "key": bool(state.reweigh_gate.keys),
    }
    page = PAGE.read_text(encoding="utf-8")
    # "<" is written as an escape of JSON: no name can end the element that it stands in.
    told = json.dumps(setup).replace("<", "\\u003c")
    headers = {
        "Content-Security-Policy": _policy(page),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return HTMLResponse(page.replace("{{setup}}", told, 1), headers=headers)


def _policy(page: str) -> str:
    """What the page may do: run the script and the style that stand in it, and ask this server."""
    hashes = {
        tag: base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        for tag, inline in re.findall(r"<(script|style)>(.*?)</\1>", page, re.DOTALL)
    }
    return (
        f"default-src 'none'; script-src 'sha256-{hashes['script']}'; style-src 'sha256-{hashes['style']}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


@router.get("/v1/models/{model:path}")
async def one_model(model: str, raw_request: Request) -> Response:
    """One of the models that /v1/models lists."""
    listed = await raw_request.app.state.openai_serving_models.show_available_models()
    for card in listed.data:
        if card.id == model:
            return JSONResponse(card.model_dump())
    return error_response(
        ApiError(HTTPStatus.NOT_FOUND, f"The model `{model:.80}` does not exist", "model", "model_not_found")
    )


class Endpoints:
    """vLLM's `EndpointPlugin`. What `reweigh serve` was told stands in `args.reweigh`."""

    name = "reweigh"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        keep = [route for route in app.routes if getattr(route, "path", None) in ROUTES]
        app.router.routes[:] = keep
        app.router.redirect_slashes = False
        app.state.reweigh_gate = app.state.args.reweigh.gate
        app.include_router(completion_router)
        app.include_router(router)
        for status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
            app.add_exception_handler(status, _no_such_route)

    async def init_state(self, engine_client: EngineClient | None, state: Any, args: Namespace) -> None:
        from decoding.vllm_service import Service

        assert engine_client is not None, "a server that generates has an engine"
        told = args.reweigh
        service = Service(engine_client)
        await service.start()
        compiler = CompilePool(service.vocabulary, told.places, told.databases)
        await compiler.start()
        await _warm_up(service, compiler)
        template = getattr(engine_client.get_tokenizer(), "chat_template", None) or ""
        state.reweigh = Backend(
            service=service,
            compiler=compiler,
            names=Names(
                constraints=frozenset(told.places) | frozenset(told.databases),
                databases=frozenset(told.databases),
                rewards=frozenset(told.rewards),
                judges=frozenset(told.judges),
                partial_rewards=frozenset(told.partial_rewards),
                profiles=told.profiles,
                signals=told.signals,
            ),
            judges=told.judges,
            rewards={name: _reward(name, place) for name, place in told.rewards.items()},
            templates_tools="tools" in str(template),
            schema_prompts={name: _schema_prompt(url) for name, url in told.databases.items()},
        )
        _close_the_door_first(engine_client, told.gate)


async def _no_such_route(raw_request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", HTTPStatus.NOT_FOUND)
    path = raw_request.url.path
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        return error_response(
            ApiError(status, f"{raw_request.method} is not for {path:.80}", None, "method_not_allowed")
        )
    return error_response(ApiError(status, f"there is no route {path:.80}", None, "unknown_route"))


def _close_the_door_first(engine_client: Any, gate: Gate) -> None:
    """Have new requests refused once the server begins to shut the engine down: what is under way may go on."""
    shutdown = engine_client.shutdown

    def drain(*arguments: Any, **named: Any) -> Any:
        gate.draining = True
        return shutdown(*arguments, **named)

    engine_client.shutdown = partial(drain)


async def _warm_up(service: Service, compiler: CompilePool) -> None:
    """Let every process load what the usual constraints need before the first request has to wait for it."""
    from vllm.inputs.engine import tokens_input

    from decoding.asking import settings_of
    from decoding.request import Request as Draw

    for spec in ({"json_schema": {"type": "object", "required": ["a"]}}, {"regex": "[0-9]"}):
        written = await compiler.compiled(spec)
        prompt = service.vocabulary.eos_ids[:1]
        draw = Draw(prompt, None, written, seed=0, **settings_of({"particles": 2, "max_tokens": 2, "truncate": True}))
        async for _ in service.draw(draw, tokens_input(list(prompt))):
            pass


def _reward(name: str, place: str) -> Reward:
    """The reward that stands at `module:object`: a function, or an object with `score`."""
    from decoding.rewarding import reward_of

    found = object_at(place, f"reward {name!r}", EngineError)
    try:
        return reward_of(found)
    except RequestError as error:
        raise EngineError(f"reward {name!r}: {place}: {error}") from error


def _schema_prompt(url: str) -> str:
    from grammars.sql import Sql

    return Sql(url).messages("-")[0]["content"]
