"""`trimtab adapt --from-feedback`: a new version from what people said of served answers.

The version is kept as a candidate and compared with the one that serves. It is promoted here only where that
was asked for and the comparison rules a loss out; else it waits for `trimtab promote`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab import tasks
from trimtab.cli import adapting, build
from trimtab.cli.console import print_json, say, table
from trimtab.cli.progress import bars
from trimtab.cli.settings import Settings
from trimtab.data import data_hash
from trimtab.energy import Manifest, load_adapter, read_manifest, save_adapter
from trimtab.errors import ConfigError, RunError
from trimtab.evaluate.trial import Contender, Paired, Trial, trial
from trimtab.feedback import GuardSettings
from trimtab.pools import recorded_pool
from trimtab.store import AdapterVersion, Heard, Inference, Store
from trimtab.types import Pool, Question, Recorded, Task

if TYPE_CHECKING:
    from trimtab.adapt.from_feedback import Taught
    from trimtab.adapt.new_version import FeedbackSettings, Learnt
    from trimtab.energy import EnergyModel

KIND = "adapt-feedback"
SHADOW = 500  # recent answers that both versions choose among
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
STATED = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")


def adapt(
    settings: Settings,
    as_json: bool,
    *,
    from_feedback: bool,
    promote: bool,
    share: float,
    every: str | None,
) -> int:
    """Runs the command: from feedback, once or on a schedule, else as `adapting` does."""
    if not from_feedback:
        if promote or every is not None:
            raise ConfigError("--promote and --every go with --from-feedback")
        return adapting.run(settings, as_json)
    pause_s = None if every is None else seconds_of(every)
    while True:
        started = time.monotonic()
        code = _once(settings, as_json, promote=promote, share=share, is_repeated=pause_s is not None)
        if pause_s is None:
            return code
        time.sleep(max(0.0, started + pause_s - time.monotonic()))


def seconds_of(stated: str) -> float:
    """A time such as 90s, 30m, 6h or 1d, in seconds. Raises ConfigError."""
    found = STATED.fullmatch(stated.strip())
    if found is None or not float(found[1]):
        raise ConfigError(f"--every: a time such as 30m, 6h or 1d is needed, not {stated!r}")
    return float(found[1]) * UNITS[found[2]]


def _once(settings: Settings, as_json: bool, *, promote: bool, share: float, is_repeated: bool) -> int:
    try:
        return run(settings, as_json, promote=promote, share=share)
    except RunError as error:
        if not is_repeated:
            raise
        say(f"nothing made: {error}")  # the next time there may be enough to learn from
        return 0


def named_adapter(settings: Settings) -> tuple[str, Path]:
    """The adapter's name and folder: NAME=DIR, or DIR, whose own name it is; as for `trimtab serve`."""
    build.named(settings, "adapter")
    name, mark, folder = str(settings.adapter).partition("=")
    return (name, Path(folder)) if mark else (Path(name).resolve().name, Path(name))


@dataclass(frozen=True, slots=True)
class _Given:
    """What a version is made of."""

    serving: AdapterVersion
    manifest: Manifest  # of the serving version
    task: Task
    heard: tuple[Heard, ...]
    inferences: dict[str, Inference]
    recorded: tuple[Recorded, ...]  # the first training's, to be replayed
    dev: tuple[Recorded, ...]  # the frozen holdout, where there is a file of it

    @property
    def references(self) -> list[Question]:
        return [row.question for row in (*self.recorded, *self.dev)]

    @property
    def holdout(self) -> list[Pool]:
        return [recorded_pool(row, self.task) for row in self.dev]


def run(settings: Settings, as_json: bool, *, promote: bool = False, share: float = 1.0) -> int:
    """Makes one version, compares it, and promotes it where it may; returns the exit code."""
    with closing(build.store_of(settings)) as store:
        given = _given(settings, store)
        hashes = [data_hash(each.said for each in given.heard), data_hash([*given.recorded, *given.dev])]
        run_id, config = build.run_identity(KIND, settings, given.manifest.weights_sha256 or "", *hashes)
        folder = settings.out or settings.work_dir / "adapters" / f"{given.serving.name}-{run_id[-12:]}"
        _refuse(settings, store, given, folder.resolve())
        if settings.dry_run:
            return _say_what_is_there(_taught(settings, given), as_json)
        build.take_up(store, run_id, KIND, config)
        build.limit_threads(settings, build.run_folder(settings, run_id))
        made, shown = _made(settings, store, given, run_id, folder.resolve())
        store.finish_run(run_id)
        if promote and not shown.objection:
            made = store.promote(made.name, made.version, share=share, reason="its trial rules a loss out")
    _tell(made, shown, as_json)
    return 0


def _given(settings: Settings, store: Store) -> _Given:
    name, folder = named_adapter(settings)
    if not store.versions(name):
        read_manifest(folder)  # refuses what is none, before it is called a version
    serving = store.begin_versions(name, folder.resolve())
    manifest = read_manifest(serving.folder)
    inferences = {}
    for each in (heard := store.heard()):
        about = each.said.inference_id
        if about is not None and about not in inferences and (found := store.inference(about)):
            inferences[about] = found
    mine = {key: each for key, each in inferences.items() if each.adapter in (name, "")}
    return _Given(
        serving,
        manifest,
        tasks.by_name(settings.task or manifest.task),
        tuple(each for each in heard if each.said.inference_id is None or each.said.inference_id in mine),
        mine,
        build.recorded_rows(settings.recorded, settings),
        build.recorded_rows(settings.dev, settings),
    )


def _refuse(settings: Settings, store: Store, given: _Given, folder: Path) -> None:
    """Raises ConfigError or RunError for what can be seen to be wrong before anything is trained."""
    head = given.manifest.head
    if (settings.loss == "mlm") != (head == "mlm"):
        raise ConfigError(
            f"loss {settings.loss} cannot go on from {given.serving.folder}: its head is {head}"
        )
    build.refuse_other_folder(folder)
    there = [each for each in store.versions(given.serving.name) if each.folder == folder]
    if there and settings.out is not None:
        raise ConfigError(f"out: {folder} is version {there[0].version} already; none is written over")
    if there:
        name = f"{there[0].name}@v{there[0].version}"
        raise RunError(f"nothing new was said since {name} was made ({there[0].status})")


def _taught(settings: Settings, given: _Given) -> Taught:
    from trimtab.adapt.from_feedback import taught

    held_out = [row.question.with_choices for row in given.dev]
    guards = GuardSettings(source_share=settings.source_share)
    return taught(
        given.heard, given.inferences, given.task, guards, references=given.references, frozen=held_out
    )


def _made(
    settings: Settings, store: Store, given: _Given, run_id: str, folder: Path
) -> tuple[AdapterVersion, Trial]:
    from trimtab.adapt.from_feedback import contrasts_of, shadow
    from trimtab.adapt.new_version import learn

    found = _taught(settings, given)
    _say_counts(found)
    energy, _ = load_adapter(given.serving.folder, bf16=settings.bf16)
    how = feedback_settings(settings, energy)
    replayed = contrasts_of(recorded_pool(row, given.task) for row in given.recorded)
    with bars() as bar:
        learnt = learn(
            energy,
            given.manifest,
            found,
            how,
            since=given.serving.created_at if given.serving.parent else 0.0,
            replayed=list(replayed),
            checkpoint_dir=build.run_folder(settings, run_id),
            progress=lambda done: bar("fit", done.step, done.steps, f"loss {done.loss:.3f}"),
            fit=adapting.fitting(settings.model_copy(update={"engine": "local"}), energy),
        )
    manifest = _manifest(given, how, learnt)
    recent = store.inferences(adapter=given.serving.name, limit=SHADOW)
    shown = trial(
        given.holdout or found.held_out,
        shadow(found, recent),
        _contender(load_adapter(given.serving.folder, bf16=settings.bf16)),
        _contender((energy, manifest)),
        margin=settings.margin,
        seed=settings.seed,
    )
    metrics = {
        "trial": shown.to_json(),
        "feedback": dict(found.counts),
        "weights": dict(found.guarded.weights),
    }
    save_adapter(folder, energy, manifest.model_copy(update={"metrics": metrics}))
    return _kept(store, given.serving, folder, metrics, shown), shown


def feedback_settings(settings: Settings, energy: EnergyModel) -> FeedbackSettings:
    """How a version is trained from feedback."""
    from trimtab.adapt.new_version import FeedbackSettings

    return FeedbackSettings(
        fit=adapting.fit_settings(settings, settings.lr or adapting.usual_rate(energy)),
        replay=settings.replay,
        trim=settings.trim,
        seed=settings.seed,
    )


def _manifest(given: _Given, how: FeedbackSettings, learnt: Learnt) -> Manifest:
    """The serving version's, with what has changed."""
    changes: dict[str, Any] = {
        "parent": given.manifest.weights_sha256,
        "loss": how.fit.loss,
        "seed": how.seed,
        "data_hash": data_hash(each.said for each in given.heard),
        **learnt.manifest_fields,
    }
    made = Manifest(
        **{**given.manifest.model_dump(exclude={"created", "trimtab_version", "files"}), **changes}
    )
    say(
        f"learnt from {learnt.new} new lessons and {learnt.replayed} replayed; "
        f"{learnt.trimmed} of them left out: the others contradict them most"
    )
    return made


def _contender(loaded: tuple[EnergyModel, Manifest]) -> Contender:
    energy, manifest = loaded
    calibrate = manifest.calibration.confidences if manifest.calibration else None
    return Contender(energy, manifest.decision_rule(), calibrate)


def _kept(
    store: Store, serving: AdapterVersion, folder: Path, metrics: dict[str, Any], shown: Trial
) -> AdapterVersion:
    """The candidate, in the store."""
    reason = shown.objection or "its trial rules a loss out"
    return store.add_version(serving.name, folder, parent=serving.version, metrics=metrics, reason=reason)


# --------------------------------------------------------------------------- what is told


def _say_what_is_there(found: Taught, as_json: bool) -> int:
    if as_json:
        print_json({"feedback": dict(found.counts), "weights": dict(found.guarded.weights)})
    _say_counts(found)
    return 0


def _say_counts(found: Taught) -> None:
    counts = found.counts
    say(
        f"{counts['given']} things were said; not counted: {counts['repeated']} said again, "
        f"{counts['over_share']} above one source's share, {counts['distrusted']} of sources no better "
        f"than chance, {counts['comments']} comments. {counts['contradicted']} answers stay contradicted, "
        f"{counts['outvoted']} votes were outvoted"
    )
    say(
        f"{counts['lessons']} questions to learn from, {counts['choosing']} to choose by, "
        f"{counts['held_out']} held out; {counts['one_sided']} have nothing to set right against wrong"
    )


def _tell(made: AdapterVersion, shown: Trial, as_json: bool) -> None:
    name = f"{made.name}@v{made.version}"
    if as_json:
        return print_json(
            {
                "adapter": made.name,
                "version": made.version,
                "folder": str(made.folder),
                "status": str(made.status),
                "share": made.share,
                "trial": shown.to_json(),
            }
        )
    rows = [row for row in (_row("holdout", shown.holdout), _row("shadow", shown.shadow)) if row]
    columns = ["", "questions", "serving", name, "difference, points", "95 % interval"]
    table(f"{name} against the version that serves", columns, rows)
    say(f"of {shown.replayed} recent answers {100 * shown.changed:.1f} % would have been others")
    if made.status != "candidate":
        return say(f"{name} is {made.status}; back again: trimtab rollback {made.name}")
    return say(f"{name} waits: {shown.objection or 'nothing objects'}{_hint(shown)}; trimtab promote {name}")


def _hint(shown: Trial) -> str:
    """What would settle a trial that found no loss and could not rule one out."""
    found = None if shown.holdout is None else shown.holdout.difference
    if found is None or found.value < 0 or found.low >= -shown.margin:
        return ""
    return " (more feedback, or --dev rows whose answers are known, would narrow that)"


def _row(about: str, pair: Paired | None) -> Sequence[str] | None:
    if pair is None:
        return None
    found = pair.difference
    interval = f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
    return [
        about,
        str(pair.questions),
        f"{pair.serving:.3f}",
        f"{pair.new:.3f}",
        f"{100 * found.value:+.1f}",
        interval,
    ]
