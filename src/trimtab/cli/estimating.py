"""`trimtab estimate`: what a run will cost, before it is made.

The run is foreseen (`foreseeing`): its own code asks a model that costs nothing, with the real prompts. How
many tokens those are, and how long answers get, is measured where something is known: on kept draws of these
very questions (`--probe` pays for a few), else on earlier runs of the model and task, else assumed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from trimtab import energy
from trimtab.adapt.sampling import DrawSettings, round_seed
from trimtab.cli import build
from trimtab.cli.client import Client, prices_of
from trimtab.cli.console import print_json, say
from trimtab.cli.contending import Contender, contenders, judge_by
from trimtab.cli.evaluating import with_task
from trimtab.cli.foreseeing import (
    BYTES_A_TOKEN,
    JUDGES_REPLY,
    REASONED_SHARE,
    Asked,
    Foresight,
    Longest,
    Replies,
    Unscored,
    Usual,
    payer_scope,
)
from trimtab.cli.ledger import dollars, print_aligned
from trimtab.cli.settings import Settings
from trimtab.data import data_hash, load_questions
from trimtab.drawing import BeamSettings, beam_search, draw_answers, over_questions
from trimtab.llm.capabilities import capabilities_of
from trimtab.llm.prices import Prices, refuse_unpriced
from trimtab.pools import recorded_pool
from trimtab.store import PaidCall, Store
from trimtab.types import (
    LLM,
    Judge,
    Pool,
    Purpose,
    Question,
    Recorded,
    Sampling,
    Scorer,
    Task,
    Usage,
)

if TYPE_CHECKING:
    from trimtab.cli.adapting import Data

AT_ONCE = 100  # questions under way while nothing is sent
ANSWER_TOKENS = 150  # an answer with its reasoning, where nothing at all is known of its length
REPLY_TOKENS = 80  # a judge's reply, likewise
MEASURED, HISTORY, ASSUMED = "measured", "history", "assumed"
# How far off the figures may be: of history because questions differ, of assumptions because models do.
HISTORY_BAND, ASSUMED_BAND = (0.75, 1.33), (0.4, 2.5)
LEAST_BAND = 0.05


@dataclass(frozen=True, slots=True)
class Stage:
    """Questions that a run asks in one way, and who is then shown the answers."""

    rows: Sequence[Question] | Sequence[Recorded]
    how: Sampling | BeamSettings | None  # None: the answers are recorded
    shown: int  # answers that a judge sees
    is_judged: bool = False  # by the judge that the settings name
    model: str | None = None  # who is asked; None: the black box
    judges: tuple[str, ...] = ()  # models that pick the best of the answers


@dataclass(frozen=True, slots=True)
class Rates:
    """How bytes become tokens for one model and purpose, and how well that is known."""

    bytes_in: float  # of a prompt, a token
    bytes_out: float  # of a reply, a token; hidden reasoning makes it small
    source: str
    calls: int  # that it was measured on
    band: tuple[float, float]  # the true figure is likely between these times ours


@dataclass(frozen=True, slots=True)
class Figures:
    """An estimate: what is expected, within which bounds, and the worst that can be."""

    expected: Usage
    low: Usage
    high: Usage
    worst: Usage


def run(settings: Settings, as_json: bool) -> int:
    """Runs the command; returns its exit code."""
    plan = _Plan.of(settings)
    if not settings.unpriced:
        for model in plan.models:
            refuse_unpriced(plan.prices, model)
    with closing(build.store_of(settings)) as store:
        probed, paid = _probe(plan, store) if settings.probe else ([], Usage())
        estimate = _estimate(plan, store, probed)
    _tell(plan, estimate, paid, as_json)
    return 0


# --------------------------------------------------------------------------- what the run will do


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be run."""

    settings: Settings
    task: Task
    stages: Sequence[Stage]
    questions: Sequence[Question]  # of all stages, each once
    models: Sequence[str]
    prices: Prices

    @classmethod
    def of(cls, settings: Settings) -> _Plan:
        """The plan of the settings. Raises ConfigError where the command itself would."""
        planned = {"adapt": _adapting, "answer": _answering, "evaluate": _evaluating}
        settings, task, stages = planned[settings.for_command](settings)
        questions = {each.id: each for stage in stages for each in map(build.question_of, stage.rows)}
        models = list(dict.fromkeys(each for stage in stages for each in _models(settings, stage)))
        return cls(settings, task, stages, list(questions.values()), models, prices_of(settings))


def _models(settings: Settings, stage: Stage) -> Iterator[str]:
    """Who is asked in a stage."""
    if stage.how is not None:
        yield stage.model or settings.model or ""
    if stage.is_judged:
        yield settings.judge_model or settings.model or ""
    yield from stage.judges


def _adapting(settings: Settings) -> tuple[Settings, Task, list[Stage]]:
    build.named(settings, "model")
    from trimtab.cli.adapting import Data  # it loads torch, which no other estimate needs

    data = Data.load(settings)
    is_judged = settings.judge in ("ai", "combined")
    plain, seed = build.sampling_of(settings), settings.seed

    def drawn(rows: Sequence[Any], stage: Any, index: int) -> Stage:
        how = replace(plain, seed=round_seed(seed, stage, index))
        return Stage(rows, how, settings.draws, is_judged)

    warm = _kept(data.recorded, is_judged=is_judged) if data.recorded else drawn(data.questions, "draw", 0)
    stages = [warm, *(_adapted(settings, data, index, is_judged) for index in range(1, settings.rounds + 1))]
    recorded = [row for row in data.held_out if isinstance(row, Recorded)]
    if data.held_out:
        stages.append(
            _kept(recorded, is_judged=is_judged) if recorded else drawn(data.held_out, "draw held-out", 0)
        )
    return settings, data.task, stages


def _adapted(settings: Settings, data: Data, index: int, is_judged: bool) -> Stage:
    """One round's draws from the adapted model."""
    seed = round_seed(settings.seed, "draw", index)
    if settings.search == "beam":
        how = replace(build.beam_of(settings), seed=seed)
        return Stage(data.questions, how, settings.width, is_judged)
    more = settings.draws * DrawSettings().oversample
    plain = replace(build.sampling_of(settings), seed=seed, n=more)
    return Stage(data.questions, plain, settings.draws, is_judged)


def _answering(settings: Settings) -> tuple[Settings, Task, list[Stage]]:
    build.named(settings, "model", "questions")
    settings, rows = _with_task(settings), load_questions(settings.questions or "")
    how = build.beam_of(settings) if settings.search == "beam" else build.sampling_of(settings)
    return settings, build.task_of(settings, rows), [Stage(rows, how, settings.draws)]


def _evaluating(settings: Settings) -> tuple[Settings, Task, list[Stage]]:
    against = contenders(settings.against)
    if settings.recorded is None or not any(each.asks for each in against):
        build.named(settings, "model", "questions")
    settings = _with_task(settings)
    asked = build.question_rows(settings.questions, settings)
    recorded = build.recorded_rows(settings.recorded, settings)
    every = [*(row.question for row in recorded), *asked]
    judges = tuple(each.what for each in against if each.sort == "judge")
    kept = [_kept(recorded, judges)] if recorded else []
    stages = [stage for how in _seeded(settings) for stage in _drawn(how, asked, every, against, judges)]
    return settings, build.task_of(settings, every), kept + stages


def _seeded(settings: Settings) -> list[Settings]:
    """The settings under each seed."""
    seeds = range(settings.seed, settings.seed + settings.seeds)
    return [settings.model_copy(update={"seed": seed}) for seed in seeds]


def _drawn(
    settings: Settings,
    asked: Sequence[Question],
    every: Sequence[Question],
    against: Sequence[Contender],
    judges: tuple[str, ...],
) -> Iterator[Stage]:
    """What an evaluation draws under one seed."""
    plain = build.sampling_of(settings)
    if asked:
        yield Stage(asked, plain, settings.draws, judges=judges)
    if asked and settings.search == "beam":
        yield Stage(asked, build.beam_of(settings), settings.width)
    for each in against:
        if each.sort == "model":
            yield Stage(every, plain, settings.draws, model=each.what)


def _kept(rows: Sequence[Recorded], judges: tuple[str, ...] = (), is_judged: bool = False) -> Stage:
    """Answers that are recorded, and only shown to judges."""
    return Stage(rows, None, max(len(row.samples) for row in rows), is_judged, judges=judges)


def _with_task(settings: Settings) -> Settings:
    return with_task(settings, energy.verify_adapter(settings.adapter) if settings.adapter else None)


# --------------------------------------------------------------------------- carrying it out


async def _carried_out(
    stage: Stage,
    rows: Sequence[Question] | Sequence[Recorded],
    llm: LLM,
    task: Task,
    judges: Sequence[Judge],
    scorer: Scorer,
    concurrency: int,
) -> list[Pool]:
    """The stage with some of its questions, whatever stands behind the models."""

    async def one(row: Question | Recorded) -> Pool:
        pool = await drawn(row)
        for judge in judges:
            await judge.judge(pool.question, pool.candidates[: stage.shown])
        return pool

    async def drawn(row: Question | Recorded) -> Pool:
        if isinstance(row, Recorded):
            return recorded_pool(row, task)
        if isinstance(stage.how, BeamSettings):
            return await beam_search(row, llm, task, scorer, stage.how)
        assert stage.how is not None
        return await draw_answers(row, llm, task, stage.how)

    asked: list[Question | Recorded] = list(rows)
    async with aclosing(over_questions(asked, one, concurrency=concurrency)) as ended:
        return [pool async for pool in ended]


def _judges(plan: _Plan, stage: Stage, store: Store, models: build.Models) -> list[Judge]:
    """Who is shown the stage's answers."""
    own = [build.judge_of(plan.settings, plan.task, store, models)] if stage.is_judged else []
    return [*own, *(judge_by(models.model(name), plan.settings, plan.task) for name in stage.judges)]


def _probe(plan: _Plan, store: Store) -> tuple[list[Pool], Usage]:
    """A few questions of the first stage, asked and paid for as the run would; kept for the run."""
    settings, stage = plan.settings, plan.stages[0]
    rows = _spread(stage.rows, settings.probe)
    run_id, config = build.run_identity("estimate", settings, data_hash(plan.questions))
    store.start_run(run_id, "estimate", config)
    before = store.usage_of(run_id)
    with Client(settings, store, run_id) as client:
        scorer: Scorer = Unscored()
        if isinstance(stage.how, BeamSettings) and settings.adapter is not None:
            build.limit_threads(settings)
            scorer, _ = energy.load_adapter(settings.adapter, bf16=settings.bf16)
        asking = _carried_out(
            stage,
            rows,
            client.model(stage.model),
            plan.task,
            _judges(plan, stage, store, client),
            scorer,
            max(1, min(len(rows), settings.concurrency)),
        )
        pools = asyncio.run(asking)
    store.finish_run(run_id)
    return pools, _less(store.usage_of(run_id), before)


def _spread(rows: Sequence[Any], count: int) -> list[Any]:
    """So many of the rows, evenly from the first to the last."""
    count = min(count, len(rows))
    return [rows[at * len(rows) // count] for at in range(count)]


def _less(after: Usage, before: Usage) -> Usage:
    usd = None if after.usd is None else after.usd - (before.usd or 0.0)
    return Usage(
        after.input_tokens - before.input_tokens,
        after.output_tokens - before.output_tokens,
        after.calls - before.calls,
        usd,
    )


# --------------------------------------------------------------------------- the estimate


@dataclass(frozen=True, slots=True)
class _Estimate:
    """Figures by purpose, and what they stand on."""

    by_purpose: Mapping[Purpose, Figures]
    rates: Mapping[tuple[str, Purpose], Rates]
    kept_draws: int

    @property
    def total(self) -> Figures:
        """All purposes together."""
        found = list(self.by_purpose.values())
        return Figures(*(_sum(getattr(each, name) for each in found) for name in Figures.__slots__))


def _estimate(plan: _Plan, store: Store, probed: Sequence[Pool]) -> _Estimate:
    first = _foreseen(plan, store, _usual(plan, {}))
    kept = _kept_answers(store, first, probed)
    usual = _foreseen(plan, store, _usual(plan, kept))
    measured = _Measured(plan, store, usual)
    keys = {(each.model, each.purpose) for each in usual.seen.values()}
    rates = {key: measured.rates(*key) for key in sorted(keys)}
    longest = _foreseen(plan, store, Longest(plan.settings.max_tokens, BeamSettings().max_tokens))
    draws = sum(call.draws for call in measured.paid)
    return _Estimate(_figures(plan, usual.asked, longest.asked, rates), rates, draws)


def _foreseen(plan: _Plan, store: Store, replies: Replies) -> Foresight:
    """What the run asks for, answered by these replies."""
    settings = plan.settings
    foresight = Foresight(
        replies,
        store,
        plan.task,
        model=settings.model or "",
        row=lambda name: capabilities_of(name, settings.capabilities),
        scope=payer_scope(settings),
        bypass=not settings.cache,
    )

    async def all_stages() -> None:
        for stage in plan.stages:
            llm, judges = foresight.model(stage.model), _judges(plan, stage, store, foresight)
            await _carried_out(stage, stage.rows, llm, foresight.task, judges, Unscored(), AT_ONCE)

    asyncio.run(all_stages())
    return foresight


def _usual(plan: _Plan, kept: Mapping[str, Sequence[str]]) -> Usual:
    """Answers of the length of the kept ones, else of the reference solutions, else of an assumed one."""
    known = [text for row in kept.values() for text in row if text.strip()]
    solutions = [each.rationale for each in plan.questions if each.rationale]
    assumed = min(ANSWER_TOKENS, plan.settings.max_tokens) * int(BYTES_A_TOKEN)
    line = "So it goes on from what was said before.\n"
    return Usual(known or solutions or [(line * assumed)[:assumed]], kept, plan.task)


def _kept_answers(store: Store, foresight: Foresight, probed: Sequence[Pool]) -> dict[str, list[str]]:
    """Whole answers to these questions that were paid for, by question."""
    wanted = {key: seen.question_id or "" for key, seen in foresight.seen.items() if seen.is_whole}
    found: dict[str, list[str]] = {}
    for draw in store.kept_draws(list(wanted)):
        found.setdefault(wanted[draw.key], []).append(draw.text)
    for pool in probed:
        if pool.question.id not in found and pool.candidates:
            found[pool.question.id] = [each.text for each in pool.candidates]
    return found


class _Measured:
    """What is known of lengths, best source first."""

    def __init__(self, plan: _Plan, store: Store, foresight: Foresight) -> None:
        self._plan, self._store, self._foresight = plan, store, foresight
        usable = plan.settings.cache
        self.paid: tuple[PaidCall, ...] = store.paid_for(list(foresight.seen)) if usable else ()
        self._texts: dict[str, int] = {}
        for draw in store.kept_draws([call.key for call in self.paid]):
            size = len(draw.text.encode("utf-8", "surrogatepass"))
            self._texts[draw.key] = self._texts.get(draw.key, 0) + size

    def rates(self, model: str, purpose: Purpose) -> Rates:
        """The rates of one model and purpose."""
        return (
            self._of_these_questions(model, purpose)
            or self._of_the_past(model, purpose)
            or self._assumed(model, purpose)
        )

    def _of_these_questions(self, model: str, purpose: Purpose) -> Rates | None:
        seen = self._foresight.seen
        calls = [c for c in self.paid if (seen[c.key].model, seen[c.key].purpose) == (model, purpose)]
        tokens_in, tokens_out = sum(c.input_tokens for c in calls), sum(c.output_tokens for c in calls)
        if not tokens_in or not tokens_out:
            return None
        bytes_out = sum(self._texts[key] for key in {c.key for c in calls})
        if purpose is not Purpose.SAMPLING:
            bytes_out = len(JUDGES_REPLY) * sum(c.draws for c in calls)
        bytes_in = sum(seen[c.key].prompt_bytes for c in calls)
        band = _band([c.output_tokens / c.draws for c in calls])
        return Rates(bytes_in / tokens_in, max(bytes_out, 1) / tokens_out, MEASURED, len(calls), band)

    def _of_the_past(self, model: str, purpose: Purpose) -> Rates | None:
        """Of earlier runs of this model and task, searching in the same way: means that ours should meet."""
        runs = {run.id: run.config.get("settings", {}) for run in self._store.runs()}
        past = [
            each
            for each in self._store.past(model, self._foresight.scope)
            if each.purpose is purpose and self._is_alike(runs.get(each.run_id or "", {}))
        ]
        asked = self._asked(model, purpose)
        calls, draws = sum(each.calls for each in past), sum(each.draws for each in past)
        tokens_in = sum(each.input_tokens for each in past)
        tokens_out = sum(each.output_tokens for each in past)
        if not asked or not calls or not tokens_in or not tokens_out:
            return None
        bytes_in = fmean(each.prompt_bytes for each in asked)
        bytes_out = sum(each.reply_bytes for each in asked) / sum(each.n for each in asked)
        return Rates(
            bytes_in / (tokens_in / calls), bytes_out / (tokens_out / draws), HISTORY, calls, HISTORY_BAND
        )

    def _is_alike(self, settings: Mapping[str, Any]) -> bool:
        ours = self._plan.settings
        return settings.get("task") in (self._plan.task.name, ours.task) and all(
            settings.get(key) == getattr(ours, key) for key in ("search", "max_tokens")
        )

    def _assumed(self, model: str, purpose: Purpose) -> Rates:
        asked = self._asked(model, purpose)
        hidden = REASONED_SHARE * capabilities_of(model, self._plan.settings.capabilities).reasoning_tokens
        draws = sum(each.n for each in asked)
        usual = sum(each.reply_bytes for each in asked) / draws if draws else 1.0
        spoken = usual / BYTES_A_TOKEN if purpose is Purpose.SAMPLING else REPLY_TOKENS
        return Rates(BYTES_A_TOKEN, usual / (spoken + hidden), ASSUMED, 0, ASSUMED_BAND)

    def _asked(self, model: str, purpose: Purpose) -> list[Asked]:
        return [a for a in self._foresight.asked if (a.model, a.purpose) == (model, purpose)]


def _band(lengths: Sequence[float]) -> tuple[float, float]:
    """Two standard errors of the mean to each side."""
    if len(lengths) < 2:
        return 0.5, 2.0
    width = max(LEAST_BAND, 2 * stdev(lengths) / len(lengths) ** 0.5 / max(fmean(lengths), 1e-9))
    return max(0.0, 1 - width), 1 + width


def _figures(
    plan: _Plan,
    usual: Sequence[Asked],
    longest: Sequence[Asked],
    rates: Mapping[tuple[str, Purpose], Rates],
) -> dict[Purpose, Figures]:
    purposes = sorted({each.purpose for each in (*usual, *longest)})
    return {purpose: _figure(plan, purpose, usual, longest, rates) for purpose in purposes}


def _figure(
    plan: _Plan,
    purpose: Purpose,
    usual: Sequence[Asked],
    longest: Sequence[Asked],
    rates: Mapping[tuple[str, Purpose], Rates],
) -> Figures:
    def at(side: Callable[[Rates], float]) -> Usage:
        return _sum(
            _priced(plan, each, _expected(each, rates[each.model, purpose], side(rates[each.model, purpose])))
            for each in usual
            if each.purpose is purpose
        )

    expected = at(lambda _: 1.0)
    worst = _sum(_priced(plan, each, each.worst) for each in longest if each.purpose is purpose)
    low, high = at(lambda each: each.band[0]), at(lambda each: each.band[1])
    return Figures(expected, low, high, worst)


def _expected(asked: Asked, rates: Rates, share: float) -> Usage:
    """One request's tokens; a reply is never longer than allowed."""
    given = min(asked.reply_bytes / rates.bytes_out * share, asked.worst.output_tokens)
    # What is measured of prompts is nearly exact: they are here, only their tokeniser is not.
    spread = share if rates.source == ASSUMED else 1.0
    asked_tokens = min(asked.prompt_bytes / rates.bytes_in * spread, asked.worst.input_tokens)
    return Usage(round(asked_tokens), round(given), 1)


def _priced(plan: _Plan, asked: Asked, usage: Usage) -> Usage:
    is_batch = plan.settings.batch and asked.is_whole
    return plan.prices.priced(asked.model, usage, is_batch=is_batch)


def _sum(usages: Iterable[Usage]) -> Usage:
    return sum(usages, Usage(usd=0.0))


# --------------------------------------------------------------------------- the report


def _tell(plan: _Plan, estimate: _Estimate, probe: Usage, as_json: bool) -> None:
    if as_json:
        print_json(_document(plan, estimate, probe))
        return
    rows = [_row(purpose, figures) for purpose, figures in estimate.by_purpose.items()]
    if len(rows) != 1:
        rows.append(_row("all", estimate.total))
    columns = ["", "calls", "tokens in", "tokens out", "$", "$ between", "calls at worst", "$ at worst"]
    say(f"trimtab {plan.settings.for_command}: {len(plan.questions)} questions")
    print_aligned(columns, rows)
    for sentence in _sentences(plan, estimate, probe):
        say(sentence)


def _row(name: str, figures: Figures) -> list[str]:
    usage, worst = figures.expected, figures.worst
    return [
        name,
        *(f"{count:,}" for count in (usage.calls, usage.input_tokens, usage.output_tokens)),
        dollars(usage.usd),
        f"{dollars(figures.low.usd)} - {dollars(figures.high.usd)}",
        f"{worst.calls:,}",
        dollars(worst.usd),
    ]


def _sentences(plan: _Plan, estimate: _Estimate, probe: Usage) -> list[str]:
    said = [_grounds(model, purpose, rates) for (model, purpose), rates in estimate.rates.items()]
    if estimate.kept_draws:
        said.append(f"{estimate.kept_draws:,} draws are kept already and cost nothing more")
    if probe.calls:
        said.append(f"the probe paid for {probe.calls:,} calls: ${dollars(probe.usd)}")
    if any(rates.source != MEASURED for rates in estimate.rates.values()):
        said.append(
            "--probe 10 pays for ten questions and measures them; the run does not pay for them again"
        )
    return [*said, *_limits_in_the_way(plan.settings, estimate.total)]


def _grounds(model: str, purpose: Purpose, rates: Rates) -> str:
    """What the figures of one model and purpose stand on."""
    grounds = {
        MEASURED: f"measured on {rates.calls:,} paid calls of these questions",
        HISTORY: f"as in {rates.calls:,} earlier calls of this model and task",
        ASSUMED: "assumed: nothing is known yet of its lengths",
    }
    return f"{purpose} by {model}: {grounds[rates.source]}"


def _limits_in_the_way(settings: Settings, total: Figures) -> list[str]:
    """Limits that the run is expected to reach, or may."""
    expected, high = total.expected, total.high
    tokens, most_tokens = (each.input_tokens + each.output_tokens for each in (expected, high))
    found: list[tuple[str, float | None, float | None, float | None]] = [
        ("--max-usd", settings.max_usd, expected.usd, high.usd),
        ("--max-total-tokens", settings.max_total_tokens, tokens, most_tokens),
        ("--max-calls", settings.max_calls, expected.calls, high.calls),
    ]
    return [
        f"{flag} {limit:g} {'will' if usual > limit else 'may'} end the run before it is done"
        for flag, limit, usual, most in found
        if limit is not None and usual is not None and most is not None and most > limit
    ]


def _document(plan: _Plan, estimate: _Estimate, probe: Usage) -> dict[str, Any]:
    return {
        "for": plan.settings.for_command,
        "model": plan.settings.model,
        "task": plan.task.name,
        "questions": len(plan.questions),
        **_spelt(estimate.total),
        "by_purpose": {str(purpose): _spelt(each) for purpose, each in estimate.by_purpose.items()},
        "grounds": [
            {
                "model": model,
                "purpose": str(purpose),
                "source": rates.source,
                "calls": rates.calls,
                "prompt_bytes_a_token": rates.bytes_in,
            }
            for (model, purpose), rates in estimate.rates.items()
        ],
        "kept_draws": estimate.kept_draws,
        "probe": _usage(probe),
        "limits": _limits_in_the_way(plan.settings, estimate.total),
    }


def _spelt(figures: Figures) -> dict[str, Any]:
    return {name: _usage(getattr(figures, name)) for name in ("expected", "low", "high", "worst")}


def _usage(usage: Usage) -> dict[str, Any]:
    usd = usage.usd if usage.calls or usage.usd is not None else 0.0
    counts = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    return {"calls": usage.calls, **counts, "usd": usd}
