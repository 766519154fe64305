"""POST /v1/chat/completions: who answers, in which place, and how the answer is sent."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from trimtab.serve.adapters import Registry, Served
from trimtab.serve.answering import (
    Ask,
    FailedInferenceError,
    adapted,
    on_wire,
    unadapted_because,
    worst_usd,
)
from trimtab.serve.errors import ApiError, AsciiJson
from trimtab.serve.keys import Guard
from trimtab.serve.limits import Caps, Gate, within_budget
from trimtab.serve.metrics import Metrics
from trimtab.serve.passing import Passing
from trimtab.serve.recording import Recorder
from trimtab.serve.streaming import events, once_there
from trimtab.serve.upstream import Upstream
from trimtab.serve.wire import ChatCall, as_chunks, read_call
from trimtab.store import ApiKey, Inference, Scope, Store, lot_of
from trimtab.types import Usage


@dataclass(frozen=True, slots=True)
class Desk:
    """Where calls are answered: everything that an answer takes."""

    store: Store
    upstream: Upstream
    registry: Registry
    recorder: Recorder
    gate: Gate
    caps: Caps
    metrics: Metrics

    async def answered(self, ask: Ask, served: Served) -> Inference:
        """An adapted answer that is kept. Raises LLMError."""
        try:
            inference = await adapted(ask, served, self.upstream)
        except FailedInferenceError as failed:
            await self._keep(failed.inference, served)
            raise failed.error from None
        await self._keep(inference, served)
        return inference

    async def _keep(self, inference: Inference, served: Served) -> None:
        self.metrics.answered(inference, served)
        await self.recorder.keep(inference)


def chat_router(desk: Desk, guard: Guard) -> APIRouter:
    """The route of chat completions."""
    router = APIRouter()
    passing = Passing(desk.upstream, desk.recorder, desk.caps, desk.metrics)

    infer = Depends(guard(Scope.INFER))

    @router.post("/v1/chat/completions", openapi_extra=_documented(), responses=_ANSWERS)
    async def chat(request: Request, key: ApiKey | None = infer) -> Response:
        """Answers a conversation: adapted, or passed on to the black box."""
        call, document = read_call(await request.body())
        desk.caps.check(call)
        ask = Ask(uuid.uuid4().hex, call, document, key, time.monotonic(), time.time())
        request.state.model, request.state.inference_id = call.model, ask.id
        served = await desk.registry.find(call.model, lot_of(call.messages[-1].text))
        _refuse_other_models(key, call.model, served, desk.upstream)
        because = None if served is None else unadapted_because(call)
        held = request.state.held
        await held.enter_async_context(desk.gate.place(key))
        if served is None or because:
            worst = passing.worst(ask)
            await held.enter_async_context(within_budget(desk.store, key, worst.usd))
            return await _passed_on(passing, ask, worst, because)
        await held.enter_async_context(within_budget(desk.store, key, worst_usd(ask, served, desk.upstream)))
        return await _adapted(desk, ask, served)

    return router


async def _adapted(desk: Desk, ask: Ask, served: Served) -> Response:
    headers = {"x-trimtab-adapted": "true", "x-trimtab-inference-id": ask.id}
    work = desk.answered(ask, served)
    if not ask.call.stream:
        return AsciiJson(on_wire(ask, await work), headers=headers)
    with_usage = ask.call.counts_usage
    return events(
        once_there(work, lambda given: as_chunks(on_wire(ask, given), with_usage=with_usage)), headers
    )


async def _passed_on(passing: Passing, ask: Ask, worst: Usage, because: str | None) -> Response:
    reason = {} if because is None else {"x-trimtab-reason": because}
    headers = {"x-trimtab-adapted": "false", "x-trimtab-inference-id": ask.id, **reason}
    if ask.call.stream:
        return events(await _begun(passing.pieces(ask, worst)), headers)
    document, inference = await passing.whole(ask, worst)
    own = {"inference_id": ask.id, "adapter": None, "status": inference.status, "usd": inference.usage.usd}
    return AsciiJson({**document, "trimtab": own}, headers=headers)


async def _begun(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The stream once its first piece is there: an endpoint that refuses is told with its status."""
    first = await anext(pieces, b"")

    async def going_on() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    return going_on()


def _refuse_other_models(key: ApiKey | None, model: str, served: Served | None, upstream: Upstream) -> None:
    """Raises ApiError: 404 where there is no such model, or none that this key may ask."""
    name = upstream.name if served is None else served.name
    is_known = served is not None or model == upstream.name
    is_allowed = key is None or key.adapters is None or name in key.adapters
    if not (is_known and is_allowed):
        raise ApiError(
            404,
            "there is no such model, or not for this key: see /v1/models",
            param="model",
            code="model_not_found",
        )


_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A chat completion, or server-sent events of its chunks where `stream` is true.",
        "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
    },
}


def _documented() -> dict[str, Any]:
    schema = ChatCall.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _inlined(schema)}}}}


def _inlined(schema: dict[str, Any]) -> Any:
    """The schema without references: it stands inside a larger document."""
    named = schema.pop("$defs", {})

    def resolved(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return resolved(named[part["$ref"].rpartition("/")[2]])
            return {key: resolved(value) for key, value in part.items()}
        return [resolved(each) for each in part] if isinstance(part, list) else part

    return resolved(schema)
