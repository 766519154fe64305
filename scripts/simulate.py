"""How long and how dear a big run is, and what holds it up: a queueing simulation of `--engine ray`.

    python scripts/simulate.py [--plan docs/scaling-plans.toml] [--check bench-ray.json] [--json F]

A question is some calls one after another; each takes a turn at the cluster's rate limit, its worker's
processor, the endpoint (all at once), a scorer and the database. The constants are measured ones; a sample
of the questions is played through, and the steady rate is carried on to all of them. `--check` plays the
measured runs of `bench_ray.py` with their own constants and sets the prediction beside the figure.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import tomllib
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import simpy

DAY_S, HOUR_S, MINUTE_S = 86_400.0, 3_600.0, 60.0
SAMPLE = 4_000  # questions played through; the first and last fifth are not the steady state


@dataclass(frozen=True, slots=True)
class Plan:
    """A run: what each question asks for, and what there is to do it with. Times in seconds."""

    questions: int
    calls: int = 1  # of a question, one after another
    draws: int = 8  # of a call
    input_tokens: int = 200  # of a call
    output_tokens: int = 800  # of a call, all its draws
    usd_per_million_in: float = 0.0
    usd_per_million_out: float = 0.0
    latency_s: float = 1.0  # the endpoint's median
    latency_spread: float = 0.0  # sigma of its log
    requests_per_s: float | None = None  # the endpoint's limit, for the whole cluster
    workers: int = 1
    concurrency: int = 64  # questions in flight in each
    call_cpu_s: float = 0.0015  # of a worker's one core, for each call
    scorers: int = 1
    score_s: float = 0.0  # of a scorer, for each draw
    write_s: float = 0.0  # of the database, for each call
    start_s: float = 0.0  # before the first call

    def usd(self) -> float:
        """The price of all calls."""
        each = self.input_tokens * self.usd_per_million_in + self.output_tokens * self.usd_per_million_out
        return self.questions * self.calls * each / 1e6


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a plan comes to."""

    seconds: float
    questions_per_s: float  # once all workers are busy
    usd: float
    busy: dict[str, float]  # the share of its time that each thing is in use
    held_up_by: str


class Line:
    """What takes one at a time, or some: a queue, and how long it was in use."""

    def __init__(self, env: simpy.Environment, places: int) -> None:
        self._env, self._places = env, places
        self._queue = simpy.Resource(env, places)
        self._used_s = 0.0
        self._since = (0.0, 0.0)

    def take(self, seconds: float) -> Generator[simpy.Event, Any, None]:
        """A turn of so long."""
        if not seconds:
            return
        with self._queue.request() as turn:
            yield turn
            yield self._env.timeout(seconds)
            self._used_s += seconds

    def begin(self) -> None:
        """From here on use counts."""
        self._since = (self._env.now, self._used_s)

    def busy(self) -> float:
        """The share of the time since then."""
        began, used_s = self._since
        whole_s = self._places * (self._env.now - began)
        return (self._used_s - used_s) / whole_s if whole_s else 0.0


class Cluster:
    """The things that questions share, and the questions under way."""

    def __init__(self, plan: Plan, seed: int) -> None:
        self.env, self.plan, self._rng = simpy.Environment(), plan, random.Random(seed)
        self.limit, self.database = Line(self.env, 1), Line(self.env, 1)
        self.scorers = Line(self.env, plan.scorers)
        self.cores = [Line(self.env, 1) for _ in range(plan.workers)]
        self.lines = {
            "rate limit": [self.limit],
            "workers' processors": self.cores,
            "scorers": [self.scorers],
            "database": [self.database],
        }
        self.ended_at: list[float] = []
        self.busy: dict[str, float] = {}

    def run(self, questions: int) -> None:
        """Plays so many questions to their end: each worker takes the next one when it has a free place."""
        waiting = iter(range(questions))
        steady = (questions // 5, questions - questions // 5 - 1)
        for core in self.cores:
            for _ in range(self.plan.concurrency):
                self.env.process(self._lane(core, lambda: next(waiting, None), steady))
        self.env.run()

    def _lane(
        self, core: Line, next_one: Callable[[], int | None], steady: tuple[int, int]
    ) -> Generator[Any, Any, None]:
        while next_one() is not None:
            for _ in range(self.plan.calls):
                yield from self._call(core)
            self._look(*steady)
            self.ended_at.append(self.env.now)

    def _look(self, first: int, last: int) -> None:
        """Use counts between the first fifth that ended and the last: the ends are uneven."""
        if len(self.ended_at) == first:
            for each in itertools.chain.from_iterable(self.lines.values()):
                each.begin()
        if len(self.ended_at) == last:
            self.busy = {name: fmean(each.busy() for each in lines) for name, lines in self.lines.items()}

    def _call(self, core: Line) -> Generator[Any, Any, None]:
        plan = self.plan
        yield from self.limit.take(1 / plan.requests_per_s if plan.requests_per_s else 0.0)
        yield from core.take(plan.call_cpu_s)
        yield self.env.timeout(plan.latency_s * self._rng.lognormvariate(0, plan.latency_spread))
        yield from self.database.take(plan.write_s)
        yield from self.scorers.take(plan.score_s * plan.draws)


def forecast(plan: Plan, *, sample: int = SAMPLE, seed: int = 0) -> Forecast:
    """Plays a sample of the questions, all of them if they are few, and carries the steady rate on."""
    played = min(plan.questions, max(sample, 4 * plan.workers * plan.concurrency))
    cluster = Cluster(plan, seed)
    cluster.run(played)
    took_s, rate = cluster.env.now, steady_rate(sorted(cluster.ended_at))
    seconds = plan.start_s + took_s + (plan.questions - played) / rate
    most = max(cluster.busy, key=cluster.busy.__getitem__)
    # Nothing is in full use: each place waits for the endpoint most of its time.
    held_up_by = most if cluster.busy[most] > 0.9 else "latency at this concurrency"
    return Forecast(seconds, rate, plan.usd(), cluster.busy, held_up_by)


def steady_rate(ended_at: list[float]) -> float:
    """Questions a second between the first fifth that ended and the last."""
    first, last = len(ended_at) // 5, len(ended_at) - len(ended_at) // 5 - 1
    if ended_at[last] <= ended_at[first]:
        return len(ended_at) / ended_at[-1]
    return (last - first) / (ended_at[last] - ended_at[first])


def plans_of(file: Path) -> dict[str, Plan]:
    """The plans of a TOML file: each table overrides what stands under `measured`."""
    tables = tomllib.loads(file.read_text("utf-8"))
    measured = tables.pop("measured", {})
    return {name: Plan(**{**measured, **given}) for name, given in tables.items()}


def checked(file: Path, plans: Path) -> list[dict[str, Any]]:
    """The runs that `bench_ray.py` measured, each beside what is forecast for it."""
    found = json.loads(file.read_text("utf-8"))
    measured = tomllib.loads(plans.read_text("utf-8"))["measured"]
    constants = {name: measured[name] for name in ("call_cpu_s", "write_s")}
    bound = Plan(0, **constants, draws=1, latency_s=found["latency_s"], concurrency=found["in_flight"])
    rows = []
    for run in found["throughput"]:
        plan = replace(bound, questions=run["questions"], workers=run["actors"])
        cores = min(plan.workers, found["machine"]["cores"])
        # More actors than cores share them: each has its part of one.
        ahead = forecast(replace(plan, call_cpu_s=plan.call_cpu_s * plan.workers / cores))
        rows.append({**run, "forecast_per_s": run["questions"] / ahead.seconds})
    return rows


def spelt(seconds: float) -> str:
    """A time as people say it."""
    for unit, name in ((DAY_S, "days"), (HOUR_S, "hours"), (MINUTE_S, "minutes")):
        if seconds >= unit:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds:.1f} seconds"


def tell(name: str, plan: Plan, found: Forecast) -> None:
    """A row of the table."""
    busy = ", ".join(f"{thing} {100 * share:.0f} %" for thing, share in found.busy.items() if share >= 0.005)
    print(
        f"| {name} | {plan.questions:,} | {plan.workers:,} x {plan.concurrency} | {plan.scorers:,} | "
        f"{found.questions_per_s:,.1f} | {spelt(found.seconds)} | ${found.usd:,.0f} | {found.held_up_by} | "
        f"{busy} |"
    )


def main() -> None:
    """Prints the table of plans, or the check."""
    parser = argparse.ArgumentParser(description="Time, dollars and bottleneck of big runs.")
    parser.add_argument("--plan", type=Path, default=Path("docs/scaling-plans.toml"))
    parser.add_argument("--check", type=Path, help="measured runs to forecast: bench_ray.py's file")
    parser.add_argument("--json", type=Path, help="where the figures go too")
    given = parser.parse_args()
    if given.check:
        rows = checked(given.check, given.plan)
        for row in rows:
            print(
                f"{row['actors']} workers: {row['per_s']:.1f} questions/s measured, "
                f"{row['forecast_per_s']:.1f} forecast"
            )
        document: Any = rows
    else:
        print("| plan | questions | workers | scorers | questions/s | time | price | held up by | in use |")
        print("|---|---|---|---|---|---|---|---|---|")
        plans = plans_of(given.plan)
        forecasts = {name: forecast(plan) for name, plan in plans.items()}
        for name, found in forecasts.items():
            tell(name, plans[name], found)
        document = {name: asdict(found) for name, found in forecasts.items()}
    if given.json:
        given.json.write_text(json.dumps(document, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
