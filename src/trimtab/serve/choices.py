"""What a rater's choice says: the rows of feedback it becomes, and the choice that rows stand for. Pure.

the best of them    it is right, and preferred to every answer that comes to something else
none is right       each of them is wrong
a better one        this is what the answer should have been
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from trimtab.data import Feedback, FeedbackKind
from trimtab.evaluate.agreement import krippendorff_alpha
from trimtab.store import Inference
from trimtab.types import Candidate

NONE, BETTER = "none", "better"


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far raters agree on the answers that several of them have reviewed."""

    alpha: float | None
    raters: int
    answers: int


def chosen(inference: Inference, index: int, source: str) -> tuple[Feedback, ...]:
    """What choosing a candidate says; an answer that comes to the same is not held against it."""
    best = inference.candidates[index]
    others = (each.text for each in inference.candidates if each.text.strip() and not is_same(each, best))
    preferred = [(FeedbackKind.PREFERENCE, best.text, text) for text in dict.fromkeys(others)]
    return _rows(inference, source, [(FeedbackKind.VERDICT, best.text, "right"), *preferred])


def none_right(inference: Inference, source: str) -> tuple[Feedback, ...]:
    """What choosing none of them says."""
    texts = dict.fromkeys(each.text for each in inference.candidates if each.text.strip())
    return _rows(inference, source, [(FeedbackKind.VERDICT, text, "wrong") for text in texts])


def better(inference: Inference, text: str, source: str) -> tuple[Feedback, ...]:
    """What writing another answer says."""
    return _rows(inference, source, [(FeedbackKind.CORRECTION, text, "")])


def _rows(
    inference: Inference, source: str, said: Sequence[tuple[FeedbackKind, str, str]]
) -> tuple[Feedback, ...]:
    return tuple(
        Feedback(inference.question, kind, text, value, source, f"review-{number}", inference.id)
        for number, (kind, text, value) in enumerate(said)
    )


def choice(inference: Inference, review: Sequence[Feedback]) -> str | int | None:
    """The index of the chosen candidate, `none` or `better`; None where the rows are no review."""
    for said in review:
        if said.kind is FeedbackKind.CORRECTION:
            return BETTER
        if said.kind is FeedbackKind.VERDICT:
            return _index(inference, said.text) if said.value == "right" else NONE
    return None


def _index(inference: Inference, text: str) -> int | None:
    return next((at for at, each in enumerate(inference.candidates) if each.text == text), None)


def agreement(shared: Sequence[tuple[Inference, Mapping[str, Sequence[Feedback]]]]) -> Agreement:
    """How far raters agree; choosing answers that come to the same is the same, and so is refusing all."""
    units = [list(_labels(inference, by_rater)) for inference, by_rater in shared]
    raters = {rater for _, by_rater in shared for rater in by_rater}
    return Agreement(krippendorff_alpha(units), len(raters), sum(len(unit) > 1 for unit in units))


def _labels(inference: Inference, by_rater: Mapping[str, Sequence[Feedback]]) -> Iterator[str]:
    for review in by_rater.values():
        found = choice(inference, review)
        if isinstance(found, int):
            best = inference.candidates[found]
            yield str(next(at for at, each in enumerate(inference.candidates) if is_same(each, best)))
        elif found is not None:
            yield NONE


def is_same(one: Candidate, other: Candidate) -> bool:
    """True where two read the same, or come to the same final answer."""
    return one.text == other.text or (one.answer is not None and one.answer == other.answer)
