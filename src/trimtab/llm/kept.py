"""`Kept`: no response is paid for twice. Where responses are kept is the store's to say."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import asdict, replace

from trimtab.types import LLM, Completions, Prompt, ResponseStore, Sampling, Usage


class Kept:
    """A language model whose every response is in the store before it is returned.

    The same request (model, messages and sampling, seed and n among it) asked again is answered from the
    store; asked again while the first is on its way, it waits for that one. Each of these replays reports
    zero usage, so that sums over a run count each payment once, while the store holds the original's.

    A call on its way is paid for: a caller who is cancelled goes away only once it has ended and is kept.
    Cancelled once more, the caller goes at once, and what ends the event loop ends the call.

    Args:
        llm: the model to ask.
        store: where its responses are kept.
        scope: what tells this model from another of the same name, such as its endpoint.
    """

    def __init__(self, llm: LLM, store: ResponseStore, *, scope: str = "") -> None:
        self._scope = scope
        self._llm = llm
        self._store = store
        self._on_its_way: dict[str, asyncio.Task[Completions]] = {}

    @property
    def name(self) -> str:
        """The name of the model inside."""
        return self._llm.name

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """The kept response to this request, else a new one, kept. Raises what the model inside raises."""
        key = request_key(self.name, prompt, sampling, self._scope)
        kept = self._store.kept(key)
        if kept is not None:
            return replayed(kept)
        task = self._on_its_way.get(key)
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            return replayed(await _ended(task))
        return await _ended(self._started(key, prompt, sampling))

    def _started(self, key: str, prompt: Prompt, sampling: Sampling) -> asyncio.Task[Completions]:
        task = asyncio.create_task(self._paid(key, prompt, sampling))
        self._on_its_way[key] = task
        task.add_done_callback(lambda done: self._arrived(key, done))
        return task

    async def _paid(self, key: str, prompt: Prompt, sampling: Sampling) -> Completions:
        completions = await self._llm.complete(prompt, sampling)
        self._store.keep(key, completions)
        return completions

    def _arrived(self, key: str, task: asyncio.Task[Completions]) -> None:
        if self._on_its_way.get(key) is task:
            del self._on_its_way[key]
        if not task.cancelled():
            task.exception()  # seen: whoever waits has it too, and a caller that went away needs no warning


async def _ended(task: asyncio.Task[Completions]) -> Completions:
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # The loop may end with its cancelled callers, and would take a call with it that still runs.
        await asyncio.wait([task])
        raise


def request_key(model: str, prompt: Prompt, sampling: Sampling, scope: str = "") -> str:
    """SHA-256 of all that decides a response; `question_id` is never sent and plays no part."""
    request = {
        "model": model,
        "scope": scope,
        "messages": [[message.role, message.content] for message in prompt.messages],
        "sampling": asdict(sampling),
    }
    written = json.dumps(request, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(written.encode("utf-8", "surrogatepass")).hexdigest()


def replayed(completions: Completions) -> Completions:
    """These completions at zero usage; where no price was known, none is made up."""
    usd = None if completions.usage.usd is None else 0.0
    return replace(completions, usage=Usage(usd=usd))
