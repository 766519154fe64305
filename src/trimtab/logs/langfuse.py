"""Langfuse's exports: observations (generations) and traces, from the page, the API or blob storage.

Keys are written in camel case by the first two and in snake case by the last; `input` and `output` hold what
the program that was traced put there, often as JSON in a string.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from trimtab.logs.documents import Node
from trimtab.logs.exchange import (
    FAILED,
    MORE_THAN_TEXT,
    NO_CALL,
    NO_TEXT,
    Exchange,
    LeftOutError,
    asked,
    content_of,
    name_of,
)

GENERATION = "GENERATION"
TOLD = "a trace whose generations are there"
MODELS = ("model", "providedModelName", "provided_model_name")
QUESTIONS = ("messages", "input", "prompt", "question", "query", "content", "text")
ANSWERS = ("content", "answer", "output", "text", "completion", "response")


def opened(row: Node) -> list[Node]:
    """The observations of a trace that brings them along, else the row itself."""
    observations = row.get("observations")
    if observations is None or not _has_rows(observations):
        return [row.get("trace") or row]
    return observations.parts


def _has_rows(observations: Node) -> bool:
    """False where there are only ids, as in a list of traces."""
    found = observations.value
    return isinstance(found, list) and any(isinstance(each, dict) for each in found)


def traces_of(rows: Sequence[Node]) -> set[str]:
    """The ids of the traces whose generations are among the rows."""
    generations = [row for row in rows if (kind := row.get("type")) and str(kind.value).upper() == GENERATION]
    return {str(trace.value) for row in generations if (trace := row.get("traceId", "trace_id"))}


def exchanges(row: Node, told: Container[str] = ()) -> Iterator[Exchange]:
    """The answer that an observation or a trace holds.

    Args:
        row: of an export.
        told: traces whose generations are rows themselves: their answers are counted there.

    Raises:
        LeftOutError: it holds none, and nothing is wrong with it.
        DataError: it cannot be read.
    """
    kind = row.get("type")
    if kind is not None and str(kind.value).upper() != GENERATION:
        raise LeftOutError(NO_CALL)
    if kind is None and row.need("id").value in told:
        raise LeftOutError(TOLD)
    level = row.get("level")
    if level is not None and level.value == "ERROR":
        raise LeftOutError(FAILED)
    question, went_on = _question(row.need("input", "prompt").decoded)
    answer = _answer(row.get("output", "completion"))
    yield Exchange(row, str(row.need("id").value), question, answer, name_of(row.get(*MODELS)), went_on)


def _question(said: Node) -> tuple[str, bool]:
    """What was asked: a text, messages, or an object that holds one of them under a usual name."""
    if isinstance(said.value, str):
        return content_of(said, MORE_THAN_TEXT), False
    if isinstance(said.value, list):
        return asked(said)
    return _question(_one_of(said, QUESTIONS).decoded)


def _answer(said: Node | None) -> str:
    if said is None:
        raise LeftOutError(NO_TEXT)
    said = said.decoded
    if isinstance(said.value, str):
        return content_of(said, NO_TEXT)
    if isinstance(said.value, list):
        return _last(said)
    if (choices := said.get("choices")) is not None:
        return _last(choices)
    if (message := said.get("message")) is not None:
        return _answer(message)
    if said.get("tool_calls", "function_call") and not said.get("content"):
        raise LeftOutError(NO_TEXT)
    return _answer(_one_of(said, ANSWERS))


def _last(said: Node) -> str:
    """The last of several messages or choices; content that comes in parts is one text."""
    if not said.parts:
        raise LeftOutError(NO_TEXT)
    if all(part.get("type") and part.get("text") for part in said.parts):
        return content_of(said, NO_TEXT)
    return _answer(said.parts[-1])


def _one_of(said: Node, keys: tuple[str, ...]) -> Node:
    found = said.get(*keys)
    if found is not None:
        return found
    known = sorted(said.value) if isinstance(said.value, dict) else said.value
    raise said.problem(f"a text, messages, or one of {', '.join(keys)} is needed; it holds {known}")
