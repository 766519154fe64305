"""One question asked of a black box and what it said, as read from a log of any format."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.logs.documents import Node

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
TEXT_PARTS = ("text", "input_text", "output_text")

FAILED = "the request failed"
NO_TEXT = "it answers with no text (a call of a tool, a refusal)"
MORE_THAN_TEXT = "it asks about more than text"
NO_CALL = "no call of a model"


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and one answer to it."""

    node: Node  # where it stands
    id: str | None  # the log's own
    question: str
    answer: str
    model: str | None
    earlier_turns: bool = False  # of a conversation, which are left out


class LeftOutError(Exception):
    """A log that is well-formed and no question with an answer; the message says why."""


def content_of(node: Node | None, why: str) -> str:
    """The text of a message's content: a string, or parts all of which are text.

    Raises:
        LeftOutError: for this reason, where there is none, or other parts too.
        DataError: it is neither.
    """
    if node is None or node.value == "" or node.value == []:
        raise LeftOutError(why)
    if isinstance(node.value, str):
        return node.text
    parts = node.parts
    if any(part.need("type").value not in TEXT_PARTS for part in parts):
        raise LeftOutError(why)
    return "".join(str(part.need("text").value) for part in parts)


def asked(messages: Node) -> tuple[str, bool]:
    """The last user turn of the messages, and whether the model had answered before it.

    Raises:
        LeftOutError: it is no text alone.
        DataError: they are no messages, or there is no user turn.
    """
    turns = messages.parts
    roles = [role_of(turn) for turn in turns]
    if "user" not in roles:
        raise messages.problem("no user turn; the last one is the question")
    last = len(roles) - 1 - roles[::-1].index("user")
    return content_of(turns[last].get("content"), MORE_THAN_TEXT), "assistant" in roles[:last]


def role_of(turn: Node) -> str:
    """Whose turn it is. Raises DataError where that is not said."""
    role = turn.need("role")
    if role.value not in ROLES:
        raise role.problem(f"{', '.join(ROLES)} is needed, not {role.value!r}")
    return str(role.value)


def name_of(node: Node | None) -> str | None:
    """A name or id, where there is one: text or a number."""
    return None if node is None or node.value == "" else str(node.value)
