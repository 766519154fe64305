"""Serving and adapting processes on one PostgreSQL store while one of them is killed again and again.

    python scripts/lab_replicas.py --store postgresql://… [--seconds 120] [--every 10] [--servers 4]

Clients ask all servers and give feedback on what they got; meanwhile adaptations draw, judge and train. Then
every answer that a client got must stand in the store once, word for word, every feedback that was taken
once, and each adaptation must hold the candidates of one that nobody disturbed. The store must be empty.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from sqlalchemy import create_engine, text

from trimtab.llm.embedded import running as running_box
from trimtab.store import Store

BOX = "trimtab-blackbox"
ASKING = 8  # clients at a time
QUESTIONS = 12  # of an adaptation
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OPENAI_API_KEY": "none"}
START_S = 90.0  # how long a process may take to be there on a busy machine


@dataclass
class Seen:
    """What the clients were told: answers by inference id, and the ids of feedback that was taken."""

    answers: dict[str, str] = field(default_factory=dict)  # the hash of what was answered
    feedback: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)


@dataclass
class Worker:
    """A process that is started again whenever it was killed; an adaptation, when done, as the next one."""

    command: list[str]
    log: Path
    finished: int = 0  # adaptations; its number is the next one's seed
    first_seed: int = 0
    kills: int = 0
    process: subprocess.Popen[bytes] | None = None

    def keep_up(self) -> None:
        """Starts the process where there is none."""
        if self.process is None or self.process.poll() is not None:
            if self.process is not None and self.process.returncode == 0:
                self.finished += 1
            with self.log.open("ab") as file:
                seed = str(self.first_seed + self.finished)
                command = [part.replace("{seed}", seed) for part in self.command]
                self.process = subprocess.Popen(command, stdout=file, stderr=file, env=ENVIRONMENT)

    def kill(self) -> None:
        """As `kill -9` does."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
            self.kills += 1

    def end(self, wait_s: float) -> int:
        """Lets it end by itself; a server is told to."""
        assert self.process is not None
        if "serve" in self.command:
            self.process.terminate()
        return self.process.wait(wait_s)


def trimtab(*words: object) -> list[str]:
    """A command of ours."""
    return [sys.executable, "-m", "trimtab", *map(str, words)]


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on: a server must come back where its clients look for it."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def adapting(box: str, store: str | Path, folder: Path, questions: Path, backbone: str) -> list[str]:
    """An adaptation of two small rounds; `{seed}` stands for its seed."""
    return trimtab(
        *("adapt", "--model", BOX, "--base-url", box, "--unpriced", "--task", "house"),
        *("--questions", questions, "--backbone", backbone, "--max-length", 96, "--rounds", 2),
        *("--draws", 3, "--max-tokens", 48, "--seed", "{seed}", "--store", store),
        *("--work-dir", folder, "--out", folder / "adapter-{seed}", "--threads", 1),
    )


# --------------------------------------------------------------------------- the clients


def digest(words: str) -> str:
    """A text's hash."""
    return hashlib.sha256(words.encode()).hexdigest()


async def asked(session: aiohttp.ClientSession, url: str, number: int, seen: Seen) -> None:
    """One answer, and a word on it; what does not come, because the server is gone, is not asked again."""
    words = f"Question {number}: Ann has {number % 97} pens.\n"
    call = {"model": BOX, "messages": [{"role": "user", "content": words}], "max_tokens": 6}
    try:
        async with session.post(f"{url}/v1/chat/completions", json=call) as response:
            found = await response.json()
            if response.status != 200:
                seen.refused[str(response.status)] += 1
                return
        inference = found["trimtab"]["inference_id"]
        seen.answers[inference] = digest(found["choices"][0]["message"]["content"])
        said = {"inference_id": inference, "right": number % 2 == 0, "id": f"said-{number}"}
        async with session.post(f"{url}/v1/feedback", json=said) as response:
            if response.status == 200:
                seen.feedback.append(f"said-{number}")
            else:
                seen.refused[f"feedback {response.status}"] += 1
    except (aiohttp.ClientError, json.JSONDecodeError):
        await asyncio.sleep(0.05)


async def ask_on(urls: Sequence[str], until: float, seen: Seen) -> None:
    """Clients that ask servers in turn until the time is over."""
    numbers = iter(range(10**9))

    async def one(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < until:
            number = next(numbers)
            await asked(session, urls[number % len(urls)], number, seen)

    timeout = aiohttp.ClientTimeout(total=START_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        await asyncio.gather(*(one(session) for _ in range(ASKING)))


async def all_up(urls: Sequence[str]) -> None:
    """Waits for every server."""
    until = time.monotonic() + START_S
    async with aiohttp.ClientSession() as session:
        for url in urls:
            while not await is_up(session, url):
                if time.monotonic() > until:
                    raise TimeoutError(f"{url} does not come up")
                await asyncio.sleep(0.2)


async def is_up(session: aiohttp.ClientSession, url: str) -> bool:
    """True when a server can answer."""
    try:
        async with session.get(f"{url}/ready") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


# --------------------------------------------------------------------------- the two minutes


async def disturbed(workers: Sequence[Worker], seconds: float, every: float, seed: int) -> None:
    """Kills one after another at random, and has it started again."""
    rng, until, next_kill = random.Random(seed), time.monotonic() + seconds, time.monotonic() + every
    while time.monotonic() < until:
        for worker in workers:
            worker.keep_up()
        if time.monotonic() >= next_kill:
            rng.choice(workers).kill()
            next_kill += every
        await asyncio.sleep(0.1)


@contextmanager
def ended(workers: Sequence[Worker]) -> Iterator[None]:
    """Whatever happens, no process is left."""
    try:
        yield
    finally:
        for worker in workers:
            if worker.process is not None and worker.process.poll() is None:
                worker.process.kill()


def run(
    store: str, folder: Path, *, seconds: float, every: float, servers: int, adapters: int, backbone: str
) -> dict[str, Any]:
    """The whole lab; what was done, and what was found lost, doubled or otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    problems = trimtab("blackbox", "--problems", QUESTIONS, "--problem-seed", 3)
    questions = folder / "questions.jsonl"
    questions.write_bytes(subprocess.run(problems, check=True, capture_output=True).stdout)
    Store.open(store).close()
    with running_box() as box:
        ports = free_ports(servers)
        serving = [
            Worker(
                trimtab(
                    *("serve", "--model", BOX, "--base-url", box, "--port", port),
                    *("--store", store, "--work-dir", folder),
                ),
                folder / f"server-{port}.log",
            )
            for port in ports
        ]
        learning = [
            Worker(
                adapting(box, store, folder / f"a{at}", questions, backbone),
                folder / f"a{at}.log",
                first_seed=1_000 * at,
            )
            for at in range(adapters)
        ]
        seen = Seen()
        with ended([*serving, *learning]):
            asyncio.run(_played([*serving, *learning], ports, seconds, every, seen))
            for worker in learning:
                worker.keep_up()
            codes = [worker.end(10 * START_S) for worker in (*serving, *learning)]
        control = folder / "control.db"
        alone = adapting(box, control, folder / "alone", questions, backbone)
        with (folder / "alone.log").open("wb") as log:
            command = [part.replace("{seed}", "0") for part in alone]
            subprocess.run(command, check=True, env=ENVIRONMENT, stdout=log, stderr=log)
    found = checked(store, control, seen)
    return {
        "seconds": seconds,
        "kills": sum(worker.kills for worker in (*serving, *learning)),
        "adaptations": sum(worker.finished for worker in learning) + len(learning),
        "exit_codes": codes,
        "answered": len(seen.answers),
        "feedback": len(seen.feedback),
        "refused": dict(seen.refused),
        **found,
    }


async def _played(
    workers: Sequence[Worker], ports: Sequence[int], seconds: float, every: float, seen: Seen
) -> None:
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    for worker in workers:
        worker.keep_up()
    await all_up(urls)
    await asyncio.gather(
        disturbed(workers, seconds, every, seed=0), ask_on(urls, time.monotonic() + seconds, seen)
    )
    await all_up(urls)


# --------------------------------------------------------------------------- the check


def checked(address: str, control: Path, seen: Seen) -> dict[str, Any]:
    """What is not as it must be, counted; all zero when nothing is."""
    with Store.open(address) as store, Store.open(control) as alone:
        kept = {each: store.inference(each) for each in seen.answers}
        lost = sum(found is None for found in kept.values())
        changed = sum(
            found is not None and digest(found.text) != seen.answers[name] for name, found in kept.items()
        )
        (undisturbed,) = alone.runs()
        wanted = [alone.candidates(undisturbed.id, number) for number in range(3)]
        learnt = [run for run in store.runs() if run.kind == "adapt"]
        ours = [run.id for run in learnt if run.config["settings"]["seed"] == 0]
        others = sum([store.candidates(run, number) for number in range(3)] != wanted for run in ours)
        unfinished = sum(not run.is_finished for run in learnt)
    return {
        "answers_lost": lost,
        "answers_changed": changed,
        **counted(address, seen),
        "adaptations_compared": len(ours),
        "adaptations_otherwise": others,
        "adaptations_unfinished": unfinished,
    }


def counted(address: str, seen: Seen) -> dict[str, int]:
    """What the database itself says: feedback by its giver's id, answers twice, deadlocks."""
    engine = create_engine(address.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:

        def scalar(query: str) -> int:
            return int(connection.execute(text(query)).scalar() or 0)

        rows = connection.execute(text("SELECT given_id, count(*) FROM feedback GROUP BY given_id"))
        said = Counter({json.loads(name): count for name, count in rows})
        doubled = "SELECT count(*) - count(DISTINCT id) FROM inferences"
        deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        found = {"answers_doubled": scalar(doubled), "deadlocks": scalar(deadlocks)}
    engine.dispose()
    return {
        **found,
        "feedback_lost": sum(said[name] == 0 for name in seen.feedback),
        "feedback_doubled": sum(count > 1 for count in said.values()),
    }


def main() -> None:
    """Runs the lab and prints what was found."""
    parser = argparse.ArgumentParser(
        description="Processes killed on a shared store: nothing lost or doubled."
    )
    parser.add_argument("--store", required=True, help="an empty PostgreSQL database: postgresql://…")
    parser.add_argument("--folder", type=Path, default=Path(".trimtab/replicas"))
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--every", type=float, default=10.0, help="seconds from kill to kill")
    parser.add_argument("--servers", type=int, default=4)
    parser.add_argument("--adapters", type=int, default=2)
    parser.add_argument("--backbone", default="offline")
    given = parser.parse_args()
    found = run(
        given.store,
        given.folder,
        seconds=given.seconds,
        every=given.every,
        servers=given.servers,
        adapters=given.adapters,
        backbone=given.backbone,
    )
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
