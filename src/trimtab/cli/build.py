"""From settings to objects: the black box, the task, the judge, the store, the identity of a run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from trimtab import tasks
from trimtab.cli.console import say
from trimtab.cli.settings import Settings
from trimtab.data import Kind, load_questions, read_recorded, split
from trimtab.drawing import BeamSettings
from trimtab.energy.manifest import MANIFEST_NAME
from trimtab.errors import ConfigError
from trimtab.judge import TRUTHFUL, AIJudge, Combined, GroundTruth, Human
from trimtab.store import Store
from trimtab.types import LLM, Judge, Question, Recorded, Sampling, Scorer, Task

if TYPE_CHECKING:
    from trimtab.energy import Manifest
    from trimtab.energy.engines.names import EngineName

Row = TypeVar("Row", Question, Recorded)

TRUTHFUL_SELECTION: dict[str, Any] = {"criteria": TRUTHFUL, "top_k": 5}  # the paper's, for TruthfulQA
THREADS = "threads"  # file in a run's folder
MIB = 1 << 20
# What shapes a run's result; the others say where things are or how fast it goes.
NOT_OF_THE_RUN = {
    *(
        "out",
        "work_dir",
        "force",
        "dry_run",
        "require",
        "log",
        "trace",
        "trace_content",
        "track",
        "probe",
        "for_command",
    ),
    *("recompute", "training_workers", "concurrency", "timeout_s", "call_deadline_s", "question_deadline_s"),
    *("requests_per_minute", "tokens_per_minute", "batch", "batch_poll_s"),
    *("api_key_env", "headers", "max_usd", "max_total_tokens", "max_calls", "max_wall_s"),
    *("key_max_usd", "key_max_tokens", "key_max_calls"),
    *("usd_per_million_in", "usd_per_million_out", "unpriced", "cache", "cache_max_mb"),
    *("engine", "ray_address", "ray_samplers", "ray_scorers", "ray_scorers_most", "ray_cpus", "ray_gpus"),
    *("store", "in_flight", "waiting", "grace_s", "keep_days"),
    *("max_body_kb", "max_messages", "max_n", "max_answer_tokens"),
}


def named(settings: Settings, *keys: str) -> None:
    """Raises ConfigError unless each of these settings is given."""
    missing = [key for key in keys if getattr(settings, key) is None]
    if missing:
        flags = ", ".join(f"--{key.replace('_', '-')}" for key in missing)
        raise ConfigError(f"{flags} is needed (or the key of that name in the config file)")


def task_of(settings: Settings, questions: Iterable[Question]) -> Task:
    """The task the settings name, else the one the reference answers show."""
    return tasks.by_name(settings.task) if settings.task else tasks.infer(list(questions))


def live(settings: Settings) -> bool:
    """True when a black box to call is named."""
    return settings.model is not None


class Models(Protocol):
    """Whose models judge: a run's client, or what stands for it."""

    def model(self, name: str | None = None) -> LLM:
        """The black box, or another model at its endpoint."""
        ...


def judge_of(settings: Settings, task: Task, store: Store, client: Models) -> Judge:
    """SEL as the settings name it."""
    if settings.judge == "truth":
        return GroundTruth(task)
    if settings.judge == "human":
        return Human(store.feedback_for)
    named(settings, *([] if settings.judge_model else ["model"]))
    ai = AIJudge(
        client.model(settings.judge_model),
        outcome_supervision=task.is_comparable,
        seed=settings.seed,
        **(TRUTHFUL_SELECTION if task.name == "truthfulqa" else {}),
    )
    return ai if settings.judge == "ai" else Combined(GroundTruth(task), ai)


def sampling_of(settings: Settings) -> Sampling:
    """How complete answers are drawn."""
    return Sampling(
        n=settings.draws, temperature=settings.temperature, max_tokens=settings.max_tokens, seed=settings.seed
    )


def beam_of(settings: Settings) -> BeamSettings:
    """How a search goes, step by step."""
    return BeamSettings(
        width=settings.width,
        samples=settings.samples,
        max_steps=settings.max_steps,
        temperature=settings.temperature,
        seed=settings.seed,
        stop_when_sure=settings.stop_when_sure,
    )


def store_of(settings: Settings) -> Store:
    """The store that the settings name, else the one in the work directory, made if missing."""
    settings.work_dir.mkdir(parents=True, exist_ok=True)
    return Store.open(settings.store or settings.work_dir / "store.db")


def run_identity(kind: str, settings: Settings, *shaping: str) -> tuple[str, dict[str, object]]:
    """The run's id and its configuration: a hash of all that shapes its result.

    Args:
        kind: the command.
        settings: of the run.
        shaping: hashes of its data, and whatever else its result hangs on.
    """
    given = settings.model_dump(mode="json", exclude=NOT_OF_THE_RUN)
    config: dict[str, object] = {
        "kind": kind,
        "settings": given,
        "shaping": list(shaping),
        "version": version("trimtab"),
    }
    written = json.dumps(config, sort_keys=True, ensure_ascii=False)
    return f"{kind}-{hashlib.sha256(written.encode()).hexdigest()[:12]}", config


def take_up(store: Store, run_id: str, kind: str, config: dict[str, object]) -> None:
    """Starts the run, or goes on with it; says which, when there is something to go on with."""
    known = store.run(run_id)
    if known is not None:
        paid = store.usage_of(run_id).calls
        finished = "is finished: what succeeded is not done again (--force starts over)"
        state = finished if known.is_finished else "goes on"
        say(f"run {run_id} {state}; calls it has paid: {paid}")
    store.start_run(run_id, kind, config)


def recorded_rows(path: Path | None, settings: Settings) -> tuple[Recorded, ...]:
    """The recorded answers in a file; none without one."""
    return tuple(rows_read(path, settings, {}))


def rows_read(path: Path | None, settings: Settings, kinds: dict[str, Kind]) -> Iterator[Recorded]:
    """`recorded_rows` one by one, as they are read."""
    return read_recorded(path, need_answer=needs_reference(settings), kinds=kinds) if path else iter(())


def question_rows(
    path: Path | None, settings: Settings, kinds: dict[str, Kind] | None = None
) -> tuple[Question, ...]:
    """The questions in a file; none without one."""
    return load_questions(path, need_answer=needs_reference(settings), kinds=kinds) if path else ()


def question_of(row: Question | Recorded) -> Question:
    """The question of a row."""
    return row.question if isinstance(row, Recorded) else row


def run_folder(settings: Settings, run_id: str) -> Path:
    """Where a run keeps its checkpoints and the adapters of its rounds."""
    return settings.work_dir / "runs" / run_id


def refuse_other_folder(folder: Path) -> None:
    """Raises ConfigError when an adapter could not be saved there: better now than after the training."""
    is_taken = folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST_NAME).is_file()
    if is_taken or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"out: {folder} exists and is not an adapter folder; name another, or empty it")


def needs_reference(settings: Settings) -> bool:
    """True when a question without a reference answer is of no use."""
    return settings.judge in ("truth", "combined") and settings.task not in ("free_text", "truthfulqa")


def with_held_out(rows: Sequence[Row], dev: Sequence[Row]) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Training and held-out rows: the given ones, else a fifth set aside by a hash of the question."""
    if dev:
        return tuple(rows), tuple(dev)
    parts = split(rows, {"train": 0.8, "dev": 0.2})
    return tuple(parts["train"]), tuple(parts["dev"])


def scorer_of(settings: Settings) -> tuple[Scorer, Manifest]:
    """What scores with the adapter, on the engine chosen for it or, where asked for, in torch's bfloat16."""
    from trimtab.energy import load_scorer

    assert settings.adapter is not None
    engine: EngineName | None = "torch_bf16" if settings.bf16 else None
    return load_scorer(
        settings.adapter,
        engine=engine,
        threads=settings.threads,
        prefix_bytes=settings.prefix_cache * MIB,
    )


def tokens_scored(scorer: Scorer) -> tuple[int, int] | None:
    """Tokens run and asked for, where prefixes are kept."""
    from trimtab.energy.engines.prefix import PrefixEngine

    engine = getattr(scorer, "engine", None)
    return (engine.counts.run, engine.counts.asked) if isinstance(engine, PrefixEngine) else None


def limit_threads(settings: Settings, run_folder: Path | None = None) -> None:
    """Torch threads as set, else as this run had them before, else the quickest number right now.

    The number is kept with the run: a resumed one computes the same bits only with as many.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from trimtab.energy import quickest_threads, use_threads

    kept = run_folder / THREADS if run_folder else None
    if settings.threads is not None:
        return use_threads(settings.threads)
    if kept is not None and kept.is_file():
        return use_threads(int(kept.read_text("utf-8")))
    threads = quickest_threads()
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial")
        partial.write_text(str(threads), "utf-8")
        partial.replace(kept)
    return use_threads(threads)
