"""From judgement to training unit: Eq. 5 and 6 as pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trimtab.types import Candidate, Contrast, Judgement, Question


def select(
    previous_positives: Sequence[str], candidates: Sequence[Candidate], judgement: Judgement
) -> tuple[str, ...]:
    """The positives after this judgement, earlier ones first, each text once.

    Paper: y+ = SEL(previous positives, draws), Eq. 5. The newest judgement decides: an earlier positive that
    it holds negative is one no more.
    """
    chosen = _chosen(candidates, judgement)
    retracted = _keys(candidates[at].text for at in judgement.negatives) - _keys(chosen)
    kept = [text for text in previous_positives if _key(text) not in retracted]
    return _distinct([*kept, *chosen])


def contrast(
    question: Question,
    candidates: Sequence[Candidate],
    judgement: Judgement,
    earlier: Sequence[str] | None = None,
) -> Contrast | None:
    """One question's positives against its negatives, or None where a side would be empty.

    Paper: Eq. 5 for the positives, Eq. 6 for the negatives. Texts that differ only in the white space around
    them are one; a text that would stand on both sides of one judgement is a positive.
    Differs: Eq. 6 takes every draw not selected; the judge says which draws it holds against the positives,
    so that one it could not judge is on neither side.

    Args:
        question: written to the encoder with its choices.
        candidates: in the order that was judged.
        judgement: on these candidates.
        earlier: positives of earlier rounds.
    """
    positives = select(earlier or (), candidates, judgement)
    taken = _keys(positives)
    against = _distinct(candidates[at].text for at in judgement.negatives)
    negatives = tuple(text for text in against if _key(text) not in taken)
    if not (positives and negatives):
        return None
    return Contrast(question.id, question.with_choices, positives, negatives)


def _chosen(candidates: Sequence[Candidate], judgement: Judgement) -> list[str]:
    texts = [*(candidates[at].text for at in judgement.positives), *judgement.extra_positives]
    return [text for text in texts if _key(text)]


def _key(text: str) -> str:
    return text.strip()


def _keys(texts: Iterable[str]) -> set[str]:
    return {_key(text) for text in texts}


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    first: dict[str, str] = {}
    for text in texts:
        first.setdefault(_key(text), text)
    return tuple(first.values())
