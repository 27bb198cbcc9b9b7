"""One HTTP request as draws: n groups side by side, their answers whole, or as server-sent events while they are made."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from grammars.errors import RewardError
from server.api_answer import Answer, answer_of, totals, usage
from server.api_errors import ApiError, api_error
from server.api_request import Asked
from server.api_shapes import Shape
from server.api_thinking import thought_tokens
from server.api_waves import chunks_in_waves

if TYPE_CHECKING:
    from decoding.request import Chunk, Request, Result
    from decoding.rewarding import Selecting
    from decoding.vllm_service import Passenger, Service
    from decoding.waves import Waves

# Progress of several particles goes out no more often than this.
PROGRESS_EVERY_S = 0.25
# A judge that hangs: its thread cannot be ended, the request can.
REWARD_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Job:
    """What is drawn for one HTTP request.

    draws      the request of every choice, and its prompt as vLLM's renderer made it
    selecting  the reward that selects, if one does; prompts: what its judge is shown, one for each draw
    waves      how each is drawn in waves, if it is; its request is that of a wave
    """

    service: Service
    shape: Shape
    asked: Asked
    model: str
    draws: Sequence[tuple[Request, Any]]
    passenger: Passenger
    selecting: Selecting | None = None
    prompts: Sequence[str] = ()
    waves: Sequence[Waves] = ()
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.shape.prefix + self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


async def whole(job: Job) -> dict[str, Any]:
    """The response with all choices. Raises ApiError; cancelling it frees the rows of all."""
    tasks = [asyncio.create_task(_drawn(job, k)) for k in range(len(job.draws))]
    try:
        answers = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    choices = [job.shape.choice(k, answer, job.asked) for k, answer in enumerate(answers)]
    return {**job.envelope(job.shape.whole, choices), "usage": usage_of(job, answers), **totals(answers)}


async def _drawn(job: Job, k: int) -> Answer:
    try:
        async with aclosing(_chunks(job, k, stream=False)) as chunks:
            async for chunk in chunks:
                if chunk.result is not None:
                    return await _answer(job, k, chunk.result)
    except Exception as error:
        raise api_error(error, job.asked.constraint_param) from error
    raise AssertionError("a draw ends with its result")


async def _chunks(job: Job, k: int, stream: bool) -> AsyncGenerator[Chunk, None]:
    """What the engine tells of a choice: in the last chunk its result, judged where a reward selects."""
    request, engine_input = job.draws[k]
    if job.waves:
        chunks = chunks_in_waves(
            job.service,
            job.waves[k],
            request,
            engine_input,
            stream=stream,
            passenger=job.passenger,
            judged=partial(_judged, job, k),
        )
    else:
        chunks = job.service.draw(request, engine_input, stream=stream, passenger=job.passenger)
    async with aclosing(chunks):
        async for chunk in chunks:
            if chunk.result is None or job.waves:
                yield chunk
            else:
                yield replace(chunk, result=await _judged(job, k, chunk.result))


async def _judged(job: Job, k: int, result: Result) -> Result:
    """The result with its rewards, where a reward selects."""
    from decoding.own_thread import in_own_thread
    from decoding.rewarding import with_rewards

    if isinstance(result.error, RewardError):
        # No finished text has been judged yet: it is the reward on partial text that failed in the engine, or what steers.
        param = "reweigh.adaptation.signal" if job.asked.potential is None else "reweigh.partial_reward"
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, str(result.error), param, "reward_failed")
    if job.selecting is None:
        return result
    try:
        judging = partial(with_rewards, result, job.prompts[k], job.selecting, REWARD_TIMEOUT_S)
        return await asyncio.wait_for(asyncio.wrap_future(in_own_thread(judging)), REWARD_TIMEOUT_S)
    except TimeoutError:
        raise RewardError(f"the reward took longer than {REWARD_TIMEOUT_S:g} s") from None


async def _answer(job: Job, k: int, result: Result) -> Answer:
    try:
        # A rule of selection may compare every two texts: not in the event loop.
        return await asyncio.to_thread(answer_of, result, job.asked.select)
    except Exception as error:
        raise api_error(error, job.asked.constraint_param) from error


async def events(job: Job) -> AsyncIterator[str]:
    """Server-sent events. What went out is never taken back: the text of several particles comes when one is selected.

    An error after the first byte is an event with the error object; then the stream ends without [DONE].
    """
    news: asyncio.Queue[tuple[int, Chunk | Exception]] = asyncio.Queue()
    tasks = [asyncio.create_task(_follow(job, k, news)) for k in range(len(job.draws))]
    answers: dict[int, Answer] = {}
    told = 0.0
    as_made = job.asked.as_made
    try:
        for k in range(len(tasks)):
            if (opening := job.shape.opening(k)) is not None:
                yield _event(job, [opening])
        while len(answers) < len(tasks):
            k, chunk = await news.get()
            if isinstance(chunk, Exception):
                yield f"data: {json.dumps(api_error(chunk, job.asked.constraint_param).body())}\n\n"
                return
            if as_made and chunk.text:
                if (piece := job.shape.text(k, chunk.text, job.asked)) is not None:
                    yield _event(job, [piece])
            elif chunk.result is None and time.monotonic() - told > PROGRESS_EVERY_S:
                told = time.monotonic()
                yield f": choice={k} step={chunk.step} live={chunk.live} ess={chunk.ess:.2f}\n\n"
            if chunk.result is not None:
                answers[k] = await _answer(job, k, chunk.result)
                pieces = job.shape.rest(k, answers[k], as_made, job.asked)
                for piece in pieces[:-1]:
                    yield _event(job, [piece])
                last = len(answers) == len(tasks)
                ordered = [answers[i] for i in sorted(answers)]
                yield _event(job, [pieces[-1]], {"usage": usage_of(job, ordered), **totals(ordered)} if last else {})
        if job.asked.include_usage:
            yield _event(job, [], {"usage": usage_of(job, [answers[i] for i in sorted(answers)])})
        yield "data: [DONE]\n\n"
    except Exception as error:
        yield f"data: {json.dumps(api_error(error, job.asked.constraint_param).body())}\n\n"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _follow(job: Job, k: int, news: asyncio.Queue[tuple[int, Chunk | Exception]]) -> None:
    try:
        async with aclosing(_chunks(job, k, stream=True)) as chunks:
            async for chunk in chunks:
                news.put_nowait((k, chunk))
    except Exception as error:
        news.put_nowait((k, error))


def usage_of(job: Job, answers: Sequence[Answer]) -> dict[str, Any]:
    """OpenAI counts a prompt once however many choices it has; each of several prompts counts."""
    made = usage(answers)
    if (thinking := job.asked.thoughts) is not None:
        piece = job.service.vocabulary.bytes_of
        made["completion_tokens_details"] = {
            "reasoning_tokens": sum(
                thought_tokens([piece(token) for token in answer.result.tokens[answer.particle]], thinking)
                for answer in answers
            )
        }
    prompts = len(job.draws) // job.asked.n
    if prompts > 1:
        made["prompt_tokens"] = sum(len(request.prompt) for request, _ in job.draws[:: job.asked.n])
        made["total_tokens"] = made["prompt_tokens"] + made["completion_tokens"]
    return made


def _event(job: Job, choices: list[dict[str, Any]], more: dict[str, Any] | None = None) -> str:
    return f"data: {json.dumps({**job.envelope(job.shape.piece, choices), **(more or {})}, ensure_ascii=False)}\n\n"
