"""`trimtab cache show|prune|export`: the draws that were paid for, what they take, and how to have them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from trimtab.cli import build
from trimtab.cli.console import print_json, say, write_lines
from trimtab.cli.ledger import print_aligned
from trimtab.cli.settings import Settings
from trimtab.data import load_questions
from trimtab.drawing import draw_answers
from trimtab.errors import InputError
from trimtab.llm.cached import request_key
from trimtab.store import CacheLine, Pruned, Replays, Store
from trimtab.store.samples import MB
from trimtab.types import Completion, Completions, Prompt, Question, Sampling, Task, Usage


def show(settings: Settings, as_json: bool) -> None:
    """The kept draws by model, their size, and what replaying them has spared."""
    with closing(build.store_of(settings)) as store:
        lines = store.cache_summary()
        spared = sum(store.replays().values(), Replays())
    if as_json:
        print_json(_summary(lines, spared, settings))
        return
    columns = ["model", "requests", "draws", "MB", "paid $", "oldest", "newest"]
    print_aligned(columns, [_row(line) for line in lines])
    size = sum(line.bytes for line in lines)
    say(f"{size / MB:,.1f} MB of at most {settings.cache_max_mb:,.0f} MB")
    say(f"replayed for later runs: {spared.draws:,} draws, which had cost ${spared.usd:.4f} as far as known")


def prune(
    settings: Settings, as_json: bool, *, keep_days: float | None = None, unfinished: bool = False
) -> None:
    """Drops the oldest draws until `cache_max_mb` are left, and those older than `keep_days`.

    Args:
        settings: `cache_max_mb`, and `dry_run`: say what would go, and keep it.
        as_json: one JSON document on stdout.
        keep_days: drop what is older, however much room there is.
        unfinished: draws of unfinished runs too.
    """
    with closing(build.store_of(settings)) as store:
        done = store.prune(
            max_bytes=settings.cache_max_mb * MB,
            keep_days=keep_days,
            unfinished=unfinished,
            dry_run=settings.dry_run,
        )
        if done.draws and not settings.dry_run:
            store.compact()
    if as_json:
        print_json({**asdict(done), "dry_run": settings.dry_run})
    say(_pruned(done, settings.dry_run))


def keep_bounded(store: Store, settings: Settings) -> Pruned:
    """What a run does at its end: drops the oldest draws of finished runs above `cache_max_mb`."""
    done = store.prune(max_bytes=settings.cache_max_mb * MB)
    if done.draws:
        say(_pruned(done, dry_run=False))
    return done


def export(settings: Settings, as_json: bool) -> None:
    """Kept draws as JSONL, to `out` or stdout.

    With `questions`: rows of recorded answers, as `--recorded` reads them, of complete answers drawn with
    these settings (task, temperature, max_tokens, seed; of `model`, or of every model asked so far). Without:
    all draws as they are kept, by the key of their request; the store holds no questions.

    Raises:
        InputError: none of these questions was asked with these settings.
    """
    with closing(build.store_of(settings)) as store:
        rows = _plain(store) if settings.questions is None else iter(_recorded(store, settings))
        count = write_lines(settings.out, map(_line, rows))
    if as_json and settings.out is not None:
        print_json({"rows": count, "out": str(settings.out)})
    say(f"{count} rows")


# --------------------------------------------------------------------------- words


def _summary(lines: Sequence[CacheLine], spared: Replays, settings: Settings) -> dict[str, Any]:
    return {
        "models": [asdict(line) for line in lines],
        "draws": sum(line.draws for line in lines),
        "bytes": sum(line.bytes for line in lines),
        "max_bytes": int(settings.cache_max_mb * MB),
        "replayed": asdict(spared),
    }


def _row(line: CacheLine) -> list[str]:
    figures = [f"{line.requests:,}", f"{line.draws:,}", f"{line.bytes / MB:,.1f}", f"{line.usd:.4f}"]
    return [line.model, *figures, _day(line.oldest), _day(line.newest)]


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def _pruned(done: Pruned, dry_run: bool) -> str:
    verb = "would be dropped" if dry_run else "dropped"
    left = f"{done.bytes_left / MB:,.1f} MB {'would be ' if dry_run else ''}left"
    return (
        f"{done.draws:,} draws ({done.bytes / MB:,.1f} MB) {verb}, {left}; what they cost stays in the ledger"
    )


# --------------------------------------------------------------------------- rows


class _Replaying:
    """A model that says what is kept of it, all of it and nothing else."""

    def __init__(self, name: str, endpoint: str, store: Store) -> None:
        self.name = name
        self._endpoint = endpoint
        self._store = store

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        key = request_key(self.name, prompt, sampling, self._endpoint)
        drawn = tuple(Completion(draw.text) for draw in self._store.kept_draws([key]))
        return Completions(drawn, Usage(), self.name)


def _recorded(store: Store, settings: Settings) -> list[dict[str, Any]]:
    questions = load_questions(settings.questions or "")
    task = build.task_of(settings, questions)
    asked = [
        _Replaying(name, endpoint, store)
        for name, endpoint in store.models()
        if settings.model in (None, name)
    ]
    rows = asyncio.run(_rows(questions, asked, task, build.sampling_of(settings)))
    if not rows:
        raise InputError(
            f"{settings.questions}: no whole answer to these questions is kept that was drawn with these "
            "settings; task, temperature, max_tokens and seed have to be those of the run"
        )
    return rows


async def _rows(
    questions: Sequence[Question], models: Sequence[_Replaying], task: Task, sampling: Sampling
) -> list[dict[str, Any]]:
    rows = []
    for question in questions:
        pools = [(model.name, await draw_answers(question, model, task, sampling)) for model in models]
        samples = [{"text": _whole(c.text), "model": name} for name, pool in pools for c in pool.candidates]
        if samples:
            rows.append({**_written(question), "samples": samples})
    return rows


def _whole(text: str) -> str:
    """The text without half surrogate pairs, which no file of rows may hold."""
    return text.encode("utf-8", "replace").decode()


def _written(question: Question) -> dict[str, Any]:
    """The question as a row of a file has it."""
    fields = asdict(question)
    return {"id": fields.pop("id"), "question": fields.pop("text"), **{k: v for k, v in fields.items() if v}}


def _plain(store: Store) -> Iterator[dict[str, Any]]:
    return (asdict(draw) for draw in store.kept_draws())


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row)  # in ASCII: a draw may hold half a surrogate pair
