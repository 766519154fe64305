"""The review and run pages in a real Chromium: keys, a phone, no script, and answers that would be one."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from reviews import TEXTS, filled, pages, served
from trimtab.store import Store
from trimtab.types import Candidate, Judgement

playwright = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.slow

PHONE = {"width": 360, "height": 740}
ME = "review:reviewer"
HOSTILE = (
    "<script>window.hacked = 1</script>",
    '<img src=x onerror="window.hacked = 1">',
    "\"'><svg onload=window.hacked=1>",
    "</textarea></form><script>window.hacked = 1</script>",
    '<a href="javascript:window.hacked=1">x</a> javascript:window.hacked=1',
    "<svg><script href=data:,window.hacked=1 /></svg>",
    "<style>*{display:none}</style><link rel=stylesheet href=//evil.example/x.css>",
    '<iframe srcdoc="<script>parent.hacked=1</script>"></iframe>',
    '<meta http-equiv=refresh content="0;url=//evil.example">',
    "<form action=//evil.example><button name=choice value=0>Best</button></form>",
    "{{ cycler.__init__.__globals__ }} ${1+1}",
    "\u202egnorw eht si siht\u202c " + "W" * 300,
)


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium here")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store.db") as store:
        yield store


@pytest.fixture
def address(store: Store) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(pages(store), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


class Visit:
    """One page of a fresh browser, and what it asked for and complained of."""

    def __init__(self, browser: playwright.Browser, address: str, **context: object) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(15_000)
        self.address = address
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))

    def __enter__(self) -> Visit:
        self.go("/review")
        return self

    def __exit__(self, *raised: object) -> None:
        self.context.close()

    def go(self, path: str) -> None:
        self.page.goto(self.address + path)

    def shows(self, number: int) -> None:
        self.page.wait_for_selector(f"h1:has-text('lot {number}?')")

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)

    def overflow(self) -> int:
        return self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )

    def went_nowhere_else(self) -> bool:
        return all(url.startswith((self.address, "data:")) for url in self.requests)


def said(store: Store, number: int) -> list[tuple[str, str]]:
    return [(str(each.kind), each.text) for each in store.review(ME, f"inf-{number}")]


# ------------------------------------------------------------------------------------ by keyboard


def test_a_number_chooses_what_stands_under_it_and_the_next_answer_comes(browser, store, address):
    filled(store, 24)
    with Visit(browser, address) as visit:
        visit.shows(0)
        wanted = visit.page.inner_text(".card:nth-child(2) .steps").split("\n")[0]
        visit.press("2")
        visit.shows(1)
        assert said(store, 0)[0] == ("verdict", next(text for text, _ in TEXTS if text.startswith(wanted)))
        assert "1 done" in visit.page.inner_text(".progress")
        assert not visit.complaints


def test_none_skip_and_undo_have_keys(browser, store, address):
    filled(store, 24)
    with Visit(browser, address) as visit:
        visit.press("0")
        visit.shows(1)
        visit.press("s")
        visit.shows(2)
        visit.press("u")
        visit.shows(0)
    assert not store.heard()


def test_a_better_answer_is_written_by_keyboard_alone(browser, store, address):
    filled(store, 24)
    with Visit(browser, address) as visit:
        visit.press("e")
        visit.page.keyboard.type("2 of these: 0 s u e\nThe answer is 12.")  # keys of the page, while writing
        visit.press("Control+Enter")
        visit.shows(1)
    assert said(store, 0) == [("correction", "2 of these: 0 s u e\nThe answer is 12.")]


def test_a_better_answer_may_start_from_one_of_them(browser, store, address):
    filled(store, 24)
    with Visit(browser, address) as visit:
        begun = visit.page.inner_text(".card:first-child .steps p:first-child")
        visit.page.click(".card:first-child .foot a")
        assert visit.page.input_value("#text").startswith(begun)
        visit.page.click("button[value=better]")
        visit.shows(1)
    assert said(store, 0)[0][1].startswith(begun)


def test_a_key_held_down_reviews_one_answer(browser, store, address):
    filled(store, 24)
    with Visit(browser, address) as visit:
        visit.page.evaluate(
            "for (let at = 0; at < 5; at++) document.dispatchEvent("
            "new KeyboardEvent('keydown', {key: '1', repeat: at > 0}))"
        )
        visit.shows(1)
    assert {each.said.inference_id for each in store.heard()} == {"inf-0"}


# ------------------------------------------------------------------------------------ anywhere


@pytest.mark.parametrize("is_scripted", [True, False])
def test_the_whole_review_works_on_a_phone_with_and_without_script(browser, store, address, is_scripted):
    filled(store, 24)
    phone = {"viewport": PHONE, "is_mobile": True, "has_touch": True, "java_script_enabled": is_scripted}
    with Visit(browser, address, **phone) as visit:
        visit.page.tap(".card:nth-child(1) button")
        visit.shows(1)
        visit.page.tap("text=None is right")
        visit.shows(2)
        visit.page.tap("text=Skip")
        visit.shows(3)
        visit.page.tap("text=Write a better one")
        visit.page.fill("#text", "Twelve.")
        visit.page.tap("text=Save this answer")
        visit.shows(4)
        visit.page.tap("text=Undo")
        visit.shows(3)
        visit.page.fill("input[name=name]", "anna")
        visit.page.tap("text=Rename")
        visit.shows(0)
        assert visit.went_nowhere_else()
    assert [len(said(store, number)) > 0 for number in range(4)] == [True, True, False, False]


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_no_page_scrolls_sideways(browser, store, address, width):
    long = "A_very_long_word" * 30
    texts = tuple(Candidate(f"{long}{at}\n{long}", long) for at in range(12))
    store.add_inferences([served(0, question=long, candidates=texts, answer=long, adapter=long)])
    fill_run(store, long[:180])
    with Visit(browser, address, viewport={"width": width, "height": 800}) as visit:
        for path in (
            "/review",
            "/review/queue",
            "/runs",
            f"/runs/{long[:180]}",
            "/review/item/inf-0?draft=0",
        ):
            visit.go(path)
            assert visit.overflow() <= 0, path


def fill_run(store: Store, run: str) -> None:
    store.start_run(run, "adapt", {"settings": {"task": HOSTILE[0], "questions": "x" * 300}})
    accuracy = {"single": 0.4, "majority": 0.5, "best_of_n": 0.55, "chosen": 0.6, "oracle": 0.9}
    rule = {"name": "weighted_vote", "temperature": 1.0, "calibration": None}
    calibration = {"method": "platt", "slope": 1.0, "intercept": 0.0, "knots": [], "levels": [], "points": 9}
    held_out = {"questions": 40, "accuracy": accuracy, "rule": rule, "rules": [], "calibration": calibration}
    for number in (0, 1):
        drawn = [Candidate("a", "1", 1.0), Candidate("b", "2", -1.0)]
        store.put_candidates(run, number, "q", drawn)
        store.put_judgement(run, number, Judgement("q", (0,), (1,), "ground_truth"))
        counts = {"questions": 5, "failed": 0, "samples": 10, "positives": 5, "negatives": 5, "loss": 1.0}
        done = {**counts, "held_out": held_out, "seconds": 2.0, "is_best": True}
        store.put_round(run, number, done, Path("somewhere") / f"round-{number}")


def test_the_plots_of_a_run_are_drawn_under_the_strict_policy(browser, store, address):
    fill_run(store, "adapt-1")
    with Visit(browser, address, color_scheme="dark") as visit:
        visit.go("/runs/adapt-1")
        colours = visit.page.eval_on_selector_all(
            "figure svg path",
            "paths => paths.map(path => getComputedStyle(path).fill + getComputedStyle(path).stroke)",
        )
        assert visit.page.locator("figure svg").count() == 3
        assert any("rgb(108, 178, 255)" in colour for colour in colours)  # --learned, as it is in the dark
        assert not visit.complaints
        assert visit.went_nowhere_else()


# ------------------------------------------------------------------------------------ hostile answers


def test_nothing_that_a_question_or_an_answer_says_is_executed_or_fetched(browser, store, address):
    for number, text in enumerate(HOSTILE):
        context = ({"role": "system", "content": text}, {"role": "user", "content": text})
        candidates = (Candidate(text, text, 1.0), Candidate(f"{text}\n{text}", None, -1.0))
        hostile = served(
            number, question=f"lot {number}? {text}", messages=context, candidates=candidates, text=text
        )
        store.add_inference(hostile)
    with Visit(browser, address) as visit:
        for number, text in enumerate(HOSTILE):
            for path in (f"/review/item/inf-{number}", f"/review/item/inf-{number}?draft=0"):
                visit.go(path)
                is_hacked = visit.page.evaluate("window.hacked === undefined")
                assert is_hacked, text
                assert (
                    visit.page.locator("main script, main img, main iframe, main style, main svg").count()
                    == 0
                )
                assert (
                    visit.page.locator("main a[href^='javascript'], main form[action*='evil']").count() == 0
                )
            assert visit.page.input_value("#text") == text
            assert visit.page.inner_text(".card .steps p >> nth=0")
            visit.press("1")
            visit.page.wait_for_selector(".saved")
        visit.go("/review/queue")
        visit.go("/runs")
        assert visit.went_nowhere_else(), visit.requests
        assert not visit.complaints
    assert {each.said.inference_id for each in store.heard()} == {f"inf-{at}" for at in range(len(HOSTILE))}


def test_a_form_on_another_site_reviews_nothing(browser, store, address):
    filled(store, 3)
    form = f'<form method=post action="{address}/review/item/inf-0"><input name=choice value=0></form>'
    with Visit(browser, address) as visit:
        visit.page.goto("data:text/html," + form)
        with visit.page.expect_navigation():
            visit.page.evaluate("document.forms[0].submit()")
        assert "another site" in visit.page.content()
    assert not store.heard()


def test_the_pages_are_read_by_keyboard_and_name_their_controls(browser, store, address):
    filled(store, 3)
    with Visit(browser, address) as visit:
        assert (
            visit.page.eval_on_selector_all(
                "button, a, textarea, input, summary",
                "all => all.filter(one => !(one.textContent.trim() || one.labels?.length)).length",
            )
            == 0
        )
        visit.press("Tab")
        assert visit.page.evaluate("document.activeElement.tagName") == "A"
