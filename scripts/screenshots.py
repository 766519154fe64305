"""Takes the pictures of docs/review.md: review and run pages over a made-up store, in a real Chromium.

    python scripts/screenshots.py [--out docs/images]

Needs Playwright's Python client and a Chromium; nothing leaves the machine.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from trimtab.energy.manifest import MANIFEST_NAME, WEIGHTS_NAME, Manifest, manifest_text
from trimtab.serve.choices import chosen
from trimtab.serve.errors import shape_errors
from trimtab.serve.review import review_router
from trimtab.stopping import DecisionRule
from trimtab.store import Inference, Store
from trimtab.types import Call, Candidate, Completion, Judgement, Outcome, Purpose, Reply, Usage

COLOURS = 64  # enough for these pages, at a third of the size
DESKTOP, PHONE = {"width": 1180, "height": 900}, {"width": 360, "height": 740}
NAMES = ("Mira", "Jonas", "Amina", "Pavel", "Sofia", "Tomás")
THINGS = ("pens", "apples", "tickets", "marbles", "stamps", "candles")
RATERS = ("review:anna", "review:ben")


def served(number: int, random_: random.Random) -> Inference:
    """A question about boxes, with four answers, two of which slip."""
    who, what = NAMES[number % len(NAMES)], THINGS[number % len(THINGS)]
    boxes, each, gone = random_.randint(3, 9), random_.randint(4, 12), random_.randint(2, 9)
    question = (
        f"{who} has {boxes} boxes with {each} {what} in each. {gone} of the {what} are given away, and the "
        f"rest is put into one large box. How many {what} are in the large box?"
    )
    right, slip, sum_ = boxes * each - gone, boxes * each + gone, boxes + each - gone
    all_, opening = boxes * each, f"The boxes hold {boxes} * {each} = {boxes * each} {what}."
    texts = [
        (f"{opening}\nGiving {gone} away leaves {all_} - {gone} = {right}.\nThe answer is {right}.", right),
        (f"{opening}\nWith {gone} more that makes {slip}.\nThe answer is {slip}.", slip),
        (f"{boxes} + {each} = {boxes + each}.\nWithout {gone} that is {sum_}.\nThe answer is {sum_}.", sum_),
        (f"Each box has {each} {what}, so {boxes} boxes have {all_}.\n{who} gives {gone} of them away.\n"
         f"{all_} - {gone} = {right} {what} go into the large box.\nThe answer is {right}.", right),
    ]  # fmt: skip
    random_.shuffle(texts)
    candidates = tuple(
        Candidate(text, str(value), random_.gauss(1.2 if value == right else -0.4, 0.8))
        for text, value in texts
    )
    best = max(range(4), key=lambda at: candidates[at].score or 0)
    taken = candidates[best]
    return Inference(
        id=f"inf-{number:03}",
        created_at=time.time() - 600 * number,
        adapter="gsm8k-adapter",
        version=2,
        question=question,
        messages=({"role": "user", "content": question},),
        candidates=candidates,
        text=taken.text,
        status="answered",
        chosen=best,
        answer=taken.answer,
        confidence=0.31 + 0.015 * number,
        score=taken.score,
        task="numeric",
        usage=Usage(120, 340, 4, 0.0006),
        upstream="gpt-4o-mini",
    )


def fill(store: Store, folder: Path) -> None:
    """Answers, two raters' reviews of some of them, a run of three rounds, an adapter's versions."""
    random_ = random.Random(7)
    inferences = [served(number, random_) for number in range(34)]
    store.add_inferences(inferences)
    for rater in RATERS:
        for inference in inferences[20:32]:
            right = next(at for at, each in enumerate(inference.candidates) if "leaves" in each.text)
            picked = right if random_.random() < 0.85 else random_.randrange(4)
            store.add_feedback(chosen(inference, picked, rater))
    _fill_run(store, random_, folder)
    _adapter(folder / "v2", None)
    store.begin_versions("gsm8k-adapter", folder / "round-3", reason="trained on recorded answers")
    store.add_version("gsm8k-adapter", folder / "v2", parent=1, metrics={}, reason="412 rows of feedback")
    store.promote("gsm8k-adapter", 2, reason="+3.1 points on 300 held-out questions, 95 % +0.4 to +5.8")


def _fill_run(store: Store, random_: random.Random, folder: Path) -> None:
    run = "adapt-5f1c0a77be21"
    store.start_run(
        run, "adapt", {"settings": {"task": "numeric", "draws": 8, "rounds": 3, "model": "gpt-4o-mini"}}
    )
    replies = [_reply(number, run) for number in range(48)]
    store.samples_of(run).keep(replies)
    parent = None
    for number in range(4):
        parent = _adapter(folder / f"round-{number}", parent)
        _fill_round(store, run, number, random_, folder)
    store.finish_run(run)


def _reply(number: int, run: str) -> Reply:
    call = Call(
        f"{run}-{number}", Purpose.SAMPLING, "gpt-4o-mini", "https://api.openai.com/v1", "OPENAI_API_KEY",
        Outcome.PAID, Usage(5_200, 12_700, 1, 0.0084), 6.4, time.time(),
    )  # fmt: skip
    return Reply(f"k{number}", 0, "gpt-4o-mini", (Completion("…"),), (call,))


def _adapter(folder: Path, parent: str | None) -> str:
    """A folder with an adapter's record and nothing else; returns the hash of the weights it speaks of."""
    weights = hashlib.sha256(folder.name.encode()).hexdigest()
    files = {WEIGHTS_NAME: weights}
    manifest = Manifest(
        task="numeric", backbone="offline", loss="nce", max_length=256, parent=parent, files=files
    )
    folder.mkdir(parents=True)
    (folder / MANIFEST_NAME).write_text(manifest_text(manifest), "utf-8")
    return weights


def _fill_round(store: Store, run: str, number: int, random_: random.Random, folder: Path) -> None:
    gap = 0.8 + 0.5 * number
    for asked in range(60):
        rights = [random_.random() < 0.45 for _ in range(8)]
        drawn = [
            Candidate("…", "1" if right else "2", random_.gauss(gap if right else 0.0, 1.0))
            for right in rights
        ]
        store.put_candidates(run, number, f"q{asked}", drawn)
        sides = ([at for at in range(8) if rights[at] is side] for side in (True, False))
        store.put_judgement(run, number, Judgement(f"q{asked}", *map(tuple, sides), "ground_truth"))
    learnt = (0.0, 0.06, 0.09, 0.1)[number]
    accuracy = {
        "majority": 0.61,
        "best_of_n": 0.6 + learnt,
        "chosen": 0.64 + learnt,
        "single": 0.46,
        "oracle": 0.93,
    }
    calibration = {"method": "platt", "slope": gap, "intercept": -gap * gap / 2, "points": 480}
    held_out = {
        "questions": 200,
        "accuracy": accuracy,
        "rule": asdict(DecisionRule("weighted_vote")),
        "rules": [],
        "calibration": {**calibration, "knots": [], "levels": []},
    }
    done = {
        "index": number, "questions": 60, "failed": 0, "samples": 480, "positives": 216, "negatives": 264,
        "contrasts": 58, "loss": 1.61 - 3 * learnt, "held_out": held_out, "usage": asdict(Usage()),
        "seconds": 41.0 + number, "folder": f"round-{number}", "is_best": number == 3, "spent": "",
    }  # fmt: skip
    store.put_round(run, number, done, folder / f"round-{number}")


@contextmanager
def serving(store: Store) -> Iterator[str]:
    """The address of a server of the pages alone, without keys."""
    app = FastAPI()
    app.include_router(review_router(store, lambda scope: lambda: None))
    shape_errors(app)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def take(browser: Browser, address: str, out: Path) -> None:
    """Every page at both sizes, light, and the review once dark."""
    for size, viewport in (("desktop", DESKTOP), ("phone", PHONE)):
        is_phone = size == "phone"
        page = browser.new_context(viewport=viewport, is_mobile=is_phone, has_touch=is_phone).new_page()
        page.goto(f"{address}/review")
        page.screenshot(path=out / f"review-{size}.png")
        page.goto(f"{address}/runs/adapt-5f1c0a77be21")
        page.screenshot(path=out / f"run-{size}.png", full_page=size == "desktop")
    page = browser.new_context(viewport=DESKTOP, color_scheme="dark").new_page()
    page.goto(f"{address}/review")
    page.keyboard.press("1")
    page.wait_for_selector(".saved")
    page.screenshot(path=out / "review-dark.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "store.db") as store:
        fill(store, Path(folder))
        with serving(store) as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            take(browser, address, out)
            browser.close()
    for file in out.glob("*.png"):
        Image.open(file).convert("RGB").quantize(COLOURS).save(file, optimize=True)


if __name__ == "__main__":
    main()
