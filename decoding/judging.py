"""Judges that ask a model: every question of a batch of candidates at once, one forward pass each."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from functools import lru_cache, partial
from typing import Any, Protocol, TypeVar

import numpy as np

from decoding.order import Order
from grammars.errors import RequestError, RewardError, error_named
from grammars.vocabulary import Vocabulary
from samplers.judge import Judge, Judgement, Question, Reply, is_judge
from samplers.reward import Candidate, distinct

T = TypeVar("T")
Replies = Callable[[float | None], list[Reply]]
# The summary to come of an order, and what gives it up.
Submitted = list[tuple[Future[dict[str, Any]], Callable[[], object]]]
Orders = Sequence[tuple[Order, list[int]]]


class JudgeTimeout(RewardError, TimeoutError):
    """The judge had not answered when its time was up."""


class Asker(Protocol):
    """A model that answers questions."""

    def ask(self, questions: Sequence[Question]) -> Replies:
        """Begin to ask them all. Returns a function that waits for the replies, so many seconds at most, and hands them over.

        Raises RewardError, and the function too (JudgeTimeout): the questions that have not been answered are given up.
        """


class JudgeReward:
    """A judge, and the model that answers its questions: a reward.

    Candidates of the same text are judged once.
    """

    def __init__(self, judge: Judge, asker: Asker) -> None:
        if not is_judge(judge):
            raise RequestError(f"JudgeReward: judge={judge!r:.80}: a judge was wanted, such as Judge('Is it polite?')")
        if not hasattr(asker, "ask"):
            raise RequestError(
                f"JudgeReward: asker={asker!r:.80}: a model to ask was wanted, such as Endpoint(url, model)"
            )
        self._judge, self._asker = judge, asker

    def __repr__(self) -> str:
        return repr(self._judge)

    @property
    def relative(self) -> bool:
        """Whether a text's reward is about the others of its batch."""
        return bool(getattr(self._judge, "relative", False))

    def begin(self, candidates: Sequence[Candidate]) -> Callable[[float | None], Judgement]:
        """Ask about the candidates; the function returned waits, so many seconds at most, and says what came of it."""
        firsts, like = distinct(candidates)
        asked_about = [candidates[place] for place in firsts]
        questions = self._judge.questions(asked_about)
        replies = self._asker.ask(questions) if questions else lambda timeout_s: []

        def collect(timeout_s: float | None = None) -> Judgement:
            answers = replies(timeout_s)
            verdicts = self._judge.verdicts(asked_about, answers)
            every = tuple(verdicts[kind] for kind in like)
            return Judgement(np.array([one.reward for one in every]), every, sum(reply.tokens for reply in answers))

        return collect

    def score(self, candidates: Sequence[Candidate]) -> np.ndarray:
        return self.begin(candidates)(None).rewards

    async def ascore(self, candidates: Sequence[Candidate]) -> np.ndarray:
        """`score` for an event loop: other coroutines go on."""
        collect = await asyncio.to_thread(self.begin, candidates)
        return (await asyncio.to_thread(collect, None)).rewards


def question_order(answers: Sequence[Sequence[int]]) -> Order:
    """What a question is to the engine: one row for one step, whose law is looked at; the token it draws is of no use."""
    return Order(
        group=uuid.uuid4().hex, num_particles=1, constraint=None, sampler="auto", temperature=1.0, seed=0, max_tokens=1,
        truncate=True, answers=answers,
    )  # fmt: skip


def answer_tokens(vocabulary: Vocabulary, answers: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """The tokens that are each answer, white space around it apart. Raises RequestError for an answer that is no token."""
    wanted: dict[bytes, list[int]] = {answer.encode(): [] for answer in answers}
    for token, written in enumerate(vocabulary.tokens):
        if (found := wanted.get(written.strip())) is not None:
            found.append(token)
    for answer, found in wanted.items():
        if not found:
            raise RequestError(
                f"a judge's answer {answer.decode()!r:.80} is no single token of this model: use digits, letters or short words"
            )
    return tuple(map(tuple, wanted.values()))


def reply_of(question: Question, summary: dict[str, Any], prompt_tokens: int) -> Reply:
    """The reply that stands in the engine's summary of a question. Raises RewardError where the engine has none."""
    if summary["error"] is not None:
        error = error_named(*summary["error"])
        raise RewardError(f"the engine could not answer the judge: {error}") from error
    log_probs = np.array(summary["answers"], dtype=np.float64)
    if len(log_probs) != len(question.answers) or np.isnan(log_probs).any():
        raise RewardError("the engine's answer to the judge is no distribution")
    return Reply(log_probs, prompt_tokens + 1)


def too_long(tokens: int, room: int, answers: int) -> Reply:
    """The reply to a question that the model has no room for."""
    return Reply.none(f"the judge's question has {tokens} tokens, and its model takes {room}", answers)


def chat_prompt(tokenizer: Any, text: str) -> list[int]:
    """A question as token ids: a user's message in the model's chat template, or the text alone where it has none.

    tokenizer  of transformers
    """
    if getattr(tokenizer, "chat_template", None):
        message = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        tokens: list[int] = tokenizer(text, verbose=False, add_special_tokens=False)["input_ids"]
    else:
        tokens = tokenizer(text + "\n", verbose=False)["input_ids"]
    return tokens


class EngineAsker:
    """Asks the model of an engine; its questions share the batch with whatever else is under way.

    tokenizer   of transformers
    submit      starts orders with their prompts, together; returns the summary to come of each, and what gives it up
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        max_model_len: int,
        tokenizer: Any,
        submit: Callable[[Orders], Submitted],
    ) -> None:
        self._room = max_model_len - 1
        self._tokenizer, self._submit = tokenizer, submit
        # Kept here, so that a closed engine's vocabulary is not; each new one is a walk over the vocabulary.
        self._tokens_of = lru_cache(maxsize=64)(partial(answer_tokens, vocabulary))

    def ask(self, questions: Sequence[Question]) -> Replies:
        prompts = [chat_prompt(self._tokenizer, question.text) for question in questions]
        tokens = [self._tokens_of(question.answers) for question in questions]
        fitting = [k for k, prompt in enumerate(prompts) if len(prompt) <= self._room]
        submitted = self._submit([(question_order(tokens[k]), prompts[k]) for k in fitting])
        waiting = dict(zip(fitting, submitted, strict=True))

        def replies(timeout_s: float | None) -> list[Reply]:
            deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
            try:
                return [
                    reply_of(question, waited_for(waiting[k][0], deadline), len(prompts[k]))
                    if k in waiting
                    else too_long(len(prompts[k]), self._room, len(question.answers))
                    for k, question in enumerate(questions)
                ]
            except FutureTimeout:
                raise JudgeTimeout(
                    f"the judge's {len(questions)} questions were not answered within {timeout_s:.3g} s"
                ) from None
            finally:
                for future, give_up in waiting.values():
                    if not future.done():
                        give_up()

        return replies


def waited_for(done: Future[T], deadline: float) -> T:
    """A future's result; TimeoutError at the deadline, of time.monotonic.

    Waits in short pieces: a thread blocked for good in a lock would not see Ctrl-C on every platform.
    """
    while True:
        try:
            return done.result(timeout=max(min(deadline - time.monotonic(), 0.5), 0.0))
        except FutureTimeout:
            if done.done() or time.monotonic() >= deadline:
                raise
