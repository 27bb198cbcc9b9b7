"""A choice drawn in waves: candidates a few at a time, judged as they come, until it is enough."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decoding.request import Chunk, Request, Result
    from decoding.vllm_service import Passenger, Service
    from decoding.waves import Waves


async def chunks_in_waves(
    service: Service,
    waves: Waves,
    request: Request,
    engine_input: Any,
    *,
    stream: bool,
    passenger: Passenger,
    judged: Callable[[Result], Awaitable[Result]],
) -> AsyncGenerator[Chunk, None]:
    """As `Service.draw`: progress of the wave under way, and last the result of all. Closing the iterator frees the rows.

    request  that of the first wave; its seed is all waves'. judged: the same result with its rewards, where there is a judge
    """
    from decoding.request import Chunk
    from decoding.waves import Drawing

    drawing = Drawing(waves, request.seed)
    while True:
        # What decides may compare every two texts: not in the event loop.
        wanted = await asyncio.to_thread(drawing.next)
        if not isinstance(wanted, tuple):
            yield Chunk(result=wanted, step=wanted.stats.steps, ess=wanted.ess)
            return
        particles, seed = wanted
        one = replace(request, particles=particles, seed=seed)
        async with aclosing(service.draw(one, engine_input, stream=stream, passenger=passenger)) as chunks:
            async for chunk in chunks:
                if chunk.result is not None:
                    drawing.add(await judged(chunk.result))
                elif not chunk.text:
                    yield chunk
