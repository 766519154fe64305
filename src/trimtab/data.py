"""Rows of data: strict JSONL in, frozen nouns out; splits and content hashes.

How a file is read, and its problems told, is `sheets`' affair; what a text *means* (its number, its letter)
the tasks'. Nothing here is written to disk.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import Field

from trimtab.errors import InputError
from trimtab.sheets import Id, References, Row, Sheet, Text, TextOrNumber
from trimtab.types import Contrast, Question, Recorded, Sample

MAX_CHOICES = 26  # choices are named by the letters A to Z
DEFAULT_SHARES: Mapping[str, float] = MappingProxyType({"train": 0.8, "dev": 0.1, "test": 0.1})

Item = TypeVar("Item", Question, Recorded, Contrast)


class FeedbackKind(StrEnum):
    """What a person said of an answer."""

    VERDICT = "verdict"  # this text is right, or wrong
    PREFERENCE = "preference"  # this text rather than that one
    CORRECTION = "correction"  # this is what the answer should have been
    RATING = "rating"  # how good this text is, from 0 to 1
    RANKING = "ranking"  # these texts, best first
    COMMENT = "comment"  # words about this text; nothing is learnt from them


@dataclass(frozen=True, slots=True)
class Feedback:
    """One thing a person said about one question."""

    question: str
    kind: FeedbackKind
    text: str  # the judged text, the preferred text, the best of the ranked, or the correction
    value: str = ""  # "right" or "wrong"; the rejected text; a number; a JSON list of the others; the comment
    source: str = "human"
    id: str | None = None  # the giver's own id, if there is one
    inference_id: str | None = None  # the served answer that it is about

    @property
    def key(self) -> str:
        """A hash of the given id and what it is an id within, else of everything said.

        Ids of two files may meet, as both count from 1: an id is one of its source, question and kind, and
        of the served answer it is about.
        """
        about = [] if self.inference_id is None else [self.inference_id]
        if self.id is not None:
            return _digest(["id", self.id, self.source, question_hash(self.question), self.kind, *about])
        return _digest([self.question, self.kind, self.text, self.value, self.source, *about])

    @property
    def ranked(self) -> tuple[str, ...]:
        """The texts of a ranking, best first."""
        return (self.text, *json.loads(self.value))


# --------------------------------------------------------------------------- the shape of each row


@dataclass(frozen=True, slots=True)
class Kind:
    """What a row says its question is one of, for reports and intervals."""

    category: str | None = None
    cluster: str | None = None


class _QuestionRow(Row):
    hints = MappingProxyType({"samples": "rows with samples are recorded answers, and questions are needed"})

    id: Id
    question: Text
    answer: TextOrNumber | None = None
    rationale: Text | None = None
    choices: Annotated[References, Field(min_length=2, max_length=MAX_CHOICES)] | None = None
    correct_answers: References | None = None
    incorrect_answers: References | None = None
    category: str | None = None  # what kind of question it is
    cluster: TextOrNumber | None = None  # rows with the same one are variants of each other

    @property
    def kinds(self) -> dict[str, Kind]:
        """The kind of the row's question by its id, where the row says so."""
        kind = Kind(self.category, self.cluster)
        return {} if kind == Kind() else {self.id: kind}

    def as_question(self) -> Question:
        return Question(
            self.id,
            self.question,
            self.answer,
            self.rationale,
            tuple(self.choices or ()),
            tuple(self.correct_answers or ()),
            tuple(self.incorrect_answers or ()),
        )


class _SampleRow(Row):
    text: Text
    correct: bool | None = None
    model: str | None = None  # many logs write "" where the model is not known
    id: TextOrNumber | None = None  # the log's own: where it came from

    def as_sample(self) -> Sample:
        return Sample(self.text, self.correct, self.model or None)


class _RecordedRow(_QuestionRow):
    samples: Annotated[list[_SampleRow], Field(min_length=1)]

    def as_recorded(self) -> Recorded:
        return Recorded(self.as_question(), tuple(sample.as_sample() for sample in self.samples))


class _MessageRow(Row):
    role: Literal["system", "developer", "user", "assistant"]
    content: str


class _ChatRow(Row):
    id: TextOrNumber | None = None
    messages: Annotated[list[_MessageRow], Field(min_length=2)]
    answer: TextOrNumber | None = None
    correct: bool | None = None
    model: str | None = None


class _SaidRow(Row):
    id: TextOrNumber | None = None
    source: Text = "human"
    inference_id: Text | None = None

    def _said(self, question: str, kind: FeedbackKind, text: str, value: str = "") -> Feedback:
        return Feedback(question, kind, text, value, self.source, self.id, self.inference_id)


class _PreferenceRow(_SaidRow):
    prompt: Text
    chosen: Text
    rejected: Text

    def as_feedback(self) -> Feedback:
        return self._said(self.prompt, FeedbackKind.PREFERENCE, self.chosen, self.rejected)


class _VerdictRow(_SaidRow):
    question: Text
    text: Text
    verdict: Literal["right", "wrong"]

    def as_feedback(self) -> Feedback:
        return self._said(self.question, FeedbackKind.VERDICT, self.text, self.verdict)


class _CorrectionRow(_SaidRow):
    question: Text
    correction: Text

    def as_feedback(self) -> Feedback:
        return self._said(self.question, FeedbackKind.CORRECTION, self.correction)


class _RatingRow(_SaidRow):
    question: Text
    text: Text
    rating: Annotated[float, Field(ge=0, le=1)]

    def as_feedback(self) -> Feedback:
        return self._said(self.question, FeedbackKind.RATING, self.text, repr(self.rating))


class _RankingRow(_SaidRow):
    question: Text
    ranking: Annotated[list[Text], Field(min_length=2)]

    def as_feedback(self) -> Feedback:
        best, *others = self.ranking
        return self._said(self.question, FeedbackKind.RANKING, best, json.dumps(others))


class _CommentRow(_SaidRow):
    question: Text
    text: str = ""
    comment: Text

    def as_feedback(self) -> Feedback:
        return self._said(self.question, FeedbackKind.COMMENT, self.text, self.comment)


_FeedbackRow: TypeAlias = (
    _PreferenceRow | _VerdictRow | _CorrectionRow | _RatingRow | _RankingRow | _CommentRow
)
_ROW_OF: Mapping[str, type[_FeedbackRow]] = MappingProxyType(
    {"correction": _CorrectionRow, "rating": _RatingRow, "ranking": _RankingRow, "comment": _CommentRow}
)


# --------------------------------------------------------------------------- questions and recorded answers


def load_questions(
    path: Path | str, *, need_answer: bool = False, kinds: dict[str, Kind] | None = None
) -> tuple[Question, ...]:
    """The questions of a JSONL file, in its order.

    Args:
        path: rows `{"id", "question", "answer"?, "rationale"?, "choices"?, "correct_answers"?,
            "incorrect_answers"?}`.
        need_answer: every row must have a reference: `answer` or `correct_answers`.
        kinds: takes what rows say of their questions beside, by id.

    Raises:
        DataError: with every problem of the file.
    """
    sheet = Sheet(path)
    questions: list[tuple[int, Question]] = []
    kinds = {} if kinds is None else kinds
    for line, row in sheet.rows():
        if valid := sheet.validated(line, row, _QuestionRow):
            questions.append((line, valid.as_question()))
            kinds.update(valid.kinds)
    _check_questions(sheet, questions)
    if need_answer:
        _refuse_without_reference(sheet, questions, "a reference answer is needed to judge by")
    sheet.close()
    return tuple(question for _, question in questions)


def load_recorded(
    path: Path | str, *, need_answer: bool = True, kinds: dict[str, Kind] | None = None
) -> tuple[Recorded, ...]:
    """The questions of a JSONL file with the answers recorded for them, in its order.

    Args:
        path: rows of questions with `"samples": [{"text", "correct"?, "model"?}]`, or chat logs `{"id"?,
            "messages": [{"role", "content"}, ...], "answer"?, "correct"?, "model"?}`: the last user turn is
            the question, the assistant turn after it one sample; logs of one question become one row.
        need_answer: every question must have a reference, `answer` or `correct_answers`, or else each of
            its samples must say whether it is `correct`.
        kinds: takes what rows say of their questions beside, by id.

    Raises:
        DataError: with every problem of the file.
    """
    return tuple(read_recorded(path, need_answer=need_answer, kinds=kinds))


def read_recorded(
    path: Path | str, *, need_answer: bool = True, kinds: dict[str, Kind] | None = None
) -> Iterator[Recorded]:
    """`load_recorded` row by row: the rows as they are read, and the problems after the last one.

    From the first chat log on rows come after the last line, which may be of that log's question.
    """
    sheet = Sheet(path)
    seen: list[tuple[int, Question]] = []
    unlabelled: list[tuple[int, Question]] = []
    for line, recorded in _recorded(sheet, {} if kinds is None else kinds):
        seen.append((line, recorded.question))
        if not _is_labelled(recorded):
            unlabelled.append(seen[-1])
        yield recorded
    _check_questions(sheet, seen)
    if need_answer:
        needed = "a reference answer, or 'correct' on every sample, is needed to judge by"
        _refuse_without_reference(sheet, unlabelled, needed)
    sheet.close()


def _recorded(sheet: Sheet, kinds: dict[str, Kind]) -> Iterator[tuple[int, Recorded]]:
    """The rows by line; those after the first chat log wait for it."""
    logs: list[tuple[int, _ChatRow]] = []
    waiting: list[tuple[int, Recorded]] = []
    for line, row in sheet.rows():
        if "messages" in row:
            log = sheet.validated(line, row, _ChatRow)
            logs.extend([(line, log)] if log and _is_answered(sheet, line, log) else [])
        elif recorded := sheet.validated(line, row, _RecordedRow):
            kinds.update(recorded.kinds)
            if logs:
                waiting.append((line, recorded.as_recorded()))
            else:
                yield line, recorded.as_recorded()
    waiting.extend(_merged_logs(sheet, logs))
    yield from sorted(waiting, key=lambda numbered: numbered[0])


def _is_labelled(recorded: Recorded) -> bool:
    return all(sample.correct is not None for sample in recorded.samples)


def _refuse_without_reference(sheet: Sheet, questions: Sequence[tuple[int, Question]], needed: str) -> None:
    for line, question in questions:
        if question.answer is None and not question.correct_answers:
            sheet.complain(line, "answer", f"missing; {needed}")


def _check_questions(sheet: Sheet, questions: Sequence[tuple[int, Question]]) -> None:
    for line, question in questions:
        _check_choices(sheet, line, question)
    sheet.refuse_duplicate_ids((line, question.id) for line, question in questions)


def _check_choices(sheet: Sheet, line: int, question: Question) -> None:
    if question.choices and question.answer is not None and question.answer not in question.choices:
        sheet.complain(
            line, "answer", f"{question.answer!r} is not among the choices; give the text of one of them"
        )


def _is_answered(sheet: Sheet, line: int, log: _ChatRow) -> bool:
    """True when the log ends with an assistant turn after a user turn, and neither is empty."""
    if log.messages[-1].role != "assistant":
        sheet.complain(line, "messages", "the last turn must be the assistant's: it is the recorded answer")
        return False
    turn = _last_user_turn(log)
    if turn is None:
        sheet.complain(line, "messages", "no user turn; the last one is the question")
        return False
    blank = [at for at in (turn, len(log.messages) - 1) if not log.messages[at].content.strip()]
    for at in blank:
        sheet.complain(line, f"messages.{at}.content", "is empty")
    return not blank


def _last_user_turn(log: _ChatRow) -> int | None:
    return max((at for at, message in enumerate(log.messages) if message.role == "user"), default=None)


def _asked(log: _ChatRow) -> str:
    turn = _last_user_turn(log)
    return "" if turn is None else log.messages[turn].content


def _merged_logs(sheet: Sheet, logs: Sequence[tuple[int, _ChatRow]]) -> list[tuple[int, Recorded]]:
    """One Recorded a question, at the line of its first log."""
    groups: dict[str, list[tuple[int, _ChatRow]]] = {}
    for line, log in logs:
        groups.setdefault(question_hash(_asked(log)), []).append((line, log))
    return [_merged_group(sheet, digest, group) for digest, group in groups.items()]


def _merged_group(sheet: Sheet, digest: str, group: Sequence[tuple[int, _ChatRow]]) -> tuple[int, Recorded]:
    answers = [(line, log.answer) for line, log in group if log.answer is not None]
    for line, answer in answers:
        if answer != answers[0][1]:
            sheet.complain(line, "answer", f"differs from line {answers[0][0]}, which asks the same")
    first_line, first = group[0]
    given = next((log.id for _, log in group if log.id is not None), f"chat-{digest[:16]}")
    question = Question(given, _asked(first), answers[0][1] if answers else None)
    samples = (Sample(log.messages[-1].content, log.correct, log.model or None) for _, log in group)
    return first_line, Recorded(question, tuple(samples))


# --------------------------------------------------------------------------- what people preferred and said


def load_preferences(path: Path | str) -> tuple[Contrast, ...]:
    """The contrasts that rows `{"prompt", "chosen", "rejected"}` make, one a prompt.

    Where a text of a prompt is chosen in one row and rejected in another, that prompt makes one contrast a
    chosen text instead, so that no contrast has the same text on both sides.

    Raises:
        DataError: with every problem of the file.
    """
    sheet = Sheet(path)
    rows = [(line, sheet.validated(line, row, _PreferenceRow)) for line, row in sheet.rows()]
    preferences = [(line, row) for line, row in rows if row is not None]
    _check_feedback(sheet, [(line, row.as_feedback()) for line, row in preferences])
    sheet.close()
    groups: dict[str, list[_PreferenceRow]] = {}
    for _, row in preferences:
        groups.setdefault(question_hash(row.prompt), []).append(row)
    return tuple(contrast for digest, group in groups.items() for contrast in _contrasts(digest, group))


def _contrasts(digest: str, group: Sequence[_PreferenceRow]) -> list[Contrast]:
    chosen = dict.fromkeys(row.chosen for row in group)
    rejected = dict.fromkeys(row.rejected for row in group)
    name, prompt = f"preference-{digest[:16]}", group[0].prompt
    if chosen.keys().isdisjoint(rejected):
        return [Contrast(name, prompt, tuple(chosen), tuple(rejected))]
    return [
        Contrast(name, prompt, (text,), tuple(dict.fromkeys(r.rejected for r in group if r.chosen == text)))
        for text in chosen
    ]


def load_feedback(path: Path | str) -> tuple[Feedback, ...]:
    """What people said, in the file's order.

    Args:
        path: rows `{"question", "text", "verdict": "right" | "wrong"}`, `{"question", "text", "rating"}`,
            `{"prompt", "chosen", "rejected"}`, `{"question", "correction"}`, `{"question", "ranking"}` or
            `{"question", "text"?, "comment"}`, each with `"id"?`, `"source"?` and `"inference_id"?`.

    Raises:
        DataError: with every problem of the file.
    """
    sheet = Sheet(path)
    rows = [(line, _feedback_row(sheet, line, row)) for line, row in sheet.rows()]
    feedback = [(line, row.as_feedback()) for line, row in rows if row is not None]
    _check_feedback(sheet, feedback)
    sheet.close()
    return tuple(said for _, said in feedback)


def _feedback_row(sheet: Sheet, line: int, row: dict[str, Any]) -> _FeedbackRow | None:
    if row.keys() & {"prompt", "chosen", "rejected"}:
        return sheet.validated(line, row, _PreferenceRow)
    model = next((model for key, model in _ROW_OF.items() if key in row), _VerdictRow)
    return sheet.validated(line, row, model)


def _check_feedback(sheet: Sheet, feedback: Sequence[tuple[int, Feedback]]) -> None:
    for line, said in feedback:
        if said.kind is FeedbackKind.PREFERENCE and said.text == said.value:
            sheet.complain(line, "rejected", "is the chosen text again")
        if said.kind is FeedbackKind.RANKING and len(set(said.ranked)) < len(said.ranked):
            sheet.complain(line, "ranking", "ranks one text twice")
    sheet.refuse_duplicate_ids((line, said.id) for line, said in feedback)


# --------------------------------------------------------------------------- splits and hashes


def question_hash(text: str) -> str:
    """SHA-256 of the question's text; spacing and the two ways to write an accent make no difference."""
    as_written = " ".join(unicodedata.normalize("NFC", text).split())
    return hashlib.sha256(as_written.encode("utf-8", "surrogatepass")).hexdigest()


def _split_key(text: str) -> str:
    """Coarser than `question_hash`: questions that differ in case or letter forms alone stay together."""
    return question_hash(unicodedata.normalize("NFKC", text).casefold())


def split(
    items: Sequence[Item], shares: Mapping[str, float] = DEFAULT_SHARES, salt: str = ""
) -> dict[str, tuple[Item, ...]]:
    """The items of each share, in their order.

    Where an item goes depends on its question's text, the shares and the salt alone: not on its id, its
    place or the other rows. So a question never stands in two splits, and rows added later move none.

    Raises:
        InputError: shares that are negative or do not add up to 1.
    """
    if min(shares.values(), default=-1.0) < 0 or abs(sum(shares.values()) - 1) > 1e-9:
        raise InputError(f"shares must not be negative and must add up to 1, not {dict(shares)}")
    names = [_split_of(_question_text(item), shares, salt) for item in items]
    return {
        name: tuple(item for item, its in zip(items, names, strict=True) if its == name) for name in shares
    }


def _question_text(item: Question | Recorded | Contrast) -> str:
    match item:
        case Question():
            return item.text
        case Recorded():
            return item.question.text
        case Contrast():
            return item.question


def _split_of(text: str, shares: Mapping[str, float], salt: str) -> str:
    """The split whose stretch of [0, 1) the question's hash falls into; empty stretches hold nothing."""
    place = int(_digest([salt, _split_key(text)])[:13], 16) / 16**13  # 52 bits: exact in a float
    end, chosen = 0.0, ""
    for name, share in shares.items():
        if share > 0:
            end, chosen = end + share, name
            if place < end:
                break
    return chosen


def data_hash(items: Iterable[Question | Recorded | Contrast | Feedback]) -> str:
    """SHA-256 of the items' whole content, in their order: what a manifest says it was trained on."""
    digest = hashlib.sha256(b"[")
    for place, item in enumerate(items):
        row = json.dumps([type(item).__name__, asdict(item)], sort_keys=True)
        digest.update((f", {row}" if place else row).encode())
    digest.update(b"]")
    return digest.hexdigest()


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
