"""Every error as HTTP tells it: a status, and OpenAI's object {"error": {message, type, param, code}}.

What would fail again in the same way is a 4xx: clients try 429 and 5xx again by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from grammars.errors import (
    DeadEnd,
    EngineError,
    GrammarError,
    OverBudget,
    PredicateError,
    RewardError,
    ReweighError,
    Unsatisfiable,
)

LONGEST_MESSAGE = 1000
LONGEST_PARAM = 200


@dataclass
class ApiError(Exception):
    """An answer that is an error.

    param        the field it is about, as a path such as reweigh.constraint.regex
    code         a word for programs; retry_after_s: seconds until it is worth another try
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    retry_after_s: int | None = None

    def __str__(self) -> str:
        return self.message

    @property
    def kind(self) -> str:
        return _KINDS.get(HTTPStatus(self.status), "invalid_request_error" if self.status < 500 else "server_error")

    def body(self) -> dict[str, Any]:
        param = None if self.param is None else shortened(self.param, LONGEST_PARAM)
        message = shortened(self.message, LONGEST_MESSAGE)
        return {"error": {"message": message, "type": self.kind, "param": param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


_KINDS = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "service_unavailable_error",
}


def shortened(text: str, most: int) -> str:
    """At most so many characters of a text, in which all can be written as UTF-8: a JSON string can smuggle in halves of them."""
    return (text if len(text) <= most else text[: most - 3] + "...").encode("utf-8", "replace").decode()


def bad(message: str, param: str | None, code: str = "invalid_value") -> ApiError:
    """A 400: the request is malformed, or asks for something that is not supported."""
    return ApiError(HTTPStatus.BAD_REQUEST, message, param, code)


def api_error(error: Exception, param: str | None = None) -> ApiError:
    """One of the project's errors as an answer. param: the field it is about, where the error does not know."""
    if isinstance(error, ApiError):
        return error
    unprocessable = HTTPStatus.UNPROCESSABLE_ENTITY
    match error:
        case Unsatisfiable():
            return ApiError(unprocessable, str(error), param, "unsatisfiable")
        case OverBudget():
            return ApiError(unprocessable, str(error), param, "compile_budget_exceeded")
        case DeadEnd():
            return ApiError(unprocessable, str(error), param, "dead_end")
        case PredicateError():
            return ApiError(unprocessable, str(error), param, "predicate_failed")
        case RewardError():
            return ApiError(unprocessable, str(error), "reweigh.best_of.reward", "reward_failed")
        case GrammarError():
            return ApiError(HTTPStatus.BAD_REQUEST, str(error), param, "invalid_constraint")
        case EngineError():
            return ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, str(error), None, "engine_error")
        case ReweighError() | ValueError():
            return ApiError(HTTPStatus.BAD_REQUEST, str(error), param, "invalid_value")
    # vLLM's own: told by its name, since nothing here loads vLLM.
    if any(kind.__name__ == "VLLMClientError" for kind in type(error).__mro__):
        return ApiError(HTTPStatus.BAD_REQUEST, str(error), getattr(error, "parameter", None), "invalid_value")
    return ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}", None, "internal_error")
