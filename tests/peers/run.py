"""A run of questions that can be killed: every draw is paid for through the store.

Arguments: base URL, store, questions, most in flight, words ("idempotent": each draw has a key of its own).
"""

from __future__ import annotations

import asyncio
import sys

from trimtab.llm import Cached, ChatLLM, Filled
from trimtab.store import Store
from trimtab.types import Message, Prompt, Sampling

MODEL = "peer-model"
SAMPLING = Sampling(n=1, max_tokens=64)


def text_of(number: int) -> str:
    return f"question {number}: what is 2 + {number}?"


def prompt_of(number: int) -> Prompt:
    return Prompt((Message("user", text_of(number)),), f"q{number}")


async def work(url: str, store: Store, questions: int, most: int, is_idempotent: bool) -> None:
    chat = ChatLLM(
        MODEL,
        base_url=url,
        api_key="sk-peer-0123456789",
        concurrency=most,
        backoff_s=0.05,
        idempotent="run-1" if is_idempotent else None,
    )
    llm = Filled(Cached(chat, store.samples_of("run-1"), scope=url), capabilities=chat.capabilities)
    print("ready", flush=True)  # noqa: T201
    await asyncio.gather(*(llm.complete(prompt_of(number), SAMPLING) for number in range(questions)))
    await chat.close()


def main() -> None:
    url, path, questions, most, *words = sys.argv[1:]
    with Store.open(path) as store:
        asyncio.run(work(url, store, int(questions), int(most), "idempotent" in words))


if __name__ == "__main__":
    main()
