"""optillm's best-of-n on candidates that are given: one JSON line of answers for each line of stdin.

It runs in an environment of its own (`optillm.in`), started by `bench.bench_selection_reference`. Its function takes an OpenAI
client: ours answers its first call with the candidates and passes its ratings on. A rating counts as failed where its parser makes
it 0: no number, or cut at its 256 tokens.

    in   {"question": ..., "candidates": [...]}      out  {"selected": place, "scores": [...], "failed": n, "seconds": s}
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from types import SimpleNamespace
from typing import Any

from openai import OpenAI
from optillm.bon import best_of_n_sampling


class Replay:
    """A client whose first call draws what it is given; the others go to the server, and are noted."""

    def __init__(self, client: OpenAI, texts: list[str]) -> None:
        self._client, self._texts = client, texts
        self.replies: list[tuple[str, str]] = []
        self.chat = SimpleNamespace(completions=self)

    def create(self, **request: Any) -> Any:
        if request["n"] == len(self._texts) and request["messages"][-1]["role"] == "user" and not self.replies:
            choices = [SimpleNamespace(message=SimpleNamespace(content=text)) for text in self._texts]
            return SimpleNamespace(choices=choices, usage=SimpleNamespace(completion_tokens=0))
        response = self._client.chat.completions.create(**request)
        choice = response.choices[0]
        self.replies.append((choice.message.content or "", choice.finish_reason))
        return response


def rating(reply: tuple[str, str]) -> float | None:
    """As its own parser has it; None where that is 0 for want of a number."""
    text, reason = reply
    try:
        return None if reason == "length" else float(text.strip())
    except ValueError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)
    options = parser.parse_args()
    client = OpenAI(base_url=options.url, api_key="none", timeout=120.0, max_retries=0)
    for line in sys.stdin:
        job = json.loads(line)
        replay = Replay(client, job["candidates"])
        begun = time.perf_counter()
        text, _ = best_of_n_sampling(
            "Answer the question.", job["question"], replay, options.model, len(job["candidates"])
        )
        seconds = time.perf_counter() - begun
        ratings = [rating(reply) for reply in replay.replies]
        failed = sum(one is None for one in ratings)
        example = [reply[0][:200] for reply, one in zip(replay.replies, ratings) if one is None][:1]
        found = {"selected": job["candidates"].index(text), "scores": [one or 0.0 for one in ratings]}
        print(
            json.dumps({**found, "judged": len(ratings), "failed": failed, "seconds": seconds, "example": example}),
            flush=True,
        )


if __name__ == "__main__":
    main()
