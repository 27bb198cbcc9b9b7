"""Weighted draws from a vLLM engine that serves others as well: `AsyncLLM` in front, the model in processes of its own."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from decoding.asking import check_request, order_of, result_of
from decoding.judging import EngineAsker, Orders, Submitted
from decoding.order import KEY, Order
from decoding.request import Chunk, Request
from decoding.streamed_text import StreamedText
from decoding.vllm_params import order_params
from decoding.vllm_vocabulary import vocabulary_of
from grammars.errors import EngineError

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient
    from vllm.lora.request import LoRARequest


@dataclass(frozen=True)
class Passenger:
    """What goes along with a request for vLLM's own use.

    lora        an adapter; priority: lower is earlier, where the scheduler has priorities; trace_headers: for tracing
    """

    lora: LoRARequest | None = None
    priority: int = 0
    trace_headers: Mapping[str, str] | None = None


class Service:
    """Draws through an engine client whose configuration `sound_engine_args` and `add_processor` have made."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._asker: EngineAsker | None = None
        config = client.vllm_config
        self.vocabulary = vocabulary_of(config)
        self.max_model_len: int = config.model_config.max_model_len
        self.max_particles: int = config.scheduler_config.max_num_seqs

    async def start(self) -> None:
        """Tell every worker to let weights ride out with its tokens. Once, before the first draw."""
        await self._client.collective_rpc("reweigh_install")

    def asker(self) -> EngineAsker:
        """The served model as one that answers judges. To be had in the event loop, and asked from other threads."""
        if self._asker is not None:
            return self._asker
        loop = asyncio.get_running_loop()

        def submit(orders: Orders) -> Submitted:
            asked = [asyncio.run_coroutine_threadsafe(self._answer(order, prompt), loop) for order, prompt in orders]
            return [(future, future.cancel) for future in asked]

        self._asker = EngineAsker(self.vocabulary, self.max_model_len, self._client.get_tokenizer(), submit)
        return self._asker

    async def _answer(self, order: Order, prompt: list[int]) -> dict[str, Any]:
        """The summary of an order without a constraint."""
        from vllm.inputs.engine import tokens_input

        outputs = self._client.generate(tokens_input(prompt), order_params(order), order.group)
        async with aclosing(outputs):
            async for output in outputs:
                if output.finished and (news := (output.kv_transfer_params or {}).get(KEY)) is not None:
                    return dict(news)
        raise EngineError("the question was aborted inside the engine")

    def check(self, request: Request, place: str) -> None:
        """Raise RequestError for a request that the engine has no room for. place: how the error names the prompt."""
        check_request(request, place, self.max_model_len, self.max_particles)

    async def draw(
        self, request: Request, engine_input: Any, *, stream: bool = False, passenger: Passenger | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """Run one request; closing the iterator frees its rows.

        engine_input  the prompt as vLLM's renderer made it
        stream        True: chunks with a single particle's new text, or with the progress of several, before the last

        yields the last chunk with the result, whose `error` says what ended the request, if anything did.
        """
        passenger = passenger or Passenger()
        began = time.perf_counter()
        group = uuid.uuid4().hex
        params = order_params(order_of(request, group, stream, prepare=True))
        text = StreamedText(request.stop)
        alone = request.particles == 1
        outputs = self._client.generate(
            engine_input,
            params,
            group,
            lora_request=passenger.lora,
            priority=passenger.priority,
            trace_headers=passenger.trace_headers,
        )
        async with aclosing(outputs):
            async for output in outputs:
                news = (output.kv_transfer_params or {}).get(KEY)
                tokens = list(output.outputs[0].token_ids) if alone and stream else []
                new_text = text.feed(self.vocabulary.decode(tokens)) if tokens else ""
                if not output.finished:
                    yield Chunk(new_text, text.fed, 1, 1.0) if news is None else Chunk("", **news)
                    continue
                if news is None:
                    raise EngineError("the request was aborted inside the engine")
                news["wall_s"] = time.perf_counter() - began
                result = result_of(request, news, self.vocabulary)
                if alone and stream:
                    new_text += text.end(result.finish_reasons[0] == "stop_string")
                yield Chunk(new_text, result.stats.steps, 0, result.ess, result)
                return
        raise EngineError("the engine ended before the request did")
