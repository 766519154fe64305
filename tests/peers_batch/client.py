"""A run that buys draws by batch and then uses them; a process of its own, so that it can be killed.

Arguments: base URL, store, questions, draws of each, words ("live": then draws them as any run does).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from trimtab.cli.batching import BatchBook
from trimtab.llm import Cached, Capabilities, ChatLLM, Filled
from trimtab.llm.batch import BatchDraws
from trimtab.llm.batch_api import BatchAPI
from trimtab.store import Store
from trimtab.types import Message, Prompt, Sampling

KEY = os.environ.get("PEER_KEY", "sk-batch-peer-0123456789")
RUN = "run-1"


def requests(questions: int, draws: int) -> list[tuple[Prompt, Sampling]]:
    return [
        (
            Prompt((Message("user", f"question {number}: what is 2+{number}?"),), f"q{number}"),
            Sampling(n=draws, max_tokens=64, seed=1000 + number),
        )
        for number in range(questions)
    ]


async def work(url: str, store: Store, folder: Path, questions: int, draws: int, is_live: bool) -> Any:
    takes = Capabilities(n=True, seed=True, batch=True)
    chat = ChatLLM("peer-model", base_url=url, api_key=KEY, payer="PEER_KEY", capabilities=takes)
    asked = requests(questions, draws)
    batches = BatchDraws(
        chat,
        BatchAPI("peer-model", url, api_key=KEY),
        store.samples_of(RUN),
        BatchBook(store, RUN),
        scope=chat.endpoint,
        poll_s=0.1,
        settle_s=0.2,
        lock=folder / "batch.lock",
        most_requests=40,
    )
    bought = await batches.prepaid(asked)
    found = {"bought": bought.bought, "kept": bought.kept, "failed": dict(bought.failed)}
    if not is_live:
        return found
    llm = Filled(Cached(chat, store.samples_of(RUN), scope=chat.endpoint), capabilities=chat.capabilities)
    replies = await asyncio.gather(*(llm.complete(*request) for request in asked))
    await chat.close()
    return {**found, "drawn": [len(reply.completions) for reply in replies]}


def main() -> None:
    url, path, questions, draws, *words = sys.argv[1:]
    with Store.open(path) as store:
        found = asyncio.run(work(url, store, Path(path).parent, int(questions), int(draws), "live" in words))
        usage = store.usage_of(RUN)
    print(json.dumps({**found, "usage": [usage.calls, usage.input_tokens, usage.output_tokens]}))  # noqa: T201


if __name__ == "__main__":
    main()
