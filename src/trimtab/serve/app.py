"""`create_app`: the parts of a server put together. Plain objects in, an ASGI application out."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI

from trimtab.serve.adapters import Registry
from trimtab.serve.chat import Desk, chat_router
from trimtab.serve.classifying import Classifier, classifying_router
from trimtab.serve.edge import Edge
from trimtab.serve.errors import AsciiJson, shape_errors
from trimtab.serve.feedback import feedback_router
from trimtab.serve.keys import KeyRing, guard_of
from trimtab.serve.limits import Caps, Gate, KeyPlaces, Rates
from trimtab.serve.metrics import Metrics
from trimtab.serve.operating import operating_router
from trimtab.serve.recording import Recorder
from trimtab.serve.review import review_router
from trimtab.serve.scoring import scoring_router
from trimtab.serve.upkeep import forgetting, meanwhile, writing_back
from trimtab.serve.upstream import Upstream
from trimtab.store import Store

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from trimtab.serve.tracing import RequestSpans


LOGGER = logging.getLogger("trimtab.serve")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a server is made of.

    Args:
        store: keys, feedback, versions: what must survive a power cut.
        records: where answers are kept; the same database, maybe quicker to write.
        run_id: on whose account calls are.
        upstream: the black box.
        registry: the adapters.
        classifiers: classifiers by name.
        caps: the most that is taken.
        shared_metrics: the folder in which several workers count together.
        keep_days: how long words are kept; for good if left out.
        spans: where a span of every request goes, if anywhere.
    """

    store: Store
    records: Store
    run_id: str
    upstream: Upstream
    registry: Registry
    classifiers: Mapping[str, Classifier] = field(default_factory=dict)
    caps: Caps = field(default_factory=Caps)
    shared_metrics: Path | None = None
    keep_days: float | None = None
    spans: TracerProvider | None = None


def create_app(parts: Parts) -> FastAPI:
    """The application; it opens nothing before it is started, and has let go of everything when it ends."""
    metrics = Metrics(parts.shared_metrics)
    recorder = Recorder(parts.records, parts.run_id)
    places = KeyPlaces(parts.records)
    gate = Gate(parts.caps, places)
    desk = Desk(parts.store, parts.upstream, parts.registry, recorder, gate, parts.caps, metrics)
    guard = guard_of(KeyRing(parts.store), Rates(parts.records))
    app = FastAPI(
        title="trimtab",
        version=importlib.metadata.version("trimtab"),
        lifespan=_lifespan(parts, recorder, places),
        openapi_url=None,
        default_response_class=AsciiJson,
    )
    app.include_router(chat_router(desk, guard))
    app.include_router(scoring_router(desk, guard))
    app.include_router(classifying_router(desk, parts.classifiers, guard))
    app.include_router(feedback_router(parts.store, guard))
    app.include_router(review_router(parts.store, guard))
    app.include_router(operating_router(app, desk, parts.classifiers, guard))
    app.add_middleware(
        Edge, metrics=metrics, body_bytes=parts.caps.body_bytes, spans=_request_spans(parts.spans)
    )
    shape_errors(app)
    return app


def _request_spans(provider: TracerProvider | None) -> RequestSpans | None:
    if provider is None:
        return None
    from trimtab.serve.tracing import RequestSpans

    return RequestSpans(provider)


def _lifespan(
    parts: Parts, recorder: Recorder, places: KeyPlaces
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        await parts.registry.warm()
        LOGGER.info("ready")
        works = [places.prolonged(), writing_back(parts.records)]
        if parts.keep_days is not None:
            works.append(forgetting(parts.records, parts.keep_days))
        async with meanwhile(*works):
            yield
        await recorder.close()
        if parts.upstream.relay is not None:
            await parts.upstream.relay.close()

    return running
