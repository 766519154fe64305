"""Laws of the review and run pages, over ASGI without a browser."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from reviews import TEXTS, filled, pages, served
from trimtab.data import Feedback, FeedbackKind
from trimtab.serve.choices import chosen
from trimtab.store import ApiKey, Scope, Store
from trimtab.types import Candidate, Judgement

pytestmark = pytest.mark.slow

HOST = "http://trimtab.test"
ANNA = "review:anna"


@asynccontextmanager
async def visiting(
    store: Store, *, key: ApiKey | None = None, **headers: str
) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(pages(store, lambda: key))
    cookies = {"trimtab_rater": "anna"}
    async with httpx.AsyncClient(
        transport=transport, base_url=HOST, cookies=cookies, headers=headers, follow_redirects=True
    ) as client:
        yield client


def said(store: Store, number: int = 0, source: str = ANNA) -> list[tuple[str, str, str]]:
    return [(str(each.kind), each.text, each.value) for each in store.review(source, f"inf-{number}")]


@pytest.fixture
def store():
    with Store.in_memory() as store:
        yield filled(store)


# ------------------------------------------------------------------------------------ what a choice says


async def test_choosing_says_right_and_prefers_it_to_what_comes_to_something_else(store):
    async with visiting(store) as client:
        await client.post("/review/item/inf-0", data={"choice": "0"})
    assert said(store) == [("verdict", TEXTS[0][0], "right"), ("preference", TEXTS[0][0], TEXTS[1][0])]


async def test_choosing_none_says_that_each_is_wrong(store):
    async with visiting(store) as client:
        await client.post("/review/item/inf-0", data={"choice": "none"})
    assert said(store) == [("verdict", text, "wrong") for text, _ in TEXTS]


async def test_a_better_answer_is_a_correction_in_its_own_words(store):
    async with visiting(store) as client:
        await client.post("/review/item/inf-0", data={"choice": "better", "text": " 3 * 4\r\n= 12 "})
    assert said(store) == [("correction", "3 * 4\n= 12", "")]


async def test_choosing_again_replaces_the_review_and_sending_twice_changes_nothing(store):
    async with visiting(store) as client:
        for made in ("none", "1", "1"):
            await client.post("/review/item/inf-0", data={"choice": made})
    assert [kind for kind, _, _ in said(store)] == ["verdict", "preference", "preference"]
    assert said(store)[0][1:] == (TEXTS[1][0], "right")


@pytest.mark.parametrize(
    "form", [{"choice": "9"}, {"choice": "-1"}, {"choice": "x"}, {"choice": "better"}, {}, {"text": "x"}]
)
async def test_a_choice_that_is_none_is_refused_and_nothing_is_kept(store, form):
    async with visiting(store) as client:
        answer = await client.post("/review/item/inf-0", data=form)
    assert answer.status_code == 400
    assert "That could not be done." in answer.text
    assert said(store) == []


@pytest.mark.parametrize(
    "path",
    ["/review/item/nobody", "/runs/nothing", "/review/assets/base.html", "/review/assets/..%2fbase.html"],
)
async def test_what_is_not_there_is_not_found(store, path):
    async with visiting(store) as client:
        assert (await client.get(path)).status_code == 404


# ------------------------------------------------------------------------------------ the queue


async def test_the_least_confident_comes_first_and_each_choice_leads_to_the_next(store):
    async with visiting(store) as client:
        assert "lot 0?" in (await client.get("/review")).text
        answer = await client.post("/review/item/inf-0", data={"choice": "0"})
        assert "lot 1?" in answer.text
        assert "lot 2?" in (await client.get("/review", params={"after": "inf-1"})).text


async def test_a_skipped_answer_comes_back_at_the_end(store):
    async with visiting(store) as client:
        end = (await client.get("/review", params={"after": "inf-29"})).text
    assert "You skipped 30" in end


async def test_what_one_rater_did_leaves_the_others_queue_as_it_is(store):
    store.add_feedback(chosen(served(0), 0, "review:ben"))
    async with visiting(store) as client:
        assert "lot 0?" in (await client.get("/review")).text


async def test_answers_of_the_black_box_itself_and_without_candidates_do_not_wait():
    with Store.in_memory() as store:
        store.add_inferences([served(0, adapter=""), served(1, candidates=(), chosen=None)])
        assert store.review_progress(ANNA, since=0).left == 0


async def test_answers_without_a_confidence_come_last_the_newest_of_equals_first():
    with Store.in_memory() as store:
        unsure = [served(5, confidence=None), served(6, confidence=None), served(7, confidence=0.5)]
        store.add_inferences([*unsure, served(8, confidence=0.5)])
        order, after = [], None
        while (found := store.next_to_review(ANNA, after=after)) is not None:
            order.append(after := found.id)
        assert order == ["inf-8", "inf-7", "inf-6", "inf-5"]
        assert order == [each.id for each in store.review_queue(ANNA, limit=9)]


async def test_the_queue_is_paged(store):
    filled(store, 120)
    async with visiting(store) as client:
        numbers = [
            re.findall(r"lot (\d+)\?", (await client.get("/review/queue", params={"page": at})).text)
            for at in (0, 1, 2, 3)
        ]
    assert [int(each) for page in numbers for each in page] == list(range(120))
    assert [len(page) for page in numbers] == [50, 50, 20, 0]


async def test_progress_counts_answers_and_not_rows(store):
    async with visiting(store) as client:
        for number in (0, 1, 2):
            page = (await client.post(f"/review/item/inf-{number}", data={"choice": "0"})).text
    assert re.sub(r"<[^>]+>", "", page).count("3 done · 27 left · 3 today") == 1


# ------------------------------------------------------------------------------------ undo


async def test_undo_takes_back_the_raters_own_last_review_alone_and_shows_it_again(store):
    async with visiting(store) as client:
        await client.post("/review/item/inf-0", data={"choice": "0"})
        await client.post("/review/item/inf-1", data={"choice": "none"})
        store.add_feedback(chosen(served(2), 0, "review:ben"))
        answer = await client.post("/review/undo")
    assert "lot 1?" in answer.text
    assert (bool(said(store, 0)), bool(said(store, 1)), bool(said(store, 2, "review:ben"))) == (
        True,
        False,
        True,
    )


async def test_undo_leaves_what_the_rater_said_elsewhere(store):
    """A thumb over the API, even under the same name, is no review."""
    store.add_feedback([Feedback("q", FeedbackKind.VERDICT, "t", "right", "anna", inference_id="inf-0")])
    async with visiting(store) as client:
        await client.post("/review/undo")
    assert len(store.heard()) == 1


# ------------------------------------------------------------------------------------ who


async def test_the_name_of_a_key_is_the_raters_name():
    key = ApiKey("k", "ben", "d", (Scope.REVIEW,), 0.0)
    with Store.in_memory() as store:
        filled(store)
        async with visiting(store, key=key) as client:
            await client.post("/review/rater", data={"name": "anna"})
            await client.post("/review/item/inf-0", data={"choice": "0"})
        assert said(store, source="review:ben")
        assert not said(store)


async def test_the_browser_keeps_a_name_that_only_these_pages_read(store):
    async with visiting(store) as client:
        answer = await client.post("/review/rater", data={"name": "  Žofie <b>\r\n"}, follow_redirects=False)
        cookie = answer.headers["set-cookie"].lower()
        assert all(part in cookie for part in ("httponly", "samesite=strict", "path=/review"))
        client.cookies.clear()
        client.cookies.set("trimtab_rater", answer.cookies["trimtab_rater"])
        assert 'value="Žofie b"' in (await client.get("/review")).text


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"origin": "http://["},
    ],
)
@pytest.mark.parametrize("path", ["/review/item/inf-0", "/review/undo", "/review/rater"])
async def test_a_form_on_another_site_changes_nothing(store, path, headers):
    store.add_feedback(chosen(served(0), 1, ANNA))
    before = store.heard()
    async with visiting(store, **headers) as client:
        answer = await client.post(path, data={"choice": "0", "name": "x"})
    assert answer.status_code == 403
    assert store.heard() == before


async def test_a_form_of_ours_is_taken(store):
    async with visiting(store, origin=HOST, **{"sec-fetch-site": "same-origin"}) as client:
        await client.post("/review/item/inf-0", data={"choice": "0"})
    assert said(store)


# ------------------------------------------------------------------------------------ what is shown


async def test_what_the_adapter_thought_is_shown_after_the_choice_alone(store):
    async with visiting(store) as client:
        before = (await client.get("/review/item/inf-0")).text
        saved = (await client.post("/review/item/inf-0", data={"choice": "1"})).text
        after = (await client.get("/review/item/inf-0")).text
    assert not re.search(
        r"score|confidence of|adapter's choice|-0\.50|10 %", before.split('class="muted note"')[0]
    )
    assert "The adapter had chosen 12, with a confidence of 10 %." in saved
    assert "-0.50" in after
    assert "the adapter&#39;s choice" in after or "the adapter's choice" in after


async def test_two_raters_see_the_answers_in_orders_of_their_own(store):
    orders = set()
    for name in "abcdefgh":
        async with visiting(store) as client:
            client.cookies.clear()
            client.cookies.set("trimtab_rater", name)
            pages_ = [(await client.get("/review/item/inf-0")).text for _ in range(2)]
            assert len({tuple(re.findall(r'name="choice" value="(\d)"', text)) for text in pages_}) == 1
            orders.add(tuple(re.findall(r'name="choice" value="(\d)"', pages_[0])))
    assert len(orders) > 2


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</textarea><script>alert(1)</script>",
    "<svg/onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "\ud800 half a pair \x00",
)


@pytest.mark.parametrize("text", HOSTILE)
async def test_data_are_text_wherever_they_stand(text):
    hostile = served(
        0,
        question=text,
        messages=({"role": text, "content": [{"type": "text", "text": text + "!"}]}, {"content": 7}),
        candidates=(Candidate(text, text, 1.0), Candidate("other", None)),
        adapter=text.replace("\x00", "").encode("utf-8", "replace").decode(),
    )
    with Store.in_memory() as store:
        store.add_inference(hostile)
        async with visiting(store) as client:
            for path in ("/review", "/review/queue", "/review/item/inf-0?draft=0", "/runs"):
                answer = await client.get(path)
                assert answer.status_code == 200
                assert not re.search(
                    r"<script>|<img|<svg|</textarea>.*</textarea>|49", answer.text, re.DOTALL
                ), path
            answer = await client.post("/review/item/inf-0", data={"choice": "0"})
            assert answer.status_code == 200


async def test_every_page_forbids_script_and_style_of_its_own(store):
    async with visiting(store) as client:
        for path in ("/review", "/review/queue", "/runs"):
            answer = await client.get(path)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?! src=\"/review)|https?://", answer.text)


# ------------------------------------------------------------------------------------ agreement, runs


async def test_agreement_is_shown_once_two_raters_have_seen_the_same(store):
    picks = [0, 1, 0, 2, 1, 0]
    for number, pick in enumerate(picks):
        store.add_feedback(chosen(served(number), pick, ANNA))
        store.add_feedback(chosen(served(number), 1 if number == 5 else pick, "review:ben"))
    async with visiting(store) as client:
        page = re.sub(r"<[^>]+>", "", (await client.get("/review")).text)
    assert re.search(r"agreement α 0\.\d\d\s+\(2 raters, 6 answers\)", page)


async def test_choosing_answers_that_come_to_the_same_is_agreement(store):
    for number, (one, other) in enumerate([(0, 2), (2, 0), (1, 1)]):
        store.add_feedback(chosen(served(number), one, ANNA))
        store.add_feedback(chosen(served(number), other, "review:ben"))
    async with visiting(store) as client:
        assert "agreement α 1.00" in re.sub(r"<[^>]+>", "", (await client.get("/review")).text)


def round_record(number: int) -> dict[str, object]:
    accuracy = {"single": 0.4, "majority": 0.5, "best_of_n": 0.55, "chosen": 0.5 + number / 10, "oracle": 0.9}
    calibration = {"method": "platt", "slope": 1.0, "intercept": 0.0, "knots": [], "levels": [], "points": 9}
    rule = {"name": "weighted_vote", "temperature": 1.0, "calibration": None}
    held_out = {"questions": 40, "accuracy": accuracy, "rule": rule, "rules": [], "calibration": calibration}
    counts = {"questions": 5, "failed": 1, "samples": 10, "positives": 5, "negatives": 5}
    return {
        **counts,
        "index": number,
        "loss": None,
        "held_out": held_out,
        "seconds": 1.5,
        "is_best": number == 1,
    }


async def test_a_run_shows_its_rounds_scores_calibration_cost_and_adapters(tmp_path):
    with Store.in_memory() as store:
        store.start_run("adapt-1", "adapt", {"settings": {"task": "numeric", "api_key": "sk-secret"}})
        for number in (0, 1):
            drawn = [Candidate("a", "1", 1.0 + number), Candidate("b", "2", -1.0)]
            store.put_candidates("adapt-1", number, "q", drawn)
            store.put_judgement("adapt-1", number, Judgement("q", (0,), (1,), "ground_truth"))
            store.put_round("adapt-1", number, round_record(number), tmp_path / f"round-{number}")
        store.begin_versions("sums", tmp_path / "v1")
        async with visiting(store) as client:
            listed = (await client.get("/runs")).text
            answer = await client.get("/runs/adapt-1")
    assert 'href="/runs/adapt-1"' in listed
    for part in ("Accuracy by round", "Scores", "confidence honest", "Rounds", "Cost", "round-1", "serving"):
        assert part in answer.text
    assert answer.text.count("<svg") == 3
    assert " style=" not in answer.text
    assert "sk-secret" not in answer.text


async def test_a_run_that_has_done_nothing_yet_has_a_page():
    with Store.in_memory() as store:
        store.start_run("answer/1 ü", "answer", {})
        async with visiting(store) as client:
            link = re.search(r'href="(/runs/[^"]+)"', (await client.get("/runs")).text)[1]
            assert (await client.get(link)).status_code == 200
