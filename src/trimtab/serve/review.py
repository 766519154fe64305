"""The review pages: an answer at a time, the least confident first, to be chosen from, refused or bettered.

What a choice says stands in `choices`, what is kept in `store.reviewing`, how pages are made in `pages`; the
pages of runs, in `runs`. All of it works without a script.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote, unquote

from fastapi import APIRouter, Depends, Form, Request
from starlette.responses import RedirectResponse, Response

from trimtab.data import Feedback
from trimtab.serve.choices import BETTER, NONE, agreement, better, choice, chosen, is_same, none_right
from trimtab.serve.errors import ApiError
from trimtab.serve.keys import Guard
from trimtab.serve.pages import PageRoute, asset, page
from trimtab.serve.runs import runs_router
from trimtab.store import ApiKey, Inference, Scope, Store
from trimtab.store.reviewing import RATER

COOKIE = "trimtab_rater"
A_YEAR_S = 365 * 24 * 3600
NAMELESS = "reviewer"
LONGEST_NAME = 60
LONGEST_TEXT = 20_000  # characters of an answer that a rater writes
A_PAGE = 50
LAST_SHARED = 200  # answers that agreement is computed from, the newest

Choice = Annotated[str, Form(max_length=20)]
Written = Annotated[str, Form(max_length=LONGEST_TEXT)]
Name = Annotated[str, Form(max_length=LONGEST_NAME)]


@dataclass(frozen=True, slots=True)
class Rater:
    """Who reviews."""

    name: str
    is_keyed: bool  # the name is that of the key and cannot be changed

    @property
    def source(self) -> str:
        """What feedback of theirs is said to come from."""
        return RATER + self.name


@dataclass(frozen=True, slots=True)
class Card:
    """One candidate on the page."""

    index: int  # among the candidates as they were drawn
    key: str  # that chooses it; empty beyond the ninth
    steps: tuple[str, ...]
    answer: str | None
    score: float | None
    is_mine: bool
    is_adapters: bool


@dataclass(frozen=True, slots=True)
class Item:
    """One answer on the page."""

    id: str
    question: str
    context: tuple[dict[str, str], ...]
    cards: tuple[Card, ...]
    mine: str  # what the rater has said of it before
    draft: str  # what a better answer is begun with


@dataclass(frozen=True, slots=True)
class Saved:
    """What was saved last, and only now what the adapter had thought."""

    id: str
    said: str
    adapters: str


def review_router(store: Store, guard: Guard) -> APIRouter:
    """The pages of reviews and of runs.

    Args:
        store: answers, feedback, runs.
        guard: makes a route need a key of a scope.
    """
    guarded = guard(Scope.REVIEW)
    router = APIRouter(
        route_class=PageRoute, dependencies=[Depends(refuse_other_sites)], include_in_schema=False
    )
    desk = _Desk(store)
    known = Depends(guarded)

    @router.get("/review")
    def begin(
        request: Request, after: str | None = None, done: str | None = None, key: ApiKey | None = known
    ) -> Response:
        rater = rater_of(request, key)
        return desk.shown(rater, store.next_to_review(rater.source, after=after), done=done)

    @router.get("/review/queue")
    def queue(request: Request, page: int = 0, key: ApiKey | None = known) -> Response:
        return desk.queue(rater_of(request, key), min(max(0, page), 1_000_000))

    @router.get("/review/item/{inference_id}")
    def item(
        request: Request, inference_id: str, draft: int | None = None, key: ApiKey | None = known
    ) -> Response:
        return desk.shown(rater_of(request, key), desk.found(inference_id), draft=draft)

    @router.post("/review/item/{inference_id}")
    def choose(
        request: Request,
        inference_id: str,
        choice: Choice,
        text: Written = "",
        key: ApiKey | None = known,
    ) -> Response:
        desk.save(rater_of(request, key), desk.found(inference_id), choice, text)
        at = quote(inference_id, safe="")
        return _to(f"/review?after={at}&done={at}")

    @router.post("/review/undo")
    def undo(request: Request, key: ApiKey | None = known) -> Response:
        undone = store.withdraw_review(rater_of(request, key).source)
        return _to("/review" if undone is None else f"/review/item/{quote(undone, safe='')}")

    @router.post("/review/rater")
    def rename(request: Request, name: Name, key: ApiKey | None = known) -> Response:
        answer = _to("/review")
        answer.set_cookie(
            COOKIE,
            quote(_tidy(name)),
            max_age=A_YEAR_S,
            path="/review",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return answer

    @router.get("/review/assets/{name}", dependencies=[known])
    def assets(name: str) -> Response:
        found = asset(name)
        if found is None:
            raise ApiError(404, "there is no such file", code="unknown_url")
        return found

    router.include_router(runs_router(store, guard))
    return router


def refuse_other_sites(request: Request) -> None:
    """Raises ApiError (403) where a page of another site writes, whatever key its browser sends along."""
    if request.method in ("GET", "HEAD"):
        return
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    is_ours = origin is None or origin.partition("://")[2] == request.headers.get("host", "")
    if not is_ours or site not in ("same-origin", "none"):
        raise ApiError(403, "this came from a page of another site", code="cross_site")


def rater_of(request: Request, key: ApiKey | None) -> Rater:
    """Who reviews: whose key it is, or the name that the browser keeps."""
    if key is not None:
        return Rater(_tidy(key.name), is_keyed=True)
    return Rater(_tidy(unquote(request.cookies.get(COOKIE, ""))), is_keyed=False)


def _tidy(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name).strip()[:LONGEST_NAME] or NAMELESS


def _to(path: str) -> RedirectResponse:
    return RedirectResponse(path, 303)


class _Desk:
    """What the routes do."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def found(self, inference_id: str) -> Inference:
        """The answer. Raises ApiError (404)."""
        found = self._store.inference(inference_id)
        if found is None or not found.candidates:
            raise ApiError(404, "there is no such answer to review", code="unknown_inference")
        return found

    def save(self, rater: Rater, inference: Inference, made: str, text: str) -> None:
        """Keeps a review; an earlier one of the same rater goes. Raises ApiError (400)."""
        review = _review(inference, made, text, rater.source)
        self._store.withdraw_review(rater.source, inference.id)
        self._store.add_feedback(review)

    def shown(
        self, rater: Rater, inference: Inference | None, *, done: str | None = None, draft: int | None = None
    ) -> Response:
        """The page of one answer, or of none."""
        item = None if inference is None else self._item(rater, inference, draft)
        return page(
            "review.html",
            here="review",
            item=item,
            saved=None if done is None else self._saved(rater, done),
            longest=LONGEST_TEXT,
            **self._frame(rater),
        )

    def queue(self, rater: Rater, number: int) -> Response:
        """A page of the answers that wait."""
        first = number * A_PAGE
        waiting = self._store.review_queue(rater.source, limit=A_PAGE + 1, offset=first)
        return page(
            "queue.html",
            here="queue",
            waiting=waiting[:A_PAGE],
            first=first + 1,
            earlier=number - 1 if number else None,
            later=number + 1 if len(waiting) > A_PAGE else None,
            **self._frame(rater),
        )

    def _frame(self, rater: Rater) -> dict[str, Any]:
        midnight = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
        return {
            "rater": rater,
            "progress": self._store.review_progress(rater.source, since=midnight.timestamp()),
            "agreement": agreement(self._store.shared_reviews(limit=LAST_SHARED)),
        }

    def _item(self, rater: Rater, inference: Inference, draft: int | None) -> Item:
        review = self._store.review(rater.source, inference.id)
        begun = _written(review) if draft is None else _text_of(inference, draft)
        return Item(
            inference.id,
            inference.question,
            tuple(_context(inference)),
            tuple(_cards(inference, rater.source, choice(inference, review), is_reviewed=bool(review))),
            _in_words(inference, review),
            begun,
        )

    def _saved(self, rater: Rater, inference_id: str) -> Saved | None:
        inference = self._store.inference(inference_id)
        review = () if inference is None else self._store.review(rater.source, inference_id)
        if inference is None or not review:
            return None
        return Saved(
            inference_id, _in_words(inference, review), _adapters(inference, choice(inference, review))
        )


def _review(inference: Inference, made: str, text: str, source: str) -> tuple[Feedback, ...]:
    if made == NONE:
        return none_right(inference, source)
    if made == BETTER:
        if not text.strip():
            raise ApiError(400, "the better answer is empty; write it, or choose another way", code="empty")
        return better(inference, text.replace("\r\n", "\n").strip(), source)
    if not re.fullmatch(r"\d{1,4}", made) or int(made) >= len(inference.candidates):
        raise ApiError(400, "there is no such candidate", code="invalid_value", param="choice")
    return chosen(inference, int(made), source)


# --------------------------------------------------------------------------- what is shown


def _cards(inference: Inference, source: str, mine: str | int | None, *, is_reviewed: bool) -> Iterator[Card]:
    """Each text once, in the rater's own order; what the adapter thought of them only after the review."""
    texts = [each.text for each in inference.candidates]
    first = [at for at, text in enumerate(texts) if text.strip() and texts.index(text) == at]
    random.Random(f"{source}:{inference.id}").shuffle(first)
    adapters = None if inference.chosen is None else texts[inference.chosen]
    for number, at in enumerate(first, 1):
        each = inference.candidates[at]
        yield Card(
            at,
            str(number) if number < 10 else "",
            tuple(line for line in each.text.split("\n") if line.strip()),
            each.answer,
            each.score if is_reviewed else None,
            isinstance(mine, int) and texts[mine] == each.text,
            is_reviewed and each.text == adapters,
        )


def _context(inference: Inference) -> Iterator[dict[str, str]]:
    """The messages before the question, as text."""
    for message in inference.messages:
        text = _plain(message.get("content"))
        if text.strip() and text.strip() != inference.question.strip():
            yield {"role": str(message.get("role", "")), "text": text}


def _plain(content: Any) -> str:
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _written(review: Sequence[Feedback]) -> str:
    return next((said.text for said in review if said.kind == "correction"), "")


def _text_of(inference: Inference, index: int) -> str:
    return inference.candidates[index].text if 0 <= index < len(inference.candidates) else ""


def _in_words(inference: Inference, review: Sequence[Feedback]) -> str:
    """What a rater has said, in a sentence; empty if nothing."""
    if not review:
        return ""
    made = choice(inference, review)
    if made == BETTER:
        return "you wrote a better answer."
    if isinstance(made, int):
        answer = inference.candidates[made].answer
        return f"you chose the answer {answer}." if answer else "you chose one of them as the best."
    return "none of them is right."


def _adapters(inference: Inference, made: str | int | None) -> str:
    """What the adapter had chosen, and how sure it was."""
    if inference.chosen is None:
        return ""
    took = inference.candidates[inference.chosen]
    what = took.answer or "another"
    if isinstance(made, int) and is_same(inference.candidates[made], took):
        what = "the same"
    sure = inference.confidence
    how_sure = "" if sure is None else f", with a confidence of {100 * sure:.0f} %"
    return f"The adapter had chosen {what}{how_sure}."
