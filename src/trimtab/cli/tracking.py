"""The figures of a run, for whoever plots them: TensorBoard's files always, MLflow and W&B where asked for.

Both services read their own environment variables (MLFLOW_TRACKING_URI, WANDB_MODE, keys). No question, no
answer and no secret is sent: figures, and the settings that shape the run.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from trimtab.cli import build
from trimtab.cli.event_file import EventFile
from trimtab.cli.settings import Settings
from trimtab.errors import ConfigError, MissingExtraError, RunError
from trimtab.redaction import without_url_secrets
from trimtab.types import Usage

if TYPE_CHECKING:
    from trimtab.adapt import Round
    from trimtab.evaluate import Comparison

TENSORBOARD = "tensorboard"  # folder in the work directory
PROJECT = "trimtab"  # MLflow's experiment, W&B's project
RUN_TAG = "trimtab.run"


class Tracker(Protocol):
    """Takes figures."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Notes the figures of a step; steps rise."""
        ...


def services_of(settings: Settings) -> tuple[str, ...]:
    """The services that `track` names.

    Raises:
        ConfigError: one that is unknown.
        MissingExtraError: one that is not installed.
    """
    names = tuple(part.strip() for part in (settings.track or "").split(",") if part.strip())
    for name in names:
        if name not in _SERVICES:
            raise ConfigError(f"track: {name!r} is unknown; there are: {', '.join(_SERVICES)}")
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(name, f"--track {name}")
    return names


@contextmanager
def tracking(settings: Settings, run_id: str) -> Iterator[Tracker]:
    """Where a run's figures go, while it goes on."""
    with ExitStack() as stack:
        trackers: list[Tracker] = [
            stack.enter_context(EventFile(settings.work_dir / TENSORBOARD / run_id)),
            *(stack.enter_context(_SERVICES[name](settings, run_id)) for name in services_of(settings)),
        ]
        yield _All(trackers)


class _All:
    """Several as one."""

    def __init__(self, trackers: list[Tracker]) -> None:
        self._trackers = trackers

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for each in self._trackers:
            each.log(step, figures)


# --------------------------------------------------------------------------- what is logged


def round_figures(done: Round, paid: Usage) -> dict[str, float]:
    """A round of adaptation: its loss, what it reaches held out, and what the run has paid so far."""
    counts = {
        name: float(getattr(done, name))
        for name in ("questions", "failed", "samples", "positives", "negatives", "contrasts", "seconds")
    }
    return {
        **({} if done.loss is None else {"fit/loss": done.loss}),
        **{f"held_out/{name}": value for name, value in done.held_out.accuracy.items()},
        **{f"round/{name}": value for name, value in counts.items()},
        **_spend(paid),
    }


def _spend(paid: Usage) -> dict[str, float]:
    counts = {"calls": paid.calls, "input_tokens": paid.input_tokens, "output_tokens": paid.output_tokens}
    usd = {} if paid.usd is None else {"spend/usd": paid.usd}
    return {**{f"spend/{name}": float(count) for name, count in counts.items()}, **usd}


def comparison_figures(comparison: Comparison) -> Iterator[tuple[int, dict[str, float]]]:
    """Of an evaluation: what each method reaches and costs, then accuracy by the number of draws."""
    costs = {name: each.usd_per_thousand for name, each in comparison.costs.items()}
    overall = {
        **{f"accuracy/{name}": each.value for name, each in comparison.accuracy.items()},
        **{f"difference/{name}": each.value for name, each in comparison.differences.items()},
        **{f"usd_per_thousand/{name}": usd for name, usd in costs.items() if usd is not None},
        **({"calibration/ece": comparison.calibration.ece} if comparison.calibration else {}),
        **({"risk/area": comparison.risk.area} if comparison.risk else {}),
        "questions": float(comparison.questions),
    }
    yield 0, overall
    for place, draws in enumerate(comparison.budget.draws):
        curves = comparison.budget.accuracy.items()
        yield draws, {f"accuracy_by_draws/{name}": curve[place].value for name, curve in curves}


def shown_settings(settings: Settings) -> dict[str, Any]:
    """The settings that shape a run; nothing among them is secret."""
    shown = settings.model_dump(mode="json", exclude=build.NOT_OF_THE_RUN, exclude_none=True)
    if settings.base_url is not None:
        shown["base_url"] = without_url_secrets(settings.base_url)
    return shown


# --------------------------------------------------------------------------- services


@contextmanager
def _mlflow(settings: Settings, run_id: str) -> Iterator[Tracker]:
    """A run of MLflow: the one of this run's id, where there is one already."""
    mlflow: Any = import_module("mlflow")
    with _failing_as("MLflow", mlflow.MlflowException):
        experiment = mlflow.set_experiment(PROJECT)
        known = mlflow.MlflowClient().search_runs(
            [experiment.experiment_id], f"tags.`{RUN_TAG}` = '{run_id}'", max_results=1
        )
        earlier = known[0].info.run_id if known else None
        with mlflow.start_run(run_id=earlier, run_name=run_id, tags={RUN_TAG: run_id}):
            mlflow.log_params({} if earlier else shown_settings(settings))
            yield _Logging(lambda step, figures: mlflow.log_metrics(_named(figures), step=step))


@contextmanager
def _failing_as(service: str, kind: type[Exception]) -> Iterator[None]:
    """Turns a service's own error into one that says how to go on: what the run has paid for is kept."""
    try:
        yield
    except kind as error:
        said = str(error).partition("\n")[0]
        raise RunError(f"{service}: {said}; the same command goes on without --track") from error


def _named(figures: Mapping[str, float]) -> dict[str, float]:
    """MLflow takes no @ in a name."""
    return {name.replace("@", "_of_"): value for name, value in figures.items()}


@contextmanager
def _wandb(settings: Settings, run_id: str) -> Iterator[Tracker]:
    """A run of Weights & Biases; its own files go into the work directory."""
    wandb: Any = import_module("wandb")
    shown = shown_settings(settings)
    given = {"project": PROJECT, "id": run_id, "name": run_id, "resume": "allow"}
    with (
        _failing_as("Weights & Biases", wandb.Error),
        wandb.init(**given, dir=settings.work_dir, config=shown) as run,
    ):
        yield _Logging(lambda step, figures: run.log(dict(figures), step=step))


@dataclass(frozen=True, slots=True)
class _Logging:
    """A service's own way to take figures."""

    send: Callable[[int, Mapping[str, float]], None]

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.send(step, figures)


_SERVICES: Mapping[str, Callable[[Settings, str], AbstractContextManager[Tracker]]] = {
    "mlflow": _mlflow,
    "wandb": _wandb,
}
