"""What people said of served answers becomes lessons, and questions to choose by and to hold out.

A question's place is settled by its hash, for good: it is learnt from, or it chooses (early stopping,
calibration, the vote's temperature), or it is held out and shows what a new version is worth. How votes are
weighed is `feedback.guards`'; a version is trained on lessons in `new_version`. No torch in here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from trimtab.data import question_hash, split
from trimtab.feedback import Guarded, GuardSettings, guarded, texts_of
from trimtab.store import Heard, Inference
from trimtab.types import Candidate, Contrast, Pool, Question, Task, Verdict

SHARES = {"learn": 0.7, "choose": 0.1, "hold": 0.2}  # of the questions that anything was said on
SALT = "feedback"


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one question teaches, and when it was last spoken of."""

    contrast: Contrast
    at: float  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class Taught:
    """What feedback comes to, before anything is trained."""

    lessons: tuple[Lesson, ...]
    choosing: tuple[Pool, ...]  # judged, as the two below
    held_out: tuple[Pool, ...]  # one a question: as it was answered last
    guarded: Guarded
    counts: Mapping[str, int]  # what became of everything that was said


# --------------------------------------------------------------------------- from votes to lessons


def taught(
    heard: Sequence[Heard],
    inferences: Mapping[str, Inference],
    task: Task,
    guards: GuardSettings,
    references: Sequence[Question] = (),
    frozen: Iterable[str] = (),
) -> Taught:
    """The lessons of feedback, and the questions that choose or are held out.

    Args:
        heard: everything that was said, in the order it came.
        inferences: the answers it is about, by id.
        task: reads final answers, so that wordings of one answer are voted on together.
        guards: how votes are weighed.
        references: questions with a known answer: what a source says of those tells how far to believe it.
        frozen: texts of questions that are held out elsewhere; nothing is learnt on them.
    """
    reading = _Reading(task, inferences.values())
    truth = _truth_by(task, references)
    said = [each.said for each in heard]
    kept = guarded(said, guards, meaning=reading.meaning, truth=truth)
    shown = _shown(heard, inferences)
    pools = [reading.judged(asked, shown.get(asked), kept) for asked in kept.standings]
    parts = _parted(pools, {question_hash(text) for text in frozen})
    spoken_at = {question_hash(each.said.question): each.at for each in heard}  # the last time counts
    found = [(reading.contrast(pool, kept), spoken_at[pool.question.id]) for pool in parts["learn"]]
    lessons = tuple(Lesson(contrast, at) for contrast, at in found if contrast)
    counts = {
        **kept.counts,
        "questions": len(pools),
        "lessons": len(lessons),
        "one_sided": len(found) - len(lessons),
        "choosing": len(parts["choose"]),
        "held_out": len(parts["hold"]),
    }
    return Taught(lessons, parts["choose"], parts["hold"], kept, counts)


class _Reading:
    """What texts say, as the task reads them or as it read them when they were served."""

    def __init__(self, task: Task, inferences: Iterable[Inference]) -> None:
        self.task = task
        self.known = {
            (question_hash(each.question), candidate.text): candidate.answer
            for each in inferences
            for candidate in each.candidates
        }

    def answer(self, question: str, text: str) -> str | None:
        """The canonical final answer; None where there is none, or answers do not compare."""
        place = question_hash(question), text
        if place not in self.known:
            self.known[place] = self.task.final_answer(Question(place[0], question), text)
        return self.known[place] if self.task.is_comparable else None

    def meaning(self, question: str, text: str) -> str:
        """What is voted on: the final answer, else the text without the white space around it."""
        answer = self.answer(question, text)
        return text.strip() if answer is None else f"answer {answer}"

    def judged(self, asked: str, shown: Inference | None, kept: Guarded) -> Pool:
        """The question's last served candidates, with what people found of each."""
        standings = kept.standings[asked]
        text = shown.question if shown else standings[0].question
        right = {self.meaning(text, each) for each in texts_of(standings, right=True)}
        wrong = {self.meaning(text, each) for each in texts_of(standings, right=False)}
        candidates = shown.candidates if shown else ()
        return Pool(
            Question(asked, text),
            tuple(replace(each, verdict=self._verdict(text, each, right, wrong)) for each in candidates),
        )

    def _verdict(self, question: str, candidate: Candidate, right: set[str], wrong: set[str]) -> Verdict:
        meaning = self.meaning(question, candidate.text)
        if meaning in right:
            return Verdict.RIGHT
        if meaning in wrong:
            return Verdict.WRONG
        if right and self.task.is_comparable:  # one answer is right, so every other is not
            return Verdict.WRONG if candidate.answer is not None else Verdict.UNREADABLE
        return Verdict.UNJUDGED

    def contrast(self, pool: Pool, kept: Guarded) -> Contrast | None:
        """What was found right against all that was not; None where one side is empty.

        As in Eq. 6 every candidate that was not selected is a negative, once something was.
        """
        standings = kept.standings[pool.question.id]
        is_right = {each.text: each.verdict is Verdict.RIGHT for each in pool.candidates}
        positives = _distinct(
            [*(text for text, right in is_right.items() if right), *texts_of(standings, right=True)]
        )
        others = [*(text for text, right in is_right.items() if not right), *texts_of(standings, right=False)]
        taken = {text.strip() for text in positives}
        negatives = _distinct(text for text in others if text.strip() not in taken)
        if not (positives and negatives):
            return None
        return Contrast(pool.question.id, pool.question.text, positives, negatives)


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    first: dict[str, str] = {}
    for text in texts:
        if text.strip():
            first.setdefault(text.strip(), text)
    return tuple(first.values())


def _shown(heard: Sequence[Heard], inferences: Mapping[str, Inference]) -> dict[str, Inference]:
    """Each question's last answer that anything was said of."""
    about = (inferences.get(each.said.inference_id or "") for each in heard)
    by_age = sorted((each for each in about if each), key=lambda each: each.created_at)
    return {question_hash(each.question): each for each in by_age}


def _truth_by(task: Task, references: Sequence[Question]) -> Callable[[str, str], bool | None]:
    known = {question_hash(each.with_choices): each for each in references}
    told = {Verdict.RIGHT: True, Verdict.WRONG: False, Verdict.UNREADABLE: False}

    def truth(question: str, text: str) -> bool | None:
        reference = known.get(question_hash(question))
        return None if reference is None else told.get(task.verdict(reference, text))

    return truth


def _parted(pools: Sequence[Pool], frozen: set[str]) -> dict[str, tuple[Pool, ...]]:
    """The pools by what they are for; those that could show nothing choose nothing and are not held out."""
    free = [pool for pool in pools if pool.question.id not in frozen]
    by_text = {pool.question.id: pool for pool in free}
    parts = split([pool.question for pool in free], SHARES, SALT)
    found = {name: tuple(by_text[each.id] for each in asked) for name, asked in parts.items()}
    return {
        name: part if name == "learn" else tuple(pool for pool in part if len(pool.candidates) > 1)
        for name, part in found.items()
    }


def shadow(found: Taught, recent: Sequence[Inference]) -> tuple[Pool, ...]:
    """Recent answers that the new version did not learn from, the newest of each question.

    Those of held-out questions are judged; of the others nothing is known but what was drawn.
    """
    judged = {pool.question.id: pool for pool in found.held_out}
    spoken_of = found.guarded.standings.keys()
    newest: dict[str, Inference] = {}
    for each in recent:
        if each.candidates:
            newest.setdefault(question_hash(each.question), each)
    return tuple(
        judged.get(asked) or Pool(Question(asked, each.question), each.candidates)
        for asked, each in newest.items()
        if asked in judged or asked not in spoken_of
    )


def contrasts_of(pools: Iterable[Pool]) -> Iterator[Contrast]:
    """Right against other answers of judged pools: what an adapter was first trained on, to be replayed."""
    for pool in pools:
        right = _distinct(each.text for each in pool.candidates if each.verdict is Verdict.RIGHT)
        wrong = _distinct(each.text for each in pool.candidates if each.verdict is not Verdict.RIGHT)
        if right and wrong:
            yield Contrast(pool.question.id, pool.question.with_choices, right, wrong)
