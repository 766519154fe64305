"""Ground truth: the reference says which answers are right."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.types import Candidate, Judgement, Question, Task, Verdict


class GroundTruth:
    """Outcome supervision by the task's verdict, with the reference solution as a further positive.

    Paper: SEL's first source. A draw whose final answer is the accepted one is a positive; one that is wrong
    or whose final answer cannot be read is a negative; one that cannot be judged is neither.
    Differs: a reference solution is taken only if its own final answer reads as the reference; the
    paper takes it unread.

    Args:
        task: gives the verdict where the candidate does not carry one.
        use_rationale: take the question's reference solution as a positive.
    """

    def __init__(self, task: Task, *, use_rationale: bool = True) -> None:
        self._task = task
        self._use_rationale = use_rationale

    @property
    def name(self) -> str:
        """The source recorded with its judgements."""
        return "ground_truth"

    async def judge(self, question: Question, candidates: Sequence[Candidate]) -> Judgement:
        """Which candidates the reference calls right, and which wrong."""
        verdicts = [self._verdict(question, candidate) for candidate in candidates]
        against = (Verdict.WRONG, Verdict.UNREADABLE)
        return Judgement(
            question.id,
            positives=tuple(at for at, verdict in enumerate(verdicts) if verdict is Verdict.RIGHT),
            negatives=tuple(at for at, verdict in enumerate(verdicts) if verdict in against),
            source=self.name,
            extra_positives=self._solution(question),
        )

    def _verdict(self, question: Question, candidate: Candidate) -> Verdict:
        if candidate.verdict is not Verdict.UNJUDGED:
            return candidate.verdict
        return self._task.verdict(question, candidate.text)

    def _solution(self, question: Question) -> tuple[str, ...]:
        if not (self._use_rationale and question.rationale):
            return ()
        is_right = self._task.verdict(question, question.rationale) is Verdict.RIGHT
        return (question.rationale,) if is_right else ()
