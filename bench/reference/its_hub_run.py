"""its_hub's best-of-n with its LLM judge, on candidates that are given: one JSON line of answers for each line of stdin.

It runs in an environment of its own (`its_hub.in`), started by `bench.bench_selection_reference`. The model that draws replays
the candidates; the model that judges is an OpenAI-compatible server's, with the library's own prompt, schema and parser. A score
counts as failed where its parser falls back to its default of 5.

    in   {"question": ..., "candidates": [...]}      out  {"selected": place, "scores": [...], "failed": n, "seconds": s}
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import time
from typing import Any

from its_hub.api import AbstractLanguageModel
from its_hub.core.algorithms.bon import BestOfN
from its_hub.core.lms.openai_lm import OpenAICompatibleLanguageModel
from its_hub.core.reward_models.llm_judge import LLMJudge

MARK = "Failed to extract score", "JSON parsed but 'score' field invalid"


class Failures(logging.Handler):
    """Counts what the judge's parser says it could not read; of an object without "score" it says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.shown: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.startswith(MARK):
            self.count += 1
            self.shown.append(message[:200])


class Replay(AbstractLanguageModel):
    """A model that draws what it is given, in turn."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    async def agenerate(self, messages: Any, stop: str | None = None, **options: Any) -> Any:
        raise NotImplementedError("the orchestrator asks one by one")

    async def agenerate_single(self, messages: Any, stop: str | None = None, **options: Any) -> dict[str, Any]:
        return {"role": "assistant", "content": self.texts.pop(0)}


async def answered(judge: LLMJudge, job: dict[str, Any], failures: Failures) -> dict[str, Any]:
    failures.count, failures.shown = 0, []
    begun = time.perf_counter()
    result = await BestOfN(judge).ainfer(
        Replay(list(job["candidates"])), job["question"], len(job["candidates"]), return_response_only=False
    )
    return {
        "selected": result.selected_index,
        "scores": list(result.scores),
        "judged": len(set(job["candidates"])),
        "failed": failures.count,
        "seconds": time.perf_counter() - begun,
        "example": failures.shown[:1],
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--plain", action="store_true", help="no response_format: the prompt alone asks for JSON")
    options = parser.parse_args()
    failures = Failures()
    logging.getLogger().addHandler(failures)
    lm = OpenAICompatibleLanguageModel(options.url, "none", options.model, max_tokens=64, temperature=0.1)
    judge = LLMJudge(lm, response_format=None) if options.plain else LLMJudge(lm)
    try:
        for line in sys.stdin:
            print(json.dumps(await answered(judge, json.loads(line), failures)), flush=True)
    finally:
        await lm.close()


if __name__ == "__main__":
    asyncio.run(main())
