"""Laws of trying again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import EndpointError, LLMError, RefusedError
from trimtab.llm.retry import LONGEST_ASKED_S, LONGEST_BACKOFF_S, THROTTLED, retried, wait_s


def failing(status: int | None = 500, retry_after_s: float | None = None) -> LLMError:
    error = EndpointError("no", retryable=True, status=status)
    error.retry_after_s = retry_after_s
    return error


class Endpoint:
    """Fails as told, then answers with the number of the attempt."""

    def __init__(self, *errors: LLMError, last: LLMError | None = None) -> None:
        self.errors: Iterator[LLMError] = iter(errors)
        self.last = last
        self.attempts: list[int] = []

    async def __call__(self, attempt: int) -> int:
        self.attempts.append(attempt)
        if (error := next(self.errors, self.last)) is not None:
            raise error
        return attempt


def outcome(endpoint: Endpoint, attempts: int = 3, **more: float) -> int:
    return asyncio.run(retried(endpoint, attempts=attempts, backoff_s=0.0, **more))


def test_each_attempt_is_told_how_many_came_before_whatever_they_failed_of():
    endpoint = Endpoint(failing(), failing(THROTTLED), failing(None))
    assert outcome(endpoint) == 3
    assert endpoint.attempts == [0, 1, 2, 3]


def test_a_request_fails_so_many_times_and_no_more():
    endpoint = Endpoint(last=failing())
    with pytest.raises(EndpointError):
        outcome(endpoint, attempts=3)
    assert endpoint.attempts == [0, 1, 2]


def test_being_told_to_slow_down_uses_up_no_attempt():
    endpoint = Endpoint(*[failing(THROTTLED)] * 20)
    assert outcome(endpoint, attempts=1) == 20


def test_a_storm_is_waited_out_only_so_long():
    endpoint = Endpoint(last=failing(THROTTLED, retry_after_s=0.01))
    with pytest.raises(EndpointError) as caught:
        outcome(endpoint, longest_throttled_s=0.05)
    assert caught.value.status == THROTTLED
    assert 2 <= len(endpoint.attempts) <= 6


def test_the_time_before_the_first_429_is_no_part_of_the_storm():
    endpoint = Endpoint(failing(THROTTLED))

    async def after_its_turn(attempt: int) -> int:
        await asyncio.sleep(0.02 if attempt == 0 else 0)
        return await endpoint(attempt)

    assert asyncio.run(retried(after_its_turn, attempts=1, backoff_s=0.0, longest_throttled_s=0.01)) == 1


def test_what_the_server_asks_for_is_waited_for():
    began = time.monotonic()
    assert outcome(Endpoint(failing(503, retry_after_s=0.05))) == 1
    assert time.monotonic() - began >= 0.05


@pytest.mark.parametrize(
    "error", [RefusedError("no", status=401), failing(THROTTLED, retry_after_s=LONGEST_ASKED_S + 1)]
)
def test_what_is_not_worth_another_attempt_gets_none(error: LLMError):
    endpoint = Endpoint(last=error)
    with pytest.raises(LLMError) as caught:
        outcome(endpoint)
    assert caught.value is error
    assert endpoint.attempts == [0]


def test_the_error_carries_nothing_of_the_attempts_before():
    endpoint = Endpoint(failing(), last=failing())
    with pytest.raises(EndpointError) as caught:
        outcome(endpoint)
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


def test_an_error_that_is_not_the_endpoints_is_not_tried_again():
    calls = []

    async def wrong(attempt: int) -> int:
        calls.append(attempt)
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        asyncio.run(retried(wrong, attempts=5, backoff_s=0.0))
    assert calls == [0]


@given(st.integers(0, 10_000), st.floats(0, 10), st.none() | st.floats(0, 1000), st.floats(0, 1))
def test_a_wait_is_what_the_server_asked_for_and_a_share_of_the_backoff(
    attempt: int, backoff_s: float, asked: float | None, chance: float
):
    wait = wait_s(attempt, backoff_s, asked, chance)
    assert (
        (asked or 0.0) <= wait <= (asked or 0.0) + min(LONGEST_BACKOFF_S, backoff_s * 2.0 ** min(attempt, 60))
    )
