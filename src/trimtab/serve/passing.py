"""The black box's own answers: a call passed on as it came, its answer as it goes, and what it cost.

Only the model's name is put in, and what must not leave is taken out. No answer ends before it is kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from trimtab.errors import EndpointError, LLMError
from trimtab.serve.answering import Ask
from trimtab.serve.errors import ApiError
from trimtab.serve.limits import Caps
from trimtab.serve.metrics import Metrics
from trimtab.serve.recording import Recorder
from trimtab.serve.upstream import Upstream
from trimtab.serve.wire import DONE
from trimtab.store import Inference
from trimtab.types import (
    AnswerStatus,
    Call,
    Candidate,
    Completion,
    Completions,
    Outcome,
    Prompt,
    Purpose,
    Sampling,
    Usage,
)

BYTES_A_TOKEN = 4


@dataclass(slots=True)
class _Passage:
    """One call on its way through: what came of it so far."""

    ask: Ask
    worst: Usage
    text: str = ""
    usage: Usage | None = None  # as the endpoint reports it
    is_kept: bool = False

    def take(self, document: dict[str, Any]) -> None:
        """What a chunk of a stream adds."""
        for choice in document.get("choices") or ():
            delta = choice.get("delta") if isinstance(choice, dict) else None
            piece = delta.get("content") if isinstance(delta, dict) else None
            if isinstance(piece, str) and not choice.get("index"):
                self.text += piece
        self.usage = usage_in(document) or self.usage


class Passing:
    """Passes calls on to one black box."""

    def __init__(self, upstream: Upstream, recorder: Recorder, caps: Caps, metrics: Metrics) -> None:
        self._upstream, self._recorder, self._caps, self._metrics = upstream, recorder, caps, metrics

    def worst(self, ask: Ask) -> Usage:
        """The most that a call can use: no tokeniser makes more tokens of a text than it has bytes."""
        longest = ask.call.longest or self._caps.tokens
        written = len(json.dumps(ask.document.get("messages")))
        return self._upstream.priced(Usage(written + 64, (ask.call.n or 1) * longest, 1))

    async def whole(self, ask: Ask, worst: Usage) -> tuple[dict[str, Any], Inference]:
        """The endpoint's answer, and what is kept of it. Raises LLMError, or ApiError (400)."""
        passage = _Passage(ask, worst)
        async with self._way(passage) as body:
            document = _document(await self._relay.whole(self._upstream.name, body))
            message = document["choices"][0].get("message") or {}
            passage.text = message.get("content") or ""
            passage.usage = usage_in(document)
        return document, await self._kept(passage)

    async def pieces(self, ask: Ask, worst: Usage) -> AsyncIterator[bytes]:
        """The endpoint's answer as it comes, by whole events. Raises LLMError, or ApiError (400)."""
        passage = _Passage(ask, worst)
        try:
            async with self._way(passage) as body:
                async for lines in self._relay.pieces(self._upstream.name, body):
                    for line in lines.splitlines():
                        if told := _told(passage, line):
                            yield told
            await self._kept(passage)
            yield DONE
        finally:
            if not passage.is_kept and passage.text:  # the client has gone, or the endpoint broke off
                self._recorder.keep_soon(*self._record(passage, Outcome.UNCERTAIN))

    # ------------------------------------------------------------------ on its way

    @property
    def _relay(self) -> Any:
        if self._upstream.relay is None:
            raise ApiError(400, "this server passes nothing on unadapted", code="no_pass_through")
        return self._upstream.relay

    @asynccontextmanager
    async def _way(self, passage: _Passage) -> AsyncIterator[bytes]:
        """The body to send, in its turn and within the budget; the budget is settled at the end."""
        upstream, worst = self._upstream, passage.worst
        tokens = worst.input_tokens // BYTES_A_TOKEN + worst.output_tokens
        async with upstream.limiter.slot(tokens) as slot:
            hold = await upstream.budget.reserve(worst)
            charged = worst
            try:
                yield self._body(passage.ask)
                slot.succeeded()
                charged = self._charged(passage)
            except LLMError as error:
                charged = Usage(usd=0.0)
                if error.status == 429:
                    slot.throttled(error.retry_after_s)
                raise
            finally:
                upstream.budget.settle(hold, charged)

    def _body(self, ask: Ask) -> bytes:
        given = {key: value for key, value in ask.document.items() if key != "trimtab"}
        given["model"] = self._upstream.name
        if ask.call.stream:
            options = given.get("stream_options") or {}
            given["stream_options"] = {**options, "include_usage": True}
        if ask.key is not None and ask.key.max_usd is not None and ask.call.longest is None:
            given[self._upstream.length] = self._caps.tokens  # what was set aside must be enough
        return json.dumps(given, separators=(",", ":")).encode("ascii")

    def _charged(self, passage: _Passage) -> Usage:
        return passage.worst if passage.usage is None else self._upstream.priced(passage.usage)

    # ------------------------------------------------------------------ what is kept

    async def _kept(self, passage: _Passage) -> Inference:
        inference, calls = self._record(passage, Outcome.PAID)
        await self._recorder.keep(inference, calls)
        passage.is_kept = True
        self._metrics.answered(inference)
        return inference

    def _record(self, passage: _Passage, outcome: Outcome) -> tuple[Inference, tuple[Call, ...]]:
        ask, usage = passage.ask, self._charged(passage)
        seconds = time.monotonic() - ask.began
        call = self._line(ask, usage, outcome, seconds)
        completions = Completions((Completion(passage.text),), usage, self._upstream.name)
        prompt = Prompt(tuple(message.plain for message in ask.call.messages))
        sampling = Sampling(ask.call.n or 1, ask.call.temperature, ask.call.longest or self._caps.tokens)
        for observer in self._upstream.observers:
            observer.ended(call, prompt, completions, sampling)
        inference = Inference(
            id=ask.id,
            created_at=ask.created_at,
            adapter="",
            version=0,
            question=ask.call.messages[-1].text,
            messages=ask.said,
            candidates=(Candidate(passage.text, None),),
            text=passage.text,
            status=str(AnswerStatus.ANSWERED),
            key_id=ask.key_id,
            usage=usage,
            seconds=seconds,
            upstream=self._upstream.name,
        )
        return inference, (call,)

    def _line(self, ask: Ask, usage: Usage, outcome: Outcome, seconds: float) -> Call:
        return Call(
            id=ask.id,
            purpose=Purpose.SAMPLING,
            model=self._upstream.name,
            endpoint=self._upstream.endpoint,
            payer=self._upstream.payer,
            outcome=outcome,
            usage=replace(usage, calls=1),
            seconds=seconds,
            started_at=ask.created_at,
            n=ask.call.n or 1,
            status=200,
        )


def usage_in(document: dict[str, Any]) -> Usage | None:
    """What an answer says that it used; None where it says nothing."""
    usage = document.get("usage")
    if not isinstance(usage, dict):
        return None
    counts = [usage.get(key) for key in ("prompt_tokens", "completion_tokens")]
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        return None
    return Usage(counts[0] or 0, counts[1] or 0, 1)


def _document(body: bytes) -> dict[str, Any]:
    """A chat completion. Raises EndpointError where the body is none."""
    try:
        document = json.loads(body)
        choice = document["choices"][0]
    except (ValueError, RecursionError, LookupError, TypeError):
        raise EndpointError("the endpoint gave a reply that is not a chat completion") from None
    if not isinstance(choice, dict):
        raise EndpointError("the endpoint gave a reply that is not a chat completion")
    found: dict[str, Any] = document
    return found


def _told(passage: _Passage, line: bytes) -> bytes | None:
    """What the client is sent of one line of the endpoint's stream; the end is ours to tell."""
    if not line.startswith(b"data:"):
        return line + b"\n\n" if line.startswith(b":") else None
    payload = line[5:].strip()
    if payload == DONE[6:-2]:
        return None
    try:
        document = json.loads(payload)
    except ValueError:
        raise EndpointError("the endpoint gave a stream that cannot be read") from None
    if not isinstance(document, dict):
        raise EndpointError("the endpoint gave a stream that cannot be read")
    passage.take(document)
    if not document.get("choices") and "usage" in document and not passage.ask.call.counts_usage:
        return None  # it was asked for on our account
    return line + b"\n\n"
