"""`trimtab evaluate`: what an adapter is worth on questions it has not seen, at equal numbers of draws."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab import energy as adapters
from trimtab.cli import build
from trimtab.cli.client import prices_of
from trimtab.cli.console import out, print_json, say, table
from trimtab.cli.contending import Contender, Entry, Field, contenders, is_right, with_scores_of
from trimtab.cli.progress import Bars, bars
from trimtab.cli.running import Running, running
from trimtab.cli.scaling import on_cluster, read_there
from trimtab.cli.settings import Settings
from trimtab.cli.spooling import Spooled, spooled
from trimtab.cli.tracking import comparison_figures, services_of, tracking
from trimtab.data import Kind, data_hash
from trimtab.energy import Manifest, verify_adapter
from trimtab.errors import BudgetSpentError, ConfigError
from trimtab.evaluate import (
    Comparison,
    Mark,
    ReportData,
    Target,
    cluster_of,
    compare,
    missed_targets,
    parse_targets,
    with_costs,
    write_report,
)
from trimtab.evaluate.comparison import BEAM_SEARCH, BEST_OF_N
from trimtab.evaluate.costs import spent_searching
from trimtab.evaluate.report import rounds_of
from trimtab.evaluate.words import accuracy_rows, difference_rows, headline, stopping_sentence
from trimtab.pools import recorded_pool
from trimtab.stopping import DecisionRule
from trimtab.types import LLM, Pool, Question, Scorer, Task

if TYPE_CHECKING:
    from trimtab.adapt import Drawer

TARGET_MISSED = 3


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is to be evaluated."""

    settings: Settings
    manifest: Manifest | None
    task: Task
    recorded: Spooled
    questions: tuple[Question, ...]
    kinds: Mapping[str, Kind]
    against: tuple[Contender, ...]

    @classmethod
    @contextmanager
    def loaded(cls, settings: Settings) -> Iterator[_Asked]:
        against = contenders(settings.against)
        _check(settings, against)
        manifest = verify_adapter(settings.adapter) if settings.adapter else None
        settings = with_task(settings, manifest)
        kinds: dict[str, Kind] = {}
        with spooled(build.rows_read(settings.recorded, settings, kinds)) as recorded:
            questions = build.question_rows(settings.questions, settings, kinds)
            task = build.task_of(settings, [*questions, *recorded.questions])
            yield cls(settings, manifest, task, recorded, questions, kinds, against)

    @property
    def seeds(self) -> range:
        return range(self.settings.seed, self.settings.seed + self.settings.seeds)

    @property
    def all_questions(self) -> list[Question]:
        return [*self.recorded.questions, *self.questions]

    def marks(self) -> list[Mark]:
        """One a pool, in the order in which they are drawn."""
        once = [self._mark(question, self.settings.seed) for question in self.recorded.questions]
        return once + [self._mark(question, seed) for seed in self.seeds for question in self.questions]

    def _mark(self, question: Question, seed: int) -> Mark:
        kind = self.kinds.get(question.id, Kind())
        return Mark(cluster_of(question.id, kind.cluster), kind.category, seed)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What was drawn for it."""

    pools: Iterable[Pool]  # scored where there is an adapter
    beams: list[Pool]
    entries: list[Entry]
    code: int  # 4 where a limit cut the drawing short


def run(settings: Settings, as_json: bool) -> int:
    """Runs the command; returns its exit code."""
    settings = read_there(settings, "questions", "recorded")
    with nullcontext() if settings.dry_run else on_cluster(settings):
        return _run(settings, as_json)


def _run(settings: Settings, as_json: bool) -> int:
    targets = parse_targets(settings.require) if settings.require else ()
    with _Asked.loaded(settings) as asked:
        return _evaluated(asked, targets, as_json)


def _evaluated(asked: _Asked, targets: Sequence[Target], as_json: bool) -> int:
    if asked.settings.dry_run:
        _say_what_would_be_asked(asked, as_json)
        return 0
    drawn = _drawn(asked)
    comparison = _compared(asked, drawn)
    _track(asked, comparison)
    _tell(asked, comparison, as_json)
    missed = missed_targets(comparison, targets)
    for sentence in missed:
        say(sentence)
    return drawn.code or (TARGET_MISSED if missed else 0)


def _check(settings: Settings, against: Sequence[Contender]) -> None:
    """Raises ConfigError for what can be seen to be wrong before anything is read, asked or scored."""
    if settings.recorded is None and settings.questions is None:
        raise ConfigError("give --recorded (logged answers), or --questions with --model, to evaluate on")
    if settings.questions is not None:
        build.named(settings, "model")
    if settings.out is not None and settings.out.is_file():
        raise ConfigError(f"out: {settings.out} is a file; name a folder for the report")
    if settings.search == "beam" and (settings.recorded is not None or settings.adapter is None):
        raise ConfigError(
            "--search beam asks a black box step by step: it needs --questions and --adapter, "
            "and recorded answers cannot be searched"
        )
    if settings.seeds > 1 and settings.recorded is not None:
        raise ConfigError("--seeds draws again from a black box; recorded answers are what they are")
    services_of(settings)
    _budgets(settings)


def _budgets(settings: Settings) -> list[int] | None:
    try:
        return [int(part) for part in settings.budgets.split(",")] if settings.budgets else None
    except ValueError:
        raise ConfigError(
            f"budgets: write numbers of draws, e.g. '1,4,16', not '{settings.budgets}'"
        ) from None


def _say_what_would_be_asked(asked: _Asked, as_json: bool) -> None:
    settings = asked.settings
    most = len(asked.questions) * settings.seeds * answers_each(settings)
    most += sum(each.sort == "model" for each in asked.against) * len(asked.all_questions) * settings.draws
    if as_json:
        print_json({"questions": len(asked.questions), "answers_at_most": most, "model": settings.model})
    judges = [each.what for each in asked.against if each.sort == "judge"]
    more = f", and each of {len(asked.all_questions)} pools judged by {', '.join(judges)}" if judges else ""
    say(f"at most {most} answers would be asked for{more}; nothing was asked")


def _compared(asked: _Asked, drawn: _Drawn) -> Comparison:
    settings, manifest = asked.settings, asked.manifest
    further = {entry.method: entry.outcomes for entry in drawn.entries}
    spent = {entry.method: entry.spent for entry in drawn.entries if entry.spent is not None}
    if drawn.beams:
        further = {BEAM_SEARCH: [best_is_right(pool) for pool in drawn.beams], **further}
        spent[BEAM_SEARCH] = spent_searching(drawn.beams)
    comparison = compare(
        drawn.pools,
        rule_of(settings, manifest),
        others=manifest.decision_rules() if manifest else (),
        budgets=_budgets(settings),
        further=further or None,
        marks=asked.marks(),
        stop_when_sure=True,
        abstain_below=settings.abstain_below,
        seed=settings.seed,
    )
    prices = prices_of(settings)
    return with_costs(comparison, lambda usage: prices.usd(settings.model or "", usage), spent)


def answers_each(settings: Settings) -> int:
    """Complete answers asked for a question at most; a search draws width x samples steps at a time."""
    return settings.draws + (settings.width * settings.samples if settings.search == "beam" else 0)


def with_task(settings: Settings, manifest: Manifest | None) -> Settings:
    """The settings, the task being the adapter's where none is named."""
    if settings.task or manifest is None:
        return settings
    return settings.model_copy(update={"task": manifest.task})


def rule_of(settings: Settings, manifest: Manifest | None) -> DecisionRule:
    """The rule the settings name, else the adapter's, else majority."""
    if manifest is None:
        rule = DecisionRule("majority" if settings.rule == "auto" else settings.rule)
    else:
        rule = manifest.decision_rule(None if settings.rule == "auto" else settings.rule)
    return rule if settings.certainty is None else replace(rule, certainty=settings.certainty)


# --------------------------------------------------------------------------- drawing and scoring


@contextmanager
def _calling(asked: _Asked) -> Iterator[Running | None]:
    """A run, where anything is asked of a black box or a judge."""
    if not asked.questions and not any(each.asks for each in asked.against):
        yield None
        return
    questions = asked.all_questions
    with running(asked.settings, "evaluate", data_hash(questions), questions=len(questions)) as run:
        yield run


def _drawn(asked: _Asked) -> _Drawn:
    """Live answers, in the store before they are used: complete ones and, searching, the final beams."""
    settings = asked.settings
    with _calling(asked) as run:
        live: list[Pool] = []
        beams: list[Pool] = []
        if run is not None and asked.questions:
            live = _over_seeds(asked, run, run.client.model(), asked.questions)
            if settings.search == "beam" and settings.adapter is not None:
                beams = _over_seeds(
                    asked, run, run.client.model(), asked.questions, _of_steps(settings, settings.adapter)
                )
        if run is not None and run.exit_code and not _anything_answered(asked, live):
            raise BudgetSpentError(
                "budget spent before any question was answered: there is nothing to evaluate"
            )
        pools: Iterable[Pool] = chain((recorded_pool(row, asked.task) for row in asked.recorded), live)
        entries: list[Entry] = []
        if settings.adapter is not None or asked.against:  # both take all pools at once
            with _bar(run) as bar:
                pools = at_once = _scored(settings, list(pools), bar)
                entries = [_field(asked, run, at_once, bar).entry(each) for each in asked.against]
    return _Drawn(pools, beams, entries, run.exit_code if run else 0)


def _anything_answered(asked: _Asked, live: Sequence[Pool]) -> bool:
    return bool(asked.recorded.questions) or any(pool.candidates for pool in live)


@contextmanager
def _bar(run: Running | None) -> Iterator[Bars]:
    if run is not None:
        yield run.bar
        return
    with bars() as bar:
        yield bar


def _field(asked: _Asked, run: Running | None, pools: list[Pool], bar: Bars) -> Field:
    def calling() -> Running:
        assert run is not None, "contenders that ask have a run"
        return run

    rule = rule_of(asked.settings, asked.manifest)
    return Field(
        settings=asked.settings,
        task=asked.task,
        rule=rule,
        decided_by=BEST_OF_N if rule.name == "argmax" else rule.name,
        pools=pools,
        scorer=lambda others: _scored(asked.settings, others, bar),
        draw=lambda name: _over_seeds(asked, calling(), calling().client.model(name), asked.all_questions),
        model=lambda name: calling().client.model(name),
        bar=bar,
    )


def _over_seeds(
    asked: _Asked, run: Running, llm: LLM, questions: Sequence[Question], scorer: Scorer | None = None
) -> list[Pool]:
    """The questions' pools under each seed, one seed after the other."""
    pools = []
    for seed in asked.seeds:
        settings = asked.settings.model_copy(update={"seed": seed})
        drawer = _drawer(settings, llm, asked.task, scorer, run.bar)
        drawer.prepay = None if scorer else run.prepay(settings)
        pools += drawer.draw(questions, adapted=scorer is not None)
    return pools


def _of_steps(settings: Settings, folder: Path) -> Scorer:
    """What scores a search's steps."""
    if settings.prefix_cache:
        return build.scorer_of(settings)[0]
    return adapters.load_adapter(folder, bf16=settings.bf16)[0]


def _drawer(settings: Settings, llm: LLM, task: Task, scorer: Scorer | None, bar: Bars) -> Drawer:
    from trimtab.adapt import Drawer, DrawSettings

    how = DrawSettings(
        draws=settings.draws,
        search="single" if scorer is None else "beam",
        sampling=build.sampling_of(settings),
        beam=build.beam_of(settings),
        concurrency=settings.concurrency,
        seed=settings.seed,
        deadline_s=settings.question_deadline_s,
    )
    title = "draw" if scorer is None else "search"
    return Drawer(llm, task, scorer, how, lambda done, total: bar(title, done, total))


def best_is_right(pool: Pool) -> float:
    """1 if the best beam is right, 0 if it is not or the question failed."""
    return is_right(pool, DecisionRule("argmax"))


def _scored(settings: Settings, pools: list[Pool], bar: Bars) -> list[Pool]:
    return pools if settings.adapter is None else with_scores_of(settings, settings.adapter, pools, bar)


# --------------------------------------------------------------------------- telling


def _track(asked: _Asked, comparison: Comparison) -> None:
    settings = asked.settings
    run_id, _ = build.run_identity("evaluate", settings, data_hash(asked.all_questions))
    with tracking(settings, run_id) as tracker:
        for step, figures in comparison_figures(comparison):
            tracker.log(step, figures)


def _tell(asked: _Asked, comparison: Comparison, as_json: bool) -> None:
    settings = asked.settings
    if settings.out is not None:
        say(f"report: {write_report(settings.out, _report(asked, comparison))}")
    if as_json:
        print_json(comparison.to_json())
        return
    out.print(headline(comparison))
    if comparison.stopping is not None:
        say(stopping_sentence(comparison.stopping))
    table("Accuracy", ["method", "accuracy", "95 % interval"], accuracy_rows(comparison))
    table("Differences, paired", ["", "difference", "95 % interval", "p"], difference_rows(comparison))


def _report(asked: _Asked, comparison: Comparison) -> ReportData:
    settings, manifest = asked.settings, asked.manifest
    about = {"adapter": str(settings.adapter or "none"), "task": asked.task.name}
    if manifest is not None:
        about["trained on"] = manifest.black_box or "recorded answers"
        about["encoder, loss"] = f"{manifest.backbone}, {manifest.loss}"
    if settings.against:
        about["against"] = settings.against
    metrics = manifest.metrics if manifest else {}
    usd = metrics.get("usd")
    return ReportData(
        "trimtab evaluate",
        comparison,
        settings.model or "recorded answers",
        rounds=rounds_of(metrics),
        about=about,
        training_usd=float(usd) if isinstance(usd, int | float) else None,
    )
