"""OpenAI's chat completions as they go over the wire: what is asked, and what is answered.

No route and no model here. Of a request only what an adapted answer needs is read; all else travels on to the
black box as it came.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trimtab.serve.errors import ApiError, invalid_request
from trimtab.types import Message, Usage

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": candidates are being drawn\n\n"  # a comment: every reader of server-sent events skips it
PIECE_CHARACTERS = 24  # of a chosen answer that is streamed: some six tokens

Name = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00]+$")]  # databases keep no NUL


class Part(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="allow")

    type: str
    text: str | None = None


class ChatMessage(BaseModel):
    """One message of a call."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None

    @property
    def is_text(self) -> bool:
        """True when it is words alone, said by a speaker that every black box knows."""
        extra = self.model_extra or {}
        if self.role in ("tool", "function") or extra.get("tool_calls") or extra.get("function_call"):
            return False
        if isinstance(self.content, list):
            return all(part.type == "text" and part.text is not None for part in self.content)
        return self.content is not None

    @property
    def text(self) -> str:
        """The words in it."""
        if isinstance(self.content, list):
            return "".join(part.text or "" for part in self.content)
        return self.content or ""

    @property
    def plain(self) -> Message:
        """The message as black boxes are sent it."""
        spoken: dict[str, Literal["user", "assistant"]] = {"user": "user", "assistant": "assistant"}
        return Message(spoken.get(self.role, "system"), self.text)


class StreamOptions(BaseModel):
    """What a stream holds beside the answer."""

    model_config = ConfigDict(extra="allow")

    include_usage: bool = False


class Own(BaseModel):
    """What only this server reads, in the field `trimtab`."""

    model_config = ConfigDict(extra="forbid")

    question_id: Name | None = None  # of the row that `trimtab answer` would read: same id, same draws
    choices: Annotated[list[str], Field(max_length=26)] = []  # apart from the text


class ChatCall(BaseModel):
    """The body of a call, as far as it is read here."""

    model_config = ConfigDict(extra="allow")

    model: Name
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    n: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    stop: Name | Annotated[list[Name], Field(max_length=4)] | None = None
    trimtab: Own | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts before which an answer ends."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def longest(self) -> int | None:
        """The most tokens of one answer, where the call says so."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def counts_usage(self) -> bool:
        """True when a stream shall end with what it cost."""
        return self.stream_options is not None and self.stream_options.include_usage


def read_call(body: bytes) -> tuple[ChatCall, dict[str, Any]]:
    """A call, and the document that it was read from.

    Raises:
        ApiError: 400; it is no JSON, or no call.
    """
    document = read_json(body)
    try:
        return ChatCall.model_validate(document), document
    except ValidationError as error:
        raise invalid_request(error.errors()) from None


def read_json(body: bytes) -> dict[str, Any]:
    """The object in a body. Raises ApiError (400) where there is none."""
    try:
        document = json.loads(body, parse_constant=_refuse_constant)
        json.dumps(document)  # what is nested too deep to be written again is refused here, not later
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON that can be read", code="invalid_json") from None
    if not isinstance(document, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    return document


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


# --------------------------------------------------------------------------- answers


def completion(
    name: str, model: str, created: int, texts: Sequence[str], usage: Usage, own: Mapping[str, Any]
) -> dict[str, Any]:
    """A chat completion with these answers, the best first."""
    choices = [
        {
            "index": at,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
        for at, text in enumerate(texts)
    ]
    return {
        "id": name,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": choices,
        "usage": usage_on_wire(usage),
        "trimtab": dict(own),
    }


def usage_on_wire(usage: Usage) -> dict[str, int]:
    """Tokens as OpenAI counts them."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def as_chunks(whole: Mapping[str, Any], *, with_usage: bool) -> Iterator[bytes]:
    """A whole completion as server-sent events: each answer piece by piece, what it cost, the end."""
    head = {key: whole[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    if with_usage:
        head["usage"] = None
    for choice in whole["choices"]:
        at = choice["index"]
        yield _chunk(head, at, {"role": "assistant", "content": ""})
        for piece in _pieces(choice["message"]["content"]):
            yield _chunk(head, at, {"content": piece})
        yield event(
            {**head, "choices": [_delta(at, {}, choice["finish_reason"])], "trimtab": whole["trimtab"]}
        )
    if with_usage:
        yield event({**head, "choices": [], "usage": whole["usage"], "trimtab": whole["trimtab"]})
    yield DONE


def event(document: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n\n"


def _pieces(text: str) -> Iterable[str]:
    return (text[at : at + PIECE_CHARACTERS] for at in range(0, len(text), PIECE_CHARACTERS))


def _chunk(head: Mapping[str, Any], at: int, delta: Mapping[str, str]) -> bytes:
    return event({**head, "choices": [_delta(at, delta, None)]})


def _delta(at: int, delta: Mapping[str, str], finish: str | None) -> dict[str, Any]:
    return {"index": at, "delta": dict(delta), "logprobs": None, "finish_reason": finish}
