"""OpenAI's logs: stored completions, requests with their responses, batch files, fine-tuning chats.

A stored completion's messages and a batch's requests stand in files of their own: give those too, and they
find each other by id. Chat completions, Responses and the old text completions are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from trimtab.logs.documents import Node
from trimtab.logs.exchange import (
    FAILED,
    NO_TEXT,
    Exchange,
    LeftOutError,
    asked,
    content_of,
    name_of,
)

HTTP_OK = 200


@dataclass(frozen=True, slots=True)
class Requests:
    """What was asked, where it stands apart from what was said."""

    of_batches: Mapping[str, Node]  # bodies, by custom_id
    stored: Mapping[str, Sequence[Node]]  # messages, by the id of their completion


def gather(rows: Sequence[Node]) -> Requests:
    """The requests among the rows. Raises DataError where one id asks two things."""
    bodies: dict[str, Node] = {}
    stored: dict[str, list[Node]] = {}
    for row in rows:
        if is_batch_request(row):
            custom, body = row.need("custom_id"), row.need("body")
            known = bodies.setdefault(str(custom.value), body)
            if known.value != body.value:
                raise custom.problem(f"{custom.value!r} asks something else at {known.where}")
        elif is_stored_message(row):
            stored.setdefault(row.need("id").text.rpartition("-")[0], []).append(row)
    return Requests(bodies, stored)


def is_batch_request(row: Node) -> bool:
    """True for a line of a batch's input file."""
    return row.get("custom_id") is not None and row.get("body") is not None


def is_stored_message(row: Node) -> bool:
    """True for a message of a stored completion, as the API lists them."""
    return all(row.get(key) is not None for key in ("id", "role"))


def is_request(row: Node) -> bool:
    """True for what only says what was asked."""
    return is_batch_request(row) or is_stored_message(row)


def exchanges(row: Node, requests: Requests) -> Iterator[Exchange]:
    """The answers that a row holds.

    Raises:
        LeftOutError: it holds none, and nothing is wrong with it.
        DataError: it cannot be read.
    """
    if row.get("custom_id") is not None:
        return _of_batch(row, requests)
    if response := row.get("response", "response_body"):
        request = row.need("request", "request_body")
        return _answers(_body(response), _body(request), name_of(row.get("id")))
    if row.get("choices") or row.get("output"):
        return _answers(row, _stored(row, requests), None)
    return _chat(row)


def _of_batch(row: Node, requests: Requests) -> Iterator[Exchange]:
    """A line of a batch's output, or of its errors."""
    custom = row.need("custom_id")
    if row.get("error") is not None or row.need("response").need("status_code").value != HTTP_OK:
        raise LeftOutError(FAILED)
    request = requests.of_batches.get(str(custom.value))
    if request is None:
        raise custom.problem(f"no request {custom.value!r} in these files; give the batch's input file too")
    return _answers(row.need("response").need("body"), request, str(custom.value))


def _body(node: Node) -> Node:
    """A request or response itself, where it is wrapped as HTTP has it."""
    return (node.get("body") or node).decoded


def _stored(row: Node, requests: Requests) -> Node:
    """What a completion was asked: beside it, or in the messages that are stored under its id."""
    if row.get("messages", "input", "prompt"):
        return row
    turns = requests.stored.get(str(row.need("id").value), ())
    if not turns:
        raise replace(row, field=_joined(row.field, "messages")).problem(
            "missing, and no stored messages of this completion in these files; give them too"
        )
    return replace(row, value={"messages": [turn.value for turn in turns]})


def _joined(field: str, key: str) -> str:
    return f"{field}.{key}" if field else key


def _answers(response: Node, request: Node, given: str | None) -> Iterator[Exchange]:
    """One exchange a choice. Raises LeftOutError where the response is an error."""
    if response.get("error") is not None:
        raise LeftOutError(FAILED)
    question, went_on = _question(request)
    model = name_of(response.get("model") or request.get("model"))
    found = given or name_of(response.get("id"))
    answers = list(_texts(response))
    for at, (node, text) in enumerate(answers):
        numbered = f"{found}#{at}" if found and len(answers) > 1 else found
        yield Exchange(node, numbered, question, text, model, went_on)


def _question(request: Node) -> tuple[str, bool]:
    asking = request.get("messages", "input", "prompt")
    if asking is None:
        raise request.problem("neither messages nor input nor prompt: what was asked is missing")
    if isinstance(asking.value, str):
        return asking.text, False
    return asked(asking)


def _texts(response: Node) -> Iterator[tuple[Node, str]]:
    """The answers of a response."""
    if (choices := response.get("choices")) is None:
        output = response.need("output")
        yield output, _output_text(output)
        return
    for choice in choices.parts:
        message = choice.get("message")
        yield choice, content_of(message.get("content") if message else choice.need("text"), NO_TEXT)


def _output_text(output: Node) -> str:
    """What the messages among a Response's items say; its reasoning is none of it."""
    messages = [item for item in output.parts if item.need("type").value == "message"]
    if not messages:
        raise LeftOutError(NO_TEXT)
    return "".join(content_of(item.get("content"), NO_TEXT) for item in messages)


def _chat(row: Node) -> Iterator[Exchange]:
    """A conversation that ends with the answer, as fine-tuning files have it."""
    messages = row.need("messages")
    question, went_on = asked(messages)
    last = messages.parts[-1]
    if last.need("role").value != "assistant":
        raise messages.problem("the last turn must be the assistant's: it is the recorded answer")
    text = content_of(last.get("content"), NO_TEXT)
    yield Exchange(last, name_of(row.get("id")), question, text, name_of(row.get("model")), went_on)


__all__ = ["Requests", "exchanges", "gather", "is_request"]
