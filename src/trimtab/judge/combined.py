"""Several judges as one: the paper's fourth source, ground truth plus AI-preferred."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import add

from trimtab.types import Candidate, Judge, Judgement, Question, Usage

FIRM = frozenset({"ground_truth", "human"})  # sources that call an answer wrong, not merely less preferred


class Combined:
    """The union of what the judges select, within what the firm ones allow.

    Paper: SEL's fourth source. A candidate is a positive if any judge selects it, unless ground truth or a
    person calls it wrong: then an AI's preference does not count, and if another firm judge selects it, it is
    left out. It is a negative if a judge holds it against the others and none selects it, or a firm one
    calls it wrong and no firm one selects it. Extra positives are all judges' together.

    Args:
        judges: at least one; asked in this order.
    """

    def __init__(self, first: Judge, *others: Judge) -> None:
        self._judges = (first, *others)

    @property
    def name(self) -> str:
        """The source recorded with its judgements."""
        return "combined"

    async def judge(self, question: Question, candidates: Sequence[Candidate]) -> Judgement:
        """All judges' decisions as one. Raises what a judge raises."""
        given = [await judge.judge(question, candidates) for judge in self._judges]
        positives, negatives = _sides(given)
        extra = dict.fromkeys(text for judgement in given for text in judgement.extra_positives)
        return Judgement(
            question.id,
            positives=tuple(sorted(positives)),
            negatives=tuple(sorted(negatives)),
            source=self.name,
            extra_positives=tuple(extra),
            unreadable=sum(judgement.unreadable for judgement in given),
            usage=reduce(add, (judgement.usage for judgement in given), Usage()),
        )


def _sides(given: Sequence[Judgement]) -> tuple[set[int], set[int]]:
    firm = [judgement for judgement in given if judgement.source in FIRM]
    selected = _union(judgement.positives for judgement in given)
    against = _union(judgement.negatives for judgement in given)
    vetoed = _union(judgement.negatives for judgement in firm)
    upheld = _union(judgement.positives for judgement in firm)
    return selected - vetoed, (against - selected) | (vetoed - upheld)


def _union(sides: Iterable[tuple[int, ...]]) -> set[int]:
    return {at for side in sides for at in side}
