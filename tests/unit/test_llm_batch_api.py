"""Laws of reading what a provider wrote about a batch."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.llm.batch_api import Remote, Result, results_in

BODY = {"choices": [{"message": {"content": "5"}}], "usage": {"prompt_tokens": 3}}


def line(**changed) -> bytes:
    response = {"status_code": 200, "request_id": "req-1", "body": BODY}
    usual = {"id": "r-1", "custom_id": "sampling-0", "response": response, "error": None}
    return json.dumps({**usual, **changed}).encode() + b"\n"


def test_an_answer_is_its_body():
    assert list(results_in(line())) == [Result("sampling-0", 200, "req-1", BODY)]


@pytest.mark.parametrize(
    ("changed", "status", "reason"),
    [
        (
            {"response": {"status_code": 400, "body": {"error": {"message": "too\nlong"}}}},
            400,
            "too long",
        ),
        ({"response": {"status_code": 500, "body": None}}, 500, "status 500, without a word"),
        (
            {
                "response": None,
                "error": {"code": "batch_expired", "message": "It could not be done in time."},
            },
            None,
            "It could not be done in time.",
        ),
        ({"response": None, "error": {"code": "batch_cancelled"}}, None, "batch_cancelled"),
        ({"response": {"status_code": 200, "body": "text"}}, 200, "status 200, without a word"),
    ],
)
def test_what_is_no_answer_is_a_reason_in_one_line(changed, status, reason):
    (found,) = results_in(line(**changed))
    assert (found.status, found.body, found.error) == (status, None, reason)


@given(junk=st.binary(max_size=80))
def test_a_line_that_cannot_be_read_costs_no_other_line(junk):
    found = list(results_in(line() + junk.replace(b"\r", b"") + b"\n" + line(custom_id="sampling-1")))
    assert [each.name for each in found if each.body] == ["sampling-0", "sampling-1"]


@given(
    said=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
    place=st.sampled_from(["response", "error", "custom_id"]),
)
def test_json_of_another_shape_is_no_answer_and_no_crash(said, place):
    for found in results_in(line(**{place: said})):
        assert isinstance(found.name, str)
        assert place != "response" or found.body is None


@pytest.mark.parametrize(
    ("state", "is_ended"),
    [("validating", False), ("in_progress", False), ("finalizing", False), ("cancelling", False)]
    + [(state, True) for state in ("completed", "failed", "expired", "cancelled")],
)
def test_a_batch_has_ended_when_nothing_more_can_come_of_it(state, is_ended):
    assert Remote("b", state, 0, (), 0.0, 0.0).is_ended == is_ended
