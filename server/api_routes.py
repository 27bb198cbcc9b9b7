"""/v1/chat/completions and /v1/completions: what is vLLM's goes to vLLM, what is ours is drawn with weights."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ValidationError

from samplers.randomness import derive_seed
from server.api_best_of import InWaves
from server.api_constraints import Names
from server.api_draw import Job, events, whole
from server.api_errors import ApiError, api_error, bad
from server.api_json import read_json
from server.api_request import Asked, asked_of, is_ours, refuse_unknown
from server.api_shapes import Chat, Completion
from server.api_thinking import thinking_of
from server.compile_pool import CompilePool

if TYPE_CHECKING:
    from decoding.judging import Asker
    from decoding.vllm_service import Service
    from decoding.waves import Waves
    from samplers.reward import Reward

router = APIRouter()
# Fields of a body that say nothing of how its prompt is written.
_NOT_OF_THE_PROMPT = (
    "reweigh", "response_format", "structured_outputs", "tool_choice", "parallel_tool_calls", "stream",
    "stream_options", "n", "logprobs", "top_logprobs", "seed",
)  # fmt: skip


@dataclass
class Backend:
    """What the routes work with, in `app.state.reweigh`."""

    service: Service
    compiler: CompilePool
    names: Names
    templates_tools: bool
    schema_prompts: Mapping[str, str]
    rewards: Mapping[str, Reward]
    judges: Mapping[str, Asker]


@router.post("/v1/chat/completions")
async def chat_completions(raw_request: Request) -> Response:
    return await _answered(raw_request, _chat_job, _plain_chat)


@router.post("/v1/completions")
async def completions(raw_request: Request) -> Response:
    return await _answered(raw_request, _completion_job, _plain_completion)


async def _answered(
    raw_request: Request,
    job_of: Callable[[Request, dict[str, Any]], Awaitable[Job]],
    plain: Callable[[Request, dict[str, Any]], Awaitable[Response]],
) -> Response:
    try:
        body = await _body(raw_request)
        refuse_unknown(body)
        if not is_ours(body):
            return await plain(raw_request, body)
        job = await _unless_gone(raw_request, job_of(raw_request, body))
        if job is None:
            return Response(status_code=499)
        if job.asked.stream:
            return StreamingResponse(events(job), media_type="text/event-stream")
        made = await _unless_gone(raw_request, whole(job))
        return Response(status_code=499) if made is None else JSONResponse(made)
    except ApiError as error:
        return error_response(error)


def error_response(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


async def _unless_gone(raw_request: Request, work: Awaitable[Any]) -> Any:
    """The work's result; None, and the work is cancelled, when the client hangs up."""
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_gone(raw_request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(raw_request: Request) -> None:
    while (await raw_request.receive())["type"] != "http.disconnect":
        pass


async def _body(raw_request: Request) -> dict[str, Any]:
    content = raw_request.headers.get("content-type", "").split(";")[0].strip().lower()
    # Another site's page can have a browser post without a type, and with the key that it remembers.
    if content != "application/json":
        raise ApiError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"content-type is {content[:80] or 'missing'}: application/json was wanted",
            code="unsupported_media_type",
        )
    try:
        body = read_json(await raw_request.body())
    except ValueError as error:
        raise bad(f"the body is no JSON: {error}", None, "invalid_json") from None
    if not isinstance(body, dict):
        raise bad("the body is no JSON object", None, "invalid_json")
    return body


# vLLM's own


async def _plain_chat(raw_request: Request, body: dict[str, Any]) -> Response:
    from vllm.entrypoints.openai.chat_completion import api_router
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    response: Response = await api_router.create_chat_completion(_validated(ChatCompletionRequest, body), raw_request)
    return response


async def _plain_completion(raw_request: Request, body: dict[str, Any]) -> Response:
    from vllm.entrypoints.openai.completion import api_router
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    response: Response = await api_router.create_completion(_validated(CompletionRequest, body), raw_request)
    return response


def _validated(model: Any, body: Any) -> Any:
    """A body as FastAPI would have read it for vLLM, with the same error."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        found = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        raise RequestValidationError(found, body=body) from error


# Ours


async def _chat_job(raw_request: Request, body: dict[str, Any]) -> Job:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    state = raw_request.app.state
    backend: Backend = state.reweigh
    asked = asked_of(body, backend.names, chat=True)
    prompt = {key: value for key, value in body.items() if key not in _NOT_OF_THE_PROMPT}
    added = None
    if isinstance(prompt.get("messages"), list):
        added = _instruction(backend, asked, body)
        prompt["messages"] = _instructed(prompt["messages"], added)
    if not prompt.get("tools"):
        prompt.pop("tools", None)
    serving = state.openai_serving_chat
    if serving is None:
        raise bad("the model has no chat completions: use /v1/completions", None)
    request = _validated(ChatCompletionRequest, {**prompt, "tool_choice": "none"})
    _, rendered = await _rendered(serving.render_chat_request(request))
    asked = asked.with_thinking(
        thinking_of(serving, request, serving._extract_prompt_components(rendered[0]).token_ids)
    )
    spec = await _compiled(backend, asked)
    return _job(raw_request, serving, request, asked, spec, rendered, Chat(), "messages", added)


async def _completion_job(raw_request: Request, body: dict[str, Any]) -> Job:
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    state = raw_request.app.state
    backend: Backend = state.reweigh
    asked = asked_of(body, backend.names, chat=False).with_thinking(None)
    spec = await _compiled(backend, asked)
    prompt = {key: value for key, value in body.items() if key not in _NOT_OF_THE_PROMPT}
    serving = state.openai_serving_completion
    request = _validated(CompletionRequest, prompt)
    rendered = await _rendered(serving.render_completion_request(request))
    return _job(raw_request, serving, request, asked, spec, rendered, Completion(), "prompt")


async def _compiled(backend: Backend, asked: Asked) -> str | None:
    if asked.spec is None:
        return None
    try:
        return await backend.compiler.compiled(asked.spec)
    except Exception as error:
        raise api_error(error, asked.constraint_param) from error


async def _rendered(rendering: Awaitable[Any]) -> Any:
    """What vLLM's renderer makes of a request, its refusals as ours."""
    from vllm.entrypoints.serve.engine.protocol import ErrorResponse

    made = await rendering
    if isinstance(made, ErrorResponse):
        code = "model_not_found" if made.error.code == HTTPStatus.NOT_FOUND else "invalid_value"
        raise ApiError(made.error.code, made.error.message, made.error.param, code)
    return made


def _job(
    raw_request: Request,
    serving: Any,
    request: Any,
    asked: Asked,
    spec: str | None,
    engine_inputs: list[Any],
    shape: Chat | Completion,
    place: str,
    added: str | None = None,
) -> Job:
    """added: what the server itself has written into the prompt."""
    from vllm.entrypoints.serve.utils.api_utils import get_max_tokens

    from decoding.adaptation.settings import settle
    from decoding.asking import seed_of, settings_of
    from decoding.request import Request as Draw
    from decoding.rewarding import Selecting, reward_of, wants_certainty
    from decoding.vllm_service import Passenger

    backend: Backend = raw_request.app.state.reweigh
    if asked.n * len(engine_inputs) > 256:
        raise bad(f"{len(engine_inputs)} prompts with n={asked.n} are more than 256 choices", place)
    chosen = asked.best_of
    selecting: Selecting | None = None
    if chosen is not None and chosen.reward is not None:
        asker = backend.service.asker() if chosen.judge is None else backend.judges[chosen.judge]
        reward = backend.rewards[chosen.reward] if isinstance(chosen.reward, str) else reward_of(chosen.reward, asker)
        selecting = Selecting(reward, chosen.temperature, "sample", chosen.unjudged, chosen.rule)
    lora = serving._maybe_get_adapters(request)
    draws: list[tuple[Draw, Any]] = []
    waves: list[Waves] = []
    try:
        seed = seed_of(asked.seed)
        for engine_input in engine_inputs:
            tokens = tuple(serving._extract_prompt_components(engine_input).token_ids)
            max_tokens = get_max_tokens(
                backend.service.max_model_len,
                asked.max_tokens,
                len(tokens),
                serving.default_sampling_params,
                serving.override_max_tokens,
            )
            vocabulary = backend.service.vocabulary
            adapt = (
                None
                if asked.adapted is None
                else settle(*asked.adapted, vocabulary.decode(list(tokens)), vocabulary, added)
            )
            settings = settings_of(
                {**asked.settings, "max_tokens": max(max_tokens, 1), "trace": asked.logprobs is not None}
            )
            for _ in range(asked.n):
                draw = Draw(
                    tokens,
                    None,
                    spec,
                    seed=derive_seed(seed, len(draws)),
                    certainty=wants_certainty(selecting),
                    potential=asked.potential,
                    adapt=adapt,
                    **settings,
                )
                backend.service.check(draw, place)
                draws.append((draw, engine_input))
                if chosen is not None and chosen.waves is not None:
                    if adapt is not None and adapt["balance"] == "population":
                        raise bad(
                            "reweigh.adaptation.balance='population' balances all texts at once, and reweigh.best_of.until "
                            "draws them in waves: leave one of them out",
                            "reweigh.adaptation.balance",
                        )
                    waves.append(_waves(chosen.k, chosen.waves, draw.max_tokens))
    except ValueError as error:
        raise api_error(error, _param_of(str(error), place)) from error
    passenger = Passenger(lora, serving._get_priority(request, raw_request))
    model = serving.models.model_name(lora)
    prompts = (
        []
        if selecting is None
        else [_prompt_text(request, k) for k in range(len(engine_inputs)) for _ in range(asked.n)]
    )
    return Job(backend.service, shape, asked, model, draws, passenger, selecting, prompts, waves)


def _waves(k: int, asked: InWaves, max_tokens: int) -> Waves:
    from decoding.waves import Waves

    waves = Waves(asked.until, k, asked.wave, asked.token_budget, asked.judge_budget, max_tokens)
    if waves.next_wave(0, 0)[0] == 0:
        param = "reweigh.best_of.token_budget"
        raise bad(f"{param}={asked.token_budget} is less than one candidate of max_tokens={max_tokens} can need", param)
    return waves


def _param_of(message: str, place: str) -> str | None:
    """The field that an error of `settings_of` or of the engine's bounds is about."""
    if message.startswith("temperature"):
        return "temperature"
    named = re.match(r"(particles|sampler|debias|adaptation\.\w+)\b", message)
    return f"reweigh.{named[1]}" if named else place if "tokens" in message else None


def _prompt_text(request: Any, k: int) -> str:
    """What a judge is shown of the prompt: the last user's message, or the k-th prompt where it came as text."""
    messages = getattr(request, "messages", None)
    if messages is None:
        prompt = request.prompt
        return prompt if isinstance(prompt, str) else prompt[k] if isinstance(prompt[k], str) else ""
    asked = next((one.get("content") for one in reversed(messages) if one.get("role") == "user"), "")
    if isinstance(asked, str):
        return asked
    return "".join(part.get("text", "") for part in asked or () if isinstance(part, Mapping))


def _instruction(backend: Backend, asked: Asked, body: Mapping[str, Any]) -> str | None:
    """What the model is told of what is wanted: the schema, the tools where its template is silent on them, a database."""
    if asked.instruction is not None:
        if asked.tools is not None and backend.templates_tools and asked.constraint_param == "tools":
            return None
        return asked.instruction
    own = body.get("reweigh") or {}
    constraint = own.get("constraint") if own.get("show_schema", True) else None
    name = constraint.get("sql", constraint.get("named")) if isinstance(constraint, Mapping) else constraint
    return backend.schema_prompts.get(name) if isinstance(name, str) else None


def _instructed(messages: list[Any], instruction: str | None) -> list[Any]:
    """The messages with an instruction at the end of their system message, or in one of its own."""
    if instruction is None:
        return messages
    if messages and isinstance(messages[0], dict) and messages[0].get("role") == "system":
        content = messages[0].get("content")
        if isinstance(content, str):
            return [{**messages[0], "content": f"{content}\n\n{instruction}"}, *messages[1:]]
        if isinstance(content, list):
            return [{**messages[0], "content": [*content, {"type": "text", "text": instruction}]}, *messages[1:]]
    return [{"role": "system", "content": instruction}, *messages]
