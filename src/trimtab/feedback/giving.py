"""Feedback on a served answer: its candidates are named by number, and kept by what they say.

The text stands for the candidate from then on: feedback outlives the answer, and the same words drawn again
are the same candidate.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trimtab.data import Feedback, FeedbackKind
from trimtab.errors import InputError


class UnusableFeedbackError(InputError):
    """Feedback that does not fit the answer it is about; `field` is the part that is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


@dataclass(frozen=True, slots=True)
class Preference:
    """One candidate rather than another."""

    chosen: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Given:
    """What was said of one served answer; everything that is given counts."""

    right: bool | None = None  # the candidate is right, or wrong
    rating: float | None = None  # how good the candidate is, from 0 to 1
    comment: str | None = None  # on the candidate
    candidate: int = 0  # which one is meant
    demonstration: str | None = None  # what should have been answered
    preference: Preference | None = None
    ranking: tuple[int, ...] = ()  # best first


def feedback_from(
    given: Given,
    question: str,
    candidates: Sequence[str],
    *,
    inference_id: str,
    source: str,
    given_id: str | None = None,
) -> tuple[Feedback, ...]:
    """One row for each thing that was said.

    Args:
        given: what was said.
        question: that was answered.
        candidates: their texts, by the numbers that were used.
        inference_id: of the answer.
        source: who said it.
        given_id: the giver's own; what comes again under it is the same.

    Raises:
        UnusableFeedbackError: nothing was said, a number of no candidate, or a text against itself.
    """
    said = tuple(_parts(given, candidates))
    if not said:
        raise UnusableFeedbackError("body", f"nothing is said; give one of {', '.join(SAYABLE)}")
    return tuple(
        Feedback(question, kind, text, value, source, given_id, inference_id) for kind, text, value in said
    )


SAYABLE = ("right", "rating", "comment", "demonstration", "preference", "ranking")
_Part = tuple[FeedbackKind, str, str]


def _parts(given: Given, candidates: Sequence[str]) -> Iterator[_Part]:
    if given.right is not None:
        verdict = "right" if given.right else "wrong"
        yield FeedbackKind.VERDICT, _text(candidates, given.candidate, "candidate"), verdict
    if given.rating is not None:
        yield FeedbackKind.RATING, _text(candidates, given.candidate, "candidate"), _rated(given.rating)
    if given.comment is not None:
        about = _text(candidates, given.candidate, "candidate") if candidates or given.candidate else ""
        yield FeedbackKind.COMMENT, about, _worded(given.comment, "comment")
    if given.demonstration is not None:
        yield FeedbackKind.CORRECTION, _worded(given.demonstration, "demonstration"), ""
    if given.preference is not None:
        yield _preferred(given.preference, candidates)
    if given.ranking:
        yield _ranked(given.ranking, candidates)


def _preferred(preference: Preference, candidates: Sequence[str]) -> _Part:
    chosen = _text(candidates, preference.chosen, "preference.chosen")
    rejected = _text(candidates, preference.rejected, "preference.rejected")
    if chosen == rejected:
        raise UnusableFeedbackError("preference", "the two candidates say the same")
    return FeedbackKind.PREFERENCE, chosen, rejected


def _ranked(ranking: Sequence[int], candidates: Sequence[str]) -> _Part:
    if len(ranking) != len(set(ranking)):
        raise UnusableFeedbackError("ranking", "a candidate is ranked twice")
    texts = list(dict.fromkeys(_text(candidates, number, "ranking") for number in ranking))
    if len(texts) < 2:
        raise UnusableFeedbackError("ranking", "two candidates that say different things are needed")
    return FeedbackKind.RANKING, texts[0], json.dumps(texts[1:])


def _text(candidates: Sequence[str], number: int, field: str) -> str:
    if not 0 <= number < len(candidates):
        there = f"0 to {len(candidates) - 1}" if candidates else "there are none"
        raise UnusableFeedbackError(field, f"no candidate {number}; numbers: {there}")
    return candidates[number]


def _rated(rating: float) -> str:
    if not 0 <= rating <= 1:
        raise UnusableFeedbackError("rating", f"from 0 to 1, not {rating:g}")
    return repr(float(rating))


def _worded(text: str, field: str) -> str:
    if not text.strip():
        raise UnusableFeedbackError(field, "is empty")
    return text
