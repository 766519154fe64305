"""POST /v1/classify: texts and their labels, by a classifier that was learnt here."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from trimtab.errors import InputError
from trimtab.serve.chat import Desk
from trimtab.serve.errors import ApiError
from trimtab.serve.keys import Guard
from trimtab.serve.wire import Name, usage_on_wire
from trimtab.store import ApiKey, Inference, Scope
from trimtab.types import AnswerStatus, Candidate, Usage

Text = Annotated[str, Field(min_length=1)]
Pair = Annotated[list[Text], Field(min_length=2, max_length=2)]
TASK = "classify"

# One thread: an encoder is not made to be entered twice, and the loop stays with the network.
_READING = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trimtab-classify")


class Classifier(Protocol):
    """What knows labels of texts."""

    @property
    def classes_(self) -> Sequence[str]:
        """The labels."""
        ...

    def predict_proba(self, X: Sequence[Any]) -> Any:  # noqa: N803  (as scikit-learn has it)
        """(texts, classes): probabilities."""
        ...


class ClassifyCall(BaseModel):
    """Texts, or pairs of texts, to be labelled."""

    input: Text | list[Text | Pair]
    model: Name | None = None  # where the server has one classifier, it need not be named

    @property
    def rows(self) -> list[str | tuple[str, str]]:
        """The texts as classifiers read them."""
        given = [self.input] if isinstance(self.input, str) else self.input
        return [each if isinstance(each, str) else (each[0], each[1]) for each in given]


@dataclass(frozen=True, slots=True)
class _Labelled:
    """One text, and what is said of it."""

    text: str
    labels: tuple[str, ...]
    shares: tuple[float, ...]

    @property
    def best(self) -> int:
        """The most likely label; of equally likely ones the first."""
        return self.shares.index(max(self.shares))


def classifying_router(desk: Desk, classifiers: Mapping[str, Classifier], guard: Guard) -> APIRouter:
    """The route of labels."""
    router = APIRouter()

    infer = Depends(guard(Scope.INFER))

    @router.post("/v1/classify")
    async def classify(request: Request, call: ClassifyCall, key: ApiKey | None = infer) -> dict[str, Any]:
        """The label of each text, with the probabilities of all labels."""
        name, classifier = _named(classifiers, call.model, key)
        rows = call.rows
        desk.caps.check_texts(len(rows))
        began = time.monotonic()
        await request.state.held.enter_async_context(desk.gate.place(key))
        found = await _labelled(classifier, rows)
        records = [_record(name, each, key, time.monotonic() - began) for each in found]
        request.state.model = name
        for record in records:
            desk.metrics.answered(record)
        await asyncio.gather(*(desk.recorder.keep(record) for record in records))
        data = [_on_wire(at, *pair) for at, pair in enumerate(zip(found, records, strict=True))]
        head = {"id": f"classify-{uuid.uuid4().hex}", "object": "list", "created": int(time.time())}
        return {**head, "model": name, "data": data, "usage": usage_on_wire(Usage())}

    return router


def _named(
    classifiers: Mapping[str, Classifier], model: str | None, key: ApiKey | None
) -> tuple[str, Classifier]:
    name = next(iter(classifiers)) if model is None and len(classifiers) == 1 else model or ""
    if name not in classifiers or not (key is None or key.adapters is None or name in key.adapters):
        raise ApiError(404, "there is no such classifier, or not for this key", code="model_not_found")
    return name, classifiers[name]


async def _labelled(classifier: Classifier, rows: Sequence[str | tuple[str, str]]) -> list[_Labelled]:
    loop = asyncio.get_running_loop()
    try:
        shares = await loop.run_in_executor(_READING, classifier.predict_proba, rows)
    except InputError as error:
        raise ApiError(400, str(error), param="input", code="invalid_value") from None
    labels = tuple(map(str, classifier.classes_))
    return [
        _Labelled(row if isinstance(row, str) else "\n".join(row), labels, tuple(map(float, each)))
        for row, each in zip(rows, shares, strict=True)
    ]


def _record(name: str, found: _Labelled, key: ApiKey | None, seconds: float) -> Inference:
    label = found.labels[found.best]
    return Inference(
        id=uuid.uuid4().hex,
        created_at=time.time(),
        adapter=name,
        version=1,
        question=found.text,
        messages=(),
        candidates=tuple(
            Candidate(*each) for each in zip(found.labels, found.labels, found.shares, strict=True)
        ),
        text=label,
        answer=label,
        status=str(AnswerStatus.ANSWERED),
        chosen=found.best,
        confidence=found.shares[found.best],
        task=TASK,
        key_id=None if key is None else key.id,
        seconds=seconds,
    )


def _on_wire(at: int, found: _Labelled, record: Inference) -> dict[str, Any]:
    return {
        "index": at,
        "label": record.text,
        "probs": list(found.shares),
        "num_classes": len(found.labels),
        "labels": list(found.labels),
        "inference_id": record.id,
    }
