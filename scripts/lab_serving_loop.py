"""The online loop from end to end: served, asked, spoken of, learnt from, promoted, asked again.

    python scripts/lab_serving_loop.py [--adapter adapters/demo | --learn 50] [--users 600] [--test 300]

Every part is what a user has: `trimtab blackbox`, `trimtab serve` before it, the official openai client,
feedback by HTTP, `trimtab adapt --from-feedback --promote`. First the server's answers to 50 held-out
problems are held against those of `trimtab answer`. `--learn N` starts from a weaker adapter than the demo's,
made here from N problems. Users know the house's answers and solutions: they praise what is right; of what is
wrong a third only say so, a third write the solution, a third prefer another choice that they were shown,
where one is right.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import httpx
import openai

from trimtab import tasks
from trimtab.data import question_hash
from trimtab.evaluate.intervals import paired_difference, wilson_interval
from trimtab.llm.embedded.world import questions as world_questions
from trimtab.types import Question, Verdict

BOX, NAME = "trimtab-blackbox", "demo"
TASK = tasks.by_name("house")
DEMO = 650  # problems of seed 0 that the demo's adapter was made and measured with
USERS = 20  # people; each problem is one person's
DRAWS = 8
AT_ONCE = 8
DRAWN = ("--draws", DRAWS, "--max-tokens", 96, "--bf16", "--threads", 1)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "300"}


def trimtab(*arguments: object) -> list[str]:
    """The command."""
    return [sys.executable, "-m", "trimtab", *map(str, arguments)]


def done(*arguments: object) -> str:
    """What the command prints; it must succeed."""
    ended = subprocess.run(
        trimtab(*arguments), env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, check=True
    )
    return ended.stdout


@contextmanager
def serving(log: Path, *arguments: object) -> Iterator[str]:
    """The address of a server that runs."""
    with (
        log.open("w") as stderr,
        subprocess.Popen(trimtab(*arguments), stderr=stderr, env=ENVIRONMENT) as server,
    ):
        try:
            yield _address(server, log)
        finally:
            server.terminate()


def _address(server: subprocess.Popen[bytes], log: Path) -> str:
    while server.poll() is None:
        found = re.search(r"at (http://\S+/v1)", log.read_text())
        if found and _answers(found[1]):
            return found[1]
        time.sleep(0.2)
    raise SystemExit(log.read_text())


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/models", timeout=60).status_code == 200
    except httpx.HTTPError:
        return False


# --------------------------------------------------------------------------- problems


@dataclass(frozen=True)
class Problems:
    """Problems that the demo never saw, each for one purpose."""

    learn: Sequence[Question]  # for the adapter to begin with, where it is made here
    same: Sequence[Question]  # asked of the server and of `trimtab answer`
    spoken_of: Sequence[Question]
    test: Sequence[Question]  # nobody says anything of these

    @classmethod
    def drawn(cls, given: argparse.Namespace) -> Problems:
        """The first that the demo did not use, in one order."""
        sizes = (given.learn, given.same, given.users, given.test)
        used = {question_hash(each.text) for each in world_questions(0, DEMO, "heldout")}
        fresh = iter(
            each
            for each in world_questions(given.problem_seed, 2 * sum(sizes) + DEMO, "heldout")
            if question_hash(each.text) not in used
        )
        return cls(*([next(fresh) for _ in range(size)] for size in sizes))


def written(path: Path, problems: Sequence[Question]) -> Path:
    """The problems as a file of rows."""
    rows = [{"id": each.id, "question": each.text, "answer": each.answer} for each in problems]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return path


# --------------------------------------------------------------------------- asking


@dataclass(frozen=True)
class Replied:
    """What the server answered to one problem: its choices, the answer first, and which of them are right."""

    problem: Question
    texts: Sequence[str]
    own: dict[str, Any]

    @property
    def rights(self) -> list[bool]:
        """Of each choice, whether it is right."""
        return [TASK.verdict(self.problem, text) is Verdict.RIGHT for text in self.texts]


async def asked(url: str, problems: Sequence[Question], model: str = NAME, n: int = 1) -> list[Replied]:
    """The server's answers, by the official client; some at once."""
    places = asyncio.Semaphore(AT_ONCE)
    async with openai.AsyncOpenAI(base_url=url, api_key="none", timeout=300) as client:

        async def one(problem: Question) -> Replied:
            async with places:
                reply = await client.chat.completions.create(
                    model=model,
                    messages=[{"role": "user", "content": problem.text}],
                    n=n,
                    extra_body={"trimtab": {"question_id": problem.id}},
                )
            return Replied(problem, [each.message.content or "" for each in reply.choices], reply.trimtab)

        return await asyncio.gather(*map(one, problems))


def same_answers(url: str, box: str, given: argparse.Namespace, problems: Sequence[Question]) -> int:
    """How many of the answers are, letter for letter, those of `trimtab answer`."""
    rows, out = written(given.work / "same.jsonl", problems), given.work / "answers.jsonl"
    place = ("--work-dir", given.work / "answering", "--model", BOX, "--base-url", box)
    done("answer", "--adapter", given.adapter, "--questions", rows, "--out", out, *place, *DRAWN)
    wanted = {row["id"]: row for row in map(json.loads, out.read_text("utf-8").splitlines())}
    replies = asyncio.run(asked(url, problems))
    return sum(
        (each.texts[0], each.own["answer"], each.own["score"])
        == tuple(wanted[each.problem.id][key] for key in ("text", "answer", "score"))
        for each in replies
    )


# --------------------------------------------------------------------------- speaking of answers


def words(reply: Replied, rng: random.Random) -> dict[str, Any]:
    """What one person says of an answer."""
    rights = reply.rights
    if rights[0]:
        return {"right": True}
    kind = rng.choice(("thumb", "correction", "preference"))
    if kind == "correction":
        return {"demonstration": reply.problem.rationale or f"The answer is {reply.problem.answer}."}
    if kind == "preference" and True in rights:
        return {"preference": {"chosen": rights.index(True), "rejected": 0}}
    return {"right": False}


def speak(url: str, replies: Sequence[Replied], seed: int) -> Counter[str]:
    """Says it to the server; how often what was said."""
    rng, said = random.Random(seed), Counter[str]()
    with httpx.Client(base_url=url, timeout=60) as client:
        for each in replies:
            word = words(each, rng)
            user = f"user-{rng.randrange(USERS)}"
            body = {"inference_id": each.own["inference_id"], "user": user, **word}
            _taken(client, body)
            said[word_of(word)] += 1
    return said


def word_of(word: dict[str, Any]) -> str:
    """The kind of a word, as it is counted."""
    return {True: "thumb up", False: "thumb down"}[word["right"]] if "right" in word else next(iter(word))


def _taken(client: httpx.Client, body: dict[str, Any]) -> None:
    while (response := client.post("/feedback", json=body)).status_code == 429:
        time.sleep(float(response.headers["retry-after"]))
    response.raise_for_status()


# --------------------------------------------------------------------------- the loop


def run(given: argparse.Namespace) -> dict[str, Any]:
    """All of it; the figures."""
    given.work.mkdir(parents=True, exist_ok=True)
    problems = Problems.drawn(given)
    with serving(given.work / "blackbox.log", "blackbox", "--port", 0) as box:
        if given.learn:
            given.adapter = made(box, given, problems.learn)
        place = ("--work-dir", given.work / "serving")
        front = ("--adapter", f"{NAME}={given.adapter}", "--model", BOX, "--base-url", box, *place)
        with serving(given.work / "server.log", "serve", *front, "--port", 0, *DRAWN) as url:
            return looped(url, box, given, problems, place)


def made(box: str, given: argparse.Namespace, problems: Sequence[Question]) -> Path:
    """An adapter from few problems."""
    folder: Path = given.work / "beginner"
    rows = written(given.work / "learn.jsonl", problems)
    how = (
        "--task",
        "house",
        "--backbone",
        "offline",
        "--rounds",
        0,
        "--max-length",
        128,
        "--loss",
        "ranking_nce",
    )
    place = ("--work-dir", given.work / "beginning", "--model", BOX, "--base-url", box)
    done("adapt", "--questions", rows, *how, *place, "--out", folder, "--draws", DRAWS, "--max-tokens", 96)
    return folder


def looped(
    url: str, box: str, given: argparse.Namespace, problems: Problems, place: Sequence[object]
) -> dict[str, Any]:
    """One turn of the loop, before and after."""
    same = same_answers(url, box, given, problems.same)
    print(f"{same} of {len(problems.same)} answers are those of `trimtab answer`", flush=True)
    before = asyncio.run(asked(url, problems.test))
    replies = asyncio.run(asked(url, problems.spoken_of, n=DRAWS))
    said = speak(url, replies, given.seed)
    print(f"{len(replies)} answers spoken of: {dict(said)}", flush=True)
    began = time.monotonic()
    how = ("--adapter", f"{NAME}={given.adapter}", *place, "--bf16", "--threads", 1, "--seed", given.seed)
    made = json.loads(done("adapt", "--from-feedback", *how, *given.adapt.split(), "--promote", "--json"))
    seconds = time.monotonic() - began
    time.sleep(3)  # servers look at the versions every two seconds
    after = asyncio.run(asked(url, problems.test, f"{NAME}@v{made['version']}"))
    serves = {each.own["version"] for each in asyncio.run(asked(url, problems.test[:1]))}
    return {
        "adapter": f"from {given.learn} problems" if given.learn else str(given.adapter),
        "same_answers": [same, len(problems.same)],
        "said": dict(said),
        "status": made["status"],
        "serves": sorted(serves),
        "trial": made["trial"],
        "adapt_seconds": round(seconds),
        "before": accuracy(before),
        "after": accuracy(after),
        "difference": paired_difference(outcomes(after), outcomes(before)).to_json(),
    }


def outcomes(replies: Sequence[Replied]) -> list[float]:
    """1 for each right answer."""
    return [float(each.rights[0]) for each in replies]


def accuracy(replies: Sequence[Replied]) -> dict[str, float]:
    """The share that is right, with Wilson's interval."""
    found = outcomes(replies)
    low, high = wilson_interval(round(sum(found)), len(found))
    return {"questions": len(found), "right": fmean(found), "low": low, "high": high}


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--adapter", type=Path, default=Path("adapters/demo"), help="to begin with")
    parser.add_argument("--learn", type=int, default=0, help="make the first adapter from so many problems")
    parser.add_argument("--same", type=int, default=50, help="problems asked of `trimtab answer` too")
    parser.add_argument("--users", type=int, default=600, help="problems that users speak of")
    parser.add_argument("--test", type=int, default=300, help="problems for the figures")
    parser.add_argument("--adapt", default="", help="further flags of `trimtab adapt --from-feedback`")
    parser.add_argument("--problem-seed", type=int, default=4242)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(".trimtab/serving-loop"))
    parser.add_argument("--json", type=Path, help="where the figures go too")
    given = parser.parse_args()
    text = json.dumps(run(given), indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
