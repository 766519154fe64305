"""Laws of the forecast of big runs, against what queueing theory says in closed form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
PLANS = SCRIPTS.parent / "docs" / "scaling-plans.toml"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def forecast_of(**given):
    from simulate import Plan, forecast

    return forecast(
        Plan(**{"questions": 600, "concurrency": 10, "call_cpu_s": 0.0, "latency_s": 1.0} | given)
    )


def test_without_queues_the_rate_is_places_over_latency():
    found = forecast_of(workers=2, calls=3)
    assert found.questions_per_s == pytest.approx(2 * 10 / 3, rel=0.1)
    assert found.seconds == pytest.approx(600 / 20 * 3)
    assert found.held_up_by.startswith("latency at this")


def test_a_rate_limit_holds_for_all_workers_together():
    for workers in (1, 4):
        found = forecast_of(workers=workers, requests_per_s=5.0, latency_s=0.1)
        assert found.questions_per_s == pytest.approx(5.0, rel=0.02)
        assert found.held_up_by == "rate limit"


def test_a_workers_one_core_bounds_it_and_more_workers_lift_the_bound():
    one = forecast_of(call_cpu_s=0.2)
    assert (one.questions_per_s, one.held_up_by) == (pytest.approx(5.0, rel=0.02), "workers' processors")
    assert forecast_of(call_cpu_s=0.2, workers=2).questions_per_s == pytest.approx(10.0, rel=0.1)


def test_scorers_and_the_database_bound_it_too():
    assert forecast_of(score_s=0.05, draws=8, scorers=2).questions_per_s == pytest.approx(5.0, rel=0.02)
    assert forecast_of(write_s=0.5).held_up_by == "database"


def test_what_is_not_played_through_goes_on_at_the_steady_rate():
    small, large = forecast_of(questions=4_000), forecast_of(questions=4_000_000)
    assert large.seconds == pytest.approx(1000 * small.seconds, rel=0.05)


def test_the_price_is_that_of_all_tokens():
    from simulate import Plan

    plan = Plan(10, calls=2, input_tokens=100, output_tokens=50, usd_per_million_in=1, usd_per_million_out=4)
    assert plan.usd() == pytest.approx(10 * 2 * (100 * 1 + 50 * 4) / 1e6)


def test_measured_runs_stand_beside_their_forecasts(tmp_path):
    from simulate import checked

    file = tmp_path / "bench.json"
    runs = [{"actors": at, "questions": 200 * at, "per_s": 19.0 * at} for at in (1, 2)]
    known = {"latency_s": 0.5, "in_flight": 10, "machine": {"cores": 2}, "throughput": runs}
    file.write_text(json.dumps(known))
    rows = checked(file, PLANS)
    assert [row["forecast_per_s"] for row in rows] == pytest.approx([20, 40], rel=0.05)
    assert [row["per_s"] for row in rows] == [19.0, 38.0]


def test_every_plan_of_the_docs_can_be_played():
    from simulate import plans_of

    plans = plans_of(PLANS)
    assert {plan.questions for plan in plans.values()} >= {10**6, 10**9}
