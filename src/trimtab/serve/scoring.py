"""POST /v1/score and /v1/rerank: the adapter as a scorer of answers that somebody else has."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from trimtab.drawing import with_scores
from trimtab.serve.adapters import Served
from trimtab.serve.chat import Desk
from trimtab.serve.errors import ApiError
from trimtab.serve.keys import Guard
from trimtab.serve.wire import Name, usage_on_wire
from trimtab.store import ApiKey, Inference, Scope, lot_of
from trimtab.types import AnswerStatus, Candidate, Pool, Question, Usage

Text = Annotated[str, Field(min_length=1)]


class Document(BaseModel):
    """A document as some clients write it."""

    text: Text


class ScoreCall(BaseModel):
    """Answers to one question."""

    model: Name
    text_1: Text  # the question
    text_2: Text | list[Text]  # answers to it


class RerankCall(BaseModel):
    """Answers to put in order, as Cohere's and Jina's clients ask for it."""

    model: Name
    query: Text
    documents: list[Text | Document]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False

    @property
    def texts(self) -> list[str]:
        """The documents' words."""
        return [each if isinstance(each, str) else each.text for each in self.documents]


@dataclass(frozen=True, slots=True)
class _Scored:
    """Answers with their scores, and the record of it."""

    inference: Inference
    candidates: tuple[Candidate, ...]


def scoring_router(desk: Desk, guard: Guard) -> APIRouter:
    """The routes of scores."""
    router = APIRouter()
    infer = Depends(guard(Scope.INFER))

    async def scored(
        request: Request, key: ApiKey | None, model: str, question: str, texts: Sequence[str]
    ) -> _Scored:
        desk.caps.check_texts(len(texts))
        served = await desk.registry.find(model, lot_of(question))
        if served is None or not (key is None or key.adapters is None or served.name in key.adapters):
            raise ApiError(404, "there is no such adapter, or not for this key", code="model_not_found")
        began = time.monotonic()
        await request.state.held.enter_async_context(desk.gate.place(key))
        pool = Pool(Question("", question), tuple(Candidate(text, None) for text in texts))
        pool = await with_scores(pool, served.scorer, served.calibrate)
        found = _record(pool, served, key, time.monotonic() - began)
        request.state.model, request.state.inference_id = model, found.id
        desk.metrics.answered(found)
        await desk.recorder.keep(found)
        return _Scored(found, pool.candidates)

    @router.post("/v1/score")
    async def score(request: Request, call: ScoreCall, key: ApiKey | None = infer) -> dict[str, Any]:
        """How good each answer to the question is: higher is better."""
        texts = [call.text_2] if isinstance(call.text_2, str) else call.text_2
        found = await scored(request, key, call.model, call.text_1, texts)
        data = [
            {"index": at, "object": "score", "score": each.score, "confidence": each.confidence}
            for at, each in enumerate(found.candidates)
        ]
        return {"object": "list", "data": data, **_head(call.model, found)}

    @router.post("/v1/rerank")
    async def rerank(request: Request, call: RerankCall, key: ApiKey | None = infer) -> dict[str, Any]:
        """The answers in order, the best first."""
        found = await scored(request, key, call.model, call.query, call.texts)
        order = sorted(range(len(call.documents)), key=lambda at: -(found.candidates[at].score or 0.0))
        results = [
            {
                "index": at,
                "relevance_score": _relevance(found.candidates[at]),
                **({"document": {"text": call.texts[at]}} if call.return_documents else {}),
            }
            for at in order[: call.top_n]
        ]
        return {"results": results, **_head(call.model, found)}

    return router


def _record(pool: Pool, served: Served, key: ApiKey | None, seconds: float) -> Inference:
    scores = [each.score or 0.0 for each in pool.candidates]
    best = scores.index(max(scores))
    chosen = pool.candidates[best]
    return Inference(
        id=uuid.uuid4().hex,
        created_at=time.time(),
        adapter=served.name,
        version=served.version,
        question=pool.question.text,
        messages=(),
        candidates=pool.candidates,
        text=chosen.text,
        status=str(AnswerStatus.ANSWERED),
        chosen=best,
        confidence=chosen.confidence,
        score=chosen.score,
        task=served.task.name,
        key_id=None if key is None else key.id,
        seconds=seconds,
    )


def _relevance(candidate: Candidate) -> float:
    """In [0, 1]: the calibrated P(right) where the adapter has one, else the score's logistic."""
    if candidate.confidence is not None:
        return candidate.confidence
    return 0.5 * (1.0 + math.tanh(0.5 * (candidate.score or 0.0)))


def _head(model: str, found: _Scored) -> dict[str, Any]:
    record = found.inference
    return {
        "id": f"score-{record.id}",
        "created": int(record.created_at),
        "model": model,
        "usage": usage_on_wire(Usage()),
        "trimtab": {"inference_id": record.id, "adapter": record.adapter, "version": record.version},
    }
