"""Laws of progress: what a log file gets, what a terminal shows, what the calls come to."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from trimtab.cli import progress
from trimtab.cli.progress import Bars, bars, spelt, time_left_s, told
from trimtab.llm.observed import Meter
from trimtab.types import Call, Completion, Completions, Message, Outcome, Prompt, Purpose, Usage

PROMPT = Prompt((Message("user", "?"),))
ANSWER = Completions((Completion("5"),), Usage(), "m")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Twelve:
    in_flight = 12


def paid(usd: float | None = 0.01, tokens: int = 100) -> Call:
    usage = Usage(tokens, tokens, 1, usd)
    return Call("c", Purpose.SAMPLING, "m", "http://x/v1", "K", Outcome.PAID, usage, 1.0, 0.0)


def metered(*calls: Call) -> Meter:
    meter = Meter(Twelve(), clock=Clock())
    for each in calls:
        meter.ended(each, PROMPT, ANSWER)
    return meter


def logged(meter: Meter | None = None) -> tuple[Bars, io.StringIO, Clock]:
    file, clock = io.StringIO(), Clock()
    console = Console(file=file, force_terminal=False, highlight=False)
    return Bars(Progress(console=console, disable=True), meter, console=console, clock=clock), file, clock


def test_a_log_gets_a_line_every_half_minute_and_one_at_the_end():
    bar, file, clock = logged()
    for done in range(1, 101):
        clock.now += 1
        bar("answer", done, 100)
    assert [line.split(":")[0] for line in file.getvalue().splitlines()] == ["answer"] * 4
    assert file.getvalue().splitlines()[-1] == "answer: 100 of 100"


def test_a_line_says_what_is_left_and_what_the_calls_came_to():
    bar, file, clock = logged(metered(paid(), paid()))
    bar("answer", 0, 100)
    clock.now = 60
    bar("answer", 25, 100, "round 1")
    (line,) = file.getvalue().splitlines()
    assert line == (
        "answer: 25 of 100, round 1, 12 in flight, 2 calls paid, 400 tokens/s, $0.0200, 3 min left"
    )


def test_the_time_left_counts_from_where_the_stage_was_taken_up():
    bar, file, clock = logged()
    bar("answer", 80, 100)  # 80 of them came out of an earlier run
    clock.now = 30
    bar("answer", 90, 100)
    assert file.getvalue().strip() == "answer: 90 of 100, 30 s left"


def test_a_note_with_brackets_is_not_read_as_markup():
    bar, file, clock = logged()
    clock.now = 31
    bar("fit", 1, 2, "[bold]")
    assert "[bold]" in file.getvalue()


def test_a_terminal_shows_the_bars_and_beneath_them_the_calls(monkeypatch):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=120, _environ={"TERM": "xterm"})
    monkeypatch.setattr(progress, "err", console)
    with bars(metered(paid())) as bar:
        bar._console = console
        bar("answer", 1, 4, "round 1")
    shown = file.getvalue()
    assert "1/4" in shown
    assert "round 1" in shown
    assert "12 in flight, 1 calls paid" in shown


def test_without_a_meter_bars_are_as_they_were(capsys):
    with bars() as bar:
        bar("answer", 2, 2)
    assert capsys.readouterr().out == ""


def test_nothing_is_told_before_the_first_call():
    assert told(None) == ""
    assert told(Meter()) == ""


def test_a_price_that_is_not_known_is_not_shown_as_nothing():
    assert "price unknown" in told(metered(paid(usd=None)))
    assert "$0.00" in told(metered(paid(usd=0.0)))
    assert "$1.50" in told(metered(paid(usd=1.5)))


def test_cache_hits_are_told_without_a_call():
    meter = Meter()
    meter.replayed("m", PROMPT, 8)
    assert told(meter) == "0 in flight, 0 calls paid, 8 draws from the cache, 0 tokens/s"


@pytest.mark.parametrize(
    ("seconds", "done", "to_do", "left"),
    [(10, 5, 5, 10), (10, 0, 5, None), (0, 5, 5, None), (10, 5, 0, None), (60, 20, 10, 30)],
)
def test_the_rest_takes_as_long_a_piece_as_what_is_done(seconds, done, to_do, left):
    assert time_left_s(seconds, done, to_do) == left


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (45, "45 s"), (180, "3 min"), (7500, "2 h 5 min"), (7199, "2 h 0 min")],
)
def test_durations_are_spelt_as_people_say_them(seconds, said):
    assert spelt(seconds) == said
