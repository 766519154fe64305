"""A store with answers to review, and an application of the review pages alone."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI

from trimtab.serve.errors import shape_errors
from trimtab.serve.review import review_router
from trimtab.store import ApiKey, Inference, Store
from trimtab.types import Candidate

TEXTS = (
    ("3 boxes of 4 pens.\nThat makes 3 * 4 = 12.\nThe answer is 12.", "12"),
    ("3 + 4 = 7.\nThe answer is 7.", "7"),
    ("Four and four and four are twelve.\nThe answer is 12.", "12"),
)


def served(number: int = 0, **changed: object) -> Inference:
    """An answer of an adapter; the smaller the number, the less sure it was."""
    known: dict[str, object] = {
        "id": f"inf-{number}",
        "created_at": 1000.0 + number,
        "adapter": "sums",
        "version": 1,
        "question": f"How many pens are in the 3 boxes of lot {number}?",
        "messages": ({"role": "user", "content": f"How many pens are in the 3 boxes of lot {number}?"},),
        "candidates": tuple(Candidate(text, answer, -0.5 - at) for at, (text, answer) in enumerate(TEXTS)),
        "text": TEXTS[0][0],
        "status": "answered",
        "chosen": 0,
        "answer": "12",
        "confidence": 0.1 + number / 100,
        "score": 7.25,
    }
    return Inference(**{**known, **changed})


def filled(store: Store, count: int = 30) -> Store:
    """The store, with so many answers in it."""
    store.add_inferences([served(number) for number in range(count)])
    return store


def pages(store: Store, key: Callable[[], ApiKey | None] = lambda: None) -> FastAPI:
    """The pages over a store; whoever asks has this key, or none."""
    app = FastAPI()
    app.include_router(review_router(store, lambda scope: key))
    shape_errors(app)
    return app
