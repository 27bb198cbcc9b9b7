"""Who may come in, how much they may bring, and what is said to what is no request: over the socket, one real server for all."""

from __future__ import annotations

import base64
import json
import math
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.api_errors import LONGEST_MESSAGE
from server.api_json import DEEPEST_JSON, depth, read_json
from server.endpoints import ROUTES
from server.guard import Gate
from tests.server.conftest import KEY, MODEL, Serving

COMPLETION = {"model": MODEL, "prompt": "A number: ", "max_tokens": 2, "seed": 1}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "A number."}], "max_tokens": 2, "seed": 1}
# An answer that is an error holds a message, a param and the object around them, however long the body was.
LONGEST_ERROR = 2 * LONGEST_MESSAGE + 500


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error object of an answer, which has this status, is short, and is all there is."""
    assert response.status_code == status, f"{response.status_code}: {response.text[:500]}"
    assert len(response.content) <= LONGEST_ERROR, f"{len(response.content)} bytes of error"
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"] and body["error"]["type"]
    return body["error"]


def strictly(text: str) -> Any:
    """JSON as the standard has it: no NaN, no infinities."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in JSON")

    return json.loads(text, parse_constant=refuse)


def by_hand(serving: Serving, request: bytes, *, half_close: bool = False) -> bytes:
    """What a server answers to bytes that no HTTP library would send; ends when it hangs up or says no more for 2 s."""
    address = urlsplit(serving.url)
    answer = b""
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(request)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        try:
            while part := connection.recv(65536):
                answer += part
                connection.settimeout(2)
        except TimeoutError:
            pass
    return answer


def head(serving: Serving, *lines: str, path: str = "/v1/completions") -> bytes:
    return "\r\n".join([
        f"POST {path} HTTP/1.1", "Host: reweigh", *(f"{k}: {v}" for k, v in serving.headers.items()),
        "Content-Type: application/json", *lines, "", "",
    ]).encode()  # fmt: skip


# The key


def test_every_route_but_health_wants_the_key(serving: Serving) -> None:
    paths = {path.replace("{model:path}", MODEL) for path in ROUTES} | {
        "/nothing",
        "/docs",
        "/v1",
        "/health/",
        "//health",
    }
    with httpx.Client(base_url=serving.url, timeout=60) as client:
        for path in sorted(paths):
            for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"):
                response = client.request(method, path)
                if path == "/health":
                    assert response.status_code in (200, 405), f"{method} {path}: {response.status_code}"
                    continue
                assert response.status_code == 401, f"{method} {path}: {response.status_code} without a key"
                assert "bearer" in response.headers["www-authenticate"].lower()
                if method != "HEAD":
                    error = error_of(response, 401)
                    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
        assert client.get("/health").status_code == 200


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("given", "comes_in"),
    [
        (f"Bearer {KEY}", True), (f"bearer {KEY}", True), (basic("anybody", KEY), True), (basic("", KEY), True),
        ("", False), ("Bearer", False), (KEY, False), (f"Token {KEY}", False), (f"Digest {KEY}", False),
        (f"Bearer {KEY}x", False), (f"Bearer {KEY[:-1]}", False), (f"Bearer {KEY.upper()}", False),
        (basic(KEY, ""), False), (basic("anybody", KEY + "x"), False), ("Basic !!!", False), ("Basic w6k=:", False),
        (f"Bearer {KEY} {KEY}", False), (f"Bearer, Bearer {KEY}", False),
    ],
)  # fmt: skip
def test_the_key_opens_and_nothing_else_does(serving: Serving, given: str, comes_in: bool) -> None:
    for path in ("/v1/models", "/metrics", "/version", "/"):
        response = httpx.get(serving.url + path, headers={"Authorization": given}, timeout=60)
        assert (response.status_code == 200) is comes_in, f"{path}: {response.status_code}"
        if not comes_in:
            error_of(response, 401)


def test_the_first_of_two_authorization_headers_is_not_outvoted(serving: Serving) -> None:
    headers = [("Authorization", "Bearer wrong"), ("Authorization", f"Bearer {KEY}")]
    assert httpx.get(f"{serving.url}/v1/models", headers=headers, timeout=60).status_code == 401


def test_a_body_is_not_read_before_the_key_is_known(serving: Serving) -> None:
    """Who has no key is told so at once, while the body that was announced has not come."""
    request = b"POST /v1/completions HTTP/1.1\r\nHost: reweigh\r\nContent-Length: 1000000\r\n\r\n"
    began = time.monotonic()
    assert by_hand(serving, request).startswith(b"HTTP/1.1 401")
    assert time.monotonic() - began < 15


# Bounds


def test_a_body_that_declares_itself_too_long_is_refused_before_it_comes(serving: Serving) -> None:
    answer = by_hand(serving, head(serving, f"Content-Length: {Gate().max_body + 1}"))
    assert answer.startswith(b"HTTP/1.1 413") and b'"body_too_large"' in answer


def test_a_body_in_chunks_is_counted(serving: Serving) -> None:
    def endless() -> Any:
        for _ in range(Gate().max_body // 65536 + 2):
            yield b" " * 65536

    error = error_of(serving.post("/v1/completions", content=endless()), 413)
    assert error["code"] == "body_too_large"


@pytest.mark.parametrize("length", ["-1", "+5", "0x10", "1e3", "٣", "", "9" * 40, "2, 2"])
def test_a_content_length_that_is_no_number_is_refused(serving: Serving, length: str) -> None:
    answer = by_hand(serving, head(serving, f"Content-Length: {length}") + b"{}")
    assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 413"), answer[:200]


def test_a_body_longer_than_it_says_does_not_reach_the_next_request(serving: Serving) -> None:
    """Two bytes are a body; what follows is another request, and no good one."""
    answer = by_hand(serving, head(serving, "Content-Length: 2") + b"{}" + b'{"model": "x"}\r\n\r\n')
    assert answer.startswith(b"HTTP/1.1 400") and b" 200 " not in answer


def test_a_body_shorter_than_it_says_frees_its_place(serving: Serving) -> None:
    """A client that hangs up in the middle of its body leaves nothing under way."""
    for _ in range(3):
        by_hand(serving, head(serving, "Content-Length: 500") + b'{"model": ', half_close=True)
    assert serving.post("/v1/completions", json=COMPLETION).status_code == 200


def test_length_and_chunks_together_are_not_two_readings(serving: Serving) -> None:
    """What one hop reads as the end of a body another might take for the start of a request."""
    smuggled = (
        head(serving, "Content-Length: 4", "Transfer-Encoding: chunked") + b"0\r\n\r\nGET /version HTTP/1.1\r\n\r\n"
    )
    assert b'"version"' not in by_hand(serving, smuggled)


@pytest.mark.parametrize(
    "content",
    [
        b'{"model": "m", "x": ' + b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"model": "m", "prompt": ' + b"[" * (DEEPEST_JSON + 1) + b"]" * (DEEPEST_JSON + 1) + b"}",
        b'{"s": "\\"", "x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    ],
    ids=["lists", "objects", "one too deep", "after a quote in a string"],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"])
def test_depth_is_bounded_on_every_route(serving: Serving, path: str, content: bytes) -> None:
    headers = {**serving.headers, "Content-Type": "application/json"}
    assert error_of(serving.post(path, content=content, headers=headers), 400)["code"] == "too_deep"


def test_brackets_in_a_text_are_not_depth(serving: Serving) -> None:
    body = {**COMPLETION, "prompt": "[" * 300 + '"\\' + "{" * 300}
    assert serving.post("/v1/completions", json=body).status_code == 200


MANY = 250_001
BOUNDS: list[tuple[str, dict[str, Any], str]] = [
    ("n", {"n": 65}, "n"),
    ("n huge", {"n": 10**30}, "n"),
    ("n times prompts", {"n": 64, "prompt": ["a"] * 5}, "prompt"),
    ("particles", {"reweigh": {"particles": 1025}}, "reweigh.particles"),
    ("particles beyond the batch", {"reweigh": {"particles": 33}}, "reweigh.particles"),
    ("particles huge", {"reweigh": {"particles": 10**400}}, "reweigh.particles"),
    ("max_tokens", {"max_tokens": 10**6}, "max_tokens"),
    ("stops", {"stop": ["a"] * 17}, "stop"),
    ("a long stop", {"stop": "a" * 10**6}, "stop"),
    ("logprobs", {"logprobs": 21}, "logprobs"),
    ("seed", {"seed": 2**64}, "seed"),
    ("schema nodes", {"structured_outputs": {"json": {"enum": [0] * MANY}}}, "structured_outputs.json"),
    ("schema nodes as text", {"structured_outputs": {"json": '{"enum":[' + "0," * MANY + "0]}"}}, "structured_outputs.json"),
    ("schema nodes of ours", {"reweigh": {"constraint": {"json_schema": {"enum": [0] * MANY}}}}, "reweigh.constraint"),
    ("schema too deep as text", {"structured_outputs": {"json": "[" * 50_000}}, "structured_outputs.json"),
    ("choices", {"structured_outputs": {"choice": [str(k) for k in range(10_001)]}}, "structured_outputs.choice"),
    ("parts", {"reweigh": {"constraint": {"all": [{"regex": "a"}] * 65}}}, "reweigh.constraint.all"),
    ("prompts", {"prompt": ["a"] * 257, "reweigh": {}}, "prompt"),
    ("a megabyte of regex", {"structured_outputs": {"regex": "a?" * 500_000}}, "structured_outputs.regex"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "param"), [case[1:] for case in BOUNDS], ids=[case[0] for case in BOUNDS])
def test_what_is_too_much_is_refused_and_named(serving: Serving, body: dict[str, Any], param: str) -> None:
    asked = {"structured_outputs": {"regex": "[0-9]+"}, **COMPLETION, **body}
    if "reweigh" in body:
        del asked["structured_outputs"]
        asked["reweigh"] = {"constraint": {"regex": "[0-9]+"}, **body["reweigh"]}
    response = serving.post("/v1/completions", json=asked)
    assert response.status_code in (400, 422), response.text[:500]
    named = error_of(response, response.status_code)["param"] or ""
    assert named.startswith(param), f"param is {named!r}: {response.text[:300]}"


def test_parts_in_parts_are_bounded(serving: Serving) -> None:
    spec: Any = {"regex": "a"}
    for _ in range(9):
        spec = {"all": [spec]}
    asked = {**COMPLETION, "reweigh": {"constraint": spec}}
    assert "reweigh.constraint" in (error_of(serving.post("/v1/completions", json=asked), 400)["param"] or "")


LONG = "y" * 1_000_000


@pytest.mark.parametrize(
    "body",
    [
        {"model": LONG}, {"prompt": {"a": LONG}}, {"temperature": LONG}, {"n": LONG}, {"stop": [[LONG]]}, {"reweigh": LONG},
        {"reweigh": {LONG: 1}}, {"reweigh": {"constraint": LONG}}, {"reweigh": {"constraint": {"regex": "(" + LONG}}},
        {"reweigh": {"constraint": {LONG: LONG}}}, {"reweigh": {"sampler": LONG}}, {"reweigh": {"select": LONG}},
        {"reweigh": {"constraint": {"lark": "start: " + LONG}}}, {"response_format": {"type": LONG}},
        {"reweigh": {"constraint": {"regex": "a", LONG: 1}}}, {"reweigh": {"constraint": {"all": [{LONG: 1}]}}},
        {"structured_outputs": {LONG: 1}}, {"structured_outputs": {"json": {"type": LONG}}}, {LONG: LONG, "reweigh": {}},
        {"structured_outputs": {"json": {"properties": {LONG: {"pattern": "("}}}}}, {"top_p": LONG, "reweigh": {}},
        {"stream_options": LONG, "stream": True}, {"tools": LONG}, {"tool_choice": LONG}, {"logit_bias": {LONG: LONG}},
        {"structured_outputs": {"json": {"$ref": "#/" + LONG}}}, {"reweigh": {"sampler": {"name": "awrs", LONG: 1}}},
    ],
    ids=lambda body: json.dumps(body).replace(LONG, "LONG"),
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_errors_do_not_send_a_megabyte_back(serving: Serving, path: str, body: dict[str, Any]) -> None:
    """Whatever is wrong, the answer is short; fields that only one of the two routes has may be none of the other's."""
    usual = CHAT if "chat" in path else COMPLETION
    response = serving.post(path, json={**usual, **body})
    if response.status_code == 200:
        assert body.keys() & {"prompt", "tools", "tool_choice"} or LONG in body, response.text[:300]
    else:
        assert 400 <= response.status_code < 500, response.text[:500]
        error_of(response, response.status_code)


# What is no JSON


@pytest.mark.parametrize(
    "content",
    [
        b"", b"null", b"[]", b"1", b'"a"', b"{", b"{}}", b"{'a': 1}", b"\xff\xfe{}", b'{"prompt": "\xff"}', b'{"prompt": "\x00"}',
        b'{"temperature": NaN}', b'{"reweigh": {"ess_threshold": Infinity}}', b'{"temperature": -Infinity}',
        b'{"reweigh": {"ess_threshold": NaN}}', b'{"max_tokens": 1e400}',
        b'{"reweigh": {"particles": ' + b"9" * 5000 + b"}}", b'{"seed": ' + b"9" * 5000 + b"}",
        b'{"reweigh": {"particles": 1}, "reweigh": {}}', b'{"reweigh": {"constraint": {"regex": "a"}, "constraint": null}}',
        b'{"response_format": {"type": "json_object"}, "response_format": {"type": "text"}}', b"\xef\xbb\xbf[]",
        '{"a": 1}'.encode("utf-16"),
    ],
    ids=lambda content: repr(content[:60]),
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_what_is_no_json_is_a_400(serving: Serving, path: str, content: bytes) -> None:
    """Numbers that are none, and a key twice (the second of two constraints would undo the first), are no JSON here."""
    if content.startswith(b'{"') and content.endswith(b"}"):
        usual = json.dumps(CHAT if "chat" in path else COMPLETION).encode()
        # A field of the usual body that comes again is a key twice, and means the same: leave it out.
        base = {k: v for k, v in json.loads(usual).items() if f'"{k}"'.encode() not in content}
        content = json.dumps(base).encode()[:-1] + b", " + content[1:]
    response = serving.post(path, content=content, headers={**serving.headers, "Content-Type": "application/json"})
    error_of(response, 400)


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "\ud800"}, {"reweigh": {"constraint": {"regex": "\ud800"}}}, {"structured_outputs": {"choice": ["\udfff"]}},
        {"reweigh": {"constraint": {"lark": 'start: "\ud800"'}}}, {"structured_outputs": {"json": {"const": "\ud800"}}},
        {"model": "\ud800"}, {"stop": "\ud800", "reweigh": {}}, {"reweigh": {"\ud800": 1}}, {"reweigh": {"constraint": "\ud800"}},
        {"structured_outputs": {"json": {"properties": {"\ud800": {"type": "integer"}}, "required": ["\ud800"]}}},
        {"user": "\ud800"},
    ],
    ids=ascii,
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_halves_of_characters_are_no_servers_fault(serving: Serving, path: str, body: dict[str, Any]) -> None:
    """JSON can spell what no text is: the answer is one, or a 4xx."""
    response = serving.post(path, content=json.dumps({**(CHAT if "chat" in path else COMPLETION), **body}),
                            headers={**serving.headers, "Content-Type": "application/json"})  # fmt: skip
    if response.status_code != 200:
        assert 400 <= response.status_code < 500, response.text[:500]
        error_of(response, response.status_code)
    strictly(response.text)


def test_other_content_types_are_refused(serving: Serving) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        response = serving.post("/v1/completions", content=json.dumps(COMPLETION),
                                headers={**serving.headers, "Content-Type": content_type})  # fmt: skip
        error_of(response, 415)
    error_of(serving.post("/v1/completions", content=json.dumps(COMPLETION)), 415)


# Every field of `reweigh`


CONSTRAINED = {"constraint": {"regex": "[0-9]{1,3}"}}
WRONG: dict[str, list[Any]] = {
    "constraint": [0, 1.5, True, [], {}, "nobody", {"regex": 1}, {"regex": None}, {"lark": []}, {"json_schema": 3}, {"choice": []},
                   {"choice": "ab"}, {"choice": [1]}, {"all": []}, {"all": {}}, {"any": [1]}, {"then": {}}, {"then": []},
                   {"regex": "a", "lark": "b"}, {"regex": "a", "nope": 1}, {"named": 3}, {"sql": "/etc/passwd"},
                   {"sql": "sqlite:////etc/passwd"}, {"predicate": "os.system"}, {"predicate": "example: palindrome!"},
                   {"pddl": {"domain": "/etc/passwd", "problem": "/etc/passwd"}}, {"then": {"marker": 1, "constraint": "even"}},
                   {"then": {"marker": "a", "constraint": "even", "nope": 1}}, {"smiles": 3}, {"json_schema": {"type": "nope"}},
                   {"json_schema": {"$ref": "file:///etc/passwd"}}, {"json_schema": {"$ref": "http://127.0.0.1:1/x"}},
                   {"regex": "a", "name": "rules.py"}, {"example": 1}],
    "particles": [0, -1, 1.5, True, "8", [], {}, 1025, 1e9],
    "ess_threshold": [-0.1, 1.1, "0.5", True, [], {}, 10**400],
    "resampling": [0, "nope", True, [], {}, ["systematic"]],
    "resample_every": [0, -1, 1.5, True, "2", [], {}, 2**40],
    "sampler": [0, 1.5, True, [], {}, "nope", {"name": 3}, {"name": "nope"}, {"name": "awrs", "nope": 1}, {"nope": 1}, ["awrs"],
                {"name": []}, {"name": "awrs", "max_checks": "x"}, {"name": {}}],
    "seed": [-(2**64), 2**64, 1.5, True, "3", [], {}],
    "select": [0, "nope", True, [], {}, ["best"]],
    "return_particles": [0, 1, "true", [], {}, None],
    "show_schema": [0, 1, "true", [], {}, None],
    "thinking": [0, 1.5, True, "", "x" * 65, [], {}],
    "best_of": [1, [], "nobody", {"k": 0}, {"k": 2}, {"k": 2, "reward": "nobody"}, {"k": 2, "nope": 1}],
    "detox": [{}, "1", [], -1, 11, 10**400], "debias": [{}, True, 1, "height", ["gender", "gender"], [1], {"groups": {"a": ["x"]}},
                                                        {"a": ["x"], "b": []}],
    "adaptation": [1, [], "tilt", {"nope": 1}, {"method": "tilt"}],
    "nope": [1], "Particles": [8], "constraints": [{"regex": "a"}], "n": [2], "": [1],
}  # fmt: skip


@pytest.mark.parametrize("chat", [False, True], ids=["completions", "chat"])
@pytest.mark.parametrize("field", WRONG)
def test_wrong_values_of_our_field_are_named(serving: Serving, field: str, chat: bool) -> None:
    with httpx.Client(base_url=serving.url, headers=serving.headers, timeout=120) as client:
        for value in WRONG[field]:
            body = {**(CHAT if chat else COMPLETION), "reweigh": {**CONSTRAINED, field: value}}
            if isinstance(value, int) and value > 2**63:
                body["reweigh"][field] = value
            response = client.post("/v1/chat/completions" if chat else "/v1/completions", json=body)
            said = f"reweigh.{field}={value!r}: {response.status_code} {response.text[:300]}"
            assert response.status_code in (400, 422), said
            param = error_of(response, response.status_code)["param"]
            assert param and param.startswith(f"reweigh.{field}"), said


@pytest.mark.parametrize("own", [0, 1, True, "regex", [], [{"constraint": {"regex": "a"}}], False])
def test_our_field_is_an_object(serving: Serving, own: Any) -> None:
    assert error_of(serving.post("/v1/completions", json={**COMPLETION, "reweigh": own}), 400)["param"] == "reweigh"


def test_extra_body_as_a_field_is_refused(serving: Serving) -> None:
    """Written by hand it would be ignored, and the answer come unconstrained."""
    body = {**COMPLETION, "extra_body": {"reweigh": CONSTRAINED}}
    assert error_of(serving.post("/v1/completions", json=body), 400)["param"] == "extra_body"


@pytest.mark.parametrize(
    "body",
    [
        {"vllm_xargs": {"reweigh": '{"group": "g", "num_particles": 4}'}},
        {"vllm_xargs": {"reweigh": "1"}},
        {"structured_outputs": {"regex": "a"}, "vllm_xargs": {"reweigh": "{}"}},
        {"structured_outputs": {"regex": "a"}, "kv_transfer_params": {"reweigh": {}}},
        {"cache_salt": 3}, {"priority": "high"}, {"request_id": {}},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_the_engines_own_channel_is_closed_to_bodies(serving: Serving, body: dict[str, Any]) -> None:
    """What travels to the engine as an order is written by the server alone."""
    response = serving.post("/v1/completions", json={**COMPLETION, **body})
    assert 400 <= response.status_code < 500, f"{response.status_code}: {response.text[:300]}"
    error_of(response, response.status_code)


def test_the_operators_secrets_stay_behind_their_names(serving: Serving, operator_folder: Path) -> None:
    """A database's place and the operator's folders are told nobody; of a function that raised, the file's name and the line."""
    for constraint in ("nobody", {"sql": "nobody"}, {"named": "nobody"}, {"predicate": "raises"}, "raises"):
        response = serving.post("/v1/completions", json={**COMPLETION, "reweigh": {"constraint": constraint}})
        assert response.status_code in (400, 422)
        assert "shop.sqlite" not in response.text and str(operator_folder) not in response.text
        assert "Traceback" not in response.text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 70) | st.floats(allow_nan=False, allow_infinity=False, width=32)
    | st.sampled_from(["", "a", "even", "best", "awrs", "masked", "systematic", "nobody", "[0-9]", "\x00", "\u2028"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["regex", "lark", "choice", "json_schema", "all", "any", "then", "name", "type", "named"]),
                      inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
own_fields = st.dictionaries(st.sampled_from([*WRONG, "constraint"]), json_values, max_size=4)
top_fields = st.dictionaries(
    st.sampled_from(["n", "stop", "logprobs", "temperature", "seed", "stream_options", "response_format", "structured_outputs",
                     "tools", "tool_choice", "top_p", "suffix", "echo", "best_of", "user", "stop_token_ids", "grammar"]),
    json_values, max_size=2,
)  # fmt: skip


@given(own=own_fields, top=top_fields)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bodies_never_fail_the_server_and_are_never_unconstrained(serving: Serving, own: Any, top: Any) -> None:
    """Whatever JSON comes in fields that are ours, it is answered under its constraint, or refused with a 4xx."""
    response = serving.post("/v1/completions", json={**COMPLETION, **top, "reweigh": own})
    if response.status_code != 200:
        assert 400 <= response.status_code < 500, f"{response.status_code}: {response.text[:500]}"
        error_of(response, response.status_code)
        return
    for choice in strictly(response.text)["choices"]:
        assert choice["log_weight"] is not None and math.isfinite(choice["log_weight"])


def test_no_infinity_reaches_json(serving: Serving) -> None:
    """Particles that are dead are told of with null, and a group whose particles all are is a 422."""
    odd_or_even = {"all": ["even", {"regex": "[0-9]"}]}
    body = {**COMPLETION, "prompt": "A digit: ", "max_tokens": 4, "temperature": 2}
    dead = 0
    for seed in range(6):
        own = {"constraint": odd_or_even, "particles": 16, "return_particles": True, "ess_threshold": 0, "seed": seed,
               "sampler": "awrs"}  # fmt: skip
        response = serving.post("/v1/completions", json={**body, "reweigh": own})
        assert response.status_code == 200, response.text[:500]
        told = strictly(response.text)
        for choice in told["choices"]:
            dead += sum(particle["log_weight"] is None for particle in choice["particles"])
            assert all(particle["weight"] == 0 for particle in choice["particles"] if particle["log_weight"] is None)
            assert sum(particle["weight"] for particle in choice["particles"]) == pytest.approx(1)
    assert dead > 0, "no particle died: the test shows nothing"
    own = {
        "constraint": {"all": ["even", {"regex": "[13579]"}]},
        "particles": 4,
        "return_particles": True,
        "sampler": "awrs",
    }
    response = serving.post("/v1/completions", json={**body, "reweigh": own})
    strictly(response.text)
    assert error_of(response, 422)["code"] == "dead_end"


# The reader of JSON itself, on what no server has to run for


def test_depth_is_that_of_the_value() -> None:
    def of(value: Any) -> int:
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if parts is None else 1 + max(map(of, parts), default=0)

    leaves = st.none() | st.integers() | st.text(st.sampled_from('[]{}"\\a\n'), max_size=6)
    values = st.recursive(
        leaves, lambda v: st.lists(v) | st.dictionaries(st.text(st.sampled_from('[{"\\'), max_size=3), v), max_leaves=20
    )

    @given(values, st.sampled_from([None, 1]))
    def check(value: Any, indent: int | None) -> None:
        text = json.dumps(value, indent=indent)
        assert depth(text.encode()) == of(value)
        assert read_json(text) == value

    check()


@pytest.mark.parametrize("unit", [b"[]", b'"",', b"\\", b'"\\"', b"{", b'["', b'\\"[', b"a"])
def test_depth_takes_no_longer_than_a_body_may_hold_up_the_others(unit: bytes) -> None:
    """4 MiB of anything: linear time, since the event loop waits for it."""

    def seconds(length: int) -> float:
        body = (unit * length)[:length]
        times = []
        for _ in range(3):
            began = time.perf_counter()
            depth(body)
            times.append(time.perf_counter() - began)
        return min(times)

    assert seconds(4 << 20) < 100 * seconds(1 << 17), (
        "32 times as long a body takes 32 times as long; a square law, 1024 times"
    )
