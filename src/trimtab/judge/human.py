"""People's verdicts, preferences and corrections. Where they are kept is not this room's concern."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from trimtab.data import Feedback
from trimtab.feedback import votes
from trimtab.types import Candidate, Judgement, Question


class Human:
    """Feedback as judge: what people call right is a positive, what they call wrong a negative.

    Paper: SEL's second source, of which the paper gives no experiment.

    Each verdict is a vote on its text. A preference is a vote for the preferred text and one against the
    rejected; a correction is a vote for itself; ratings and rankings are votes in part (`feedback.votes`).
    The majority holds; a tie, like silence, leaves a text out.
    A text that people call right is a positive even if it was not drawn. Texts are compared without the
    white space around them.

    Args:
        feedback: what was said on a question, found by the question's text.
    """

    def __init__(self, feedback: Callable[[str], Sequence[Feedback]]) -> None:
        self._feedback = feedback

    @property
    def name(self) -> str:
        """The source recorded with its judgements."""
        return "human"

    async def judge(self, question: Question, candidates: Sequence[Candidate]) -> Judgement:
        """What people said of these candidates; those nobody spoke of are left out."""
        balance = _balance(self._feedback(question.text))
        drawn = [candidate.text.strip() for candidate in candidates]
        return Judgement(
            question.id,
            positives=tuple(at for at, text in enumerate(drawn) if balance[text] > 0),
            negatives=tuple(at for at, text in enumerate(drawn) if balance[text] < 0),
            source=self.name,
            extra_positives=tuple(text for text, vote in balance.items() if vote > 0 and text not in drawn),
        )


def _balance(said: Sequence[Feedback]) -> dict[str, float]:
    """Votes for each text minus votes against it, in the order in which the texts came up."""
    balance: dict[str, float] = defaultdict(float)
    for feedback in said:
        for text, vote in votes(feedback):
            balance[text.strip()] += vote
    return balance
