"""From logged exchanges to rows of recorded answers: one a question, its answers in the order logged.

What was logged twice is counted once, and what is no answer is counted by its reason: nothing goes silently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from trimtab.data import question_hash
from trimtab.errors import DataError, InputError, Problem
from trimtab.logs import langfuse, openai
from trimtab.logs.documents import Node, read_documents
from trimtab.logs.exchange import Exchange, LeftOutError
from trimtab.types import Question

LogFormat = Literal["openai", "langfuse"]
LOG_FORMATS: tuple[LogFormat, ...] = get_args(LogFormat)
QUESTION_KEYS = ("id", "question", "answer", "rationale", "choices", "correct_answers", "incorrect_answers")
NOT_ASKED_FOR = "its question is not among those given"
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Imported:
    """The rows, and what else was found."""

    rows: tuple[Row, ...]  # as `--recorded` reads them
    duplicates: int  # logged twice under one id, and counted once
    left_out: Mapping[str, int]  # by reason
    of_conversations: int  # answers whose earlier turns are left out

    @property
    def samples(self) -> int:
        """Answers over all rows."""
        return sum(len(row["samples"]) for row in self.rows)


def read_logs(paths: Sequence[Path], form: LogFormat, known: Sequence[Question] | None = None) -> Imported:
    """The questions that the files' logs hold, each with its answers.

    Args:
        paths: files of this format, JSON or JSONL; they are read as one.
        form: who wrote them.
        known: questions to find answers to, for their ids and references; all others are left out.

    Raises:
        DataError: with every problem of the files.
        InputError: no answer stands in any of them.
    """
    reading = _Reading()
    nodes = [node for path in paths for node in reading.nodes(path)]
    if form == "openai":
        reading.of_openai(nodes)
    else:
        reading.of_langfuse(nodes)
    exchanges = reading.once_each()
    reading.close()
    return _grouped(exchanges, known, reading)


@dataclass(slots=True)
class _Reading:
    """What has been found so far."""

    found: list[Exchange] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def nodes(self, path: Path) -> list[Node]:
        """A file's objects; what is wrong with it is noted."""
        try:
            nodes, problems = read_documents(path)
        except DataError as error:
            nodes, problems = [], list(error.problems)
        self.problems += problems
        return nodes

    def of_openai(self, nodes: Sequence[Node]) -> None:
        """Notes the exchanges of OpenAI's logs."""
        requests = openai.Requests({}, {})
        try:
            requests = openai.gather(nodes)
        except DataError as error:
            self.problems += error.problems
        for node in nodes:
            if not openai.is_request(node):
                self._take(node, lambda row: openai.exchanges(row, requests))

    def of_langfuse(self, nodes: Sequence[Node]) -> None:
        """Notes the exchanges of Langfuse's exports."""
        rows = [row for node in nodes for row in langfuse.opened(node)]
        told = langfuse.traces_of(rows)
        for row in rows:
            self._take(row, lambda row: langfuse.exchanges(row, told))

    def _take(self, node: Node, read: Callable[[Node], Iterable[Exchange]]) -> None:
        try:
            self.found += read(node)
        except LeftOutError as reason:
            self.left_out[str(reason)] += 1
        except DataError as error:
            self.problems += error.problems

    def once_each(self) -> list[Exchange]:
        """The exchanges without those logged twice; one id that holds two things is noted as a problem."""
        first: dict[str, Exchange] = {}
        kept = []
        for each in self.found:
            known = each if each.id is None else first.setdefault(each.id, each)
            if known is each:
                kept.append(each)
            elif (known.question, known.answer) != (each.question, each.answer):
                told = f"the id {each.id!r} stands at {known.node.where} with other words"
                self.problems += each.node.problem(told).problems
        return kept

    def close(self) -> None:
        """Raises DataError where there is any problem, or nothing that is an answer."""
        if self.problems:
            raise DataError(self.problems)
        if not self.found:
            reasons = "; ".join(f"{count} left out: {why}" for why, count in self.left_out.items())
            raise InputError(f"no answer was found in these files. {reasons}".rstrip())


def _grouped(exchanges: Sequence[Exchange], known: Sequence[Question] | None, reading: _Reading) -> Imported:
    asked = {question_hash(question.text): question for question in known or ()}
    groups: dict[str, list[Exchange]] = {}
    for each in exchanges:
        digest = question_hash(each.question)
        if known is None or digest in asked:
            groups.setdefault(digest, []).append(each)
        else:
            reading.left_out[NOT_ASKED_FOR] += 1
    return Imported(
        tuple(_row(digest, group, asked.get(digest)) for digest, group in groups.items()),
        len(reading.found) - len(exchanges),
        dict(reading.left_out),
        sum(each.earlier_turns for group in groups.values() for each in group),
    )


def _row(digest: str, group: Sequence[Exchange], known: Question | None) -> Row:
    """A row of recorded answers; its id is the question's own, else the first that was logged."""
    given = next((each.id for each in group if each.id is not None), f"chat-{digest[:16]}")
    asked = _of_question(known) if known else {"id": given, "question": group[0].question}
    return {**asked, "samples": [_sample(each) for each in group]}


def _of_question(question: Question) -> Row:
    """A question as its row has it."""
    row = {**asdict(question), "question": question.text}
    return {key: row[key] for key in QUESTION_KEYS if row[key] not in (None, ())}


def _sample(each: Exchange) -> Row:
    row = {"text": each.answer, "model": each.model, "id": each.id}
    return {key: value for key, value in row.items() if value is not None}
