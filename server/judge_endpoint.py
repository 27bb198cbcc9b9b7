"""Another OpenAI-compatible server's model as one that answers judges.

    JudgeReward(Judge("Is it polite?"), Endpoint("http://127.0.0.1:8001/v1", "org/judge"))
is a reward for `generate`, and for `reweigh serve --reward polite=module:object`. A question is one chat completion of a single
token with its 20 likeliest; an answer that is not among them counts as having no mass.
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np

from decoding.judging import JudgeTimeout, Replies, waited_for
from grammars.errors import RequestError, RewardError
from samplers.judge import Question, Reply

if TYPE_CHECKING:
    import httpx

TOP_LOGPROBS = 20
LARGEST_ANSWER = 1 << 20
# Wait this long before an endpoint that is busy is asked again, where it does not say itself.
AGAIN_S = 0.5


class Endpoint:
    """Asks the model of an OpenAI-compatible server, all questions of a batch side by side.

    base_url     as the openai client takes it, with /v1
    model        its name there
    api_key      sent as a bearer token
    timeout_s    seconds for all questions of a batch; a caller's own limit may be shorter
    concurrency  requests under way at once
    options      further fields of every request, such as {"chat_template_kwargs": {"enable_thinking": False}}

    A busy endpoint (429, 503) is asked again while there is time; any other failure ends the batch with RewardError.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        concurrency: int = 32,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        _check_url(base_url)
        if not isinstance(model, str) or not model:
            raise RequestError(f"judge endpoint: model={model!r:.80}: the name of a model there was wanted")
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not 0 < timeout_s < math.inf:
            raise RequestError(f"judge endpoint: timeout_s={timeout_s!r}: seconds above 0 were wanted")
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise RequestError(f"judge endpoint: concurrency={concurrency!r}: a whole number of at least 1 was wanted")
        if options is not None and not isinstance(options, Mapping):
            raise RequestError(
                f"judge endpoint: options={options!r:.80}: further fields of a request were wanted, as a dict"
            )
        self._url, self._model, self._key = base_url.rstrip("/"), model, api_key
        self._timeout_s, self._concurrency, self._options = float(timeout_s), concurrency, dict(options or {})

    def __repr__(self) -> str:
        return f"judge {self._model} at {self._url}"

    def ask(self, questions: Sequence[Question]) -> Replies:
        deadline = time.monotonic() + self._timeout_s
        batch = _Batch(self, questions, deadline)
        threading.Thread(target=batch.run, name="reweigh-judge", daemon=True).start()

        def replies(timeout_s: float | None) -> list[Reply]:
            own = math.inf if timeout_s is None else time.monotonic() + timeout_s
            try:
                return waited_for(batch.done, min(own, deadline))
            except TimeoutError as late:
                if isinstance(late, JudgeTimeout):
                    raise
                raise self._late(batch, self._timeout_s if own >= deadline else timeout_s or 0.0) from None
            finally:
                batch.give_up()

        return replies

    def _late(self, batch: _Batch, seconds: float) -> JudgeTimeout:
        return JudgeTimeout(
            f"{self!r}: {batch.answered} of {len(batch.questions)} questions were answered within {seconds:.3g} s"
        )

    # In the thread's event loop

    async def asked(self, batch: _Batch) -> list[Reply]:
        import httpx

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx.Limits(max_connections=self._concurrency)
        async with httpx.AsyncClient(headers=headers, limits=limits, timeout=None) as client:
            try:
                async with asyncio.timeout(batch.deadline - time.monotonic()), asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._reply(client, batch, question)) for question in batch.questions]
            except TimeoutError:
                raise self._late(batch, self._timeout_s) from None
            except ExceptionGroup as several:
                raise several.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _reply(self, client: httpx.AsyncClient, batch: _Batch, question: Question) -> Reply:
        body = {
            "model": self._model, "messages": [{"role": "user", "content": question.text}], "max_tokens": 1,
            "temperature": 0, "logprobs": True, "top_logprobs": TOP_LOGPROBS, **self._options,
        }  # fmt: skip
        while True:
            status, retry_after, content = await self._post(client, body)
            if status not in (429, 503):
                break
            await asyncio.sleep(retry_after)
        if status != 200:
            raise RewardError(f"{self!r} answered {status}: {content.decode(errors='replace')[:300]!r}")
        try:
            reply = reply_in(json.loads(content), question)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            shown = content.decode(errors="replace")[:300]
            raise RewardError(
                f"{self!r} answered no chat completion with top_logprobs ({type(error).__name__}: {error}): {shown!r}"
            ) from error
        batch.answered += 1
        return reply

    async def _post(self, client: httpx.AsyncClient, body: Mapping[str, Any]) -> tuple[int, float, bytes]:
        """Status, the seconds to wait before another try, and the body."""
        import httpx

        content = b""
        try:
            async with client.stream("POST", f"{self._url}/chat/completions", json=body) as response:
                async for piece in response.aiter_bytes():
                    content += piece
                    if len(content) > LARGEST_ANSWER:
                        raise RewardError(
                            f"{self!r} answered more than {LARGEST_ANSWER} bytes to a question of one token"
                        )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RewardError(f"{self!r} cannot be reached: {type(error).__name__}: {error}") from error
        return response.status_code, _seconds(response.headers.get("retry-after")), content


class _Batch:
    """The questions of one call, in a thread with an event loop of their own. done: the replies, or what went wrong."""

    def __init__(self, endpoint: Endpoint, questions: Sequence[Question], deadline: float) -> None:
        self._endpoint = endpoint
        self.questions = questions
        self.deadline = deadline
        self.answered = 0
        self.done: Future[list[Reply]] = Future()
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[list[Reply]] | None = None

    def run(self) -> None:
        try:
            self._task = self._loop.create_task(self._endpoint.asked(self))
            self.done.set_result(self._loop.run_until_complete(self._task))
        except asyncio.CancelledError:
            self.done.cancel()
        except Exception as error:
            self.done.set_exception(error)
        finally:
            self._loop.close()

    def give_up(self) -> None:
        """End the requests that are still under way."""
        if not self.done.done() and self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)


def reply_in(completion: Mapping[str, Any], question: Question) -> Reply:
    """The reply that stands in a chat completion. Raises ValueError, KeyError, ... where there is none."""
    first = completion["choices"][0]["logprobs"]["content"][0]
    listed = first["top_logprobs"] or [first]
    masses: dict[str, float] = {}
    for one in listed:
        log_prob = float(one["logprob"])
        if not log_prob <= 1e-6:
            raise ValueError(f"a log-probability of {log_prob}")
        token = str(one["token"]).strip()
        masses[token] = masses.get(token, 0.0) + math.exp(log_prob)
    with np.errstate(divide="ignore"):
        log_probs = np.log([masses.get(answer, 0.0) for answer in question.answers])
    usage = completion.get("usage") or {}
    likeliest = ", ".join(repr(str(one["token"])) for one in listed[:3])
    return Reply(log_probs, int(usage.get("total_tokens") or 0), otherwise=likeliest)


def _seconds(retry_after: str | None) -> float:
    try:
        return min(max(float(retry_after or AGAIN_S), AGAIN_S), 30.0)
    except ValueError:  # a date: some servers send one
        return AGAIN_S


def only_model(base_url: str, api_key: str | None) -> str:
    """The name of the only model that an OpenAI-compatible server has. Raises RequestError where that cannot be said."""
    import httpx

    _check_url(base_url)
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        response = httpx.get(f"{base_url.rstrip('/')}/models", headers=headers, timeout=10.0)
        response.raise_for_status()
        names = [str(one["id"]) for one in response.json()["data"]]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError, KeyError) as error:
        raise RequestError(
            f"judge endpoint {base_url!r:.80} does not list its models ({type(error).__name__}: {error}): say which one, model=NAME"
        ) from error
    if len(names) != 1:
        listed = ", ".join(names)
        raise RequestError(
            f"judge endpoint {base_url!r:.80} has {len(names)} models: say which one, model=NAME; {listed:.400}"
        )
    return names[0]


def _check_url(base_url: str) -> None:
    if not isinstance(base_url, str) or not base_url.startswith(("http://", "https://")):
        raise RequestError(f"judge endpoint: base_url={base_url!r:.80}: http://host/v1 was wanted")
