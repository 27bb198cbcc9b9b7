"""The two shapes an answer has in OpenAI's protocol: chat completions and completions, whole and in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from server.api_answer import Answer, logprob
from server.api_request import Asked
from server.api_thinking import Thoughts, parted

if TYPE_CHECKING:
    from decoding.request import TraceStep


class Shape(Protocol):
    """How one of the two protocols writes choices. Pieces of a stream are `choices` entries too."""

    prefix: str
    whole: str
    piece: str

    def choice(self, index: int, answer: Answer, asked: Asked) -> dict[str, Any]:
        """A choice of a whole answer."""

    def opening(self, index: int) -> dict[str, Any] | None:
        """The first piece of a stream, before any text."""

    def text(self, index: int, text: str, asked: Asked) -> dict[str, Any] | None:
        """A piece with new text of an answer that streams as it is made; None where it is held back for now."""

    def rest(self, index: int, answer: Answer, sent: bool, asked: Asked) -> list[dict[str, Any]]:
        """The last pieces: what has not been sent yet, and why it ended. sent: whether the text went out already."""


class Chat:
    """Of one response: it knows what of its choices' thoughts has been sent."""

    prefix = "chatcmpl-"
    whole = "chat.completion"
    piece = "chat.completion.chunk"

    def __init__(self) -> None:
        self._thoughts: dict[int, Thoughts] = {}

    def choice(self, index: int, answer: Answer, asked: Asked) -> dict[str, Any]:
        message = self._message(answer, asked)
        return {
            "index": index,
            "message": {"role": "assistant", "refusal": None, **message},
            "logprobs": None if asked.logprobs is None else {"content": _content(answer, asked.logprobs)},
            "finish_reason": _reason(answer, message),
            "stop_reason": None,
            **answer.extras(asked.return_particles),
        }

    def opening(self, index: int) -> dict[str, Any] | None:
        return _piece(index, {"role": "assistant", "content": ""})

    def text(self, index: int, text: str, asked: Asked) -> dict[str, Any] | None:
        if asked.thoughts is None:
            return _piece(index, {"content": text})
        thought, content = self._thoughts.setdefault(index, Thoughts(asked.thoughts)).feed(text)
        delta = {key: value for key, value in (("reasoning", thought), ("content", content)) if value}
        return _piece(index, delta) if delta else None

    def rest(self, index: int, answer: Answer, sent: bool, asked: Asked) -> list[dict[str, Any]]:
        message = self._message(answer, asked)
        made = []
        if sent and index in self._thoughts and (held := self._thoughts[index].rest()):
            made.append(_piece(index, {"reasoning": held}))
        if not sent:
            delta = {key: value for key, value in message.items() if value}
            if "tool_calls" in delta:
                delta["tool_calls"] = [{"index": k, **call} for k, call in enumerate(delta["tool_calls"])]
            if delta:
                made.append(_piece(index, delta))
        last = _piece(index, {}, _reason(answer, message))
        if asked.logprobs is not None:
            last["logprobs"] = {"content": _content(answer, asked.logprobs)}
        return [*made, {**last, **answer.extras(asked.return_particles)}]

    @staticmethod
    def _message(answer: Answer, asked: Asked) -> dict[str, Any]:
        """Content, reasoning and calls of a message."""
        text, message = answer.text, {}
        if asked.thoughts is not None:
            # What was cut while the model still thought is no answer yet.
            message["reasoning"], rest = parted(text, asked.thoughts)
            if rest is None:
                return {"content": None, **message}
            text = rest
        if asked.tools is None:
            return {"content": text, **message}
        content, calls = asked.tools.read(text, answer.complete)
        return {"content": content, **message, **({"tool_calls": calls} if calls else {})}


class Completion:
    prefix = "cmpl-"
    whole = "text_completion"
    piece = "text_completion"

    def choice(self, index: int, answer: Answer, asked: Asked) -> dict[str, Any]:
        return {
            "index": index,
            "text": answer.text,
            "logprobs": None if asked.logprobs is None else _columns(answer, asked.logprobs),
            "finish_reason": answer.finish_reason,
            "stop_reason": None,
            **answer.extras(asked.return_particles),
        }

    def opening(self, index: int) -> dict[str, Any] | None:
        return None

    def text(self, index: int, text: str, asked: Asked) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": None}

    def rest(self, index: int, answer: Answer, sent: bool, asked: Asked) -> list[dict[str, Any]]:
        made = [self.text(index, answer.text, asked)] if not sent and answer.text else []
        return [*made, {**self.choice(index, answer, asked), "text": ""}]


def _piece(index: int, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


def _reason(answer: Answer, message: dict[str, Any]) -> str:
    return "tool_calls" if message.get("tool_calls") and answer.finish_reason == "stop" else answer.finish_reason


def _content(answer: Answer, alternatives: int) -> list[dict[str, Any]]:
    """Chat's log-probabilities. `logprob` is the model's own; `constrained_logprob` the law the token was drawn from."""
    return [
        {
            **_token(step.token, step.logprob),
            "constrained_logprob": _constrained(step),
            "top_logprobs": [
                {**_token(one.text, one.logprob), "accepted": one.accepted} for one in step.likeliest[:alternatives]
            ],
        }
        for step in _written(answer)
    ]


def _columns(answer: Answer, alternatives: int) -> dict[str, Any]:
    """The same in the columns of the completions protocol."""
    steps = _written(answer)
    return {
        "tokens": [step.token for step in steps],
        "token_logprobs": [logprob(step.logprob) for step in steps],
        "constrained_token_logprobs": [_constrained(step) for step in steps],
        "top_logprobs": [{one.text: logprob(one.logprob) for one in step.likeliest[:alternatives]} for step in steps],
        "text_offset": [len(step.prefix) for step in steps],
    }


def _written(answer: Answer) -> Sequence[TraceStep]:
    """The steps that wrote something: the end of a text is no token of it."""
    return [step for step in answer.steps() if step.token]


def _constrained(step: TraceStep) -> float:
    """Log-probability under the law the constraint leaves, by the estimate of its mass that the weight was multiplied by."""
    return min(logprob(step.logprob - step.log_weight), 0.0)


def _token(text: str, value: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob(value), "bytes": list(text.encode())}
