"""`trimtab evaluate`: what an adapter is worth on questions it has not seen, at equal numbers of draws."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from trimtab.cli import build
from trimtab.cli.console import out, print_json, say, table
from trimtab.cli.progress import bars
from trimtab.cli.settings import Settings
from trimtab.data import data_hash
from trimtab.energy import Manifest, load_adapter, verify_adapter
from trimtab.errors import ConfigError
from trimtab.evaluate import (
    Comparison,
    ReportData,
    compare,
    missed_targets,
    parse_targets,
    write_report,
)
from trimtab.evaluate.words import accuracy_rows, difference_rows, headline
from trimtab.pools import recorded_pool, scored
from trimtab.stopping import DecisionRule
from trimtab.types import Pool, Question, Task

TARGET_MISSED = 3


def run(settings: Settings, as_json: bool) -> int:
    """Runs the command; returns its exit code."""
    targets = parse_targets(settings.require) if settings.require else ()
    if settings.recorded is None and settings.questions is None:
        raise ConfigError("give --recorded (logged answers), or --questions with --model, to evaluate on")
    if settings.out is not None and settings.out.is_file():
        raise ConfigError(f"out: {settings.out} is a file; name a folder for the report")
    manifest = verify_adapter(settings.adapter) if settings.adapter else None
    settings = with_task(settings, manifest)
    recorded = build.recorded_rows(settings.recorded, settings)
    questions = build.question_rows(settings.questions, settings)
    task = build.task_of(settings, [*questions, *(row.question for row in recorded)])
    if settings.dry_run:
        say(f"{len(questions) * settings.draws} answers would be asked for; nothing was asked")
        return 0
    pools = [recorded_pool(row, task) for row in recorded]
    pools += _drawn(settings, questions, task) if questions else []
    comparison = compare(
        _scored(settings, pools),
        rule_of(settings, manifest),
        abstain_below=settings.abstain_below,
        seed=settings.seed,
    )
    _tell(settings, comparison, manifest, as_json)
    missed = missed_targets(comparison, targets)
    for sentence in missed:
        say(sentence)
    return TARGET_MISSED if missed else 0


def with_task(settings: Settings, manifest: Manifest | None) -> Settings:
    """The settings, the task being the adapter's where none is named."""
    if settings.task or manifest is None:
        return settings
    return settings.model_copy(update={"task": manifest.task})


def rule_of(settings: Settings, manifest: Manifest | None) -> DecisionRule:
    """The rule the settings name, else the adapter's, else majority."""
    if manifest is None:
        return DecisionRule("majority" if settings.rule == "auto" else settings.rule)
    name = manifest.rule if settings.rule == "auto" else settings.rule
    return DecisionRule(name, manifest.temperature)  # type: ignore[arg-type]


def _drawn(settings: Settings, questions: Sequence[Question], task: Task) -> list[Pool]:
    """Live answers: the same draws for every method, in the store before they are used."""
    from trimtab.adapt import Drawer, DrawSettings

    with closing(build.store_of(settings)) as store, bars() as bar:
        run_id, config = build.run_identity("evaluate", settings, data_hash(questions))
        store.start_run(run_id, "evaluate", config)
        how = DrawSettings(
            draws=settings.draws,
            sampling=build.sampling_of(settings),
            concurrency=settings.concurrency,
            seed=settings.seed,
        )
        llm = build.kept(build.chat(settings), store, run_id)
        drawer = Drawer(llm, task, None, how, lambda done, total: bar("draw", done, total))
        pools = drawer.draw(questions, adapted=False)
        store.finish_run(run_id)
    return pools


def _scored(settings: Settings, pools: list[Pool]) -> list[Pool]:
    if settings.adapter is None:
        return pools
    build.limit_threads(settings)
    energy, manifest = load_adapter(settings.adapter, bf16=settings.bf16)
    calibration = manifest.calibration
    if calibration is None:
        return scored(pools, energy)
    return scored(pools, energy, lambda scores: calibration.apply(scores).tolist())


def _tell(settings: Settings, comparison: Comparison, manifest: Manifest | None, as_json: bool) -> None:
    if settings.out is not None:
        about = {"adapter": str(settings.adapter or "none"), "task": settings.task or "inferred"}
        black_box = (manifest.black_box if manifest else None) or settings.model or "recorded answers"
        page = write_report(settings.out, ReportData("trimtab evaluate", comparison, black_box, about=about))
        say(f"report: {page}")
    if as_json:
        print_json(comparison.to_json())
        return
    out.print(headline(comparison))
    table("Accuracy", ["method", "accuracy", "95 % interval"], accuracy_rows(comparison))
    table("Differences, paired", ["", "difference", "95 % interval", "p"], difference_rows(comparison))
