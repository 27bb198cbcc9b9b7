"""Judges on another server: a real one, and ones that are down, slow, busy, endless or talk nonsense."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from decoding.judging import JudgeReward, JudgeTimeout
from decoding.request import Result, Stats, Usage
from decoding.rewarding import Selecting, with_rewards
from grammars.errors import RequestError, RewardError
from samplers.judge import Question
from samplers.reward import Candidate
from samplers.rewards.judge import Judge
from server.judge_endpoint import Endpoint, reply_in

if TYPE_CHECKING:
    from tests.server.conftest import Serving

MODEL = "smollm2-135m-instruct"
QUESTIONS = [Question(f"How much is {n} + 1? Reply with a digit.", ("1", "2")) for n in range(3)]
Answerer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def answering(answer: Answerer) -> Iterator[Endpoint]:
    """An endpoint that answers as it is told, on a real socket."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            answer(self)

        def log_message(self, *arguments: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "m", api_key="secret", timeout_s=1.0)
        server.shutdown()


def say(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"content-length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def completion(*listed: tuple[str, float]) -> dict[str, Any]:
    top = [{"token": token, "logprob": logprob} for token, logprob in listed]
    return {"choices": [{"logprobs": {"content": [{**top[0], "top_logprobs": top}]}}], "usage": {"total_tokens": 9}}


def drawn(texts: list[str]) -> Result:
    """What an engine hands to a judge."""
    count = len(texts)
    return Result(
        texts, [[1]] * count, np.zeros(count), np.zeros(count), ["stop"] * count, Usage(1, count, count),
        Stats(1, 0, 0, 0, 0.0, 0.0), seed=0,
    )  # fmt: skip


def test_a_served_model_judges_as_it_does_from_inside(serving: Serving):
    """The same judge in the server's own best_of and over its endpoint; the endpoint knows the 20 likeliest tokens only."""
    judge: dict[str, Any] = {"criteria": "Is it a number?", "scale": {"1": 1, "2": 3}, "least_mass": 0}
    made = serving.client().chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Say a number."}], max_tokens=8, seed=3,
        extra_body={"reweigh": {"constraint": {"regex": "[0-9]{1,3}"}, "return_particles": True,
                                "best_of": {"k": 4, "reward": {"judge": judge}, "temperature": 0.2}}},
    )  # fmt: skip
    particles = made.choices[0].particles  # type: ignore[attr-defined]
    endpoint = Endpoint(f"{serving.url}/v1", MODEL, serving.key)
    candidates = [Candidate("Say a number.", one["text"]) for one in particles]
    judgement = JudgeReward(Judge(**judge), endpoint).begin(candidates)(None)
    assert judgement.verdicts is not None and judgement.tokens > 100
    assert judgement.rewards.tolist() == pytest.approx([one["reward"] for one in particles], abs=2e-3)
    told = [one["verdict"] for one in particles]
    assert [one.outside for one in judgement.verdicts] == pytest.approx([one["outside"] for one in told], abs=2e-3)
    assert all(0 < one["outside"] < 1 and one["variance"] > 0 for one in told)
    assert made.usage.judge_tokens == judgement.tokens  # type: ignore[union-attr]
    weights = np.array([one["log_weight"] + one["reward"] / 0.2 for one in particles])
    weights = np.exp(weights - weights.max())
    assert [one["weight"] for one in particles] == pytest.approx(weights / weights.sum())


def test_a_request_that_judges_badly_is_a_400_or_says_what_the_judge_did(serving: Serving):
    for judge, status, told in (
        ({"scale": [1, 12]}, 400, "scale"),
        ({"nope": 1}, 400, "nope"),
        ({"scale": {"xyzzy": 1, "plugh": 2}}, 422, "no single token"),
        ({"least_mass": 0.9999}, 422, "at least 0.9999 was wanted"),
    ):
        asked = {"constraint": {"regex": "[0-9]"}, "best_of": {"k": 2, "reward": {"judge": judge}}}
        body = {"model": MODEL, "messages": [{"role": "user", "content": "A digit."}], "reweigh": asked}
        response = serving.post("/v1/chat/completions", json=body)
        assert response.status_code == status and told in response.json()["error"]["message"], response.text


def test_a_wrong_key_or_model_is_told_as_the_server_tells_it(serving: Serving):
    with pytest.raises(RewardError, match="401"):
        Endpoint(f"{serving.url}/v1", MODEL, "wrong-key").ask(QUESTIONS)(None)
    with pytest.raises(RewardError, match=r"404.*nobody"):
        Endpoint(f"{serving.url}/v1", "nobody", serving.key).ask(QUESTIONS)(None)


def test_spellings_of_an_answer_are_one_and_what_is_not_listed_has_no_mass():
    reply = reply_in(completion((" 1", np.log(0.25)), ("1", np.log(0.5)), ("Sure", -3.0)), QUESTIONS[0])
    assert np.exp(reply.log_probs).tolist() == pytest.approx([0.75, 0.0]) and reply.tokens == 9
    nothing = reply_in(completion(("Sure", -0.1), ("!", -4.0)), QUESTIONS[0])
    (verdict,) = Judge(scale={"1": 1, "2": 2}).verdicts([Candidate("q", "a")], [nothing])
    assert np.isnan(verdict.reward) and "it would rather say 'Sure', '!'" in verdict.problem


def test_an_endpoint_that_is_down_is_named_at_once_and_the_texts_are_kept():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    reward = JudgeReward(Judge(), Endpoint(f"http://127.0.0.1:{port}/v1", "m", timeout_s=600))
    result = with_rewards(drawn(["a", "b"]), "q", Selecting(reward, 1.0, "sample", "error"))
    assert isinstance(result.error, RewardError) and "cannot be reached" in str(result.error)
    assert isinstance(result.error.result, Result) and result.error.result.texts == ["a", "b"]


NONSENSE = [
    b"<html>hello</html>", b"{}", b"[]", b"null", b"\xff", json.dumps({"choices": []}).encode(),
    json.dumps({"choices": [{"logprobs": None, "message": {"content": "5"}}]}).encode(),
    json.dumps(completion(("1", 3.0))).encode(), json.dumps(completion(("1", float("nan")))).encode(),
    json.dumps({"choices": [{"logprobs": {"content": [{"token": "1"}]}}]}).encode(),
]  # fmt: skip


@pytest.mark.parametrize("body", NONSENSE)
def test_an_endpoint_that_talks_nonsense_is_quoted(body: bytes):
    with (
        answering(lambda handler: say(handler, 200, body)) as endpoint,
        pytest.raises(RewardError, match="answered no chat completion with top_logprobs") as failed,
    ):
        endpoint.ask(QUESTIONS)(None)
    assert "secret" not in str(failed.value)


def test_errors_of_the_endpoint_are_quoted_and_an_endless_answer_is_cut():
    with (
        answering(lambda handler: say(handler, 500, b"out of cheese")) as endpoint,
        pytest.raises(RewardError, match=r"answered 500: 'out of cheese'"),
    ):
        endpoint.ask(QUESTIONS)(None)
    with (
        answering(lambda handler: say(handler, 200, b"x" * (3 << 20))) as endpoint,
        pytest.raises(RewardError, match="more than 1048576 bytes"),
    ):
        endpoint.ask(QUESTIONS)(None)
    with (
        answering(lambda handler: handler.connection.close()) as endpoint,
        pytest.raises(RewardError, match="cannot be reached"),
    ):
        endpoint.ask(QUESTIONS)(None)


def test_a_busy_endpoint_is_asked_again():
    calls: list[int] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        calls.append(1)
        busy = len(calls) <= 2
        say(
            handler,
            429 if busy else 200,
            b"" if busy else json.dumps(completion(("1", -0.5))).encode(),
            retry_after="0",
        )

    with answering(answer) as endpoint:
        (reply,) = Endpoint(endpoint._url, "m", timeout_s=60).ask(QUESTIONS[:1])(None)
    assert reply.log_probs[0] == pytest.approx(-0.5) and len(calls) == 3


@pytest.mark.parametrize("slow", ["silent", "trickling", "always busy"])
def test_a_slow_endpoint_is_left_at_its_time_limit_or_the_callers(slow: str):
    """The limits are what is told; that the call returns at all while the server goes on for ever is the test."""
    over = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if slow == "always busy":
            return say(handler, 503, b"")
        if slow == "trickling":
            handler.send_response(200)
            handler.end_headers()
        while not over.wait(0.05):
            if slow == "trickling":
                try:
                    handler.wfile.write(b" ")
                except OSError:
                    return None
        return None

    with answering(answer) as endpoint:
        with pytest.raises(JudgeTimeout, match="0 of 3 questions were answered within 1 s"):
            endpoint.ask(QUESTIONS)(None)
        with pytest.raises(JudgeTimeout, match=r"within 0\.1 s"):
            Endpoint(endpoint._url, "m", timeout_s=600).ask(QUESTIONS)(0.1)
        over.set()


def test_requests_of_a_batch_run_side_by_side():
    """Every request waits for the others to arrive: one after the other they would never get there."""
    all_there = threading.Barrier(8, timeout=30)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        all_there.wait()
        say(handler, 200, json.dumps(completion(("1", -0.5))).encode())

    with answering(answer) as endpoint:
        patient = Endpoint(endpoint._url, "m", timeout_s=60)
        assert len(patient.ask(QUESTIONS[:1] * 8)(None)) == 8


@pytest.mark.parametrize(
    "wrong",
    [{"base_url": "host"}, {"model": ""}, {"timeout_s": 0}, {"timeout_s": True}, {"concurrency": 0}, {"options": 5}],
)
def test_an_endpoint_that_cannot_be_is_named(wrong: dict[str, Any]):
    with pytest.raises(RequestError, match=next(iter(wrong))):
        Endpoint(**{"base_url": "http://x/v1", "model": "m", **wrong})


def test_a_judge_that_is_none_is_named_before_anything_is_drawn():
    with pytest.raises(RequestError, match="judge='polite'"):
        JudgeReward("polite", Endpoint("http://x/v1", "m"))  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="asker='http://x/v1'"):
        JudgeReward(Judge(), "http://x/v1")  # type: ignore[arg-type]
