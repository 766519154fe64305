"""What those who run the server ask: which models, whether it is up and ready, and its figures."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from starlette.responses import Response

from trimtab.errors import TrimtabError
from trimtab.serve.adapters import Registry
from trimtab.serve.chat import Desk
from trimtab.serve.errors import ApiError
from trimtab.serve.keys import Guard
from trimtab.serve.metrics import CONTENT_TYPE
from trimtab.store import ApiKey, Scope

OPEN = ("/health", "/ready")  # for who looks after processes, and has no key


def operating_router(app: FastAPI, desk: Desk, classifiers: Mapping[str, object], guard: Guard) -> APIRouter:
    """The routes that ask nothing of a model."""
    router = APIRouter()

    infer = Depends(guard(Scope.INFER))

    @router.get("/v1/models")
    async def models(key: ApiKey | None = infer) -> dict[str, Any]:
        """The names that `model` may be: adapters, their versions and fast forms, the black box itself."""
        names = [*await desk.registry.listed(), *classifiers, desk.upstream.name]
        return {"object": "list", "data": [_model(name) for name in names if _may(key, name, desk.registry)]}

    @router.get("/v1/models/{name}")
    async def model(name: str, key: ApiKey | None = infer) -> dict[str, Any]:
        """One of them."""
        known = [*await desk.registry.listed(), *classifiers, desk.upstream.name]
        if name not in known or not _may(key, name, desk.registry):
            raise ApiError(404, "there is no such model, or not for this key", code="model_not_found")
        return _model(name)

    @router.get("/health")
    async def health() -> dict[str, str]:
        """The process is up."""
        return {"status": "ok"}

    @router.get("/ready")
    async def ready() -> dict[str, str]:
        """It can answer: the store can be read and every adapter is loaded."""
        try:
            await asyncio.to_thread(desk.store.keys)
            await desk.registry.warm()
        except TrimtabError:
            raise ApiError(503, "not ready", code="not_ready", retry_after_s=1) from None
        return {"status": "ready"}

    @router.get("/metrics", dependencies=[Depends(guard(Scope.ADMIN))], include_in_schema=False)
    async def metrics() -> Response:
        """The figures that Prometheus reads."""
        desk.metrics.in_flight.set(desk.gate.in_flight)
        desk.metrics.waiting.set(desk.gate.waiting)
        return Response(desk.metrics.exposition(), media_type=CONTENT_TYPE)

    @router.get("/openapi.json", dependencies=[Depends(guard(None))], include_in_schema=False)
    async def openapi() -> dict[str, Any]:
        """What this server understands."""
        return app.openapi()

    return router


def _may(key: ApiKey | None, name: str, registry: Registry) -> bool:
    plain = next((each for each in registry.names if name.startswith((f"{each}@", f"{each}:"))), name)
    return key is None or key.adapters is None or plain in key.adapters


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "trimtab"}
