"""`trimtab answer`: questions in, answers of the adapted model out, one JSON row each."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing, nullcontext, suppress
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from trimtab import tasks
from trimtab.cli import build
from trimtab.cli.console import print_json, say
from trimtab.cli.evaluating import rule_of, with_task
from trimtab.cli.progress import Bars
from trimtab.cli.running import running
from trimtab.cli.scaling import (
    ClusterClient,
    on_cluster,
    read_there,
    refuse_unwritable,
    scorers,
    write_lines,
)
from trimtab.cli.settings import Settings
from trimtab.data import data_hash, load_questions
from trimtab.drawing import BeamSettings, Waves, answer_question, draw_request, over_questions
from trimtab.energy import BatchingScorer, Manifest, verify_adapter
from trimtab.errors import BudgetSpentError, ConfigError, EndpointError
from trimtab.types import Answer, AnswerStatus, Prompt, Question, Sampling, Scorer, Task

if TYPE_CHECKING:
    from trimtab.adapt import Prepay
    from trimtab.scale.pool import Batches


SHARDS = "shards"  # folder in a run's


def run(settings: Settings, as_json: bool) -> int:
    """Runs the command; returns its exit code."""
    build.named(settings, "adapter", "questions", "model")
    with nullcontext() if settings.dry_run else on_cluster(settings):
        return _run(settings, as_json)


def _run(settings: Settings, as_json: bool) -> int:
    assert settings.adapter is not None
    assert settings.questions is not None
    if settings.out is not None and settings.out.is_dir():
        raise ConfigError(f"out: {settings.out} is a folder; name a file for the answers")
    if settings.stop_when_sure and settings.batch:
        raise ConfigError("stop_when_sure draws wave by wave; leave out --batch, which takes hours a wave")
    refuse_unwritable(settings.out, is_local=settings.engine == "local")
    manifest = verify_adapter(settings.adapter)
    settings = read_there(with_task(settings, manifest), "questions")
    loading = scorers(settings) if settings.engine == "ray" and not settings.dry_run else None
    task = tasks.by_name(settings.task or manifest.task)
    questions = load_questions(settings.questions or "")
    if settings.dry_run:
        each = settings.width * settings.samples if settings.search == "beam" else settings.draws
        if as_json:
            print_json({"questions": len(questions), "answers_at_most": each * len(questions)})
        say(
            f"{len(questions)} questions, at most {each} answers each, of {settings.model}; nothing was asked"
        )
        return 0
    if loading is not None:
        answers, code = _answers_there(settings, manifest, questions, task, loading)
    else:
        build.limit_threads(settings)
        answers, code = _answers(settings, questions, task)
    spared = sum(answer.spared for answer in answers)
    counts = Counter(str(answer.status) for answer in answers)
    summary = {"asked": len(answers), **{str(status): counts[str(status)] for status in AnswerStatus}}
    if settings.stop_when_sure:
        summary["drawn"] = sum(answer.candidates for answer in answers)
        summary["spared"] = spared
    if settings.out is not None or not as_json:
        write_lines(settings.out, [json.dumps(asdict(each), ensure_ascii=False) for each in answers])
    if as_json:
        rows = {} if settings.out is not None else {"answers": [asdict(answer) for answer in answers]}
        print_json({**summary, **rows})
    say(", ".join(f"{name} {count}" for name, count in summary.items()))
    return code


def _refuse_outage(answers: Sequence[Answer], code: int) -> None:
    """Raises EndpointError when nothing was answered: no file is worth writing, the run is not over."""
    if code == 0 and all(answer.status is AnswerStatus.FAILED for answer in answers):
        raise EndpointError(f"all {len(answers)} questions failed; the last one: {answers[-1].error}")


def _answers(settings: Settings, questions: Sequence[Question], task: Task) -> tuple[list[Answer], int]:
    """An answer a question, in their order, and the exit code: 4 where a limit cut them short."""
    assert settings.adapter is not None
    with running(settings, "answer", data_hash(questions), questions=len(questions)) as run:
        llm = run.client.model()  # before the weights are read: a model that is refused is refused at once
        scorer, manifest = build.scorer_of(settings)
        one = partial(
            answer_question,
            llm=llm,
            task=task,
            rule=rule_of(settings, manifest),
            how=how_of(settings),
            calibrate=manifest.calibration.confidences if manifest.calibration else None,
            abstain_below=settings.abstain_below,
            deadline_s=settings.question_deadline_s,
        )
        prepay = run.prepay(settings)
        if prepay is not None and settings.search == "single":
            sampling = build.sampling_of(settings)
            asyncio.run(_prepaid(prepay, [draw_request(each, task, sampling) for each in questions]))
        found = asyncio.run(_gathered(questions, one, scorer, settings.concurrency, run.bar))
        answers = [found[question.id] for question in questions]
        _refuse_outage(answers, run.exit_code)
    if (tokens := build.tokens_scored(scorer)) is not None:
        say("tokens scored: {:,} run of {:,} asked for".format(*tokens))
    return answers, run.exit_code


def _answers_there(
    settings: Settings, manifest: Manifest, questions: Sequence[Question], task: Task, loading: Batches
) -> tuple[list[Answer], int]:
    """The same on a Ray cluster: in shards on disk as they come, where a killed run finds them again."""
    from trimtab.scale.recipes import Answering
    from trimtab.scale.remote import answer_of, answered, shard_size
    from trimtab.scale.shards import Shards

    with running(settings, "answer", data_hash(questions), questions=len(questions)) as run:
        assert isinstance(run.client, ClusterClient)
        folder = build.run_folder(settings, run.id) / SHARDS
        shards = Shards(folder, of=run.id, rows=len(questions), size=shard_size(len(questions)))
        run.client.scored_by(loading)
        answering = Answering(
            task.name,
            rule_of(settings, manifest),
            how_of(settings),
            manifest.calibration,
            settings.abstain_below,
            settings.question_deadline_s,
        )

        def report(done: int, total: int) -> None:
            if done == total and isinstance(run.client, ClusterClient):
                run.client.hear()
            run.bar("answer", done, total)

        asyncio.run(answered(run.client.samplers, shards, questions, answering, report))
        answers = [answer_of(row) for row in shards.lines()]
        _refuse_outage(answers, run.exit_code)
    return answers, run.exit_code


def how_of(settings: Settings) -> Sampling | Waves | BeamSettings:
    """How candidates are drawn."""
    if settings.search == "beam":
        return build.beam_of(settings)
    sampling = build.sampling_of(settings)
    return Waves(sampling, settings.wave) if settings.stop_when_sure else sampling


async def _prepaid(prepay: Prepay, requests: Sequence[tuple[Prompt, Sampling]]) -> None:
    with suppress(BudgetSpentError):  # what was bought by then is used, the others fail one by one
        await prepay(requests)


async def _gathered(
    questions: Sequence[Question], one: Any, scorer: Scorer, concurrency: int, bar: Bars
) -> dict[str, Answer]:
    found: dict[str, Answer] = {}
    async with BatchingScorer(scorer) as shared:
        work = partial(one, scorer=shared)
        async with aclosing(over_questions(questions, work, concurrency=concurrency)) as ended:
            async for answer in ended:
                found[answer.id] = answer
                bar("answer", len(found), len(questions))
    return found
