"""The review pages in the whole server: what was answered waits there, behind a key of its scope."""

from __future__ import annotations

import re

import pytest

from serving import QUESTION, bearer, new_key, parts_of, running
from trimtab.store import Scope

pytestmark = pytest.mark.slow

PATHS = ("/review", "/review/queue", "/runs", "/review/item/x", "/runs/x", "/review/assets/style.css")


async def test_what_was_answered_is_reviewed_under_the_keys_name():
    parts = parts_of(keyed=True)
    infer, review = new_key(parts.store, Scope.INFER), new_key(parts.store, Scope.REVIEW)
    async with running(parts) as server:
        said = (await server.chat(infer)).json()
        login = {"auth": ("anybody", review), "follow_redirects": True}
        page = (await server.http.get("/review", **login)).text
        assert QUESTION in page
        place = re.search(r'action="(/review/item/[^"]+)"', page)[1]
        assert place.endswith(said["trimtab"]["inference_id"])
        choice = re.search(r'name="choice" value="(\d+)"', page)[1]
        answer = await server.http.post(place, data={"choice": choice}, **login)
        assert "Nothing is left to review." in answer.text
        assert {each.said.source for each in parts.store.heard()} == {"review:tester"}


@pytest.mark.parametrize("path", PATHS)
async def test_a_browser_without_a_key_is_asked_for_one(path):
    parts = parts_of(keyed=True)
    infer = new_key(parts.store, Scope.INFER)
    async with running(parts) as server:
        unknown = await server.http.get(path)
        other = await server.http.get(path, headers=bearer(infer))
    assert (unknown.status_code, other.status_code) == (401, 403)
    assert unknown.headers["www-authenticate"].startswith("Basic ")


@pytest.mark.parametrize("path", ["/review/item/x", "/review/undo", "/review/rater"])
async def test_nothing_is_written_without_a_key(path):
    parts = parts_of(keyed=True)
    new_key(parts.store, Scope.INFER)
    async with running(parts) as server:
        assert (await server.http.post(path, data={"choice": "0", "name": "x"})).status_code == 401


async def test_pages_are_no_part_of_the_interface_for_programs():
    async with running(parts_of()) as server:
        paths = (await server.http.get("/openapi.json")).json()["paths"]
    assert not [path for path in paths if path.startswith(("/review", "/runs"))]
