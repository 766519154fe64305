"""`BatchDraws`: draws bought through a provider's batch API (OpenAI's wire format), at batch prices.

They are bought before a run needs them and put into the cache, where the run then finds them. How a request
is written and an answer read is `chat`'s to say, how the provider is asked stands in `batch_api`, and where
batches are noted is the caller's. Why none is lost or paid for twice, however a run dies:
docs/decisions/0025-batches-survive-a-crash.md.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar

from trimtab.errors import BudgetSpentError, ConfigError, LLMError, RefusedError
from trimtab.llm.budget import Budget, Hold
from trimtab.llm.cached import request_key
from trimtab.llm.capabilities import Learned
from trimtab.llm.observed import Observer
from trimtab.llm.prices import Prices
from trimtab.llm.retry import retried
from trimtab.types import (
    Call,
    Completions,
    Draws,
    Outcome,
    Prompt,
    Purpose,
    Reply,
    SampleStore,
    Sampling,
    Usage,
)

if TYPE_CHECKING:  # it loads the SDK, which takes as long as all the rest
    from trimtab.llm.batch_api import BatchAPI, Remote, Result

MOST_REQUESTS = 50_000  # in one batch, says OpenAI
MOST_BYTES = 200_000_000  # of one batch's file, likewise
KEPT_AT_ONCE = 500  # replies in one transaction
ATTEMPTS = 6  # at one thing asked of the provider: the wait adds up to a minute, half of it by chance
BACKOFF_S = 1.0
SETTLE_S = 5.0  # how long a provider may take to list what it has taken in
LOCK_POLL_S = 0.2
LESSONS = 4  # how often a purchase is made again without a parameter that was refused
REFUSED_PARAMETER = (400, 422)
CHAT_URL = "/v1/chat/completions"
COMPLETED, FAILED = "completed", "failed"  # as the provider says
UNSURE_4XX = frozenset({408, 409})  # said without knowing, or of another request with the same name
REFUSED = "Nothing of it was asked or billed; without the batch API the same draws are asked for one by one."

Got = TypeVar("Got")


class State(StrEnum):
    """How far a batch has come, as far as we know."""

    PLANNED = "planned"  # nothing can have been submitted
    UPLOADED = "uploaded"  # its file is there; it may have been submitted
    SUBMITTED = "submitted"  # the provider works on it, or is done
    ENDED = "ended"  # what came of it is kept
    DROPPED = "dropped"  # nothing was submitted, and nothing will be


OPEN = (State.PLANNED, State.UPLOADED, State.SUBMITTED)


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch, as it is noted before, during and after its submission."""

    id: str  # ours; it travels with the batch, by which it is found again
    payer: str
    endpoint: str
    remote_id: str  # of its file once uploaded, of the batch once submitted
    state: State
    asked: tuple[tuple[str, Draws], ...]  # the name of each request in it, and the draws it asks for


class BatchStore(Protocol):
    """Where batches are noted, durably, before the next step is taken."""

    def put(self, batch: Batch) -> None:
        """Note a new batch."""
        ...

    def note(self, batch_id: str, state: State, remote_id: str) -> None:
        """Note how far a batch has come."""
        ...

    def open(self) -> Sequence[Batch]:
        """The batches that are planned, uploaded or submitted, of all runs, oldest first."""
        ...


class Box(Protocol):
    """The chat model whose requests a batch holds: `ChatLLM`."""

    @property
    def name(self) -> str:
        """The model's name, as the endpoint knows it."""
        ...

    @property
    def endpoint(self) -> str:
        """The base URL, without credentials."""
        ...

    @property
    def payer(self) -> str:
        """Name of the environment variable that holds the key."""
        ...

    @property
    def capabilities(self) -> Learned:
        """What it takes, as far as known."""
        ...

    def body(self, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
        """What is sent for this request."""
        ...

    def read(self, body: Mapping[str, Any], sampling: Sampling) -> Completions:
        """The completions in an answer's body. Raises LLMError when there are none to be read."""
        ...

    def worst(self, prompt: Prompt, sampling: Sampling) -> Usage:
        """The most that this request can use."""
        ...


@dataclass(frozen=True, slots=True)
class Prepaid:
    """What came of buying draws. What failed is not in the cache: a run asks for it as for any other draw."""

    asked: int = 0  # draws
    kept: int = 0  # of these, in the cache before
    bought: int = 0  # of these, come by batch
    failed: Mapping[str, int] = field(default_factory=dict)  # requests that brought nothing, by reason
    usage: Usage = field(default_factory=Usage)
    has_learned: bool = False  # requests were refused for a parameter that is left out from now on

    def __add__(self, other: Prepaid) -> Prepaid:
        return Prepaid(
            self.asked + other.asked,
            self.kept + other.kept,
            self.bought + other.bought,
            Counter(self.failed) + Counter(other.failed),
            self.usage + other.usage,
            self.has_learned or other.has_learned,
        )


@dataclass(frozen=True, slots=True)
class _Line:
    """One request of a batch."""

    name: str
    draws: Draws
    text: bytes  # its line in the file
    worst: Usage


@dataclass(frozen=True, slots=True)
class _Wanted:
    """All that is wanted of one request."""

    prompt: Prompt
    sampling: Sampling
    numbers: frozenset[int]  # of its draws

    def part(self, draws: Draws) -> Sampling:
        """The sampling of some of the draws."""
        return replace(self.sampling, start=draws.start, n=draws.n)


@dataclass(slots=True)
class _Purchase:
    """One call of `prepaid` on its way."""

    wanted: Mapping[str, _Wanted]
    kept: int = 0
    collecting: list[asyncio.Task[Prepaid]] = field(default_factory=list)
    under_way: dict[str, set[int]] = field(default_factory=dict)  # numbers of draws, by key
    done: dict[str, int] = field(default_factory=dict)  # requests, by batch
    total: int = 0


class BatchDraws:
    """Buys draws in batches and puts them into the cache.

    Args:
        box: the model.
        api: the provider's batch API, at the box's endpoint and with its key.
        samples: the cache.
        batches: where batches are noted.
        scope: what tells the model from another of the same name; as `Cached` has it.
        prices: what a batch costs; unknown without them.
        budget: what it may cost; the worst case of a whole batch is reserved before it is submitted.
        watch: told of each request as its batch ends.
        report: told how many requests are done, of how many, at each look.
        poll_s: how often a batch is looked at.
        settle_s: how long the provider may take to list a batch that it has taken in.
        lock: a file; whoever holds it submits, and others with the same file wait their turn.
        most_requests: in one batch.
        most_bytes: of one batch's file.

    Raises:
        ConfigError: nothing is known of a batch API that takes this model.
    """

    def __init__(
        self,
        box: Box,
        api: BatchAPI,
        samples: SampleStore,
        batches: BatchStore,
        *,
        scope: str = "",
        prices: Prices | None = None,
        budget: Budget | None = None,
        watch: Sequence[Observer] = (),
        report: Callable[[int, int], None] = lambda done, total: None,
        poll_s: float = 30.0,
        settle_s: float = SETTLE_S,
        lock: Path | None = None,
        most_requests: int = MOST_REQUESTS,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        if not box.capabilities.row.batch:
            raise ConfigError(
                f"model '{box.name}' is not known to be taken by a batch API; leave --batch out, or say "
                "--capabilities batch=yes if it is"
            )
        self._box, self._api, self._samples, self._batches = box, api, samples, batches
        self._scope = scope
        self._prices, self._budget, self._watch = prices, budget, tuple(watch)
        self._report = report
        self._poll_s, self._settle_s = poll_s, settle_s
        self._lock = lock
        self._most_requests, self._most_bytes = most_requests, most_bytes

    async def prepaid(self, requests: Sequence[tuple[Prompt, Sampling]]) -> Prepaid:
        """Buys those of the draws that are not in the cache, and returns when they are.

        Batches that an earlier run left open and that hold some of the draws are brought in, not bought
        again. A run that is stopped or killed on the way leaves its batches open for the next.

        Raises:
            BudgetSpentError: not all could be bought; what could is in the cache by then.
            RefusedError: the provider will not have the batch, or any batch.
            EndpointError: it cannot be reached; what was submitted stays open.
            ValueError: a request with stop sequences, which are for steps, not for complete answers.
        """
        wanted = self._wanted(requests)
        first = await self._purchased(_Purchase(wanted))
        total, latest = first, first
        for _ in range(LESSONS):  # what was refused for a parameter is asked for again without it
            if not latest.has_learned:
                break
            latest = await self._purchased(_Purchase(wanted))
            total = replace(total + latest, failed=latest.failed)
        asked = sum(len(each.numbers) for each in wanted.values())
        return replace(total, asked=asked, kept=first.kept)

    async def _purchased(self, purchase: _Purchase) -> Prepaid:
        try:
            failed = await self._submitting(purchase)
            ended = await _all_ended(purchase.collecting)
        finally:
            await self._api.close()
        for each in [failed, *ended]:
            if isinstance(each, BaseException):
                raise each
        bought = sum((each for each in ended if isinstance(each, Prepaid)), Prepaid())
        return replace(bought, kept=purchase.kept)

    def _wanted(self, requests: Iterable[tuple[Prompt, Sampling]]) -> dict[str, _Wanted]:
        """What is wanted, by key: requests that differ in their draws alone are one."""
        wanted: dict[str, _Wanted] = {}
        for prompt, sampling in requests:
            if sampling.stop:
                raise ValueError("batches are for complete answers: a request in one has no stop sequences")
            key = request_key(self._box.name, prompt, sampling, self._scope)
            numbers = set(range(sampling.start, sampling.start + sampling.n))
            known = wanted.get(key)
            wanted[key] = _Wanted(prompt, sampling, frozenset(numbers | (known.numbers if known else set())))
        return wanted

    # ------------------------------------------------------------------ submission, one process at a time

    async def _submitting(self, purchase: _Purchase) -> LLMError | None:
        """Brings in what is open, and submits what is missing; the error that ended it early, if one did."""
        try:
            async with alone(self._lock):
                await self._take_up(purchase)
                for lines in self._files(await self._missing(purchase)):
                    self._collect(purchase, *await self._submitted(lines))
        except LLMError as error:  # what was submitted before is paid for: it is brought in first
            return error
        except BaseException:
            await _cancelled(purchase.collecting)
            raise
        return None

    async def _take_up(self, purchase: _Purchase) -> None:
        """Every open batch with draws that are wanted: under the lock, what is open was left by the dead."""
        for batch in self._batches.open():
            if self._is_ours(batch) and any(draws.key in purchase.wanted for _, draws in batch.asked):
                submitted = await self._resolved(batch)
                if submitted is not None:
                    self._collect(purchase, submitted, await self._held_for(purchase, submitted))

    def _is_ours(self, batch: Batch) -> bool:
        return (batch.endpoint, batch.payer) == (self._box.endpoint, self._box.payer)

    async def _held_for(self, purchase: _Purchase, batch: Batch) -> Hold | None:
        """A hold on what an open batch can still cost; None where there is no room: it is spent already."""
        try:
            return await self._reserved(self._worst_of(purchase, batch))
        except BudgetSpentError:
            return None

    async def _resolved(self, batch: Batch) -> Batch | None:
        """The batch as submitted, found again if need be; None, and noted so, when it never will be."""
        if batch.state is State.SUBMITTED:
            return batch
        remote = await self._found(batch) if batch.state is State.UPLOADED else None
        if remote is None:
            self._noted(batch, State.DROPPED)
            return None
        return self._noted(batch, State.SUBMITTED, remote.id)

    async def _found(self, batch: Batch) -> Remote | None:
        """The provider's batch, if ours ever arrived.

        Where it is not listed, its file is deleted: a submission that is still on its way, sent by us before
        we died or lost the connection, comes to nothing from then on. One that came in before is listed.
        """
        since = _made_at(batch.id)
        found = await self._asked(lambda: self._api.find(batch.id, batch.remote_id, since))
        if found is not None:
            return found
        await self._asked(lambda: self._api.delete(batch.remote_id))
        await asyncio.sleep(self._settle_s)
        return await self._asked(lambda: self._api.find(batch.id, batch.remote_id, since))

    async def _missing(self, purchase: _Purchase) -> list[_Line]:
        """A line for each run of draws that are wanted and neither kept nor under way."""
        spans = [_span(key, each.numbers) for key, each in purchase.wanted.items()]
        kept = await asyncio.to_thread(self._samples.kept, spans)
        lines: list[_Line] = []
        for (key, wanted), found in zip(purchase.wanted.items(), kept, strict=True):
            purchase.kept += len(wanted.numbers & found.keys())
            missing = wanted.numbers - found.keys() - purchase.under_way.get(key, set())
            for draws in _runs(key, missing, self._box.capabilities.most_at_once):
                lines.append(self._line(f"{wanted.prompt.purpose}-{len(lines)}", wanted, draws))
        return lines

    def _line(self, name: str, wanted: _Wanted, draws: Draws) -> _Line:
        request = {
            "custom_id": name,
            "method": "POST",
            "url": CHAT_URL,
            "body": self._box.body(wanted.prompt, wanted.part(draws)),
        }
        text = json.dumps(request, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        return _Line(name, draws, text, self._priced(self._box.worst(wanted.prompt, wanted.part(draws))))

    def _files(self, lines: Iterable[_Line]) -> Iterator[list[_Line]]:
        """The lines in batches, none larger than the provider takes."""
        batch: list[_Line] = []
        size = 0
        for line in lines:
            if batch and (len(batch) == self._most_requests or size + len(line.text) > self._most_bytes):
                yield batch
                batch, size = [], 0
            batch.append(line)
            size += len(line.text)
        if batch:
            yield batch

    async def _submitted(self, lines: Sequence[_Line]) -> tuple[Batch, Hold | None]:
        hold = await self._reserved(sum((line.worst for line in lines), Usage()))
        try:
            return await self._asked(lambda: self._submission(lines)), hold
        except BaseException:
            self._settle(
                hold, Usage()
            )  # nothing was submitted; or we are stopped, and the next run counts it
            raise

    async def _submission(self, lines: Sequence[_Line]) -> Batch:
        """One attempt; each step is noted before the next is taken."""
        asked = tuple((line.name, line.draws) for line in lines)
        batch = Batch(_new_id(), self._box.payer, self._box.endpoint, "", State.PLANNED, asked)
        self._batches.put(batch)
        try:
            file_id = await self._api.upload(f"{batch.id}.jsonl", b"".join(line.text for line in lines))
            batch = self._noted(batch, State.UPLOADED, file_id)
            return self._noted(batch, State.SUBMITTED, (await self._api.create(file_id, batch.id)).id)
        except LLMError as error:
            submitted = await self._after(error, batch)
            if submitted is None:
                raise
            return submitted

    async def _after(self, error: LLMError, batch: Batch) -> Batch | None:
        """The batch, if it was taken in although no answer came; None when it is sure that it was not."""
        if _is_plain_no(error):
            self._noted(batch, State.DROPPED)
            return None
        try:
            return await self._resolved(batch)
        except LLMError as lost:
            lost.retryable = False  # it may have been taken in: what it asks for is not submitted once more
            raise

    # ------------------------------------------------------------------ what comes back

    def _collect(self, purchase: _Purchase, batch: Batch, hold: Hold | None) -> None:
        for _, draws in batch.asked:
            numbers = range(draws.start, draws.start + draws.n)
            purchase.under_way.setdefault(draws.key, set()).update(numbers)
        purchase.total += len(batch.asked)
        purchase.collecting.append(asyncio.create_task(self._collected(purchase, batch, hold)))

    async def _collected(self, purchase: _Purchase, batch: Batch, hold: Hold | None) -> Prepaid:
        charged = self._worst_of(purchase, batch) if hold is not None else Usage()
        try:
            remote = await self._ended(purchase, batch)
            results = {each.name: each for each in await self._asked(lambda: self._api.results(remote))}
            replies = [
                self._reply(purchase, remote, name, draws, results.get(name)) for name, draws in batch.asked
            ]
            charged = sum((call.usage for reply in replies for call in reply.calls), Usage())
            await self._keep(replies)
            self._noted(batch, State.ENDED)
        finally:
            self._settle(hold, charged)  # when stopped on the way: all of it, since it was submitted
        if remote.state == FAILED:
            raise RefusedError(f"{self._box.endpoint} refused batch {remote.id}: {remote.error}. {REFUSED}")
        failed = Counter(call.error for reply in replies for call in reply.calls if call.error)
        return Prepaid(
            bought=sum(len(reply.completions) for reply in replies),
            failed=failed,
            usage=charged,
            has_learned=any(self._learns(purchase, draws, results.get(name)) for name, draws in batch.asked),
        )

    def _learns(self, purchase: _Purchase, draws: Draws, result: Result | None) -> bool:
        wanted = purchase.wanted.get(draws.key)
        if wanted is None or result is None or result.status not in REFUSED_PARAMETER:
            return False
        sent = self._box.body(wanted.prompt, wanted.part(draws))
        return self._box.capabilities.refused(result.error, sent)

    async def _ended(self, purchase: _Purchase, batch: Batch) -> Remote:
        while True:
            remote = await self._asked(lambda: self._api.look(batch.remote_id))
            purchase.done[batch.id] = len(batch.asked) if remote.is_ended else remote.done
            self._report(sum(purchase.done.values()), purchase.total)
            if remote.is_ended:
                return remote
            await asyncio.sleep(self._poll_s)

    def _reply(
        self, purchase: _Purchase, remote: Remote, name: str, draws: Draws, result: Result | None
    ) -> Reply:
        """What came of one request, with its line of the ledger; the observers are told."""
        wanted = purchase.wanted.get(draws.key)
        prompt = wanted.prompt if wanted else Prompt((), purpose=_purpose(name))
        sampling = wanted.part(draws) if wanted else Sampling(n=draws.n, start=draws.start)
        completions, outcome, error = self._read(remote, result, sampling)
        usage = Usage(usd=0.0)
        if outcome is not Outcome.UNPAID:
            reported = completions.usage if completions else Usage()
            is_reported = reported.input_tokens + reported.output_tokens > 0
            usage = self._priced(reported) if is_reported else self._worst(purchase, draws)
        call = Call(
            id=f"{remote.id}/{name}",  # the same whoever brings it in, and however often: it is charged once
            purpose=prompt.purpose,
            model=self._box.name,
            endpoint=self._box.endpoint,
            payer=self._box.payer,
            outcome=outcome,
            usage=usage,
            seconds=max(0.0, remote.ended_at - remote.created_at),
            started_at=remote.created_at,
            n=draws.n,
            status=result.status if result else None,
            request_id=result.request_id if result else None,
            error=error,
            is_batch=True,
        )
        for observer in self._watch:
            observer.ended(call, prompt, completions, sampling)
        drawn = completions.completions if completions else ()
        return Reply(
            draws.key, draws.start, completions.model if completions else self._box.name, drawn, (call,)
        )

    def _read(
        self, remote: Remote, result: Result | None, sampling: Sampling
    ) -> tuple[Completions | None, Outcome, str]:
        """The completions, whether they were paid for, and why there are none."""
        if result is None and remote.state == COMPLETED:
            return None, Outcome.UNCERTAIN, "the batch is completed, and holds no result for this request"
        if result is None:
            return None, Outcome.UNPAID, f"the batch is {remote.state}: {remote.error or 'not asked in time'}"
        if result.body is None:
            return None, Outcome.UNPAID, result.error
        try:
            return self._box.read(result.body, sampling), Outcome.PAID, ""
        except LLMError as error:
            return None, Outcome.UNCERTAIN, str(error)

    async def _keep(self, replies: Iterable[Reply]) -> None:
        waiting = iter(replies)
        while some := list(islice(waiting, KEPT_AT_ONCE)):
            await asyncio.to_thread(self._samples.keep, some)

    # ------------------------------------------------------------------ small change

    def _noted(self, batch: Batch, state: State, remote_id: str | None = None) -> Batch:
        """The batch as noted now."""
        noted = replace(batch, state=state, remote_id=batch.remote_id if remote_id is None else remote_id)
        self._batches.note(noted.id, noted.state, noted.remote_id)
        return noted

    async def _asked(self, call: Callable[[], Awaitable[Got]]) -> Got:
        return await retried(lambda attempt: call(), attempts=ATTEMPTS, backoff_s=BACKOFF_S)

    async def _reserved(self, worst: Usage) -> Hold | None:
        return None if self._budget is None else await self._budget.reserve(worst)

    def _settle(self, hold: Hold | None, charged: Usage) -> None:
        if self._budget is not None and hold is not None:
            self._budget.settle(hold, charged)

    def _priced(self, usage: Usage) -> Usage:
        return usage if self._prices is None else self._prices.priced(self._box.name, usage, is_batch=True)

    def _worst(self, purchase: _Purchase, draws: Draws) -> Usage:
        """The most that a request can cost; of one that is not wanted here, its being one is all we know."""
        wanted = purchase.wanted.get(draws.key)
        known = self._box.worst(wanted.prompt, wanted.part(draws)) if wanted else Usage(calls=1)
        return self._priced(known)

    def _worst_of(self, purchase: _Purchase, batch: Batch) -> Usage:
        return sum((self._worst(purchase, draws) for _, draws in batch.asked), Usage())


def _is_plain_no(error: LLMError) -> bool:
    """True when the provider itself said that it took nothing in."""
    return error.status is not None and 400 <= error.status < 500 and error.status not in UNSURE_4XX


def _span(key: str, numbers: frozenset[int]) -> Draws:
    return Draws(key, min(numbers, default=0), max(numbers, default=-1) + 1 - min(numbers, default=0))


def _runs(key: str, numbers: Iterable[int], most: int) -> Iterator[Draws]:
    """The numbers as runs without a gap, none longer than `most`."""
    start = n = 0
    for number in sorted(numbers):
        if n and (number != start + n or n == most):
            yield Draws(key, start, n)
            n = 0
        start, n = (start, n + 1) if n else (number, 1)
    if n:
        yield Draws(key, start, n)


def _new_id() -> str:
    """A name for a batch; it begins with the time, so that listing the provider's can end there."""
    return f"{int(time.time())}-{uuid.uuid4().hex}"


def _made_at(batch_id: str) -> float:
    return float(batch_id.partition("-")[0])


def _purpose(name: str) -> Purpose:
    return Purpose(name.rpartition("-")[0])


async def _all_ended(tasks: Sequence[asyncio.Task[Prepaid]]) -> list[Prepaid | BaseException]:
    """What came of each, all of them having ended; cancelled, it cancels them first."""
    try:
        return await asyncio.gather(*tasks, return_exceptions=True)
    except asyncio.CancelledError:
        await _cancelled(tasks)
        raise


async def _cancelled(tasks: Sequence[asyncio.Task[Prepaid]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def alone(lock: Path | None) -> AsyncIterator[None]:
    """Inside, nobody else on this machine is inside with the same file; the system frees it when we die."""
    if lock is None:
        yield
        return
    with lock.open("ab") as file:
        while not _locked(file):
            await asyncio.sleep(LOCK_POLL_S)
        yield


def _locked(file: IO[bytes]) -> bool:
    if sys.platform == "win32":  # it locks otherwise; one process at a time is the user's to see to there
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
