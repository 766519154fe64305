"""What is said where something is wrong: OpenAI's error shape, and nothing of the server's inside."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from trimtab.errors import BudgetSpentError, LLMError, RefusedError, RunError

LOGGER = logging.getLogger("trimtab.serve")
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
UPSTREAM_IS_SET_UP_WRONGLY = (401, 403, 404)
LEAST_WAIT_S = 1
NOT_HERE = (
    "nothing is at this address: /v1/models names the models, /review is for people, /openapi.json says all"
)


class AsciiJson(Response):
    """JSON in ASCII: half a surrogate pair, which black boxes do send, cannot be written otherwise."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The bytes of a document."""
        return json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii")


class ApiError(HTTPException):
    """An answer other than 200.

    Args:
        status: of HTTP.
        message: what is needed, what came, what to do; of ours, never of an exception's.
        code: a word that programs can read.
        param: the field that is wrong.
        retry_after_s: when to ask again.
        headers: to be sent with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        wait = {} if retry_after_s is None else {"Retry-After": str(whole_seconds(retry_after_s))}
        super().__init__(status, message, headers={**wait, **(headers or {})})
        self.message, self.code, self.param = message, code, param

    def body(self) -> dict[str, Any]:
        """The document that is sent."""
        fallback = "server_error" if self.status_code >= 500 else "invalid_request_error"
        kind = TYPES.get(self.status_code, fallback)
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> AsciiJson:
        """The whole answer."""
        return AsciiJson(self.body(), self.status_code, dict(self.headers or {}))


def whole_seconds(seconds: float) -> int:
    """What Retry-After says: at least one second."""
    return max(LEAST_WAIT_S, math.ceil(seconds))


def of_llm(error: LLMError) -> ApiError:
    """What a client is told when the black box failed: what it can mend, and no address of ours."""
    if isinstance(error, BudgetSpentError):
        return spent("the server's budget is spent")
    if error.status == 429:
        return ApiError(
            429, "the model is busy; ask again later", code="busy", retry_after_s=error.retry_after_s or 1.0
        )
    if isinstance(error, RefusedError) and error.status not in UPSTREAM_IS_SET_UP_WRONGLY:
        told = (
            f"the model refused this request: {error.said}"
            if error.said
            else "the model refused this request"
        )
        return ApiError(400, told, code="refused_upstream")
    if "did not answer" in str(error) or "deadline" in str(error):
        return ApiError(504, "the model did not answer in time", code="upstream_timeout")
    return ApiError(502, "the model cannot be asked at present", code="upstream_failed")


def spent(what: str) -> ApiError:
    """A limit in dollars is reached: asking again does not help."""
    return ApiError(429, what, code="insufficient_quota", headers={"x-should-retry": "false"})


def shape_errors(app: FastAPI) -> None:
    """Gives every error OpenAI's shape."""

    @app.exception_handler(HTTPException)
    async def ours(request: Request, error: HTTPException) -> Response:
        if isinstance(error, ApiError):
            return error.response()
        known = {404: ("unknown_url", NOT_HERE), 405: ("method_not_allowed", str(error.detail))}
        code, told = known.get(error.status_code, (None, str(error.detail)))
        return ApiError(error.status_code, told, code=code, headers=dict(error.headers or {})).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return invalid_request(error.errors()).response()

    @app.exception_handler(LLMError)
    async def upstream(request: Request, error: LLMError) -> Response:
        LOGGER.warning("%s", error, extra={"fields": {"request_id": request.state.request_id}})
        return of_llm(error).response()

    @app.exception_handler(RunError)
    async def unkept(request: Request, error: RunError) -> Response:
        LOGGER.error("%s", error, extra={"fields": {"request_id": request.state.request_id}})
        return ApiError(503, "the store cannot be used at present", code="store", retry_after_s=5).response()


def invalid_request(problems: Any) -> ApiError:
    """What pydantic found wrong first, told without the value that came."""
    first = problems[0]
    place = [str(part) for part in first["loc"] if part != "body"]
    param = ".".join(place) or None
    return ApiError(400, f"{param or 'body'}: {first['msg']}", param=param, code="invalid_value")
