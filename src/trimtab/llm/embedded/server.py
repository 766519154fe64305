"""The embedded black box on the OpenAI wire format.

POST /v1/chat/completions, GET /v1/models, GET /v1/stats (calls and tokens so far), GET /health. Like many
providers it gives no logprobs and no prefill; unlike them it does not stream. Only the last message, which
must be the user's, is read: a question, a line break, the chain so far. Errors have OpenAI's shape.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from trimtab.errors import ConfigError
from trimtab.llm.embedded import decoding
from trimtab.llm.embedded.model import MODELS, Model

_DEFAULT_TOKENS = 128  # longer than any chain of its world
_REFUSED = {"logprobs": "logprobs are not available", "stream": "streaming is not available"}

_Text = Annotated[str, Field(min_length=1)]


class TextPart(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One message of a call."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatCall(BaseModel):
    """The body of a call; what is not named here is refused."""

    model_config = ConfigDict(extra="forbid")

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    n: Annotated[int, Field(ge=1, le=decoding.MAX_ROWS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: _Text | Annotated[list[_Text], Field(max_length=4)] | None = None
    seed: int | None = None
    logprobs: bool | None = None
    stream: bool | None = None
    user: str | None = None

    def request(self) -> decoding.Request:
        """What is asked of the model."""
        text = self.messages[-1].text
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return decoding.Request(
            prompt=text if "\n" in text else text + "\n",
            n=self.n or 1,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            max_tokens=self.max_completion_tokens or self.max_tokens or _DEFAULT_TOKENS,
            stop=stop,
            seed=self.seed,
        )


class WireError(Exception):
    """An answer other than 200, in OpenAI's shape."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    def response(self) -> JSONResponse:
        """The error as it goes over the wire."""
        error = {
            "message": str(self),
            "type": "invalid_request_error",
            "param": self.param,
            "code": self.code,
        }
        return JSONResponse({"error": error}, status_code=self.status)


@dataclass(slots=True)
class Stats:
    """What was asked so far and answered."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Engines:
    """One decoding thread a model, started when the model is first asked for."""

    def __init__(self, models: Mapping[str, Path]) -> None:
        self.models = models
        self._started: dict[str, decoding.Engine] = {}

    def named(self, name: str) -> decoding.Engine:
        """The engine of this model."""
        if name not in self.models:
            known = ", ".join(self.models)
            message = f"The model '{name}' does not exist; there are: {known}"
            raise WireError(404, message, param="model", code="model_not_found")
        if name not in self._started:
            self._started[name] = decoding.Engine(Model.load(self.models[name]))
        return self._started[name]

    def close(self) -> None:
        """End every thread."""
        for engine in self._started.values():
            engine.close()


def app_for(models: Mapping[str, Path] = MODELS, *, api_key: str | None = None) -> FastAPI:
    """The application that serves these models (name -> weights)."""
    engines, stats = Engines(models), Stats()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engines.close()

    app = FastAPI(title="trimtab's embedded black box", lifespan=lifespan, openapi_url=None)

    @app.middleware("http")
    async def keyed(request: Request, call_next: Callable[[Request], Any]) -> Any:
        if api_key is None or not request.url.path.startswith("/v1/") or _brings(request, api_key):
            return await call_next(request)
        return WireError(401, "Incorrect API key provided.", code="invalid_api_key").response()

    @app.post("/v1/chat/completions")
    async def chat(call: ChatCall) -> dict[str, Any]:
        _refuse_what_is_missing(call)
        engine = engines.named(call.model)
        try:
            drawn = await asyncio.wrap_future(engine.submit(call.request()))
        except ValueError as error:
            raise WireError(400, str(error), param="messages", code="context_length_exceeded") from error
        stats.calls += 1
        stats.prompt_tokens += drawn.prompt_tokens
        stats.completion_tokens += drawn.completion_tokens
        return _wire(call.model, drawn)

    @app.get("/v1/models")
    async def listed() -> dict[str, Any]:
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "trimtab"} for name in models]
        return {"object": "list", "data": data}

    @app.get("/v1/stats")
    async def counted() -> dict[str, int]:
        return asdict(stats)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    _shape_errors(app)
    return app


def listen(
    port: int,
    host: str = "127.0.0.1",
    *,
    models: Mapping[str, Path] = MODELS,
    api_key: str | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until interrupted; see `trimtab.llm.embedded.serve`.

    Raises:
        ConfigError: The port cannot be listened on.
    """
    server = uvicorn.Server(
        uvicorn.Config(app_for(models, api_key=api_key), log_level="warning", access_log=False)
    )
    with _listening(host, port) as listener:
        if on_ready is not None:
            on_ready(f"http://{host}:{listener.getsockname()[1]}/v1")
        server.run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=1024)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; choose another port") from error


def _brings(request: Request, api_key: str) -> bool:
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    return secrets.compare_digest(given.encode(), api_key.encode())


def _refuse_what_is_missing(call: ChatCall) -> None:
    for name, message in _REFUSED.items():
        if getattr(call, name):
            raise WireError(400, f"{message} from this model", param=name, code="unsupported_parameter")
    if call.messages[-1].role != "user":
        raise WireError(400, "the last message must be the user's: there is no prefill", param="messages")


def _wire(model: str, drawn: decoding.Drawn) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": completion.text, "refusal": None},
            "logprobs": None,
            "finish_reason": completion.finish,
        }
        for index, completion in enumerate(drawn.completions)
    ]
    usage = {
        "prompt_tokens": drawn.prompt_tokens,
        "completion_tokens": drawn.completion_tokens,
        "total_tokens": drawn.prompt_tokens + drawn.completion_tokens,
    }
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": choices,
        "usage": usage,
    }


def _shape_errors(app: FastAPI) -> None:
    """Give every error OpenAI's shape."""

    @app.exception_handler(WireError)
    async def wire(_: Request, error: WireError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        found = error.errors()[0]
        param = ".".join(str(part) for part in found["loc"][1:])
        return WireError(400, f"{param or 'body'}: {found['msg']}", param=param or None).response()

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path}: {error.detail}"
        return WireError(error.status_code, message, code="unknown_url").response()
