"""One HTTP request as draws: n groups side by side, their answers whole, or as server-sent events while they are made."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from grammars.errors import RewardError
from server.api_answer import Answer, answer_of, totals, usage
from server.api_errors import api_error
from server.api_request import Asked
from server.api_shapes import Shape

if TYPE_CHECKING:
    from decoding.request import Chunk, Request, Result
    from decoding.rewarding import Selecting
    from decoding.vllm_service import Passenger, Service

# Progress of several particles goes out no more often than this.
PROGRESS_EVERY_S = 0.25
# A judge that hangs: its thread cannot be ended, the request can.
REWARD_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Job:
    """What is drawn for one HTTP request.

    draws      the request of every choice, and its prompt as vLLM's renderer made it
    selecting  the reward that selects, if one does; prompts: what its judge is shown, one for each draw
    """

    service: Service
    shape: Shape
    asked: Asked
    model: str
    draws: Sequence[tuple[Request, Any]]
    passenger: Passenger
    selecting: Selecting | None = None
    prompts: Sequence[str] = ()
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
    request, engine_input = job.draws[k]
    try:
        async with aclosing(job.service.draw(request, engine_input, passenger=job.passenger)) as chunks:
            async for chunk in chunks:
                if chunk.result is not None:
                    return await _answer(job, k, chunk.result)
    except Exception as error:
        raise api_error(error, job.asked.constraint_param) from error
    raise AssertionError("a draw ends with its result")


async def _answer(job: Job, k: int, result: Result) -> Answer:
    from decoding.rewarding import with_rewards

    try:
        if job.selecting is not None:
            judging = asyncio.to_thread(with_rewards, result, job.prompts[k], job.selecting, REWARD_TIMEOUT_S)
            result = await asyncio.wait_for(judging, REWARD_TIMEOUT_S)
        return answer_of(result, job.asked.select)
    except TimeoutError:
        raise api_error(RewardError(f"the reward took longer than {REWARD_TIMEOUT_S:g} s")) from None
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
    as_made = job.asked.particles == 1 and job.asked.tools is None and job.asked.thinking is None
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
                yield _event(job, [job.shape.text(k, chunk.text, job.asked)])
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
    request, engine_input = job.draws[k]
    try:
        async with aclosing(job.service.draw(request, engine_input, stream=True, passenger=job.passenger)) as chunks:
            async for chunk in chunks:
                news.put_nowait((k, chunk))
    except Exception as error:
        news.put_nowait((k, error))


def usage_of(job: Job, answers: Sequence[Answer]) -> dict[str, Any]:
    """OpenAI counts a prompt once however many choices it has; each of several prompts counts."""
    made = usage(answers)
    prompts = len(job.draws) // job.asked.n
    if prompts > 1:
        made["prompt_tokens"] = sum(len(request.prompt) for request, _ in job.draws[:: job.asked.n])
        made["total_tokens"] = made["prompt_tokens"] + made["completion_tokens"]
    return made


def _event(job: Job, choices: list[dict[str, Any]], more: dict[str, Any] | None = None) -> str:
    return f"data: {json.dumps({**job.envelope(job.shape.piece, choices), **(more or {})}, ensure_ascii=False)}\n\n"
