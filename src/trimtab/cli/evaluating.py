"""`trimtab evaluate`: what an adapter is worth on questions it has not seen, at equal numbers of draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from trimtab.cli import build
from trimtab.cli.console import out, print_json, say, table
from trimtab.cli.progress import Bars
from trimtab.cli.running import running
from trimtab.cli.settings import Settings
from trimtab.data import data_hash
from trimtab.energy import Manifest, load_adapter, verify_adapter
from trimtab.errors import BudgetSpentError, ConfigError
from trimtab.evaluate import (
    Comparison,
    ReportData,
    compare,
    missed_targets,
    parse_targets,
    write_report,
)
from trimtab.evaluate.words import accuracy_rows, difference_rows, headline, stopping_sentence
from trimtab.pools import recorded_pool, scored
from trimtab.stopping import DecisionRule, decide
from trimtab.types import LLM, Pool, Question, Task, Verdict

if TYPE_CHECKING:
    from trimtab.adapt import Drawer
    from trimtab.energy import EnergyModel

TARGET_MISSED = 3


def run(settings: Settings, as_json: bool) -> int:
    """Runs the command; returns its exit code."""
    targets = parse_targets(settings.require) if settings.require else ()
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
    manifest = verify_adapter(settings.adapter) if settings.adapter else None
    settings = with_task(settings, manifest)
    recorded = build.recorded_rows(settings.recorded, settings)
    questions = build.question_rows(settings.questions, settings)
    task = build.task_of(settings, [*questions, *(row.question for row in recorded)])
    if settings.dry_run:
        most = len(questions) * answers_each(settings)
        if as_json:
            print_json({"questions": len(questions), "answers_at_most": most, "model": settings.model})
        say(f"at most {most} answers would be asked for; nothing was asked")
        return 0
    drawn, beams, code = _drawn(settings, questions, task) if questions else ([], [], 0)
    pools = [*(recorded_pool(row, task) for row in recorded), *drawn]
    if code and not any(pool.candidates for pool in pools):
        raise BudgetSpentError("budget spent before any question was answered: there is nothing to evaluate")
    comparison = compare(
        _scored(settings, pools),
        rule_of(settings, manifest),
        others=manifest.decision_rules() if manifest else (),
        further={"beam_search": [best_is_right(pool) for pool in beams]} if beams else None,
        stop_when_sure=True,
        abstain_below=settings.abstain_below,
        seed=settings.seed,
    )
    _tell(settings, comparison, manifest, as_json)
    missed = missed_targets(comparison, targets)
    for sentence in missed:
        say(sentence)
    return code or (TARGET_MISSED if missed else 0)


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


def _drawn(
    settings: Settings, questions: Sequence[Question], task: Task
) -> tuple[list[Pool], list[Pool], int]:
    """Live answers, in the store before they are used: complete ones and, searching, the final beams.

    The last is the exit code so far: 4 where a limit cut them short.
    """
    with running(settings, "evaluate", data_hash(questions), questions=len(questions)) as run:
        llm = run.client.model()
        plain = _drawer(settings, llm, task, None, run.bar)
        plain.prepay = run.prepay(settings)
        pools = plain.draw(questions, adapted=False)
        beams: list[Pool] = []
        if settings.search == "beam" and settings.adapter is not None:
            energy, _ = load_adapter(settings.adapter, bf16=settings.bf16)
            beams = _drawer(settings, llm, task, energy, run.bar).draw(questions, adapted=True)
    return pools, beams, run.exit_code


def _drawer(settings: Settings, llm: LLM, task: Task, energy: EnergyModel | None, bar: Bars) -> Drawer:
    from trimtab.adapt import Drawer, DrawSettings

    how = DrawSettings(
        draws=settings.draws,
        search="single" if energy is None else "beam",
        sampling=build.sampling_of(settings),
        beam=build.beam_of(settings),
        concurrency=settings.concurrency,
        seed=settings.seed,
        deadline_s=settings.question_deadline_s,
    )
    title = "draw" if energy is None else "search"
    return Drawer(llm, task, energy, how, lambda done, total: bar(title, done, total))


def best_is_right(pool: Pool) -> float:
    """1 if the best beam is right, 0 if it is not or the question failed."""
    if not pool.candidates:
        return 0.0
    return float(decide(pool.candidates, DecisionRule("argmax")).candidate.verdict is Verdict.RIGHT)


def _scored(settings: Settings, pools: list[Pool]) -> list[Pool]:
    if settings.adapter is None:
        return pools
    build.limit_threads(settings)
    scorer, manifest = build.scorer_of(settings)
    return scored(pools, scorer, manifest.calibration.confidences if manifest.calibration else None)


def _tell(settings: Settings, comparison: Comparison, manifest: Manifest | None, as_json: bool) -> None:
    if settings.out is not None:
        about = {"adapter": str(settings.adapter or "none"), "task": settings.task or "inferred"}
        if manifest is not None:
            about["trained on"] = manifest.black_box or "recorded answers"
        black_box = settings.model or "recorded answers"
        page = write_report(settings.out, ReportData("trimtab evaluate", comparison, black_box, about=about))
        say(f"report: {page}")
    if as_json:
        print_json(comparison.to_json())
        return
    out.print(headline(comparison))
    if comparison.stopping is not None:
        say(stopping_sentence(comparison.stopping))
    table("Accuracy", ["method", "accuracy", "95 % interval"], accuracy_rows(comparison))
    table("Differences, paired", ["", "difference", "95 % interval", "p"], difference_rows(comparison))
