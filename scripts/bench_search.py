"""Beam search against a local server: every question in flight at once, against one call at a time.

    python scripts/bench_search.py [--questions 64] [--repeats 5] [--latencies 50 500] [--scored] [--json F]

The baseline is our own code too: one question after another, one call at a time, each call's candidates
scored at once in a padded float32 batch, in the order they came. Both sides get the same prompts, seeds and
answers, and must return the same answers. Time for the baseline grows in a line with the number of
questions, so it asks fewer and is scaled. `--scored` lets MiniLM score; without it a scorer that costs
nothing leaves our driving alone. The server is a process of its own that shares the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import multiprocessing
import os
import random
import re
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from aiohttp import web

from benching import summary, write
from trimtab import tasks
from trimtab.drawing import BeamSettings, beam_search, next_step, over_questions, own_seed
from trimtab.energy import BatchingScorer
from trimtab.llm import ChatLLM, Filled
from trimtab.llm.capabilities import Capabilities
from trimtab.search import extended, final, is_done, opened, pruned, samples_each, scored, to_extend, unscored
from trimtab.types import LLM, Pool, Question, Sampling, Scorer, Task

TAKES = Capabilities(n=True, stop=True, seed=True)
SETTINGS = BeamSettings(width=3, samples=10, max_steps=8)
# Which questions the baseline is measured on, by latency in ms: their answers have two, three and four parts
# in turn, so that three that follow one another stand for all, and the middle one nearly does.
ALONE = {50: slice(0, 3), 500: slice(1, 2)}
STEP = re.compile(r"Part (\d+) of (\d+)")
ORDER = re.compile(r"Order (\d+)")
WORDS = "first we take the number of boxes and add what was left from before so that it comes to"


class Free:
    """Scorer that cost nothing and follow from the text."""

    def score(self, question: str, texts: Sequence[str]) -> list[float]:
        """One score a text, from its hash."""
        return self.score_pairs([(question, text) for text in texts])

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """One score a pair."""
        return [hash_of(text) / 2**32 for _, text in pairs]


def hash_of(*parts: str) -> int:
    return int.from_bytes(hashlib.sha256("\x1f".join(parts).encode()).digest()[:4], "big")


# --------------------------------------------------------------------------- the server


def next_part(prompt: str, draw: int, seed: int) -> str:
    """A step that follows from prompt, draw and seed; after two to four it says the answer."""
    own = prompt[prompt.rfind("Order") :]
    done = [int(number) for number, _ in STEP.findall(own)]
    at, whole = max(done, default=0) + 1, 2 + int(ORDER.findall(own)[0]) % 3
    rng = random.Random(f"{own}|{draw}|{seed}")
    if at > whole:
        return f"The answer is {rng.randrange(1000)}."
    return f"Part {at} of {whole}: {' '.join(rng.choices(WORDS.split(), k=18))} {rng.randrange(1000)}.\n"


def serve(pipe: Connection, latency_s: float) -> None:
    """Answers chat completions after the latency, until killed; sends its port first."""

    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        await asyncio.sleep(latency_s)
        prompt, seed = body["messages"][-1]["content"], body.get("seed") or 0
        choices = [
            {
                "index": draw,
                "message": {"role": "assistant", "content": next_part(prompt, draw, seed)},
                "finish_reason": "stop",
            }
            for draw in range(body.get("n") or 1)
        ]
        usage = {"prompt_tokens": 200, "completion_tokens": 25 * len(choices), "total_tokens": 450}
        return web.json_response(
            {"id": "x", "object": "chat.completion", "model": "seeded", "choices": choices, "usage": usage}
        )

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        pipe.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


@contextmanager
def server(latency_ms: int) -> Iterator[str]:
    """The base URL of a running server."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=serve, args=(theirs, latency_ms / 1000))
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/v1"
    finally:
        process.kill()
        process.join()


# --------------------------------------------------------------------------- the two ways


async def one_call_at_a_time(
    question: Question, llm: LLM, task: Task, scorer: Scorer, settings: BeamSettings
) -> str:
    """The same search, waiting for each call and scoring its candidates before the next one."""
    search = opened(settings.width, settings.samples, settings.max_steps)
    known: dict[str, float] = {}
    while not is_done(search):
        continuations = []
        for draft in to_extend(search):
            seed = own_seed(settings.seed, question.id, str(search.depth), draft.text)
            sampling = Sampling(
                samples_each(search), settings.temperature, settings.max_tokens, task.step_stops, seed
            )
            reply = await llm.complete(task.prompt(question, draft.text), sampling)
            steps = [next_step(draft.text, each, task) for each in reply.completions]
            texts = [draft.text + step for step in steps]
            known |= dict(zip(texts, scorer.score(question.text, texts), strict=True))
            continuations.append(steps)
        search = extended(search, continuations, task.is_finished)
        search = pruned(scored(search, [known[text] for text in unscored(search)]))
    return final(search)[0].text


async def all_at_once(
    questions: Sequence[Question], llm: LLM, task: Task, scorer: Scorer, settings: BeamSettings
) -> dict[str, str]:
    """Every question in flight and one scorer for all, as the program does it."""
    async with BatchingScorer(scorer) as shared:

        async def one(question: Question) -> Pool:
            return await beam_search(question, llm, task, shared, settings)

        pools = over_questions(questions, one, concurrency=len(questions))
        return {pool.question.id: pool.candidates[0].text async for pool in pools}


def questions_of(count: int) -> list[Question]:
    return [
        Question(f"q{i}", f"Order {i}: how many boxes come to the shop on day {i}?") for i in range(count)
    ]


def timed(url: str, work: Callable[[LLM], Awaitable[Any]], warm: int) -> tuple[float, Any]:
    """Seconds, and what the work gave; so many questions have opened the connections before."""
    chat = ChatLLM("seeded", base_url=url, api_key="sk-bench", concurrency=400, capabilities=TAKES)
    llm = Filled(chat, capabilities=chat.capabilities)

    async def run() -> tuple[float, Any]:
        try:
            await all_at_once(questions_of(warm), llm, tasks.by_name("numeric"), Free(), SETTINGS)
            began = time.perf_counter()
            found = await work(llm)
            return time.perf_counter() - began, found
        finally:
            await chat.close()

    return asyncio.run(run())


def measured(
    latency_ms: int, count: int, repeats: int, plain: Scorer, quick: Scorer, exact: Scorer
) -> dict[str, Any]:
    """Seconds a question both ways and the ratio, medians over the repeats.

    `same_answers` is of our search with the baseline's own precision, which must choose alike;
    `same_answers_as_timed` of the quick scorer, whose rounding breaks near ties another way.
    """
    task, questions = tasks.by_name("numeric"), questions_of(count)
    alone = questions[ALONE.get(latency_ms, slice(0, 3))]

    async def baseline(llm: LLM) -> dict[str, str]:
        return {each.id: await one_call_at_a_time(each, llm, task, plain, SETTINGS) for each in alone}

    async def ours(llm: LLM) -> dict[str, str]:
        return await all_at_once(questions, llm, task, quick, SETTINGS)

    async def precisely(llm: LLM) -> dict[str, str]:
        return await all_at_once(alone, llm, task, exact, SETTINGS)

    def agreement(found: dict[str, str]) -> float:
        return sum(found[name] == text for name, text in expected.items()) / len(expected)

    rows = []
    for _ in range(repeats):
        with server(latency_ms) as url:
            slow_s, expected = timed(url, baseline, 1)
            quick_s, found = timed(url, ours, count)
        rows.append((slow_s / len(alone), quick_s / count, agreement(found)))
    with server(latency_ms) as url:
        _, alike = timed(url, precisely, len(alone))
    slow, fast, same = zip(*rows, strict=True)
    return {
        "baseline_s_per_question": statistics.median(slow),
        "ours_s_per_question": statistics.median(fast),
        "speedup": summary([a / b for a, b, _ in rows]),
        "same_answers": agreement(alike),
        "same_answers_as_timed": statistics.fmean(same),
        "repeats": repeats,
        "questions": count,
        "baseline_questions": len(alone),
    }


class Padded:
    """An energy model as the baseline uses it: one padded float32 batch, in the order given."""

    def __init__(self, energy: Any) -> None:
        self.energy = energy

    def score(self, question: str, texts: Sequence[str]) -> list[float]:
        """One score a text, all in one batch."""
        return self.score_pairs([(question, text) for text in texts])

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """One score a pair, all in one batch."""
        import torch

        from trimtab.energy.model import evaluating

        with evaluating(self.energy.network), torch.inference_mode():
            encoded = self.energy.encoder.encode(pairs)
            return [float(value) for value in self.energy.forward(encoded)]


def scorers(is_scored: bool, threads: int | None) -> tuple[Scorer, Scorer, Scorer]:
    """The baseline's, ours on the quickest engine that can be had, and ours in the baseline's precision.

    All have so many threads, or as many as are quickest right now.
    """
    if not is_scored:
        return Free(), Free(), Free()
    from trimtab.energy import EnergyModel, quickest_threads, use_threads
    from trimtab.energy.engines.engine import EngineScorer
    from trimtab.energy.engines.making import make_engine, usable
    from trimtab.energy.engines.names import REFERENCE

    use_threads(os.cpu_count() or 1)  # the most that are tried
    use_threads(threads := threads or quickest_threads())
    print(f"{threads} threads", flush=True)
    energy = EnergyModel.pretrained("offline", device="cpu")
    quick, exact = (
        make_engine(usable(name), energy, threads=threads) for name in ("openvino_bf16", REFERENCE)
    )
    return Padded(energy), EngineScorer(energy.encoder, quick), EngineScorer(energy.encoder, exact)


def main() -> None:
    parser = argparse.ArgumentParser(description="Beam search: our driving against one call at a time.")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--latencies", type=int, nargs="+", default=[50, 500], help="of the server, in ms")
    parser.add_argument("--scored", action="store_true", help="MiniLM scores; else scores cost nothing")
    parser.add_argument("--threads", type=int, help="the quickest number is measured if left out")
    parser.add_argument("--json", type=Path, default=Path("bench-search.json"))
    given = parser.parse_args()
    kind = "search" if given.scored else "driving"
    plain, quick, exact = scorers(given.scored, given.threads)
    document: dict[str, Any] = {"figures": {}, "spread": {}}
    for latency in given.latencies:
        found = measured(latency, given.questions, given.repeats, plain, quick, exact)
        document[f"{kind}_{latency}ms"] = found
        name, speedup = f"{kind}_speedup_{latency}ms", found["speedup"]
        document["figures"][name] = speedup["median"]
        document["spread"][name] = [speedup["low"], speedup["high"]]
        print(
            f"{kind} at {latency} ms: {found['baseline_s_per_question']:.2f} s a question one by one, "
            f"{found['ours_s_per_question']:.3f} s ours: {speedup['median']:.1f} times as fast; "
            f"{100 * found['same_answers']:.0f} % same answers ({100 * found['same_answers_as_timed']:.0f} % "
            "as timed)",
            flush=True,
        )
    write(given.json, document)


if __name__ == "__main__":
    main()
