"""POST /feedback: what people say of served answers, by the answer's id.

It takes an answer as it stands in the store, so that feedback may come days later and to another process.
What is learnt from it is `adapt`'s; how much one source's word counts, `feedback.guards`'.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from trimtab.errors import InputError
from trimtab.feedback import Given, Preference, UnusableFeedbackError, feedback_from
from trimtab.serve.answering import best_first
from trimtab.serve.errors import ApiError
from trimtab.serve.keys import Guard
from trimtab.store import ApiKey, Inference, Scope, Store

LONGEST = 100_000  # characters of a demonstration or comment
MINUTE_S = 60.0
NOBODY = "local"  # who gives feedback where no key is needed


def _in_unicode(text: str) -> str:
    text.encode("utf-8")  # half a surrogate pair is a ValueError, which is refused as any other bad value
    return text


Words = Annotated[str, Field(min_length=1, max_length=LONGEST), AfterValidator(_in_unicode)]
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_in_unicode)]
Number = Annotated[int, Field(ge=0, lt=10_000)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PreferenceCall(_Body):
    """One choice of a completion rather than another."""

    chosen: Number
    rejected: Number


class FeedbackCall(_Body):
    """What is said of one served answer. Candidates are numbered as the choices of a completion: 0 is the
    answer that was given, then the others by score, also those that were not sent.
    """  # noqa: D205  # one sentence, shown whole in the OpenAPI document

    inference_id: Name
    id: Name | None = Field(None, description="Yours; what comes again under it is the same feedback.")
    user: Name | None = Field(None, description="Who says it, where one key speaks for many.")
    right: bool | None = Field(None, description="The candidate is right, or wrong.")
    rating: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="How good it is.")
    comment: Words | None = Field(None, description="On the candidate, for people to read.")
    candidate: Number = Field(0, description="Which candidate these three are about.")
    demonstration: Words | None = Field(None, description="What should have been answered.")
    preference: PreferenceCall | None = None
    ranking: Annotated[tuple[Number, ...], Field(min_length=2, max_length=256, strict=False)] | None = Field(
        None, description="Candidates, best first."
    )

    @property
    def given(self) -> Given:
        """What is said, without whom and what about."""
        pair = self.preference
        preferred = None if pair is None else Preference(pair.chosen, pair.rejected)
        about = self.right, self.rating, self.comment, self.candidate
        return Given(*about, self.demonstration, preferred, self.ranking or ())


class FeedbackTaken(BaseModel):
    """What became of it."""

    inference_id: str
    accepted: int = Field(description="Things that were said.")
    new: int = Field(description="Those that had not been said before.")


@dataclass(frozen=True, slots=True)
class FeedbackLimits:
    """How often one source may speak."""

    per_minute: int = 120


def feedback_router(
    store: Store,
    guard: Guard,
    *,
    limits: FeedbackLimits | None = None,
    clock: Callable[[], float] = time.time,
) -> APIRouter:
    """The routes POST /feedback and /v1/feedback."""
    router = APIRouter()
    chosen = limits or FeedbackLimits()
    giver = Depends(guard(Scope.FEEDBACK))

    def take(call: FeedbackCall, key: ApiKey | None = giver) -> FeedbackTaken:
        """Keeps what is said of a served answer. The same again is taken and changes nothing."""
        inference = _answer(store, call.inference_id, key)
        source = source_of(key, call.user)
        _refuse_flood(store, source, chosen, clock())
        return _kept(store, call, inference, source)

    router.post("/feedback", operation_id="feedback")(take)
    router.post("/v1/feedback", operation_id="feedback_v1")(take)
    return router


def source_of(key: ApiKey | None, user: str | None) -> str:
    """Who speaks: a key's id, and the user whom its holder names; two keys' users are never one."""
    holder = NOBODY if key is None else key.id
    return holder if user is None else f"{holder}/{user}"


def _answer(store: Store, inference_id: str, key: ApiKey | None) -> Inference:
    """The answer that is meant. Raises ApiError: 404, also for one of another key's adapter; 410."""
    found = store.inference(inference_id)
    if found is None or not _may_ask(key, found.adapter or found.upstream):
        raise ApiError(
            404, "there is no such inference, or not for this key", param="inference_id", code="no_inference"
        )
    if found.forgotten_at is not None:
        raise ApiError(
            410,
            "what was answered is kept no longer, so that nothing can be learnt from what is said of it",
            param="inference_id",
            code="forgotten",
        )
    return found


def _may_ask(key: ApiKey | None, model: str) -> bool:
    return key is None or key.adapters is None or model in key.adapters


def _refuse_flood(store: Store, source: str, limits: FeedbackLimits, now: float) -> None:
    if store.count_feedback(source, since=now - MINUTE_S) >= limits.per_minute:
        raise ApiError(
            429,
            f"one source may say {limits.per_minute} things a minute",
            code="feedback_rate",
            retry_after_s=MINUTE_S,
        )


def _kept(store: Store, call: FeedbackCall, inference: Inference, source: str) -> FeedbackTaken:
    texts = [each.text for each in best_first(inference)]
    try:
        said = feedback_from(
            call.given,
            inference.question,
            texts,
            inference_id=inference.id,
            source=source,
            given_id=call.id,
        )
    except UnusableFeedbackError as error:
        raise ApiError(400, str(error), param=error.field, code="unusable_feedback") from None
    try:
        new = store.add_feedback(said)
    except InputError:
        raise ApiError(
            409, "this id stands with other words already; give another", param="id", code="id_taken"
        ) from None
    return FeedbackTaken(inference_id=inference.id, accepted=len(said), new=new)
