"""`trimtab adapt`: train an adapter from recorded answers, from a black box online, or both."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.cli import build
from trimtab.cli.console import print_json, say, table
from trimtab.cli.running import Running, running
from trimtab.cli.scaling import bounds_of, read_there, worked_there
from trimtab.cli.settings import Settings
from trimtab.cli.tracking import round_figures, services_of, tracking
from trimtab.data import data_hash, question_hash
from trimtab.energy import Manifest, load_adapter, save_adapter, verify_adapter
from trimtab.energy.manifest import WEIGHTS_NAME, sha256_file
from trimtab.errors import ConfigError, MissingExtraError
from trimtab.redaction import without_url_secrets
from trimtab.types import Question, Recorded, Task, Usage

if TYPE_CHECKING:
    from trimtab.adapt import AdaptSettings, Job, Round
    from trimtab.energy import EnergyModel, Fit, FitSettings

SMALL = 50_000_000  # weights; MiniLM has 23 million, deberta-v3-base 184 million
SMALL_RATE = 1e-4  # chosen for MiniLM on parts of the training sets (docs/lab.md)
USUAL_RATE = 2e-5  # usual for encoders of base size
PREFIXES_FOR_BEAMS = 8  # prefix targets of a question, when step-by-step search will use the adapter


def run(settings: Settings, as_json: bool) -> int:
    """Runs the command; returns its exit code."""
    _check(settings)
    settings = read_there(settings, "questions", "recorded", "dev")
    data = Data.load(settings)
    if settings.dry_run:
        _say_what_would_be_asked(settings, data, as_json)
        return 0
    if settings.engine == "ray":
        return worked_there(partial(_adapted, as_json), settings)
    return _adapted(as_json, settings, data=data)


def _adapted(
    as_json: bool, settings: Settings, given: Settings | None = None, data: Data | None = None
) -> int:
    """The adaptation itself, in this process or in an actor's; returns the exit code.

    Args:
        as_json: what is told at the end.
        settings: with paths as they are on this machine.
        given: as the user gave them; the same if left out.
        data: what is learnt from; read if left out.
    """
    given = given or settings
    data = data or Data.load(settings)
    parent = verify_adapter(settings.adapter).weights_sha256 if settings.adapter else None
    shaping = [*data.hashes, parent or "", *_shaping(settings, data)]
    with running(settings, "adapt", *shaping, questions=len(data.questions), given=given) as run:
        build.limit_threads(settings, build.run_folder(settings, run.id))
        rounds = _rounds(settings, _job(settings, given, data, run), run)
        usage = run.store.usage_of(run.id)
        manifest = _save_best(settings, rounds, usage)
    _tell(given, manifest, rounds, usage, as_json)
    return run.exit_code


def _check(settings: Settings) -> None:
    """Raises ConfigError for what can be seen to be wrong before anything is read, asked or trained."""
    if settings.recorded is None and settings.questions is None:
        raise ConfigError("give --recorded (logged answers), or --questions with --model, to adapt from")
    if settings.questions is not None and not build.live(settings):
        raise ConfigError("--questions are for asking a black box: name it with --model (and --base-url)")
    if not settings.dry_run:
        build.named(settings, "out")
    if settings.loss == "mlm" and settings.search == "beam":
        raise ConfigError("loss mlm scores whole answers alone; --search beam needs another loss")
    if settings.adapter is not None and (settings.loss == "mlm") != (_head(settings.adapter) == "mlm"):
        raise ConfigError(
            f"loss {settings.loss} cannot go on from {settings.adapter}: "
            f"its head is {_head(settings.adapter)}"
        )
    if settings.out is not None:
        build.refuse_other_folder(settings.out)
    if settings.training_workers > 1 and find_spec("accelerate") is None:
        raise MissingExtraError("distributed", "--training-workers")
    services_of(settings)


def _head(adapter: Path) -> str:
    return verify_adapter(adapter).head


def _shaping(settings: Settings, data: Data) -> list[str]:
    """What shapes an adaptation beside settings and rows: defaults, a local backbone, what people said."""
    as_usual = settings.model_copy(update={"recompute": False})  # it changes no weight
    defaults = f"{_adapt_settings(as_usual, settings.lr or 0.0)} {SMALL_RATE} {USUAL_RATE}"
    weights = Path(settings.backbone) / WEIGHTS_NAME
    backbone = sha256_file(weights) if weights.is_file() else ""
    asked = [*data.questions, *(build.question_of(row) for row in (*data.recorded, *data.held_out))]
    if settings.judge != "human":
        return [defaults, backbone, ""]
    with closing(build.store_of(settings)) as store:
        said = [each for question in asked for each in store.feedback_for(question.text)]
    return [defaults, backbone, data_hash(said)]


class Data:
    """What an adaptation reads: rows to learn from and rows held out."""

    def __init__(
        self,
        task: Task,
        recorded: Sequence[Recorded],
        questions: Sequence[Question],
        held_out: Sequence[Recorded] | Sequence[Question],
    ) -> None:
        self.task, self.recorded, self.questions, self.held_out = task, recorded, questions, held_out
        self.hashes = [data_hash(rows) for rows in (recorded, questions, held_out)]

    @classmethod
    def load(cls, settings: Settings) -> Data:
        """The rows of the files the settings name, all checked before anything is done."""
        recorded = build.recorded_rows(settings.recorded, settings)
        questions = build.question_rows(settings.questions, settings)
        task = build.task_of(settings, [*questions, *(row.question for row in recorded)])
        if not recorded or (questions and build.live(settings)):
            dev_questions = build.question_rows(settings.dev, settings)
            asked, held_out = build.with_held_out(questions, dev_questions)
            return cls(task, _apart(recorded, held_out), _learnt(asked, held_out), held_out)
        rows, dev = build.with_held_out(recorded, build.recorded_rows(settings.dev, settings))
        learnt = _learnt(rows, [row.question for row in dev])
        return cls(task, learnt, [row.question for row in learnt], dev)


def _learnt(rows: Sequence[build.Row], held_out: Sequence[Question]) -> tuple[build.Row, ...]:
    """The rows to learn from. Raises ConfigError when all of them are held out."""
    left = _apart(rows, held_out)
    if not left:
        raise ConfigError(
            f"all {len(rows)} questions are held out, none is left to learn from; give more, or --dev"
        )
    return left


def _apart(rows: Sequence[build.Row], held_out: Sequence[Question]) -> tuple[build.Row, ...]:
    """The rows whose question is not held out: none is learnt from that the adapter is chosen by."""
    taken = {question_hash(question.text) for question in held_out}
    left = tuple(row for row in rows if question_hash(build.question_of(row).text) not in taken)
    if len(left) < len(rows):
        say(f"{len(rows) - len(left)} questions are held out too; they are not learnt from")
    return left


def _say_what_would_be_asked(settings: Settings, data: Data, as_json: bool) -> None:
    """The most that the run can ask for; merged beams, early stops and kept responses make it less."""
    plan = {
        "task": data.task.name,
        "questions": len(data.questions),
        "held_out": len(data.held_out),
        "online_rounds": settings.rounds if build.live(settings) else 0,
        "model": settings.model,
        "answers_at_most": _answers(settings, data) if build.live(settings) else 0,
        "tokens_an_answer_at_most": settings.max_tokens,
        "judgements_by_an_llm": settings.judge in ("ai", "combined"),
    }
    if as_json:
        print_json(plan)
    judged = ", judged by an LLM" if plan["judgements_by_an_llm"] else ""
    say(
        f"task {data.task.name}: {len(data.questions)} questions to learn from, "
        f"{len(data.held_out)} held out; online rounds: {plan['online_rounds']}; at most "
        f"{plan['answers_at_most']} answers would be asked of {settings.model or 'no black box'}, "
        f"each of at most {settings.max_tokens} tokens{judged}. Nothing was asked."
    )


def _answers(settings: Settings, data: Data) -> int:
    """Complete answers, a search counting for as many as it keeps and draws beams at each step."""
    adapted = settings.width * settings.samples if settings.search == "beam" else 2 * settings.draws
    warm = 0 if data.recorded else settings.draws
    held_out = 0 if data.held_out and isinstance(data.held_out[0], Recorded) else settings.draws
    return len(data.questions) * (warm + settings.rounds * adapted) + len(data.held_out) * held_out


def _job(settings: Settings, given: Settings, data: Data, run: Running) -> Job:
    from trimtab.adapt import Job

    llm = run.client.model() if build.live(settings) else None
    energy, parent = _energy(settings, given)
    rate = settings.lr or usual_rate(energy)
    return Job(
        questions=data.questions,
        held_out=data.held_out,
        task=data.task,
        energy=energy,
        judge=build.judge_of(settings, data.task, run.store, run.client),
        store=run.store,
        folder=build.run_folder(settings, run.id),
        run_id=run.id,
        llm=llm,
        recorded=data.recorded,
        settings=_adapt_settings(settings, rate),
        manifest=_manifest(given, data, energy, rate, parent),
        prepay=run.prepay(settings) if build.live(settings) else None,
        fit=fitting(settings, energy),
    )


def _manifest(
    settings: Settings, data: Data, energy: EnergyModel, rate: float, parent: str | None
) -> Manifest:
    """What the adapter will say of itself; nothing in it is secret."""
    shown = settings.model_dump(mode="json", exclude=build.NOT_OF_THE_RUN) | {"lr": rate}
    if settings.base_url is not None:
        shown["base_url"] = without_url_secrets(settings.base_url)
    return Manifest(
        task=data.task.name,
        black_box=settings.model,
        backbone=energy.backbone,
        loss=settings.loss,
        max_length=energy.max_length,
        seed=settings.seed,
        data_hash=data.hashes[0] if data.recorded else data.hashes[1],
        settings=shown,
        parent=parent,
    )


def _energy(settings: Settings, given: Settings) -> tuple[Any, str | None]:
    """The energy model to start from: an earlier adapter's, or a backbone's; and that adapter's hash."""
    from trimtab.energy import EnergyModel

    if settings.adapter is not None:
        energy, manifest = load_adapter(settings.adapter, bf16=settings.bf16)
        return energy, manifest.weights_sha256
    head: Any = "mlm" if settings.loss == "mlm" else "scalar"
    energy = EnergyModel.pretrained(
        settings.backbone, max_length=settings.max_length, seed=settings.seed, head=head, bf16=settings.bf16
    )
    energy.backbone = given.backbone
    layers = int(getattr(energy.network.config, "num_hidden_layers", settings.frozen_layers))
    if settings.frozen_layers > layers:
        raise ConfigError(
            f"frozen_layers: {settings.backbone} has {layers} layers, but it is {settings.frozen_layers}"
        )
    return energy, None


def usual_rate(energy: EnergyModel) -> float:
    """The learning rate for an encoder of this size: small ones want and stand higher ones."""
    weights = sum(parameter.numel() for parameter in energy.network.parameters())
    return SMALL_RATE if weights < SMALL else USUAL_RATE


def _adapt_settings(settings: Settings, rate: float) -> AdaptSettings:
    from trimtab.adapt import AdaptSettings, DrawSettings

    return AdaptSettings(
        rounds=settings.rounds,
        draw=DrawSettings(
            draws=settings.draws,
            search=settings.search,
            sampling=build.sampling_of(settings),
            beam=build.beam_of(settings),
            concurrency=settings.concurrency,
            deadline_s=settings.question_deadline_s,
        ),
        replay=settings.replay,
        prefixes=PREFIXES_FOR_BEAMS if settings.search == "beam" else 0,
        fit=fit_settings(settings, rate),
        rule=settings.rule,
        seed=settings.seed,
    )


def fit_settings(settings: Settings, rate: float) -> FitSettings:
    """How an adapter is fitted."""
    from trimtab.energy import FitSettings

    return FitSettings(
        loss=settings.loss,
        lr=rate,
        epochs=settings.epochs,
        max_positives=settings.max_positives,
        max_negatives=settings.max_negatives,
        frozen_layers=settings.frozen_layers,
        recompute="auto" if settings.recompute is None else settings.recompute,
        seed=settings.seed,
    )


def fitting(settings: Settings, energy: EnergyModel) -> Fit:
    """What fits the model: this process, or as many workers as the settings say, here or on the cluster.

    Raises:
        ConfigError, ClusterError: there is no room for them.
        MissingExtraError: what they need is not installed.
    """
    from trimtab.energy import fit_energy, in_processes

    if settings.training_workers == 1:
        return fit_energy
    if settings.engine == "local":
        return in_processes(energy, settings.training_workers)
    from trimtab.scale.training import cluster_fit

    return cluster_fit(settings.training_workers, bounds_of(settings))


def _rounds(settings: Settings, job: Job, run: Running) -> list[Round]:
    """The rounds; the last is the one in which a limit was reached, if any was."""
    from trimtab.adapt import Stage, adapt

    def report(stage: Stage) -> None:
        run.bar(f"round {stage.round}: {stage.name}", stage.done, stage.total, stage.note)

    rounds = []
    with tracking(settings, run.id) as tracker:
        for done in adapt(replace(job, report=report)):
            rounds.append(done)
            say(round_line(done))
            tracker.log(done.index, round_figures(done, run.store.usage_of(run.id)))
            if run.client.budget.is_spent:
                break
    return rounds


def round_line(done: Round) -> str:
    """What a round did, in one line."""
    found = done.held_out.accuracy
    parts = [
        f"round {done.index}: {done.samples} samples, {done.positives} positives, {done.negatives} negatives",
        "nothing to fit" if done.loss is None else f"loss {done.loss:.3f}",
        f"held-out {found['chosen']:.3f} (single {found['single']:.3f}, majority {found['majority']:.3f})"
        if found
        else "nothing held out",
        f"{done.seconds:.0f} s",
        *([f"{done.failed} questions failed"] if done.failed else []),
    ]
    return ", ".join(parts)


def _save_best(settings: Settings, rounds: Sequence[Round], usage: Usage) -> Manifest:
    from trimtab.adapt import best_round

    best = best_round(rounds)
    energy, manifest = load_adapter(best.folder)
    history: list[Any] = [{"round": r.index, **dict(r.held_out.accuracy)} for r in rounds]
    metrics = {**manifest.metrics, "dev_questions": best.held_out.questions, "rounds": history}
    metrics["usd"] = usage.usd if usage.calls else 0.0  # what its training was paid for; None: not known
    return save_adapter(settings.out or Path(), energy, manifest.model_copy(update={"metrics": metrics}))


def _tell(
    settings: Settings, manifest: Manifest, rounds: Sequence[Round], usage: Usage, as_json: bool
) -> None:
    if as_json:
        print_json(
            {
                "adapter": str(settings.out),
                "task": manifest.task,
                "rule": {"name": manifest.rule, "temperature": manifest.decision_rule().temperature},
                "metrics": manifest.metrics,
                "weights_sha256": manifest.weights_sha256,
                "usage": asdict(usage),
            }
        )
        return
    _show_held_out(manifest, rounds)
    say(f"adapter: {settings.out}   task: {manifest.task}   calls paid in all: {usage.calls}")
    unseen = f"--questions FILE --model {settings.model}" if build.live(settings) else "--recorded FILE"
    say(f"next: trimtab evaluate --adapter {settings.out} {unseen}")


def _show_held_out(manifest: Manifest, rounds: Sequence[Round]) -> None:
    if not all(each.held_out.questions for each in rounds):
        say("None of so few rows was held out: the adapter is neither calibrated nor measured. Give --dev.")
        return
    methods = ("single", "majority", "best_of_n", "chosen", "oracle")
    rows = [[str(each.index), *(f"{each.held_out.accuracy[m]:.3f}" for m in methods)] for each in rounds]
    columns = ["round", "single", "majority", "best of n", manifest.rule.replace("_", " "), "oracle"]
    table("Held-out accuracy (chosen on; evaluate on other questions for honest figures)", columns, rows)
