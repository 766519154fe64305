"""A black box that takes its time and counts: an asynchronous server on the loopback.

It bills a repetition of the same `Idempotency-Key` once, as endpoints do that know the header.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

PROMPT_TOKENS, ANSWER_TOKENS = 10, 5


class CountingBox:
    """What a server was asked, and what it bills.

    Args:
        latency_s: how long an answer takes.
        say: the text of draw number `at` of a request; always the same one if left out.
    """

    def __init__(
        self, latency_s: float = 0.0, say: Callable[[dict[str, Any], int], str] | None = None
    ) -> None:
        self.latency_s = latency_s
        self._say = say or (lambda body, at: "The answer is 2.")
        self.url = ""
        self.requests = 0
        self.in_flight = self.most_in_flight = 0
        self.arrivals: list[float] = []
        self.authorizations: set[str | None] = set()
        self._keys: Counter[str] = Counter()
        self._unnamed = 0

    @property
    def billed(self) -> int:
        """Requests, those of one key counted once."""
        return len(self._keys) + self._unnamed

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        self._note(request)
        await asyncio.sleep(self.latency_s)
        self.in_flight -= 1
        return web.json_response(self._said(body))

    def _note(self, request: web.Request) -> None:
        self.requests += 1
        self.arrivals.append(asyncio.get_running_loop().time())
        self.authorizations.add(request.headers.get("authorization"))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        key = request.headers.get("idempotency-key")
        if key is None:
            self._unnamed += 1
        else:
            self._keys[key] += 1

    def _said(self, body: dict[str, Any]) -> dict[str, Any]:
        n = body.get("n", 1)
        usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": n * ANSWER_TOKENS}
        messages = [{"role": "assistant", "content": self._say(body, at)} for at in range(n)]
        choices = [
            {"index": at, "message": each, "finish_reason": "stop"} for at, each in enumerate(messages)
        ]
        return {"id": "x", "object": "chat.completion", "model": "m", "choices": choices, "usage": usage}


@contextmanager
def counting(box: CountingBox) -> Iterator[CountingBox]:
    """The box, serving at `box.url` in a thread of its own."""
    loop = asyncio.new_event_loop()
    ready = threading.Event()

    async def start() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", box.answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        box.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        ready.set()
        while not over.is_set():
            await asyncio.sleep(0.05)
        await runner.cleanup()

    over = threading.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(start()))
    thread.start()
    ready.wait(10)
    try:
        yield box
    finally:
        over.set()
        thread.join()
        loop.close()
