"""`trimtab runs`: every dollar paid stands at its run, its purpose and its outcome."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trimtab.cli import ledger
from trimtab.cli.settings import Settings
from trimtab.errors import InputError
from trimtab.store import Store
from trimtab.types import Call, Completion, Draws, Outcome, Purpose, Reply, Usage


def call(number: int, usage: Usage, purpose: Purpose, outcome: Outcome = Outcome.PAID) -> Call:
    return Call(f"c{number}", purpose, "box", "http://box/v1", "KEY", outcome, usage, 0.5, 1.0)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A store with a training run, a run that answered 200 questions, and one that was forgotten."""
    settings = Settings(work_dir=tmp_path)
    paid = Usage(100, 50, 1, 0.25)
    with Store.open(tmp_path / "store.db", survives_power_cut=False) as store:
        store.start_run("adapt-1", "adapt", {"questions": 300})
        sampling, judging = call(1, paid, Purpose.SAMPLING), call(2, Usage(9, 9, 1, 0.5), Purpose.JUDGING)
        drawn = (Completion("a"), Completion("b"))
        store.samples_of("adapt-1").keep([Reply("key", 0, "box", drawn, (sampling,))])
        store.samples_of("adapt-1").keep([Reply("judge", 0, "box", (Completion("A"),), (judging,))])
        store.finish_run("adapt-1")
        store.start_run("answer-1", "answer", {"questions": 200})
        store.samples_of("answer-1").kept([Draws("key", 0, 2)])
        lines = (
            call(3, Usage(), Purpose.SAMPLING, Outcome.UNPAID),
            call(4, Usage(100, 512, 1, 0.75), Purpose.SAMPLING, Outcome.UNCERTAIN),
            call(5, paid, Purpose.SAMPLING),
        )
        store.samples_of("answer-1").keep([Reply("more", 0, "box", drawn, lines)])
        store.start_run("gone", "adapt", {})
        store.samples_of("gone").keep([Reply("g", 0, "box", (), (call(6, paid, Purpose.SAMPLING),))])
        store.forget_run("gone")
    return settings


def document(capsys: pytest.CaptureFixture[str]) -> object:
    return json.loads(capsys.readouterr().out)


def test_runs_are_listed_with_all_that_was_paid_the_forgotten_ones_last(settings, capsys):
    ledger.list_runs(settings, True)
    adapt, answer, gone = document(capsys)
    assert [run["id"] for run in (adapt, answer, gone)] == ["adapt-1", "answer-1", "gone"]
    assert [run["status"] for run in (adapt, answer, gone)] == ["finished", "running", "forgotten"]
    assert (adapt["calls"], adapt["input_tokens"], adapt["output_tokens"], adapt["usd"]) == (2, 109, 59, 0.75)
    assert adapt["started_at"].endswith("+00:00")
    assert (answer["calls"], answer["usd"]) == (2, 1.0)
    assert (answer["uncertain"]["calls"], answer["uncertain"]["usd"]) == (1, 0.75)
    assert (adapt["uncertain"]["calls"], adapt["uncertain"]["usd"]) == (0, 0.0)
    assert gone["usd"] == 0.25


def test_the_cost_table_counts_replayed_draws_as_if_they_had_been_bought(settings, capsys):
    ledger.show_run(settings, "answer-1", True)
    shown = document(capsys)
    assert shown["replayed"] == {"draws": 2, "usd": 0.25}
    assert shown["inference_usd_per_1000_questions"] == pytest.approx((1.0 + 0.25) / 200 * 1000)
    assert shown["training_usd"] is None
    ledger.show_run(settings, "adapt-1", True)
    shown = document(capsys)
    assert shown["training_usd"] == 0.75
    assert shown["inference_usd_per_1000_questions"] is None


def test_a_run_is_shown_by_purpose_and_outcome(settings, capsys):
    ledger.show_run(settings, "adapt-1", True)
    by_purpose = {cost["purpose"]: cost["usd"] for cost in document(capsys)["costs"]}
    assert by_purpose == {"sampling": 0.25, "judging": 0.5}
    ledger.show_run(settings, "answer-1", True)
    by_outcome = {cost["outcome"]: (cost["requests"], cost["calls"]) for cost in document(capsys)["costs"]}
    assert by_outcome == {"paid": (1, 1), "uncertain": (1, 1), "unpaid": (1, 0)}


def test_a_person_reads_the_same_figures(settings, capsys):
    ledger.list_runs(settings, False)
    assert "adapt-1" in capsys.readouterr().out
    ledger.show_run(settings, "answer-1", False)
    shown = capsys.readouterr()
    assert "uncertain" in shown.out
    assert "$6.2500 per 1,000 questions (200 asked)" in shown.err
    assert "of these uncertain: $0.7500" in shown.err


def test_an_unknown_price_makes_no_figure(tmp_path, capsys):
    with Store.open(tmp_path / "store.db", survives_power_cut=False) as store:
        store.start_run("evaluate-1", "evaluate", {"questions": 10})
        unpriced = call(1, Usage(1, 1, 1, None), Purpose.SAMPLING)
        store.samples_of("evaluate-1").keep([Reply("k", 0, "box", (Completion("a"),), (unpriced,))])
    ledger.show_run(Settings(work_dir=tmp_path), "evaluate-1", True)
    shown = document(capsys)
    assert (shown["usd"], shown["inference_usd_per_1000_questions"]) == (None, None)
    ledger.show_run(Settings(work_dir=tmp_path), "evaluate-1", False)
    assert "inference: unknown per 1,000" in capsys.readouterr().err


def test_a_run_that_is_not_there_is_refused_with_the_nearest_name(settings):
    with pytest.raises(InputError, match="did you mean 'answer-1'"):
        ledger.show_run(settings, "answer-2", False)
    with pytest.raises(InputError, match="trimtab runs"):
        ledger.show_run(settings, "zzz", False)


def test_an_empty_work_directory_has_no_runs(tmp_path, capsys):
    ledger.list_runs(Settings(work_dir=tmp_path), True)
    assert document(capsys) == []
    ledger.list_runs(Settings(work_dir=tmp_path), False)
    assert "no runs" in capsys.readouterr().err
