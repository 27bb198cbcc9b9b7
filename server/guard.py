"""What stands before every route: the API key, a bound on bodies and on requests under way, and 503 while the server drains."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api_errors import LONGEST_MESSAGE, LONGEST_PARAM, ApiError, shortened
from server.api_json import DEEPEST_JSON, depth

OPEN_PATHS = ("/health",)
RETRY_AFTER_S = 1
# A body has so long to come, and a second more for so many bytes of it that have: one that drips holds a place only briefly.
BODY_TIMEOUT_S = 5.0
BODY_BYTES_A_S = 32 << 10
# Of an error's body; longer ones are cut.
LONGEST_ERROR = 2000


@dataclass
class Gate:
    """The guard's settings and counters, in `app.state.reweigh_gate`.

    keys         SHA-256 of every API key; none: everybody may come in
    max_body     bytes of a body; max_requests: POSTs under way at once
    """

    keys: Sequence[bytes] = ()
    max_body: int = 4 << 20
    max_requests: int = 256
    draining: bool = False
    under_way: int = field(default=0)


def digests(keys: Sequence[str]) -> list[bytes]:
    return [hashlib.sha256(key.encode()).digest() for key in keys]


class Guard:
    """ASGI middleware. Everything but /health needs the key; a browser may give it as the password of HTTP Basic."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in OPEN_PATHS:
            await self.app(scope, receive, send)
            return
        send = _short_errors(send)
        gate: Gate = scope["app"].state.reweigh_gate
        headers = Headers(scope=scope)
        try:
            if scope["type"] == "websocket":
                raise ApiError(HTTPStatus.NOT_FOUND, "there are no websockets here")
            if gate.keys and not _knows_a_key(headers, gate.keys):
                raise ApiError(
                    HTTPStatus.UNAUTHORIZED,
                    "the API key is missing or wrong: send Authorization: Bearer KEY",
                    None,
                    "invalid_api_key",
                )
            if scope["method"] != "POST":
                await self.app(scope, receive, send)
                return
            if gate.draining:
                raise ApiError(
                    HTTPStatus.SERVICE_UNAVAILABLE, "the server is shutting down", None, "draining", RETRY_AFTER_S
                )
            if gate.under_way >= gate.max_requests:
                raise ApiError(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    f"{gate.max_requests} requests are under way: try again later",
                    None,
                    "queue_full",
                    RETRY_AFTER_S,
                )
            gate.under_way += 1
            try:
                body = await _whole_body(headers, receive, gate.max_body)
                await self.app(scope, _replayed(body, receive), send)
            finally:
                gate.under_way -= 1
        except ApiError as error:
            await _refuse(error, scope, receive, send)


async def _refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    response = JSONResponse(error.body(), status_code=error.status, headers=error.headers)
    if error.status == HTTPStatus.UNAUTHORIZED:
        # A line for each: Chromium reads one challenge a line, and would not ask for the password.
        response.headers.append("WWW-Authenticate", "Bearer")
        response.headers.append("WWW-Authenticate", 'Basic realm="reweigh: any name, the API key as password"')
    if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        response.headers["Connection"] = "close"
    await response(scope, receive, send)


def _knows_a_key(headers: Headers, keys: Sequence[bytes]) -> bool:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).decode().partition(":")[2]
        except ValueError:
            return False
    elif scheme.lower() != "bearer":
        return False
    digest = hashlib.sha256(given.strip().encode()).digest()
    # Every key is compared, each in constant time: how long it takes tells nothing.
    return bool(sum([hmac.compare_digest(digest, key) for key in keys]))


async def _whole_body(headers: Headers, receive: Receive, most: int) -> bytes:
    """A request's body, read no further than it may be long; ApiError for one that is longer, too deep, or does not come."""
    too_large = ApiError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is longer than {most} bytes", None, "body_too_large"
    )
    told = headers.get("content-length", "0")
    if not told.isdigit() or int(told) > most:
        raise too_large
    parts: list[bytes] = []
    length = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S) as box:
            begun = asyncio.get_running_loop().time()
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ApiError(HTTPStatus.BAD_REQUEST, "the client hung up before its body had come")
                parts.append(message.get("body", b""))
                length += len(parts[-1])
                if length > most:
                    raise too_large
                more = message.get("more_body", False)
                box.reschedule(begun + BODY_TIMEOUT_S + length / BODY_BYTES_A_S)
    except TimeoutError:
        raise ApiError(
            HTTPStatus.REQUEST_TIMEOUT,
            f"the body came too slowly: it has {BODY_TIMEOUT_S:g} s, and a second more for every {BODY_BYTES_A_S} bytes",
            None,
            "body_timeout",
        ) from None
    body = b"".join(parts)
    if body.count(b"[") + body.count(b"{") > DEEPEST_JSON and depth(body) > DEEPEST_JSON:
        raise ApiError(HTTPStatus.BAD_REQUEST, f"the body is nested more than {DEEPEST_JSON} deep", None, "too_deep")
    return body


def _short_errors(send: Send) -> Send:
    """`send` that cuts what an error says: vLLM's own tell a client its megabyte of a model's name again."""
    start: Message | None = None
    parts: list[bytes] = []

    async def shorter(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start" and message["status"] >= HTTPStatus.BAD_REQUEST:
            start = message
            return
        if start is None or message["type"] != "http.response.body":
            await send(message)
            return
        parts.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        body = b"".join(parts)
        if len(body) > LONGEST_ERROR:
            body = _cut(body)
            headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
            start = {**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]}
        await send(start)
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return shorter


def _cut(body: bytes) -> bytes:
    """An error object with its texts cut."""
    error = json.loads(body)["error"]
    most = {"message": LONGEST_MESSAGE, "param": LONGEST_PARAM}
    made = {
        name: shortened(told, most.get(name, 40)) if isinstance(told, str) else told for name, told in error.items()
    }
    return json.dumps({"error": made}).encode()


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` for the application: the body in one message, then whatever else comes (that the client hung up)."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
