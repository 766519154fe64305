"""Cached on a real SQLite file before a real HTTP server: the server's own count says what was paid for."""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from trimtab.llm import Cached, ChatLLM, Filled
from trimtab.store import Store
from trimtab.types import Call, Completion, Completions, Message, Outcome, Prompt, Sampling, Usage

pytestmark = pytest.mark.slow

QUESTIONS = 30
DRAWS = 4


class Box:
    """A black box that counts the completions it gave to each question."""

    def __init__(self) -> None:
        self.url = ""
        self.pause_s = 0.0
        self.given: Counter[str] = Counter()
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self.complete)

    async def complete(self, request: Request) -> JSONResponse:
        body = await request.json()
        asked, n = body["messages"][-1]["content"], body.get("n", 1)
        await asyncio.sleep(self.pause_s)
        self.given[asked] += n
        choices = [
            {"index": at, "message": {"role": "assistant", "content": asked}, "finish_reason": "stop"}
            for at in range(n)
        ]
        usage = {"prompt_tokens": 3, "completion_tokens": n, "total_tokens": 3 + n}
        reply = {"id": "x", "object": "chat.completion", "model": "box", "choices": choices, "usage": usage}
        return JSONResponse(reply)


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


def cached(box: Box, store: Store, run_id: str = "run") -> Filled:
    chat = ChatLLM("box", base_url=box.url)
    kept = Cached(chat, store.samples_of(run_id), scope=chat.endpoint)
    return Filled(kept, capabilities=chat.capabilities)


def prompt(number: int) -> Prompt:
    return Prompt((Message("user", f"question {number}"),))


def test_the_server_counts_eight_completions_after_five_and_then_eight_were_asked_for(box, tmp_path):
    with Store.open(tmp_path / "store.db") as store:
        replies = [
            asyncio.run(cached(box, store).complete(prompt(1), Sampling(n=n, seed=1))) for n in (5, 8, 8)
        ]
        assert [len(reply.completions) for reply in replies] == [5, 8, 8]
        assert replies[1].completions[:5] == replies[0].completions
        assert box.given == {"question 1": 8}
        assert store.usage_of("run") == sum((reply.usage for reply in replies), Usage())
        assert store.usage_of("run").output_tokens == 8


def test_the_server_gives_each_draw_once_however_many_ask_at_the_same_time(box, tmp_path):
    box.pause_s = 0.02
    chance = random.Random(0)
    asked = [(chance.randrange(5), chance.randrange(6), chance.randrange(1, 6)) for _ in range(80)]
    wanted = {(number, at) for number, start, n in asked for at in range(start, start + n)}
    with Store.open(tmp_path / "store.db") as store:
        llm = cached(box, store)

        async def all_at_once() -> list[Completions]:
            requests = (llm.complete(prompt(q), Sampling(n=n, start=start, seed=1)) for q, start, n in asked)
            return await asyncio.gather(*requests)

        replies = asyncio.run(all_at_once())
        assert [len(reply.completions) for reply in replies] == [n for _, _, n in asked]
        assert box.given.total() == len(wanted) == store.usage_of("run").output_tokens


ASKER = f"""
import asyncio, sys
from trimtab.llm import Cached, ChatLLM, Filled
from trimtab.store import Store
from trimtab.types import Message, Prompt, Sampling

async def main(url, path):
    with Store.open(path) as store:
        store.start_run("run", "answer", {{}})
        chat = ChatLLM("box", base_url=url)
        kept = Cached(chat, store.samples_of("run"), scope=chat.endpoint)
        llm = Filled(kept, capabilities=chat.capabilities)
        print("ready", flush=True)
        for at in range({QUESTIONS}):
            await llm.complete(Prompt((Message("user", f"question {{at}}"),)), Sampling(n={DRAWS}, seed=7))
            print(at, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


def asker(box: Box, path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ASKER, box.url, str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_run_killed_again_and_again_pays_twice_for_at_most_what_was_on_its_way(box, tmp_path):
    box.pause_s = 0.02
    path, chance, kills = tmp_path / "store.db", random.Random(1), 0
    for _ in range(20):
        with asker(box, path) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(chance.uniform(0.0, 0.3))
            process.kill()
            kills += 1
    with asker(box, path) as process:
        printed, _ = process.communicate(timeout=60)
    assert printed.splitlines()[-1] == str(QUESTIONS - 1)
    assert QUESTIONS * DRAWS <= box.given.total() <= (QUESTIONS + kills) * DRAWS
    with Store.open(path) as store:
        assert len(list(store.kept_draws())) == QUESTIONS * DRAWS
        assert store.usage_of("run").output_tokens == QUESTIONS * DRAWS  # each answer that was read, once


class Instant:
    """A model that answers at once: what is measured is the keeping alone."""

    name = "instant"

    def __init__(self) -> None:
        self.calls = 0

    async def complete(self, asked: Prompt, sampling: Sampling) -> Completions:
        self.calls += 1
        usage = Usage(100, 100, 1, 0.001)
        about = (asked.purpose, self.name, "here", "KEY", Outcome.PAID)
        call = Call(f"call {self.calls}", *about, usage, 0.1, 1.0)
        return Completions((Completion("So there are 12 cows. " * 20),), usage, self.name, (call,))
