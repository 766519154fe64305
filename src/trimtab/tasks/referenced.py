"""The one kind of task that ships: functions put together, held against the reference of the row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trimtab.types import Prompt, Question, Verdict

Prompting = Callable[[Question, str], Prompt]
Reader = Callable[[Question, str], str | None]


@dataclass(frozen=True, slots=True)
class ReferencedTask:
    """A task made of functions; implements `trimtab.types.Task`.

    `read` gives the canonical final answer of a text, `refer` that of a reference, `states` says whether the
    explicit form that the prompt asks for has been reached. `is_comparable` False means that an answer which
    equals no reference is unjudged rather than wrong.
    """

    name: str
    prompting: Prompting
    read: Reader
    refer: Reader
    states: Callable[[str], bool]
    split: Callable[[str], tuple[str, ...]]
    is_comparable: bool = True
    step_stops: tuple[str, ...] = ("\n",)

    def prompt(self, question: Question, chain: str = "") -> Prompt:
        """The prompt; the answer so far travels in the user turn."""
        return self.prompting(question, chain)

    def steps(self, text: str) -> tuple[str, ...]:
        """The steps of an answer; joined they are the text again."""
        return self.split(text)

    def is_finished(self, chain: str) -> bool:
        """True when the chain states its final answer in the form that the prompt asks for."""
        return self.states(chain)

    def final_answer(self, question: Question, text: str) -> str | None:
        """The canonical final answer, or None when none can be read."""
        return self.read(question, text)

    def verdict(self, question: Question, text: str) -> Verdict:
        """What the reference says: unjudged without one, unreadable before wrong."""
        right = self._references(question, (question.answer, *question.correct_answers))
        if not right:
            return Verdict.UNJUDGED
        answer = self.final_answer(question, text)
        if answer is None:
            return Verdict.UNREADABLE
        if answer in right:
            return Verdict.RIGHT
        known_wrong = self.is_comparable or answer in self._references(question, question.incorrect_answers)
        return Verdict.WRONG if known_wrong else Verdict.UNJUDGED

    def _references(self, question: Question, written: tuple[str | None, ...]) -> frozenset[str]:
        read = (self.refer(question, reference) for reference in written if reference is not None)
        return frozenset(answer for answer in read if answer is not None)


def held_against(question: Question, answer: str | None) -> Verdict:
    """The verdict on a final answer that must equal the question's reference as it is written."""
    if question.answer is None:
        return Verdict.UNJUDGED
    if answer is None:
        return Verdict.UNREADABLE
    return Verdict.RIGHT if answer == question.answer else Verdict.WRONG
