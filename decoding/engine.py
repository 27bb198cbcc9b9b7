"""The public face: an `Engine` draws weighted texts from p(x | prompt) * 1[x in C] on a model that vLLM runs."""

from __future__ import annotations

import asyncio
import json
import math
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, overload

import numpy as np
from tqdm import tqdm

from decoding.adaptation.settings import SETTINGS as ADAPTATION
from decoding.adaptation.settings import adaptation_of, settle
from decoding.asking import check_request, constraint_arguments, order_of, result_of, seed_of, settings_of
from decoding.embedded_model import embedded_model_path
from decoding.hub import require_hub_model
from decoding.judging import EngineAsker, Orders, Submitted, waited_for
from decoding.own_thread import in_own_thread
from decoding.potentials import TextPotential, partial_reward_of
from decoding.request import Chunk, Request, Result
from decoding.rewarding import begin_rewards, reward_of, selecting_of, wants_certainty
from decoding.streamed_text import StreamedText
from decoding.vllm_driver import Ticket, VllmDriver, vllm_environment
from decoding.vllm_vocabulary import vocabulary_of
from decoding.waves import Waves, every, in_waves, waves_of
from grammars.errors import EngineError
from grammars.errors import RequestError as BadRequest
from grammars.registry import compile_cached, language_from_arguments
from grammars.vocabulary import Vocabulary
from samplers.randomness import derive_seed

Messages = Sequence[Mapping[str, Any]]
Prompt = str | Sequence[int]

# Texts of a few hundred tokens on a small machine: what a user may raise by passing vLLM's own argument.
_DEFAULT_ENGINE_ARGS: dict[str, Any] = {"max_num_seqs": 64, "use_tqdm_on_load": False}
_CPU_ENGINE_ARGS: dict[str, Any] = {"enforce_eager": True, "block_size": 32, "max_model_len": 2048}


class Engine:
    """A model with reweigh inside its vLLM engine.

    model         a hub name or a path; None is the embedded SmolLM2-135M-Instruct
    engine_args   vLLM's own engine arguments (max_model_len, max_num_seqs, tensor_parallel_size, ...)

    Use as a context manager, or call `close()`. Calls from many threads and event loops share one batch.
    Raises EngineError where vLLM or the model is not there, or an argument would make weights unsound.
    """

    def __init__(self, model: str | os.PathLike[str] | None = None, **engine_args: Any) -> None:
        path = str(embedded_model_path() if model is None else existing_model(model))
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
        top_p           1.0; below, the target's p is at every step cut to the fewest likeliest tokens that hold this share of it
        max_tokens      64, the end of the text included: the target is conditioned on ending within it (truncate=True: a text
                        that has not ended is kept as a prefix)
        seed            0 to 2^64 - 1; None draws one and the result says which. Prompt k of a list has a seed derived from it
        progress        show a bar; None: for many prompts on a terminal
        stop            texts at which a text ends (they are cut off) as it stands, whatever the constraint would still want:
                        the target is then over what the model writes up to there
        reward          a judge of finished texts: fn(text) or fn(prompt, text), a name, {name: options}, a `Judge`, or an object
                        with score():
                        the target is then p·1[C]·exp(reward / select_temperature); k is `particles` by another name
        select_temperature  1.0, in units of the reward; 0 takes the highest reward
        select          how `Result.best` is chosen with a reward: sample (default), in proportion, or argmax
        profile         a file of `reweigh calibrate --save`: says k and select_temperature for the reward it was made with
        rule            what the rewards do to the weights: softmax (default), {"mbr": {"beta": ...}},
                        {"pessimistic": {"beta": ...}}, {"best_of_poisson": {"mean": ...}}
        unjudged        what to do with a text the judge answers None for: error (default), or drop
        partial_reward  fn(text, complete) -> number, or a PartialReward with a temperature: exp(reward / T) of a finished text is a
                        factor of the target, in log_weights and log_z; of a prefix it steers the resampling
        until           draws in waves until it is enough: {"vote": {"confidence": 0.95, "extract": fn}}, the leading answer stays
                        ahead with that probability, or {"improvement": {"min_gain": ..., "highest": ...}}, another wave is not
                        expected to raise the highest reward by more; k (32) is then the most, wave (4) how many at a time,
                        token_budget and judge_budget bound the tokens drawn and the candidates judged
        detox           strength, 0 (off) to 10, 1 the tuned default: p(not toxic | text)^(POWER * detox) is a factor of the target,
                        and every token is drawn from a law steered towards it. `log_weights` pay for the steering; one particle
                        without them is a draw from the steered law, and `Result.adaptation` says how far that is from p
        debias          axes whose groups are named alike: "gender", "race", "religion", or {"name": ..., "groups": {"a": [words],
                        "b": [words]}}; a list of such. The target's p is then the nearest law with equal masses
        adaptation      settings of the two: signal, budget (nats a text), gate, balance_gate, method, candidates, debias_strength,
                        and balance: token (default), or population, by which the texts name the groups alike, by their weights
        trace           True: `Result.trace` says what each particle tested at every step, and where the mass went
        timeout_s       seconds for the whole call; a reward that is not done by then is given up, and its error has the texts

        returns a Result, or a list of them in the prompts' order. What can be checked before sampling is, and raises for the
        whole call; an error found while sampling is raised for a single prompt, and in a list it stands in that result's
        `error`, the others unharmed.
        Raises RequestError, GrammarError (Unsatisfiable), PredicateError, DeadEnd, EngineError, TimeoutError.
        """
        _check_timeout(timeout_s)
        waves = waves_of(options)
        if waves is not None:
            return self._in_waves(waves, prompts, messages, timeout_s, options)
        selecting = selecting_of(options, self.asker)
        requests, single = self._requests(prompts, messages, options, wants_certainty(selecting))
        asked = _asked(prompts, messages, single) if selecting is not None else []
        tickets = [self._ticket(request) for request in requests]
        show = progress if progress is not None else len(tickets) > 8 and os.isatty(2)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        coming: list[Callable[[float | None], Result]] = []
        try:
            self._driver.submit(*tickets)
            for request, ticket in tqdm(list(zip(requests, tickets, strict=True)), disable=not show, unit="prompt"):
                result = self._await(request, ticket, deadline, timeout_s)
                # The texts of one prompt are judged while those of the others are still made.
                coming.append(
                    partial(_same, result)
                    if selecting is None
                    else begin_rewards(result, asked[len(coming)], selecting, _remaining(deadline))
                )
        except BaseException:
            for ticket in tickets:
                self._driver.abort(ticket)
            raise
        results = [collect(_remaining(deadline)) for collect in coming]
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
        """`generate` for an event loop: other coroutines go on, and cancelling it frees the rows.

        With `until` it runs in a thread: a wave that is under way when it is cancelled is drawn to its end.
        """
        _check_timeout(timeout_s)
        if options.get("until") is not None:
            in_thread = partial(self.generate, prompts, messages=messages, timeout_s=timeout_s, progress=False)
            drawn: Result | list[Result] = await asyncio.to_thread(in_thread, **options)
            return drawn
        selecting = selecting_of(options, self.asker)
        certainty = wants_certainty(selecting)
        requests, single = await asyncio.to_thread(self._requests, prompts, messages, options, certainty)
        asked = _asked(prompts, messages, single) if selecting is not None else []
        tickets = [self._ticket(request) for request in requests]
        deadline = None if timeout_s is None else time.monotonic() + timeout_s

        async def one(place: int, done: asyncio.Future[Any]) -> Callable[[float | None], Result]:
            await asyncio.wait([done])
            result = self._await(requests[place], tickets[place], None, None)
            if selecting is None:
                return partial(_same, result)
            # The texts of one prompt are judged while those of the others are still made.
            judging = partial(begin_rewards, result, asked[place], selecting, _remaining(deadline))
            return await asyncio.wrap_future(in_own_thread(judging))

        tasks: list[asyncio.Task[Callable[[float | None], Result]]] = []
        try:
            self._driver.submit(*tickets)
            futures = [asyncio.wrap_future(ticket.done) for ticket in tickets]
            tasks = [asyncio.create_task(one(place, future)) for place, future in enumerate(futures)]
            _, late = await asyncio.wait(futures, timeout=timeout_s) if futures else (set(), set())
            if late:
                raise _too_late(timeout_s)
            coming = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            for ticket in tickets:
                self._driver.abort(ticket)
            raise
        if selecting is None:
            results = [collect(None) for collect in coming]
        else:
            waits = (asyncio.wrap_future(in_own_thread(partial(collect, _remaining(deadline)))) for collect in coming)
            results = list(await asyncio.gather(*waits))
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
        request, ticket, streamed = self._streamed(prompt, messages, options, events.put)
        ticket.done.add_done_callback(lambda _: events.put(None))
        self._driver.submit(ticket)

        def chunks() -> Iterator[Chunk]:
            # Objects among them, such as a signal, have to live as long as the request.
            kept = options
            try:
                while (chunk := events.get()) is not None:
                    yield chunk
                yield self._last_chunk(request, ticket, streamed)
            finally:
                self._driver.abort(ticket)
                del kept

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

        request, ticket, streamed = await asyncio.to_thread(self._streamed, prompt, messages, options, put)
        ticket.done.add_done_callback(end)
        self._driver.submit(ticket)
        try:
            while (chunk := await events.get()) is not None:
                yield chunk
            yield self._last_chunk(request, ticket, streamed)
        finally:
            self._driver.abort(ticket)

    def _in_waves(
        self, waves: Waves, prompts: Any, messages: Any, timeout_s: float | None, options: dict[str, Any]
    ) -> Result | list[Result]:
        """Every prompt in waves of its own, side by side in the engine's batch."""
        if options.get("reward") is not None:
            options["reward"] = reward = reward_of(options["reward"], self.asker)
            if getattr(reward, "relative", False):
                raise BadRequest(
                    f"{reward!r} compares the texts of one batch, and waves are several: leave out until=..."
                )
        given, single = self._prompts(prompts, messages)
        name, source = ("prompts", prompts) if messages is None else ("messages", messages)
        asked = [source] if single else list(source)
        constraints = options.pop("constraint", None)
        several = list(constraints) if isinstance(constraints, list | tuple) else [constraints] * len(given)
        if len(several) != len(given):
            raise BadRequest(
                f"constraint is a list of {len(several)} for {len(given)} prompts: give one (or None) for each"
            )
        seed = seed_of(options.pop("seed", None))

        def drawn(k: int) -> Result:
            def draw(count: int, seed: int, left: float | None) -> Result:
                one = {**options, **({} if several[k] is None else {"constraint": several[k]}), name: [asked[k]]}
                results: list[Result] = self.generate(**one, particles=count, seed=seed, timeout_s=left, progress=False)
                return results[0]

            return in_waves(waves, derive_seed(seed, k), draw, timeout_s)

        results = every(drawn, len(given))
        if single:
            results[0].raise_for_error()
            return results[0]
        return results

    # From arguments to requests

    def _requests(
        self, prompts: Any, messages: Any, options: dict[str, Any], certainty: bool = False
    ) -> tuple[list[Request], bool]:
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
            languages = [language_from_arguments(constraint=one, **constraint_arguments(options)) for one in several]
        else:
            languages = [language_from_arguments(**constraint_arguments(options))] * len(given)
        seed = seed_of(options.pop("seed", None))
        partial_reward = partial_reward_of(options.pop("partial_reward", None))
        adaptation = adaptation_of({name: options.pop(name) for name in ADAPTATION if name in options})
        settings = settings_of(options)
        specs: dict[int, str] = {}
        requests = []
        for index, (prompt, language) in enumerate(zip(given, languages, strict=True)):
            if language is not None and id(language) not in specs:
                specs[id(language)] = json.dumps(language.spec)
                compile_cached(language, self.vocabulary).start()
            spec = None if language is None else specs[id(language)]
            seed_here = derive_seed(seed, index)
            potential = (
                None
                if partial_reward is None
                else TextPotential(partial_reward, self.vocabulary.decode, settings["stop"])
            )
            adapt = (
                None
                if adaptation is None
                else settle(*adaptation, self.vocabulary.decode(list(prompt)), self.vocabulary)
            )
            request = Request(
                prompt,
                language,
                spec,
                seed=seed_here,
                certainty=certainty,
                potential=potential,
                adapt=adapt,
                **settings,
            )
            check_request(
                request, f"prompts[{index}]" if not single else "prompt", self.max_model_len, self.max_particles
            )
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
        tokens: list[int] = self.tokenizer(text, verbose=False, **options)["input_ids"]
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

    # Judging

    @cached_property
    def asker(self) -> EngineAsker:
        """The engine's model as one that answers judges: for `JudgeReward(judge, engine.asker)`, on this engine or elsewhere."""
        return EngineAsker(self.vocabulary, self.max_model_len, self.tokenizer, self._submit_orders)

    def _submit_orders(self, orders: Orders) -> Submitted:
        tickets = [Ticket(order, prompt) for order, prompt in orders]
        self._driver.submit(*tickets)
        return [(ticket.done, partial(self._driver.abort, ticket)) for ticket in tickets]

    # From requests to results

    def _ticket(self, request: Request, stream: bool = False) -> Ticket:
        return Ticket(order_of(request, uuid.uuid4().hex, stream), list(request.prompt))

    def _streamed(
        self, prompt: Any, messages: Any, options: dict[str, Any], put: Callable[[Chunk], None]
    ) -> tuple[Request, Ticket, StreamedText | None]:
        requests, single = self._requests(prompt, messages, {"particles": 1, **options})
        if not single:
            raise BadRequest("stream takes one prompt; for several use one stream each: they share the batch")
        request = requests[0]
        streamed = StreamedText(request.stop) if request.particles == 1 else None
        ticket = self._ticket(request, stream=streamed is not None)
        if streamed is not None:

            def on_tokens(tokens: list[int]) -> None:
                text = streamed.feed(self.vocabulary.decode(tokens))
                put(Chunk(text=text, step=streamed.fed, live=1, ess=1.0))

            ticket.on_tokens = on_tokens
        else:
            ticket.on_step = lambda step, live, ess: put(Chunk(step=step, live=live, ess=ess))
        return request, ticket, streamed

    def _last_chunk(self, request: Request, ticket: Ticket, streamed: StreamedText | None) -> Chunk:
        result = self._await(request, ticket, None, None)
        result.raise_for_error()
        text = "" if streamed is None else streamed.end(result.finish_reasons[0] == "stop_string")
        return Chunk(text=text, step=result.stats.steps, result=result, ess=result.ess)

    def _await(self, request: Request, ticket: Ticket, deadline: float | None, timeout_s: float | None) -> Result:
        try:
            summary = waited_for(ticket.done, math.inf if deadline is None else deadline)
        except FutureTimeout:
            raise _too_late(timeout_s) from None
        except CancelledError:
            raise EngineError("the request was aborted before it was done") from None
        return result_of(request, summary, self.vocabulary)


def _asked(prompts: Any, messages: Any, single: bool) -> list[str]:
    """What a judge is shown of every prompt: its text, or the last message of a conversation's user; "" for token ids."""
    if messages is not None:
        turns = [messages] if single else messages
        last = (next((one for one in reversed(talk) if one["role"] == "user"), {"content": ""}) for talk in turns)
        return [_text_of(one["content"], "messages") for one in last]
    return [one if isinstance(one, str) else "" for one in ([prompts] if single else prompts)]


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


def _same(result: Result, timeout_s: float | None) -> Result:
    return result


def _remaining(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)


def existing_model(model: str | os.PathLike[str]) -> str:
    """The model as vLLM takes it: raises EngineError for a path or a hub name that is not there."""
    name = os.fspath(model)
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    path = Path(name).expanduser()
    if looks_like_path and not path.is_dir():
        raise EngineError(
            f"model {name!r}: there is no such folder; give a folder with a model, a hub name, or none for the embedded one"
        )
    if path.is_dir():
        return str(path)
    require_hub_model(name)
    return name


def engine_defaults() -> dict[str, Any]:
    """The engine arguments that `Engine` starts from; on a CPU short contexts, eager, small blocks (little to recompute), and
    float32 where there is no AVX-512: bfloat16 is emulated there, and takes 2 to 6 times as long for all but a single row."""
    import torch

    if torch.cuda.is_available():
        return _DEFAULT_ENGINE_ARGS
    emulated = torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "NO AVX", "AVX2")
    return {**_DEFAULT_ENGINE_ARGS, **_CPU_ENGINE_ARGS, "dtype": "float32" if emulated else "bfloat16"}


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
