"""The public face: an `Engine` draws weighted texts from p(x | prompt) * 1[x in C] on a model that vLLM runs."""

from __future__ import annotations

import asyncio
import json
import math
import os
import secrets
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, overload

import numpy as np
from tqdm import tqdm

from decoding.embedded_model import embedded_model_path
from decoding.order import Order
from decoding.request import Request, Result, Stats, Usage, texts_of, trace_of
from decoding.vllm_driver import Ticket, VllmDriver, vllm_environment
from decoding.vllm_vocabulary import vocabulary_of
from grammars import errors
from grammars.errors import DeadEnd, EngineError, ReweighError
from grammars.errors import RequestError as BadRequest
from grammars.registry import compile_cached, language_from_arguments
from grammars.vocabulary import Vocabulary
from samplers.randomness import MAX_SEED, derive_seed

Messages = Sequence[Mapping[str, Any]]
Prompt = str | Sequence[int]

# Texts of a few hundred tokens on a small machine: what a user may raise by passing vLLM's own argument.
_DEFAULT_ENGINE_ARGS: dict[str, Any] = {"max_num_seqs": 64, "use_tqdm_on_load": False}
_CPU_ENGINE_ARGS: dict[str, Any] = {"dtype": "bfloat16", "enforce_eager": True, "block_size": 32, "max_model_len": 2048}


@dataclass(frozen=True)
class Chunk:
    """What `stream` yields: new text of a single particle, or progress of several, and the result in the last one.

    text    new text, never retracted; "" while several particles are under way
    step    tokens sampled so far by each particle; live: particles still running; ess: effective sample size
    """

    text: str = ""
    step: int = 0
    live: int = 0
    ess: float = 0.0
    result: Result | None = None


class Engine:
    """A model with reweigh inside its vLLM engine.

    model         a hub name or a path; None is the embedded SmolLM2-135M-Instruct
    engine_args   vLLM's own engine arguments (max_model_len, max_num_seqs, tensor_parallel_size, ...)

    Use as a context manager, or call `close()`. Calls from many threads and event loops share one batch.
    Raises EngineError where vLLM or the model is not there, or an argument would make weights unsound.
    """

    def __init__(self, model: str | os.PathLike[str] | None = None, **engine_args: Any) -> None:
        path = str(embedded_model_path() if model is None else _existing(model))
        with vllm_environment():
            self._driver = VllmDriver({"model": path, **engine_defaults(), **engine_args})
        config = self._driver.config
        self.model: str = "smollm2-135m-instruct" if model is None else str(model)
        self.vocabulary: Vocabulary = vocabulary_of(config)
        self.max_model_len: int = config.model_config.max_model_len
        self.max_particles: int = config.scheduler_config.max_num_seqs
        self.tokenizer: Any = self._driver.engine.get_tokenizer()

    def close(self) -> None:
        """End the engine and give its memory back. Idempotent."""
        self._driver.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # Asking

    @overload
    def generate(self, prompts: str, **options: Any) -> Result: ...
    @overload
    def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[Result]: ...
    @overload
    def generate(self, prompts: None = None, *, messages: Any, **options: Any) -> Any: ...

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt] | None = None,
        *,
        messages: Messages | Sequence[Messages] | None = None,
        progress: bool | None = None,
        timeout_s: float | None = None,
        **options: Any,
    ) -> Result | list[Result]:
        """Draw weighted texts.

        prompts         a text, or token ids; or a list of texts or of token ids: then a list of results, all in one batch
        messages        chat messages instead (the model's chat template is applied); or a list of conversations
        regex, json_schema, lark, choice, predicate, constraint    at most one; `constraint` also takes `A & B`, a Pydantic
                        model, a dataclass, a Literal, a callable, or a list with one constraint (or None) a prompt
        particles       N draws a prompt, default 8
        sampler         auto (default), masked, awrs, lcd, ... or a dict with "name" and options
        ess_threshold   0.5: resample when ESS < N / 2; 0 is importance sampling
        resampling      systematic, stratified, residual or multinomial; resample_every: also at every so many tokens
        temperature     1.0, of p itself
        max_tokens      64, the end of the text included: the target is conditioned on ending within it (truncate=True: a text
                        that has not ended is kept as a prefix)
        seed            0 to 2^64 - 1; None draws one and the result says which. Prompt k of a list has a seed derived from it
        progress        show a bar; None: for many prompts on a terminal
        trace           True: `Result.trace` says what each particle tested at every step, and where the mass went
        timeout_s       seconds for the whole call

        returns a Result, or a list of them in the prompts' order. What can be checked before sampling is, and raises for the
        whole call; an error found while sampling is raised for a single prompt, and in a list it stands in that result's
        `error`, the others unharmed.
        Raises RequestError, GrammarError (Unsatisfiable), PredicateError, DeadEnd, EngineError, TimeoutError.
        """
        _check_timeout(timeout_s)
        requests, single = self._requests(prompts, messages, options)
        tickets = [self._ticket(request) for request in requests]
        show = progress if progress is not None else len(tickets) > 8 and os.isatty(2)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        results: list[Result] = []
        try:
            for ticket in tickets:
                self._driver.submit(ticket)
            for request, ticket in tqdm(list(zip(requests, tickets, strict=True)), disable=not show, unit="prompt"):
                results.append(self._await(request, ticket, deadline, timeout_s))
        except BaseException:
            for ticket in tickets:
                self._driver.abort(ticket)
            raise
        if single:
            results[0].raise_for_error()
            return results[0]
        return results

    async def agenerate(
        self,
        prompts: Prompt | Sequence[Prompt] | None = None,
        *,
        messages: Messages | Sequence[Messages] | None = None,
        timeout_s: float | None = None,
        **options: Any,
    ) -> Result | list[Result]:
        """`generate` for an event loop: other coroutines go on, and cancelling it frees the rows."""
        _check_timeout(timeout_s)
        requests, single = await asyncio.to_thread(self._requests, prompts, messages, options)
        tickets = [self._ticket(request) for request in requests]
        try:
            for ticket in tickets:
                self._driver.submit(ticket)
            futures = [asyncio.wrap_future(ticket.done) for ticket in tickets]
            _, late = await asyncio.wait(futures, timeout=timeout_s) if futures else (set(), set())
            if late:
                raise _too_late(timeout_s)
        except BaseException:
            for ticket in tickets:
                self._driver.abort(ticket)
            raise
        results = [self._await(request, ticket, None, None) for request, ticket in zip(requests, tickets, strict=True)]
        if single:
            results[0].raise_for_error()
            return results[0]
        return results

    def stream(
        self, prompt: Prompt | None = None, *, messages: Messages | None = None, **options: Any
    ) -> Iterator[Chunk]:
        """Draw for one prompt and tell how it goes.

        One particle's text comes as it is made. Of several any may still be replaced, so their chunks carry progress alone.
        The last chunk holds the result; closing the iterator earlier frees the rows. particles=1 by default here.
        """
        events: SimpleQueue[Chunk | None] = SimpleQueue()
        request, ticket = self._streamed(prompt, messages, options, events.put)
        ticket.done.add_done_callback(lambda _: events.put(None))
        self._driver.submit(ticket)

        def chunks() -> Iterator[Chunk]:
            try:
                while (chunk := events.get()) is not None:
                    yield chunk
                yield self._last_chunk(request, ticket)
            finally:
                self._driver.abort(ticket)

        return chunks()

    async def astream(
        self, prompt: Prompt | None = None, *, messages: Messages | None = None, **options: Any
    ) -> AsyncIterator[Chunk]:
        """`stream` for an event loop."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Chunk | None] = asyncio.Queue()

        def put(chunk: Chunk | None) -> None:
            # On a closed loop this raises, which tells the driver that nobody listens any more.
            loop.call_soon_threadsafe(events.put_nowait, chunk)

        def end(_: Future[dict[str, Any]]) -> None:
            with suppress(RuntimeError):
                put(None)

        request, ticket = await asyncio.to_thread(self._streamed, prompt, messages, options, put)
        ticket.done.add_done_callback(end)
        self._driver.submit(ticket)
        try:
            while (chunk := await events.get()) is not None:
                yield chunk
            yield self._last_chunk(request, ticket)
        finally:
            self._driver.abort(ticket)

    # From arguments to requests

    def _requests(self, prompts: Any, messages: Any, options: dict[str, Any]) -> tuple[list[Request], bool]:
        """Check everything that can be checked before the engine sees it. Returns the requests, and whether one was asked for."""
        given, single = self._prompts(prompts, messages)
        options = dict(options)
        several = options.get("constraint")
        if isinstance(several, list | tuple):
            if len(several) != len(given):
                raise BadRequest(
                    f"constraint is a list of {len(several)} for {len(given)} prompts: give one (or None) for each"
                )
            options.pop("constraint")
            languages = [language_from_arguments(constraint=one, **_constraint_arguments(options)) for one in several]
        else:
            languages = [language_from_arguments(**_constraint_arguments(options))] * len(given)
        seed = options.pop("seed", None)
        if seed is None:
            seed = secrets.randbits(63)
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed <= MAX_SEED:
            raise BadRequest(f"seed={seed!r} must be a whole number from 0 to 2**64 - 1, or None")
        settings = _settings(options)
        specs: dict[int, str] = {}
        requests = []
        for index, (prompt, language) in enumerate(zip(given, languages, strict=True)):
            if language is not None and id(language) not in specs:
                specs[id(language)] = json.dumps(language.spec)
                compile_cached(language, self.vocabulary).start()
            spec = None if language is None else specs[id(language)]
            request = Request(prompt, language, spec, seed=derive_seed(int(seed), index), **settings)
            self._check(request, f"prompts[{index}]" if not single else "prompt")
            requests.append(request)
        return requests, single

    def _prompts(self, prompts: Any, messages: Any) -> tuple[list[tuple[int, ...]], bool]:
        if (prompts is None) == (messages is None):
            raise BadRequest("give either prompts or messages, not both and not neither")
        if messages is not None:
            if not messages:
                raise BadRequest("messages is empty: give at least one message")
            single = isinstance(messages[0], Mapping)
            return [self._chat(one) for one in ([messages] if single else messages)], single
        if isinstance(prompts, np.ndarray):
            prompts = prompts.tolist()
        if isinstance(prompts, str):
            return [self._tokens(prompts, "prompt")], True
        if isinstance(prompts, bytes) or not isinstance(prompts, Sequence):
            raise BadRequest(f"prompts is {type(prompts).__name__}: a text, token ids, or a list of these was wanted")
        if len(prompts) and all(isinstance(token, int | np.integer) for token in prompts):
            return [self._tokens(prompts, "prompt")], True
        return [self._tokens(prompt, f"prompts[{k}]") for k, prompt in enumerate(prompts)], False

    def _tokens(self, prompt: Any, place: str) -> tuple[int, ...]:
        if isinstance(prompt, str):
            tokens = self._encode(prompt, place)
        elif isinstance(prompt, Sequence | np.ndarray) and all(isinstance(token, int | np.integer) for token in prompt):
            tokens = [int(token) for token in prompt]
            wrong = [token for token in tokens if not 0 <= token < self.vocabulary.size]
            if wrong:
                raise BadRequest(
                    f"{place} has token id {wrong[0]}, but the vocabulary's ids are 0..{self.vocabulary.size - 1}"
                )
        else:
            raise BadRequest(f"{place} is {prompt!r:.80}: a text or a list of token ids was wanted")
        if not tokens:
            raise BadRequest(f"{place} is empty: a model needs at least one token to go on from")
        return tuple(tokens)

    def _encode(self, text: str, place: str, **options: Any) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadRequest(
                f"{place} has half a character at position {error.start}: it cannot be written as UTF-8"
            ) from None
        tokens: list[int] = self.tokenizer(text, **options)["input_ids"]
        return tokens

    def _chat(self, messages: Messages) -> tuple[int, ...]:
        if not getattr(self.tokenizer, "chat_template", None):
            raise BadRequest(f"model {self.model!r} has no chat template: use prompts instead of messages")
        turns = []
        for k, message in enumerate(messages):
            if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
                raise BadRequest(f"messages[{k}] is {message!r:.80}: a mapping with 'role' and 'content' was wanted")
            turns.append({**message, "content": _text_of(message["content"], f"messages[{k}].content")})
        text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return tuple(self._encode(text, "messages", add_special_tokens=False))

    def _check(self, request: Request, place: str) -> None:
        room = self.max_model_len - len(request.prompt)
        if request.max_tokens > room:
            raise BadRequest(
                f"{place} has {len(request.prompt)} tokens, and max_tokens={request.max_tokens} more are above the model's "
                f"{self.max_model_len}: shorten it, lower max_tokens to {max(room, 0)}, or raise the engine's max_model_len"
            )
        if request.particles > self.max_particles:
            raise BadRequest(
                f"particles={request.particles} is above the engine's max_num_seqs={self.max_particles}: "
                "they run side by side; make the engine with a larger max_num_seqs"
            )
        _order(request, "").check()

    # From requests to results

    def _ticket(self, request: Request, stream: bool = False) -> Ticket:
        return Ticket(_order(request, uuid.uuid4().hex, stream), list(request.prompt))

    def _streamed(
        self, prompt: Any, messages: Any, options: dict[str, Any], put: Callable[[Chunk], None]
    ) -> tuple[Request, Ticket]:
        requests, single = self._requests(prompt, messages, {"particles": 1, **options})
        if not single:
            raise BadRequest("stream takes one prompt; for several use one stream each: they share the batch")
        request = requests[0]
        alone = request.particles == 1
        ticket = self._ticket(request, stream=alone)
        if alone:
            decoder = _Utf8()

            def on_tokens(tokens: list[int]) -> None:
                text = decoder.feed(self.vocabulary.decode(tokens))
                put(Chunk(text=text, step=decoder.fed, live=1, ess=1.0))

            ticket.on_tokens = on_tokens
        else:
            ticket.on_step = lambda step, live, ess: put(Chunk(step=step, live=live, ess=ess))
        return request, ticket

    def _last_chunk(self, request: Request, ticket: Ticket) -> Chunk:
        result = self._await(request, ticket, None, None)
        result.raise_for_error()
        return Chunk(step=result.stats.steps, result=result, ess=result.ess)

    def _await(self, request: Request, ticket: Ticket, deadline: float | None, timeout_s: float | None) -> Result:
        remaining = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        try:
            summary = _wait(ticket.done, remaining)
        except FutureTimeout:
            raise _too_late(timeout_s) from None
        except CancelledError:
            raise EngineError("the request was aborted before it was done") from None
        return self._result(request, summary)

    def _result(self, request: Request, summary: dict[str, Any]) -> Result:
        log_weights = np.array(summary["log_weights"], dtype=np.float64)
        tokens = summary["tokens"]
        finish_reasons = summary["status"]
        traces = summary["traces"]
        completion = sum(len(ids) + (reason == "stop") for ids, reason in zip(tokens, finish_reasons, strict=True))
        return Result(
            texts=texts_of(tokens, self.vocabulary.decode),
            tokens=tokens,
            log_weights=log_weights,
            finish_reasons=finish_reasons,
            usage=Usage(len(request.prompt), completion, summary["sampled_tokens"]),
            stats=Stats(
                steps=summary["steps"],
                checks=summary["checks"],
                masks=summary["masks"],
                resamplings=len(summary["ancestry"]),
                wall_s=summary["wall_s"],
                queued_s=summary["queued_s"],
                ess_history=tuple(summary["ess_history"]),
                sampled_tokens=summary["sampled_tokens"],
                computed_rows=summary["computed_rows"],
            ),
            seed=request.seed,
            ancestry=[(step, list(parents)) for step, parents in summary["ancestry"]],
            constraint=request.constraint,
            trace=None if traces is None else [trace_of(steps, self.vocabulary.decode) for steps in traces],
            error=_error(request, summary, log_weights),
        )


def _error(request: Request, summary: dict[str, Any], log_weights: np.ndarray) -> ReweighError | None:
    if summary["error"] is not None:
        kind, message = summary["error"]
        made = getattr(errors, kind, EngineError)
        return made(message) if issubclass(made, ReweighError) else EngineError(f"{kind}: {message}")
    if np.all(log_weights == -math.inf):
        longest = max(len(tokens) for tokens in summary["tokens"])
        if longest + 1 >= request.max_tokens and not request.truncate:
            return DeadEnd(
                f"no particle of {request.particles} ended within max_tokens={request.max_tokens}: "
                "raise max_tokens, or give the constraint an end within reach"
            )
        return DeadEnd(
            f"every one of {request.particles} particles ran into a dead end by token {longest}: no token the constraint "
            "accepts had any probability left, or the check budget ended; try more particles or a prompt nearer to the constraint"
        )
    return None


def _order(request: Request, group: str, stream: bool = False) -> Order:
    return Order(
        group=group,
        num_particles=request.particles,
        constraint=request.spec,
        sampler=request.sampler,
        temperature=request.temperature,
        seed=request.seed,
        max_tokens=request.max_tokens,
        truncate=request.truncate,
        ess_threshold=request.ess_threshold,
        resampling=request.resampling,
        resample_every=request.resample_every,
        trace=request.trace,
        stream=stream,
    )


_CONSTRAINTS = ("regex", "json_schema", "lark", "choice", "predicate", "constraint")
_SETTINGS: dict[str, Any] = {
    "particles": 8,
    "sampler": "auto",
    "ess_threshold": 0.5,
    "resampling": "systematic",
    "resample_every": None,
    "temperature": 1.0,
    "max_tokens": 64,
    "truncate": False,
    "trace": False,
}


def _constraint_arguments(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options.pop(name) for name in _CONSTRAINTS if name in options}


def _settings(options: dict[str, Any]) -> dict[str, Any]:
    for name in options:
        if name not in _SETTINGS:
            raise BadRequest(f"unknown option {name!r}; there are {', '.join([*_CONSTRAINTS, *_SETTINGS, 'seed'])}")
    settings = {**_SETTINGS, **options}
    particles, max_tokens = settings["particles"], settings["max_tokens"]
    for name, value in (("particles", particles), ("max_tokens", max_tokens)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise BadRequest(f"{name}={value!r}: a whole number of at least 1 was wanted")
    if not isinstance(settings["sampler"], str | Mapping):
        raise BadRequest(f'sampler={settings["sampler"]!r}: a name was wanted, or a dict with "name" and options')
    for name in ("temperature", "ess_threshold"):
        if isinstance(settings[name], np.floating | np.integer):
            settings[name] = float(settings[name])
    settings["particles"], settings["max_tokens"] = int(particles), int(max_tokens)
    for name in ("truncate", "trace"):
        if not isinstance(settings[name], bool):
            raise BadRequest(f"{name}={settings[name]!r}: True or False was wanted")
    return settings


def _text_of(content: Any, place: str) -> str:
    """A message's content as text: a text, or OpenAI's list of text parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    ):
        return "".join(part["text"] for part in content)
    raise BadRequest(f"{place} is {content!r:.80}: a text, or a list of parts of type 'text', was wanted")


def _check_timeout(timeout_s: Any) -> None:
    if timeout_s is not None and (
        isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not timeout_s > 0
    ):
        raise BadRequest(f"timeout_s={timeout_s!r}: seconds above 0 were wanted, or None")


def _too_late(timeout_s: float | None) -> TimeoutError:
    return TimeoutError(f"not done within timeout_s={timeout_s}: allow more time, fewer tokens or fewer particles")


def _wait(done: Future[dict[str, Any]], remaining: float | None) -> dict[str, Any]:
    # Wait in short pieces: a thread blocked for good in a lock would not see Ctrl-C on every platform.
    end = math.inf if remaining is None else time.monotonic() + remaining
    while True:
        piece = min(end - time.monotonic(), 0.5)
        try:
            return done.result(timeout=max(piece, 0.0))
        except FutureTimeout:
            if time.monotonic() >= end:
                raise


class _Utf8:
    """Bytes as they come, given out as text once a character is whole."""

    def __init__(self) -> None:
        import codecs

        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.fed = 0

    def feed(self, piece: bytes) -> str:
        self.fed += 1
        return self._decoder.decode(piece)


def _existing(model: str | os.PathLike[str]) -> str:
    """The model as vLLM takes it: raises EngineError for a path that is not there; a hub name is left to the hub."""
    name = os.fspath(model)
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    path = Path(name).expanduser()
    if looks_like_path and not path.is_dir():
        raise EngineError(
            f"model {name!r}: there is no such folder; give a folder with a model, a hub name, or none for the embedded one"
        )
    return str(path) if path.is_dir() else name


def engine_defaults() -> dict[str, Any]:
    """The engine arguments that `Engine` starts from; on a CPU short contexts, eager, small blocks (little to recompute)."""
    import torch

    return _DEFAULT_ENGINE_ARGS if torch.cuda.is_available() else {**_DEFAULT_ENGINE_ARGS, **_CPU_ENGINE_ARGS}


_default_lock = threading.Lock()
_default_engine: Engine | None = None


def default_engine() -> Engine:
    """The engine that module-level `generate` uses: the embedded model, started at first use and shared."""
    global _default_engine
    with _default_lock:
        if _default_engine is None:
            _default_engine = Engine()
        return _default_engine


def generate(*args: Any, **options: Any) -> Any:
    """`Engine.generate` on one shared engine with the embedded model."""
    return default_engine().generate(*args, **options)


async def agenerate(*args: Any, **options: Any) -> Any:
    """`Engine.agenerate` on the shared engine."""
    engine = await asyncio.to_thread(default_engine)
    return await engine.agenerate(*args, **options)


def stream(*args: Any, **options: Any) -> Iterator[Chunk]:
    """`Engine.stream` on the shared engine."""
    return default_engine().stream(*args, **options)
