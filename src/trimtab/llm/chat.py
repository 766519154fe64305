"""`ChatLLM`: a chat model behind an API, asked once for each call that it takes.

A request is shaped by what the model takes, waits for its turn, is charged, sent, and tried again where that
may help; each HTTP request becomes one line of the ledger. How a request travels is `transport`'s, how often
it is tried `retry`'s; the keeping of paid draws is `cached`'s, asking again for what is missing of n is
`filled`'s.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from trimtab.errors import EndpointError, LLMError
from trimtab.llm.budget import Budget, Limits, Purse, worst_case
from trimtab.llm.capabilities import Capabilities, Learned
from trimtab.llm.limiter import Limiter, Turns
from trimtab.llm.observed import Observer
from trimtab.llm.patience import Waits
from trimtab.llm.prices import Prices
from trimtab.llm.retry import LONGEST_THROTTLED_S, THROTTLED, retried
from trimtab.llm.stops import before_stop
from trimtab.llm.transport import AttemptError, OpenAITransport, RawReply, Transport, unreadable
from trimtab.types import Call, Completion, Completions, Message, Outcome, Prompt, Sampling, Usage

REFUSED_PARAMETER = (400, 422)
BYTES_A_TOKEN = 4  # of English; providers, too, only estimate what a request counts against tokens a minute


@dataclass(frozen=True, slots=True)
class _Request:
    """One request, as often as it is tried."""

    prompt: Prompt
    sampling: Sampling
    worst: Usage
    waits: Waits


class ChatLLM:
    """A chat model behind an API.

    Args:
        model: its name, as the endpoint knows it.
        base_url, api_key, headers, api_version: see `OpenAITransport`.
        payer: the name under which the ledger puts what is paid: that of the key's environment variable.
        timeout_s: the longest wait for one HTTP request.
        attempts: how often one request is tried while its error is worth another attempt; being told to
            slow down (429) is not counted.
        backoff_s: the longest wait after the first failed attempt; doubles with each further one.
        patience_s: the longest time that one request goes on being told to slow down.
        call_deadline_s: the longest time for one call with all its attempts and waits.
        concurrency: most requests in flight at once, where no limiter is given.
        transport: another way to send requests than `OpenAITransport`.
        capabilities: what the model takes; its family's row, corrected by what the endpoint refuses.
        limiter: shared by all who ask the same endpoint; one of its own if left out.
        prices: what tokens cost; unknown if left out.
        budget: what may be spent; without limits if left out.
        watch: observers, told of every HTTP request as it ends.
        idempotent: a word that tells this run's requests from another's; with it, each draw is asked for
            under an `Idempotency-Key`, so that an endpoint that knows the header bills a repetition once.

    Raises:
        ConfigError: an address or a key that cannot be used.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        payer: str = "",
        headers: Mapping[str, str] | None = None,
        api_version: str | None = None,
        timeout_s: float = 60.0,
        attempts: int = 4,
        backoff_s: float = 0.5,
        patience_s: float = LONGEST_THROTTLED_S,
        call_deadline_s: float | None = None,
        concurrency: int = 200,
        transport: Transport | None = None,
        capabilities: Capabilities | None = None,
        limiter: Turns | None = None,
        prices: Prices | None = None,
        budget: Purse | None = None,
        watch: Sequence[Observer] = (),
        idempotent: str | None = None,
    ) -> None:
        self._model = model
        self._payer = payer
        self._timeout_s = timeout_s
        self._attempts = max(1, attempts)
        self._backoff_s = backoff_s
        self._patience_s = patience_s
        self._call_deadline_s = call_deadline_s
        self._transport: Transport = transport or OpenAITransport(
            base_url, api_key=api_key, headers=headers, api_version=api_version, connections=concurrency
        )
        self.capabilities = Learned(model, capabilities)
        self._limiter: Turns = limiter or Limiter(most=concurrency)
        self._prices = prices
        self._budget: Purse = budget or Budget(Limits())
        self._watch = tuple(watch)
        self._idempotent = idempotent

    def __repr__(self) -> str:
        return f"ChatLLM({self._model!r}, base_url={self.endpoint!r})"

    @property
    def name(self) -> str:
        """The model's name, as the endpoint knows it."""
        return self._model

    @property
    def endpoint(self) -> str:
        """Where requests go, without any credentials in it."""
        return self._transport.endpoint

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """Up to `sampling.n` completions of the prompt, asked for in one request.

        An endpoint may give fewer than asked for, and many give one whatever is asked; `Filled` asks again.
        `usage` is the sum over all the attempts that may be billed, `calls` has a line for each attempt.

        Raises:
            EndpointError: unreachable, timed out or failing, after all attempts or at the deadline.
            RefusedError: it understood and said no (key, model name, parameter, quota).
            BudgetSpentError: a limit is reached; this call was not made.
        """
        request = _Request(prompt, sampling, self._worst(prompt, sampling), Waits())
        calls: list[Call] = []
        try:
            async with asyncio.timeout(self._call_deadline_s), request.waits:
                reply = await retried(
                    lambda attempt: self._attempt(request, attempt, calls),
                    attempts=self._attempts,
                    backoff_s=self._backoff_s,
                    longest_throttled_s=self._patience_s,
                )
            return replace(reply, calls=tuple(calls), usage=_sum(calls))
        except LLMError as error:
            error.calls = tuple(calls)
            raise
        except TimeoutError:
            failed = EndpointError(
                f"{self.endpoint} did not answer within {self._deadline(request)}, "
                f"after {len(calls)} attempts",
                retryable=True,
            )
            failed.calls = tuple(calls)
        raise failed

    def _deadline(self, request: _Request) -> str:
        """The one that a request has missed, in words."""
        if request.waits.is_out:
            return "the question's deadline"
        return f"the call's deadline of {self._call_deadline_s:g} s"

    async def close(self) -> None:
        """Close this event loop's connections; a later call opens new ones."""
        await self._transport.close()

    # ------------------------------------------------------------------ requests made elsewhere (batches)

    @property
    def payer(self) -> str:
        """The name under which the ledger puts what is paid."""
        return self._payer

    @property
    def most_at_once(self) -> int:
        """The most completions that one request asks for."""
        return self.capabilities.most_at_once

    def body(self, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
        """What is sent for a request."""
        return request_body(self._model, prompt, sampling, self.capabilities.row_for(sampling))

    def read(self, body: Any, sampling: Sampling) -> Completions:
        """The completions in an answer's body, usage unpriced, and a worst case where unreported.

        Raises:
            EndpointError: there are none to be read.
        """
        completions = _completions(body, sampling)
        if not completions:
            raise unreadable(self._transport, RawReply(body, 200, None), None).error
        usage = _usage(body) or Usage(output_tokens=sampling.n * sampling.max_tokens, calls=1)
        return Completions(completions, usage, self._model)

    def worst(self, prompt: Prompt, sampling: Sampling) -> Usage:
        """The most that a request can use, priced where prices are known."""
        return self._worst(prompt, sampling)

    # ------------------------------------------------------------------ one attempt

    async def _attempt(self, request: _Request, attempt: int, calls: list[Call]) -> Completions:
        """One attempt; what the endpoint says it does not take is left out, and it is asked again at once."""
        while True:
            body = self.body(request.prompt, request.sampling)
            try:
                return await self._sent(request, body, attempt, calls)
            except AttemptError as failed:
                error = failed.error
                is_learned = error.status in REFUSED_PARAMETER and self.capabilities.refused(
                    str(error), body, failed.parameter
                )
            if not is_learned:
                raise error

    async def _sent(
        self, request: _Request, body: dict[str, Any], attempt: int, calls: list[Call]
    ) -> Completions:
        worst = request.worst
        async with self._limiter.slot(worst.input_tokens // BYTES_A_TOKEN + worst.output_tokens) as slot:
            hold = await self._budget.reserve(worst)
            line = _Line(request, self._model, self.endpoint, self._payer, attempt, body.get("n", 1))
            # What stands when this is cancelled on its way: it may be billed all the same.
            call, reply = line.ended(Outcome.UNCERTAIN, worst, error="cancelled"), None
            try:
                with request.waits.on_its_way():
                    raw = await self._transport.send(body, self._timeout_s, self._draws_key(request, body))
                reply = self._read(raw, request, body)
                call = line.ended(Outcome.PAID, reply.usage, status=raw.status, request_id=raw.request_id)
                slot.succeeded()
                return reply
            except AttemptError as failed:
                call = line.failed(failed)
                if failed.error.status == THROTTLED:
                    slot.throttled(failed.error.retry_after_s)
                raise
            finally:
                self._budget.settle(hold, call.usage)
                calls.append(call)
                for observer in self._watch:
                    observer.ended(call, request.prompt, reply, request.sampling)

    def _read(self, raw: RawReply, request: _Request, body: Mapping[str, Any]) -> Completions:
        """The completions of a reply, their usage priced."""
        completions = _completions(raw.document, request.sampling)
        usage = _usage(raw.document)
        if not completions:
            raise unreadable(self._transport, raw, usage and self._priced(usage))
        self.capabilities.gave(len(completions), of=body.get("n", 1))
        named = raw.document.get("model")
        return Completions(
            completions,
            self._priced(usage) if usage else request.worst,
            named if isinstance(named, str) else self._model,
        )

    def _worst(self, prompt: Prompt, sampling: Sampling) -> Usage:
        row = self.capabilities.row
        n = min(sampling.n, row.most_at_once)
        return self._priced(worst_case(prompt.messages, n, sampling.max_tokens + row.reasoning_tokens))

    def _priced(self, usage: Usage) -> Usage:
        return usage if self._prices is None else self._prices.priced(self._model, usage)

    def _draws_key(self, request: _Request, body: Mapping[str, Any]) -> str | None:
        """The same for each attempt at the same draws of the same run, another for all else."""
        if self._idempotent is None:
            return None
        written = json.dumps([self._idempotent, request.sampling.start, body], sort_keys=True)
        return hashlib.sha256(written.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the ledger that has begun."""

    request: _Request
    model: str
    endpoint: str
    payer: str
    attempt: int
    n: int
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started_at: float = field(default_factory=time.time)
    began: float = field(default_factory=time.monotonic)

    def ended(
        self,
        outcome: Outcome,
        usage: Usage,
        *,
        status: int | None = None,
        request_id: str | None = None,
        error: str = "",
    ) -> Call:
        """The whole line."""
        return Call(
            id=self.id,
            purpose=self.request.prompt.purpose,
            model=self.model,
            endpoint=self.endpoint,
            payer=self.payer,
            outcome=outcome,
            usage=usage,
            seconds=time.monotonic() - self.began,
            started_at=self.started_at,
            attempt=self.attempt,
            n=self.n,
            status=status,
            request_id=request_id,
            error=error,
        )

    def failed(self, failed: AttemptError) -> Call:
        """The line of an attempt that brought nothing to use."""
        error = failed.error
        outcome = Outcome.UNCERTAIN if failed.may_be_billed else Outcome.UNPAID
        charged = failed.usage or self.request.worst
        return self.ended(
            outcome,
            charged if failed.may_be_billed else Usage(usd=0.0),
            status=error.status,
            request_id=error.request_id,
            error=" ".join(str(error).split()),
        )


def _sum(calls: Sequence[Call]) -> Usage:
    return sum((call.usage for call in calls[1:]), calls[0].usage) if calls else Usage()


# --------------------------------------------------------------------------- the request


def request_body(model: str, prompt: Prompt, sampling: Sampling, row: Capabilities) -> dict[str, Any]:
    """What is sent: only what was asked for and what the model takes."""
    n = min(sampling.n, row.most_at_once)
    optional = {
        "n": n if n > 1 else None,
        "temperature": sampling.temperature if row.temperature else None,
        "stop": (list(sampling.stop) or None) if row.stop else None,
        "seed": sent_seed(sampling) if row.seed else None,
    }
    return {
        "model": model,
        "messages": _messages(prompt.messages, row.system),
        row.length: sampling.max_tokens + row.reasoning_tokens,
        **{key: value for key, value in optional.items() if value is not None},
    }


def sent_seed(sampling: Sampling) -> int | None:
    """The caller's seed, or one made of it for later draws: with the same one, a server repeats itself."""
    if sampling.seed is None or sampling.start == 0:
        return sampling.seed
    digest = hashlib.sha256(f"{sampling.seed}:{sampling.start}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1  # 31 bits: what every endpoint takes


def _messages(messages: Sequence[Message], takes_system: bool) -> list[dict[str, str]]:
    if takes_system:
        return [{"role": message.role, "content": message.content} for message in messages]
    spoken = [message for message in messages if message.role != "system"]
    preface = "\n\n".join(message.content for message in messages if message.role == "system")
    written = [{"role": message.role, "content": message.content} for message in spoken]
    if not preface:
        return written
    if written and written[0]["role"] == "user":
        written[0]["content"] = f"{preface}\n\n{written[0]['content']}"
        return written
    return [{"role": "user", "content": preface}, *written]


# --------------------------------------------------------------------------- the reply


def _completions(document: Any, sampling: Sampling) -> tuple[Completion, ...]:
    """The completions in a reply; none where it is not what a chat completion looks like."""
    choices = document.get("choices") if isinstance(document, dict) else None
    if not isinstance(choices, list):
        return ()
    read = [
        _completion(choice, sampling.stop) for choice in choices[: sampling.n] if isinstance(choice, dict)
    ]
    return tuple(read)


def _completion(choice: Mapping[str, Any], stops: tuple[str, ...]) -> Completion:
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    text = content if isinstance(content, str) else ""
    cut = before_stop(text, stops)
    ran_out = choice.get("finish_reason") == "length" and cut == text
    finish: Literal["stop", "length"] = "length" if ran_out else "stop"
    return Completion(cut, finish)


def _usage(document: Any) -> Usage | None:
    """What the endpoint reports as used; None where it reports nothing."""
    usage = document.get("usage") if isinstance(document, dict) else None
    if not isinstance(usage, dict):
        return None
    counts = [usage.get(key) for key in ("prompt_tokens", "completion_tokens")]
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        return None
    return Usage(counts[0] or 0, counts[1] or 0, calls=1)
