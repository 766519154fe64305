"""How much an endpoint admits, found out from what it refuses. Pure: the time is handed in.

`Window` says how many requests may be in flight, `Pace` how many may be sent a second, `Ceiling` what the
user allows a minute; `Admission` holds them together. Who waits, on which event loop, stands in `limiter`.

An endpoint limits either what is in flight or what comes in a second, and its 429s do not say which. So an
episode of 429s lowers both, and of the two that one is raised again that holds requests back.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from trimtab.llm.retry import LONGEST_ASKED_S

WINDOW_SHARE = 0.8  # what a 429 leaves of the window
PACE_SHARE = 0.9  # and of the rate that was admitted: what is measured needs a smaller step
GENTLE_SHARE = 0.95  # where that rate is nearly what it was before, or more
CONFIRMED = 0.97
COOLDOWN_S = 1.0  # 429s that come sooner after the last cut belong to the same episode
# From a cut back to what was known before. The numbers without a source are from simulated endpoints, limited
# in rate and in flight, at latencies from 20 ms to 5 s (docs/decisions/0017).
FIRST_RECOVERY_S = 1.0
LONGEST_RECOVERY_S = 40.0
RECOVERIES_A_PAUSE = 16  # where a 429 stops all sending for a second, the next one is risked 16 s later
SAME = 0.1  # a limit that is found again within this share is taken for settled
HEADROOM = 2  # requests in flight that the window leaves beyond those at a 429, where the pace is at fault
# A share of refusals that is no sign of a limit yet: endpoints refuse a few at random, whatever their load.
TOLERATED = 0.08
SETTLED = 0.01  # the same where the pace is known and is what holds requests back: a few cost little to heed
CERTAINTY = 2.0  # standard deviations of the number refused by chance
LEAST_REFUSED = 3
FEW = 0.25  # a smaller share refused: what is admitted is not what the endpoint could admit
NEARLY = 0.9  # and then the rate known before is not given up at once
OUTAGE_SHARE = 1 / 8  # less than this of the pace admitted: the endpoint is down rather than limiting
OUTAGE_RATE = 0.2  # requests a second: how often it is tried then, at least
BUCKET_S = 0.25
LEAST_SPAN_S = 1.0  # a rate is measured over at least so long,
LEAST_SENT = 40  # and so many requests,
LONGEST_SPAN_S = 60.0  # but never longer
LEAST_RATE = 1 / 60  # requests a second
LEAST_FIRST_RATE = 5.0  # the first 429 may come after too few requests to measure anything
SLACK_S = 0.02  # how far sends may catch up with their schedule: timers are late by milliseconds
MINUTE_S = 60.0


class HeldBy(IntEnum):
    """What keeps requests from being sent; a place in a list of durations."""

    NOTHING = 0  # nobody waits
    WINDOW = 1
    PACE = 2
    OTHER = 3  # a ceiling, or a pause that the server asked for


# --------------------------------------------------------------------------- what is learned


@dataclass(slots=True)
class Curve:
    """A limit's way back after a cut: steep at first, flat near what was known before, then probing on.

    *Paper* (RFC 9438, Eq. 1): W(t) = C (t - K)^3 + W_max; `top` is W_max, `recovery_s` is K.

    *Differs*: C is not a constant but such that the curve begins at `low`, so that limits of any size take
    equally long.
    """

    low: float
    top: float
    recovery_s: float
    age_s: float = 0.0

    @property
    def value(self) -> float:
        """The limit now."""
        way = self.age_s / self.recovery_s - 1.0
        return self.top + (self.top - self.low) * way * way * way

    def grow(self, quiet_s: float, felt_s: float) -> None:
        """Go on by the time without a 429; beyond what was known before, by the time the limit was felt.

        One answer moves it by a quarter of the recovery at most: silence is not consent.
        """
        if self.age_s < self.recovery_s:
            self.age_s = min(self.age_s + min(quiet_s, self.recovery_s / 4), self.recovery_s)
        else:
            self.age_s += min(felt_s, self.recovery_s / 4)


@dataclass(slots=True)
class Window:
    """How many requests may be in flight.

    Until the first 429 each success adds one while the window is full; later the window follows its curve.
    """

    start: float
    most: float
    curve: Curve | None = None

    @property
    def value(self) -> float:
        """The window now."""
        grown = self.start if self.curve is None else self.curve.value
        return min(max(grown, 1.0), self.most)

    def succeeded(self, quiet_s: float, felt_s: float, is_full: bool) -> None:
        """A request was answered; since the one before, so long nothing was refused, and the window felt."""
        if self.curve is None:
            self.start = min(self.start + 1.0, self.most) if is_full else self.start
        elif self.value < self.most:
            self.curve.grow(quiet_s, felt_s)

    def cut(self, in_flight: float) -> None:
        """An episode of 429s has begun, with so many in flight."""
        known = max(min(self.value, in_flight), 1.0)
        self.curve = Curve(known * WINDOW_SHARE, known, _recovery_s(self.curve, known))


class Rates(NamedTuple):
    """What of the traffic was let through."""

    admitted: float  # requests a second that were sent and not refused
    was_paused: bool  # for some of the time the server had stopped all sending
    sent: int  # requests
    refused: int  # of them

    def is_overrun(self, tolerated: float) -> bool:
        """True when more than this share is refused, beyond what chance would do."""
        expected = tolerated * self.sent
        return self.refused >= max(expected + CERTAINTY * math.sqrt(expected), LEAST_REFUSED)


@dataclass(slots=True)
class Pace:
    """How many requests may be sent a second; any number until the first 429."""

    curve: Curve | None = None
    last_at: float = -math.inf  # when the last request went, or should have gone

    @property
    def next_at(self) -> float:
        """When the next request may go."""
        return self.last_at + 1.0 / self.rate

    @property
    def rate(self) -> float:
        """Requests a second."""
        return math.inf if self.curve is None else max(self.curve.value, LEAST_RATE)

    def succeeded(self, quiet_s: float, felt_s: float) -> None:
        """A request was answered; since the one before, so long nothing was refused, and the pace felt."""
        if self.curve is not None:
            self.curve.grow(quiet_s, felt_s)

    def sent(self, now: float) -> None:
        """A request goes out."""
        self.last_at = max(self.next_at, now - SLACK_S)

    def cut(self, traffic: Rates, held_by: HeldBy, least_s: float) -> None:
        """An episode of 429s has begun.

        Args:
            traffic: what was let through before it.
            held_by: what the refused request had waited for.
            least_s: the shortest recovery, where the rate is known well.
        """
        known = traffic.admitted
        if self.curve is not None and known < self.rate * OUTAGE_SHARE:
            low = max(self.rate / 2, min(self.rate, OUTAGE_RATE))
            self.curve = Curve(low, max(self.curve.top * WINDOW_SHARE, low), FIRST_RECOVERY_S)
        elif self.curve is None:
            self._set(max(known, LEAST_FIRST_RATE), FIRST_RECOVERY_S)
        elif traffic.was_paused:
            self._set(known, FIRST_RECOVERY_S)
        else:
            if held_by is HeldBy.WINDOW and traffic.refused < FEW * traffic.sent:
                known = max(known, NEARLY * self.curve.top)  # the window is at fault
            share = GENTLE_SHARE if known > CONFIRMED * self.curve.top else PACE_SHARE
            self._set(known, max(_recovery_s(self.curve, known), least_s), share)

    def _set(self, known: float, recovery_s: float, share: float = PACE_SHARE) -> None:
        known = max(known, LEAST_RATE)
        self.curve = Curve(known * share, known, recovery_s)


def _recovery_s(last: Curve | None, known: float) -> float:
    """A limit that is found where it was is looked for half as often, one that has moved more often."""
    if last is None:
        return FIRST_RECOVERY_S
    if abs(known - last.top) > SAME * last.top:
        return max(last.recovery_s / 4, FIRST_RECOVERY_S)
    if last.age_s < last.recovery_s / 2:
        return last.recovery_s
    return min(2 * last.recovery_s, LONGEST_RECOVERY_S)


@dataclass(slots=True)
class Bucket:
    """What was sent in a quarter of a second, and what of it was refused."""

    begins_at: float
    paused_s: float  # how long all sending had been stopped before, in all
    sent: int = 0
    refused: int = 0


@dataclass(slots=True)
class Traffic:
    """What was sent of late."""

    buckets: deque[Bucket] = field(default_factory=deque)

    def sent(self, now: float, paused_s: float) -> Bucket:
        """Count a request; its bucket, for the case that it is refused."""
        buckets = self.buckets
        if not buckets or now >= buckets[-1].begins_at + BUCKET_S:
            buckets.append(Bucket(now, paused_s))
            while buckets[0].begins_at < now - LONGEST_SPAN_S:
                buckets.popleft()
        buckets[-1].sent += 1
        return buckets[-1]

    def rates(self, now: float, paused_s: float) -> Rates:
        """Of the last second or more; `paused_s` is how long sending has been stopped until now, in all."""
        sent = refused = 0
        span_s, paused = BUCKET_S, 0.0
        for bucket in reversed(self.buckets):
            sent += bucket.sent
            refused += bucket.refused
            span_s = max(now - bucket.begins_at, BUCKET_S)
            paused = paused_s - bucket.paused_s
            if span_s >= LEAST_SPAN_S and sent >= LEAST_SENT:
                break
        return Rates((sent - refused) / span_s, paused > 0, sent, refused)


# --------------------------------------------------------------------------- what is given


class Ceiling:
    """So much a minute and no more, in any minute; spread evenly, since providers measure seconds too."""

    def __init__(self, per_minute: float) -> None:
        self._per_minute = per_minute
        self._next_at = -math.inf
        self._sent: deque[tuple[float, float]] = deque()  # of the last minute: when, how much
        self._sum = 0.0

    def opens_at(self, now: float, amount: float) -> float:
        """When so much may be sent. What is more than a minute's worth goes alone."""
        self._forget(now - MINUTE_S)
        opens_at, rest = self._next_at, self._sum
        for sent_at, sent in self._sent:
            if rest + amount <= self._per_minute:
                break
            rest -= sent
            opens_at = max(opens_at, sent_at + MINUTE_S)
        return opens_at

    def sent(self, now: float, amount: float) -> None:
        """So much goes out."""
        self._next_at = max(self._next_at, now - SLACK_S) + amount * MINUTE_S / self._per_minute
        self._sent.append((now, amount))
        self._sum += amount

    def _forget(self, before: float) -> None:
        while self._sent and self._sent[0][0] <= before:
            self._sum -= self._sent.popleft()[1]


# --------------------------------------------------------------------------- all of it


@dataclass(frozen=True, slots=True)
class Sent:
    """One request on its way."""

    at: float
    bucket: Bucket
    held_by: HeldBy  # before it could go


class Admission:
    """When the next request may be sent.

    Args:
        start: requests in flight at the beginning.
        most: requests in flight at any time.
        requests_per_minute: ceiling on what is sent.
        tokens_per_minute: ceiling on the tokens of what is sent.
    """

    def __init__(
        self,
        *,
        start: float,
        most: float,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
    ) -> None:
        self.window = Window(min(start, most), most)
        self.pace = Pace()
        self._traffic = Traffic()
        self._requests = None if requests_per_minute is None else Ceiling(requests_per_minute)
        self._tokens = None if tokens_per_minute is None else Ceiling(tokens_per_minute)
        self._paused_until = -math.inf
        self._paused_s = 0.0  # all pauses together
        self._cut_at = -math.inf
        self._held_by = HeldBy.NOTHING
        self._held_since: float | None = None
        self._held_s = [0.0] * len(HeldBy)  # since the last success

    def opens_at(self, now: float, tokens: int, in_flight: int) -> float:
        """When a request of so many tokens may be sent; infinity: not before another ends."""
        if in_flight >= int(self.window.value):
            self._hold(now, HeldBy.WINDOW)
            return math.inf
        given_at = self._given_at(now, tokens)
        paced_at = self.pace.next_at
        if max(given_at, paced_at) > now:
            self._hold(now, HeldBy.PACE if paced_at > given_at else HeldBy.OTHER)
        return max(given_at, paced_at)

    def is_unpaced(self, now: float) -> bool:
        """True when only the number in flight is limited: no ceiling, no pause, nothing learnt from a 429."""
        is_free = self._requests is None and self._tokens is None and self.window.curve is None
        return is_free and now >= self._paused_until

    def idle(self, now: float) -> None:
        """Nobody waits."""
        self._hold(now, HeldBy.NOTHING)

    def sent(self, now: float, tokens: int) -> Sent:
        """A request goes out."""
        self.pace.sent(now)
        if self._requests is not None:
            self._requests.sent(now, 1.0)
        if self._tokens is not None:
            self._tokens.sent(now, float(tokens))
        return Sent(now, self._traffic.sent(now, self._paused_s), self._held_by)

    def succeeded(self, now: float, in_flight: int) -> None:
        """A request was answered; so many were in flight with it."""
        self._hold(now, self._held_by)
        held_s, self._held_s = self._held_s, [0.0] * len(HeldBy)
        quiet_s = sum(held_s) - held_s[HeldBy.OTHER]
        self.window.succeeded(quiet_s, held_s[HeldBy.WINDOW], in_flight >= int(self.window.value))
        self.pace.succeeded(quiet_s, held_s[HeldBy.PACE])

    def throttled(self, now: float, sent: Sent, in_flight: int, retry_after_s: float | None) -> None:
        """A request was refused with 429."""
        sent.bucket.refused += 1
        traffic = self._traffic.rates(now, self._paused_s)
        if sent.at >= self._cut_at and now >= self._cut_at + COOLDOWN_S:
            self._judge(now, sent, in_flight, traffic, retry_after_s)
        is_stray = now >= self._cut_at + COOLDOWN_S and traffic.refused < TOLERATED * traffic.sent
        if retry_after_s is not None and 0 < retry_after_s <= LONGEST_ASKED_S and not is_stray:
            self._pause(now, now + retry_after_s)

    def _judge(
        self, now: float, sent: Sent, in_flight: int, traffic: Rates, retry_after_s: float | None
    ) -> None:
        """Begin an episode, if this 429 is a sign of one: a few among many that are admitted are none.

        Where the endpoint asks to be left alone, and a limit is known and felt, one 429 is sign enough.
        """
        is_paced, is_full = sent.held_by is HeldBy.PACE, sent.held_by is HeldBy.WINDOW
        limit = self.window.curve if is_full else self.pace.curve
        is_settled = is_paced and limit is not None
        is_costly = bool(retry_after_s) and limit is not None
        if is_costly or traffic.is_overrun(SETTLED if is_settled else TOLERATED):
            self._cut_at = now
            self.window.cut(in_flight + (0 if is_full else HEADROOM))
            self.pace.cut(traffic, sent.held_by, RECOVERIES_A_PAUSE * (retry_after_s or 0.0))

    def _pause(self, now: float, until: float) -> None:
        """Stop all sending. Pauses that overlap are counted once."""
        begins_at = max(self._paused_until, now)
        if until > begins_at:
            self._paused_s += until - begins_at
            self._paused_until = until

    def _given_at(self, now: float, tokens: int) -> float:
        opens_at = self._paused_until
        if self._requests is not None:
            opens_at = max(opens_at, self._requests.opens_at(now, 1.0))
        if self._tokens is not None:
            opens_at = max(opens_at, self._tokens.opens_at(now, float(tokens)))
        return opens_at

    def _hold(self, now: float, by: HeldBy) -> None:
        if self._held_since is not None:
            self._held_s[self._held_by] += now - self._held_since
        self._held_by, self._held_since = by, now
