"""`RecordedLLM`: logged answers in the place of a black box. No network, no cost, no chance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from trimtab.errors import NoRecordError
from trimtab.types import Completion, Completions, Prompt, Recorded, Sample, Sampling, Usage


class RecordedLLM:
    """Replays recorded answers, found by `Prompt.question_id`.

    A request for n gets n different recorded answers in the order recorded, starting at number
    `sampling.seed` (0 without one) plus `sampling.start`, modulo their count, and going on from the first
    after the last. The rest of the sampling cannot change what was said long ago and is not looked at.
    Usage is zero.

    Args:
        recorded: the questions with their answers; rows that share an id follow one another.
        name: what is recorded as the model's name.
    """

    def __init__(self, recorded: Sequence[Recorded], name: str = "recorded") -> None:
        self._name = name
        self._samples: dict[str, list[Sample]] = defaultdict(list)
        for row in recorded:
            self._samples[row.question.id].extend(row.samples)

    @property
    def name(self) -> str:
        """What is recorded as the model's name."""
        return self._name

    def recorded(self, question_id: str) -> int:
        """How many answers are recorded for this question."""
        return len(self._samples.get(question_id, ()))

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """`sampling.n` recorded answers to the prompt's question.

        Raises:
            NoRecordError: the question is not recorded, or with fewer answers than asked for.
        """
        samples = self._samples.get(prompt.question_id or "", [])
        if len(samples) < max(1, sampling.n):
            raise NoRecordError(_shortage(self._name, prompt.question_id, len(samples), sampling.n))
        start = ((sampling.seed or 0) + sampling.start) % len(samples)
        drawn = (samples[start:] + samples[:start])[: sampling.n]
        return Completions(tuple(Completion(sample.text) for sample in drawn), Usage(), self._name)


def _shortage(name: str, question_id: str | None, count: int, asked: int) -> str:
    if question_id is None:
        return f"{name}: recorded answers are found by the question's id, and this prompt carries none."
    if count == 0:
        return (
            f"{name}: no answer is recorded for question '{question_id}'; ask a live model, or leave it out."
        )
    return (
        f"{name}: {asked} answers were asked for question '{question_id}', and {count} are recorded; "
        f"ask for {count} at most."
    )
