"""ChatLLM and Cached against a real ASGI server, a real SQLite store and a real kill."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from trimtab.llm import Cached, ChatLLM
from trimtab.store import Store
from trimtab.types import Message, Prompt, Sampling, Usage

pytestmark = pytest.mark.slow

QUESTIONS = 40


class Box:
    """A black box that counts what it answered, and fails as often as told."""

    def __init__(self) -> None:
        self.url = ""
        self.share_failing = 0.0
        self.pause_s = 0.0
        self.answered: Counter[str] = Counter()
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self.complete)
        self._chance = random.Random(0)

    async def complete(self, request: Request) -> JSONResponse:
        body = await request.json()
        if self._chance.random() < self.share_failing:
            status = self._chance.choice([429, 500, 503])
            return JSONResponse({"error": {"message": "later"}}, status, {"retry-after": "0"})
        await asyncio.sleep(self.pause_s)
        asked = body["messages"][-1]["content"]
        self.answered[asked] += 1
        return JSONResponse(chat_reply(asked, body.get("n", 1)))


def chat_reply(asked: str, n: int) -> dict[str, Any]:
    choices = [
        {"index": at, "message": {"role": "assistant", "content": f"{asked} #{at}"}, "finish_reason": "stop"}
        for at in range(n)
    ]
    usage = {"prompt_tokens": 3, "completion_tokens": n, "total_tokens": 3 + n}
    return {"id": "x", "object": "chat.completion", "model": "box", "choices": choices, "usage": usage}


@pytest.fixture
def box() -> Iterator[Box]:
    box = Box()
    listening = socket.create_server(("127.0.0.1", 0))
    box.url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    server = uvicorn.Server(uvicorn.Config(box.app, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield box
    server.should_exit = True
    thread.join()
    listening.close()


def prompt(number: int) -> Prompt:
    return Prompt((Message("user", f"question {number}"),), str(number))


def test_every_question_is_answered_though_a_third_of_all_calls_fails(box):
    box.share_failing = 0.33
    llm = ChatLLM("gpt-4o", base_url=box.url, attempts=12, backoff_s=0.001)

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(llm.complete(prompt(at), Sampling(n=2)) for at in range(200)))

    replies = asyncio.run(all_at_once())
    assert [reply.completions[1].text for reply in replies] == [f"question {at} #1" for at in range(200)]
    assert sum((reply.usage for reply in replies), Usage()) == Usage(600, 400, calls=200)
    assert box.answered.total() == 200


ASKER = f"""
import asyncio, sys
from trimtab.llm import Cached, ChatLLM
from trimtab.store import Store
from trimtab.types import Message, Prompt, Sampling

async def main(url, path):
    llm = Cached(ChatLLM("gpt-4o", base_url=url), Store.open(path).samples_of("run"))
    for at in range({QUESTIONS}):
        reply = await llm.complete(Prompt((Message("user", f"question {{at}}"),)), Sampling(n=2, seed=7))
        print(reply.completions[0].text, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


def asker(box: Box, path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ASKER, box.url, str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_run_killed_in_the_middle_never_asks_again_for_what_it_had(box, tmp_path):
    box.pause_s = 0.02
    path = tmp_path / "store.sqlite"
    with asker(box, path) as first:
        assert first.stdout is not None
        had = [first.stdout.readline() for _ in range(QUESTIONS // 2)]
        first.send_signal(signal.SIGKILL)
    with asker(box, path) as second:
        printed, _ = second.communicate(timeout=60)
    assert printed.splitlines() == [f"question {at} #0" for at in range(QUESTIONS)]
    assert {box.answered[line.removesuffix(" #0\n")] for line in had} == {1}
    assert box.answered.total() <= QUESTIONS + 1  # one at most was on its way when the kill came


def test_what_the_store_kept_is_replayed_word_for_word_after_it_was_closed(box, tmp_path):
    path = tmp_path / "store.sqlite"
    sampling = Sampling(n=3, stop=("\n",), seed=1)
    replies = []
    for _ in range(2):
        with Store.open(path) as store:
            kept = Cached(ChatLLM("gpt-4o", base_url=box.url), store.samples_of("run"))
            replies.append(asyncio.run(kept.complete(prompt(1), sampling)))
    assert replies[0].completions == replies[1].completions
    assert [reply.usage.calls for reply in replies] == [1, 0]
    assert box.answered.total() == 1
