"""The thought that a model writes before its answer: where it ends, and an answer's text in the two parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any


@dataclass(frozen=True)
class Thinking:
    """What delimits a thought. start: the mark it may begin with, which is no part of it; end: the mark that ends it."""

    start: str | None
    end: str


class Thoughts:
    """Tells thought from answer in a text that comes in pieces. What could still become a mark is held back."""

    def __init__(self, thinking: Thinking) -> None:
        self._thinking = thinking
        self._held = ""
        self._opening = thinking.start is not None
        self.ended = False

    def feed(self, text: str) -> tuple[str, str]:
        """The thought and the answer that are certain with this piece."""
        if self.ended:
            return "", text
        text, self._held = self._held + text, ""
        start, end = self._thinking.start, self._thinking.end
        if self._opening and start is not None:
            if start.startswith(text):
                self._held = text
                if text != start:
                    return "", ""
            self._opening, self._held = False, ""
            text = text.removeprefix(start)
        thought, found, answer = text.partition(end)
        if found:
            self.ended = True
            return thought, answer
        kept = next((k for k in range(min(len(end) - 1, len(text)), 0, -1) if text.endswith(end[:k])), 0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept], ""

    def rest(self) -> str:
        """What was held back when the text has come to its end: thought, since no mark has followed."""
        held, self._held = self._held, ""
        return held


def parted(text: str, thinking: Thinking) -> tuple[str, str | None]:
    """A whole text's thought, and its answer; None where the thought has not ended."""
    thoughts = Thoughts(thinking)
    thought, answer = thoughts.feed(text)
    return thought + thoughts.rest(), answer if thoughts.ended else None


def thought_tokens(pieces: Sequence[bytes], thinking: Thinking) -> int:
    """How many of a text's tokens its thought has, marks apart; pieces: what each token writes.

    A token that begins in the thought is of it.
    """
    text = b"".join(pieces)
    start, end = (thinking.start or "").encode(), thinking.end.encode()
    first = len(start) if start and text.startswith(start) else 0
    last = text.find(end, first)
    begins = accumulate(map(len, pieces), initial=0)
    within = range(first, len(text) if last < 0 else last)
    return sum(at in within for at, piece in zip(begins, pieces, strict=False) if piece)


def thinking_of(serving: Any, request: Any, prompt: Sequence[int]) -> Thinking | None:
    """What the operator's reasoning parser says of a chat: None without one, or where its prompt leaves no thought to be had.

    serving  vLLM's chat handler; request: its request; prompt: token ids, as rendered
    """
    if serving.parser_cls is None:
        return None
    from decoding.vllm_reasoning import marks_of

    options = serving._effective_chat_template_kwargs(request)
    parser = serving._make_parser(request, serving.renderer.get_tokenizer(), options).reasoning_parser
    if parser is None or parser.is_reasoning_end(list(prompt)):
        return None
    start, end = marks_of(parser)
    return None if end is None else Thinking(start, end)
