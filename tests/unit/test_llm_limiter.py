"""Laws of the limiter: against simulated endpoints on a clock of their own, and on real event loops."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.llm.admission import COOLDOWN_S, MINUTE_S, WINDOW_SHARE, Admission, Ceiling, Curve, Sent
from trimtab.llm.limiter import Limiter
from trimtab.llm.retry import LONGEST_ASKED_S

# ------------------------------------------------------------------------------- simulated endpoints


class Endpoint(Protocol):
    """Something that refuses what is too much for it."""

    def admits(self, now: float, at_work: int) -> bool:
        """At this time, with so many at work?"""


class Endless:
    """Admits everything."""

    def admits(self, now: float, at_work: int) -> bool:
        return True


@dataclass
class TokenBucket:
    """So many a second, and so many at once after a rest."""

    rate: float
    burst: float
    level: float = 0.0
    at: float = 0.0

    def admits(self, now: float, at_work: int) -> bool:
        self.level = min(self.burst, self.level + (now - self.at) * self.rate)
        self.at = now
        is_admitted = self.level >= 1
        self.level -= is_admitted
        return is_admitted


@dataclass
class AnySpan:
    """So many in any span of so many seconds."""

    most: int
    seconds: float = 1.0
    admitted: deque[float] = field(default_factory=deque)

    def admits(self, now: float, at_work: int) -> bool:
        while self.admitted and self.admitted[0] <= now - self.seconds:
            self.admitted.popleft()
        if len(self.admitted) >= self.most:
            return False
        self.admitted.append(now)
        return True


@dataclass
class AtOnce:
    """So many at work at once."""

    most: int

    def admits(self, now: float, at_work: int) -> bool:
        return at_work < self.most


@dataclass
class AtRandom:
    """Refuses some, whatever its load."""

    share: float
    rng: random.Random = field(default_factory=lambda: random.Random(3))

    def admits(self, now: float, at_work: int) -> bool:
        return self.rng.random() >= self.share


@dataclass
class DownFor:
    """Admits everything but for a while nothing."""

    begins: float
    ends: float

    def admits(self, now: float, at_work: int) -> bool:
        return not self.begins <= now < self.ends


def always(seconds: float) -> Callable[[random.Random], float]:
    return lambda rng: seconds


def about(seconds: float) -> Callable[[random.Random], float]:
    return lambda rng: rng.expovariate(1 / seconds)


@dataclass
class Run:
    """What came of asking an endpoint as much as the limiter let through."""

    answered: list[float]  # when
    sent: list[float]
    refused: list[float]  # when they had been sent
    windows: list[tuple[float, float]]  # the window after each cut, and before

    def rate(self, since: float, until: float) -> float:
        return sum(since <= at < until for at in self.answered) / (until - since)

    def refused_share(self, since: float) -> float:
        return sum(at >= since for at in self.refused) / sum(at >= since for at in self.sent)


def simulated(
    endpoint: Endpoint,
    latency: Callable[[random.Random], float],
    seconds: float,
    *,
    most: int = 200,
    retry_after_s: float | None = None,
    refusal_s: float = 0.005,
    timer_s: float = 0.002,
) -> Run:
    """An endless queue in front of the endpoint, on a clock that jumps from event to event."""
    rng = random.Random(1)
    admission = Admission(start=20, most=most)
    run = Run([], [], [], [])
    order = itertools.count()
    events: list[tuple[float, int, bool | None, Sent | None]] = [(0.0, next(order), None, None)]
    in_flight = at_work = alarm = 0
    alarm_at = 0.0
    while events:
        now, number, is_answered, request = heapq.heappop(events)
        if now > seconds:
            break
        before = admission.window.value
        if is_answered is None:
            if number != alarm:
                continue  # another was set after it
            alarm_at = math.inf
        elif is_answered:
            admission.succeeded(now, in_flight)
            run.answered.append(now)
            at_work -= 1
        elif request is not None:
            admission.throttled(now, request, in_flight, retry_after_s)
            run.refused.append(request.at)
            if admission.window.value < before:
                run.windows.append((before, admission.window.value))
        in_flight -= is_answered is not None
        while (opens_at := admission.opens_at(now, 0, in_flight)) <= now:
            sent = admission.sent(now, 0)
            in_flight += 1
            run.sent.append(now)
            is_admitted = endpoint.admits(now, at_work)
            at_work += is_admitted
            took = latency(rng) if is_admitted else refusal_s * (0.5 + rng.random())
            heapq.heappush(events, (now + took, next(order), is_admitted, sent))
        if opens_at < alarm_at:
            alarm_at, alarm = opens_at, next(order)
            heapq.heappush(events, (opens_at + timer_s * rng.random(), alarm, None, None))
    return run


@pytest.mark.parametrize("latency", [always(0.02), always(0.1), about(0.1)])
@pytest.mark.parametrize("retry_after_s", [None, 1.0])
@pytest.mark.parametrize("burst", [5, 50])
def test_an_endpoint_that_admits_50_a_second_is_used_to_nine_tenths_and_seldom_overrun(
    burst: int, retry_after_s: float | None, latency: Callable[[random.Random], float]
):
    run = simulated(TokenBucket(50, burst), latency, 40, retry_after_s=retry_after_s)
    assert run.rate(10, 40) >= 0.9 * 50
    assert run.refused_share(10) < 0.05


@pytest.mark.parametrize("latency", [always(0.1), about(0.1)])
def test_an_endpoint_that_counts_each_second_is_used_to_nine_tenths(
    latency: Callable[[random.Random], float],
):
    run = simulated(AnySpan(50), latency, 40)
    assert run.rate(10, 40) >= 0.9 * 50
    assert run.refused_share(10) < 0.05


def test_long_answers_do_not_keep_the_window_below_what_the_rate_needs():
    run = simulated(TokenBucket(50, 50), about(2.0), 80, most=1000)
    assert run.rate(30, 80) >= 0.9 * 50


@pytest.mark.parametrize("most", [20, 100])
def test_an_endpoint_that_works_on_so_many_at_once_is_used_to_nine_tenths(most: int):
    run = simulated(AtOnce(most), always(0.1), 40)
    assert run.rate(10, 40) >= 0.9 * most / 0.1
    assert run.refused_share(10) < 0.05


def test_an_endpoint_that_admits_all_gets_the_most_that_is_allowed():
    run = simulated(Endless(), always(0.1), 5, most=200)
    assert run.rate(2, 5) >= 0.99 * 2000


def test_after_an_outage_things_are_soon_as_they_were():
    run = simulated(DownFor(10, 30), always(0.1), 70)
    assert run.rate(10.2, 30) == 0
    assert sum(20 <= at < 30 for at in run.sent) < 30  # it is left nearly alone while it is down
    assert run.rate(60, 70) >= 0.5 * run.rate(5, 10)


def test_a_minute_that_is_used_up_at_once_does_not_slow_the_minutes_after():
    run = simulated(AnySpan(600, 60.0), always(0.1), 300, retry_after_s=20.0)
    assert len(run.answered) >= 0.9 * 600 * 5


def test_a_429_takes_a_fifth_of_the_window_once_an_episode():
    run = simulated(AtOnce(40), always(0.1), 30)
    assert run.windows
    assert all(after >= WINDOW_SHARE * min(before, 41) - 1e-9 for before, after in run.windows)


# ------------------------------------------------------------------------------- the state machine


def test_all_429s_of_one_burst_are_one_episode():
    admission = Admission(start=20, most=200)
    sent = [admission.sent(0.0, 0) for _ in range(20)]
    for request in sent:
        admission.throttled(0.1, request, 20, None)
    assert admission.window.value == pytest.approx(20 * WINDOW_SHARE)
    late = [admission.sent(0.2, 0) for _ in range(10)]
    for request in late[:5]:
        admission.throttled(0.1 + COOLDOWN_S / 2, request, 16, None)
    assert admission.window.value == pytest.approx(20 * WINDOW_SHARE)
    for request in late[5:]:
        admission.throttled(0.1 + COOLDOWN_S, request, 16, None)
    assert admission.window.value == pytest.approx(20 * WINDOW_SHARE**2)


@pytest.mark.parametrize("share", [0.02, 0.06])
@pytest.mark.parametrize("retry_after_s", [None, 1.0])
def test_stray_429s_slow_nothing_down(share: float, retry_after_s: float | None):
    run = simulated(AtRandom(share), always(0.1), 10, retry_after_s=retry_after_s)
    assert run.rate(2, 10) >= 0.95 * 2000
    assert not run.windows


def sent_and_refused(sent: int, refused: int, retry_after_s: float) -> Admission:
    admission = Admission(start=200, most=200)
    requests = [admission.sent(0.0, 0) for _ in range(sent)]
    for request in requests[:refused]:
        admission.throttled(0.1, request, sent, retry_after_s)
    return admission


@pytest.mark.parametrize(("sent", "refused"), [(1, 1), (10, 1), (100, 50), (20, 20)])
def test_all_sending_stops_for_as_long_as_the_server_asks(sent: int, refused: int):
    assert sent_and_refused(sent, refused, 30.0).opens_at(0.1, 0, 0) == pytest.approx(30.1)


def test_for_a_stray_429_only_its_own_request_waits():
    assert sent_and_refused(100, 2, 30.0).opens_at(0.1, 0, 100) <= 0.1


def test_failures_that_are_no_429_change_nothing():
    async def fails(limiter: Limiter) -> None:
        with pytest.raises(TimeoutError):
            async with limiter.slot():
                raise TimeoutError

    limiter = Limiter(start=7)
    for _ in range(30):
        asyncio.run(fails(limiter))
    assert (limiter.allowed, limiter.in_flight) == (7, 0)


def test_the_window_grows_only_while_it_is_full():
    admission = Admission(start=20, most=200)
    for number in range(100):
        admission.sent(number * 0.1, 0)
        admission.succeeded(number * 0.1 + 0.05, in_flight=3)
    assert admission.window.value == 20
    admission.succeeded(11.0, in_flight=20)
    assert admission.window.value == 21


def test_silence_is_not_consent():
    curve = Curve(low=8.0, top=10.0, recovery_s=4.0)
    curve.grow(quiet_s=1000.0, felt_s=1000.0)
    assert curve.value < 10.0


@given(st.floats(1, 1000), st.floats(0.1, 0.99), st.floats(1, 40), st.lists(st.floats(0, 10), max_size=60))
def test_a_curve_begins_at_its_cut_passes_what_was_known_and_never_falls(
    top: float, share: float, recovery_s: float, steps: list[float]
):
    curve = Curve(top * share, top, recovery_s)
    values = [curve.value]
    for step in steps:
        curve.grow(step, step)
        values.append(curve.value)
    assert values[0] == pytest.approx(top * share)
    assert values == sorted(values)
    assert Curve(top * share, top, recovery_s, age_s=recovery_s).value == pytest.approx(top)


Step = tuple[str, float, float]
steps = st.lists(
    st.tuples(
        st.sampled_from(["send", "succeed", "refuse", "fail"]),
        st.floats(0.0, 3.0),
        st.sampled_from([0.0, 0.5, 5.0, LONGEST_ASKED_S + 1]),
    ),
    max_size=150,
)


@given(steps, st.integers(1, 30), st.integers(1, 60))
def test_whatever_happens_something_may_be_sent_again_and_never_too_much(
    steps: list[Step], start: int, most: int
):
    admission = Admission(start=start, most=most)
    now, flying = 0.0, deque[Sent]()
    for what, seconds, retry_after_s in steps:
        now += seconds
        if what == "send" and admission.opens_at(now, 0, len(flying)) <= now:
            assert len(flying) < most
            flying.append(admission.sent(now, 0))
        elif what == "succeed" and flying:
            admission.succeeded(now, len(flying))
            flying.popleft()
        elif what == "refuse" and flying:
            admission.throttled(now, flying[0], len(flying), retry_after_s)
            flying.popleft()
        elif what == "fail" and flying:
            flying.popleft()
        assert 1 <= admission.window.value <= most
    # The next one goes within a minute after the last pause, if nothing is in flight.
    assert admission.opens_at(now, 0, 0) <= now + 5.0 + MINUTE_S


# ------------------------------------------------------------------------------- ceilings


@given(st.floats(1, 2000), st.lists(st.tuples(st.floats(0, 20), st.floats(0.0, 1.0)), max_size=150))
def test_no_minute_has_more_than_its_ceiling(per_minute: float, asked: list[tuple[float, float]]):
    ceiling, now = Ceiling(per_minute), 0.0
    sent: list[tuple[float, float]] = []
    for later, share in asked:
        amount = share * per_minute
        now = max(now + later, ceiling.opens_at(now + later, amount))
        ceiling.sent(now, amount)
        sent.append((now, amount))
    for at, _ in sent:
        in_a_minute = math.fsum(amount for when, amount in sent if at - MINUTE_S + 1e-9 < when <= at)
        assert in_a_minute <= per_minute * (1 + 1e-9)


def test_a_ceiling_is_used_to_its_end():
    ceiling, now, sent = Ceiling(600.0), 0.0, 0
    while now < 300.0:
        now = max(now + 0.0005, ceiling.opens_at(now + 0.0005, 1.0))
        ceiling.sent(now, 1.0)
        sent += 1
    assert sent >= 0.99 * 600 * 5


def test_a_ceiling_lets_no_burst_through():
    ceiling = Ceiling(600.0)  # ten a second
    ceiling.sent(0.0, 1.0)
    assert ceiling.opens_at(30.0, 1.0) <= 30.0
    for _ in range(2):
        ceiling.sent(30.0, 1.0)
    assert ceiling.opens_at(30.0, 1.0) > 30.05


def test_a_request_larger_than_a_minute_goes_alone():
    ceiling = Ceiling(100.0)
    assert ceiling.opens_at(0.0, 500.0) <= 0.0
    ceiling.sent(0.0, 500.0)
    assert ceiling.opens_at(60.0, 1.0) == pytest.approx(300.0, abs=0.05)


# ------------------------------------------------------------------------------- on event loops


async def took_turns(limiter: Limiter, names: str, turns: list[str], tokens: int = 0) -> None:
    async def one(name: str) -> None:
        async with limiter.slot(tokens) as slot:
            turns.append(name)
            await asyncio.sleep(0.001)
            slot.succeeded()

    await asyncio.gather(*map(one, names))


def test_turns_come_in_the_order_they_were_asked_for():
    turns: list[str] = []
    asyncio.run(took_turns(Limiter(start=2, most=2), "abcdefgh", turns))
    assert "".join(turns) == "abcdefgh"


def test_no_more_are_in_flight_than_the_most():
    limiter, seen = Limiter(start=20, most=3), []

    async def one() -> None:
        async with limiter.slot():
            seen.append(limiter.in_flight)
            await asyncio.sleep(0)

    async def all_of_them() -> None:
        await asyncio.gather(*(one() for _ in range(50)))

    asyncio.run(all_of_them())
    assert max(seen) == 3
    assert (limiter.in_flight, limiter.waiting) == (0, 0)


@pytest.mark.parametrize("cancelled", ["first waiting", "last waiting", "all waiting", "whose turn has come"])
def test_who_goes_away_while_waiting_leaves_nothing_behind(cancelled: str):
    async def scene() -> None:
        limiter = Limiter(start=1, most=1)
        held: list[int] = []

        async def waiter(number: int) -> None:
            async with limiter.slot():
                held.append(number)

        first = limiter.slot()
        await first.__aenter__()
        waiting = [asyncio.create_task(waiter(number)) for number in range(4)]
        await asyncio.sleep(0)
        assert limiter.waiting == 4
        if cancelled == "whose turn has come":
            await first.__aexit__(None, None, None)  # it has its turn, and has not run since
        chosen = {"last waiting": [3], "all waiting": [0, 1, 2, 3]}.get(cancelled, [0])
        for number in chosen:
            waiting[number].cancel()
        if cancelled != "whose turn has come":
            await first.__aexit__(None, None, None)
        await asyncio.gather(*waiting, return_exceptions=True)
        assert held == [number for number in range(4) if number not in chosen]
        assert (limiter.in_flight, limiter.waiting) == (0, 0)

    asyncio.run(scene())


def test_who_waited_behind_too_large_a_request_goes_on_when_that_one_goes_away():
    async def scene() -> None:
        limiter = Limiter(tokens_per_minute=100)
        async with limiter.slot(90):
            pass

        async def large() -> None:
            async with limiter.slot(100):
                pass

        async def free() -> bool:
            async with limiter.slot(0):
                return True

        waiting = asyncio.create_task(large())
        await asyncio.sleep(0)
        behind = asyncio.create_task(free())
        await asyncio.sleep(0)
        assert limiter.waiting == 2
        waiting.cancel()
        limiter_is_free = asyncio.create_task(asyncio.wait_for(behind, 70))
        await asyncio.sleep(0.01)
        assert limiter.waiting == 1  # its own turn is a matter of the pace, not of who stood before
        limiter_is_free.cancel()
        await asyncio.gather(waiting, limiter_is_free, return_exceptions=True)
        assert (limiter.in_flight, limiter.waiting) == (0, 0)

    asyncio.run(scene())


def test_one_event_loop_may_follow_another():
    limiter, turns = Limiter(start=2, most=2), list[str]()
    for names in ("abc", "def"):
        asyncio.run(took_turns(limiter, names, turns))
    assert "".join(turns) == "abcdef"


def test_what_a_dead_event_loop_left_behind_does_not_count():
    limiter, turns = Limiter(start=1, most=1), list[str]()
    loop = asyncio.new_event_loop()
    slots = [limiter.slot(), limiter.slot()]

    async def hold() -> None:
        await slots[0].__aenter__()

    loop.run_until_complete(hold())
    loop.close()
    assert limiter.in_flight == 1
    asyncio.run(took_turns(limiter, "ab", turns))
    assert turns == ["a", "b"]
    assert limiter.in_flight == 0
    asyncio.run(slots[0].__aexit__(None, None, None))
    assert limiter.in_flight == 0


def test_nothing_is_sent_while_the_server_asked_to_be_left_alone():
    async def scene() -> float:
        limiter = Limiter()
        loop = asyncio.get_running_loop()
        async with limiter.slot() as slot:
            slot.throttled(0.05)
        began = loop.time()
        async with limiter.slot():
            return loop.time() - began

    assert asyncio.run(scene()) >= 0.049


def test_a_server_that_asks_for_too_long_is_not_waited_for():
    async def scene() -> int:
        limiter = Limiter()
        async with limiter.slot() as slot:
            slot.throttled(LONGEST_ASKED_S + 1)
        await asyncio.wait_for(took_turns(limiter, "a", []), 1.0)
        return limiter.allowed

    assert asyncio.run(scene()) >= 1
