"""A fit by several workers of a Ray cluster, through Ray Train: it places them, joins them up, watches them.

What each does stands in `energy.apart`. The fit travels to them as a folder's files, and so do weights
and report back: no disk need be shared.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, get_context
from ray.train.torch import TorchTrainer
from ray.util.queue import Empty, Queue

from trimtab.energy import EnergyModel, Fit, FitReport, FitSettings, Progress
from trimtab.energy.apart import read_fit, take_part, write_fit
from trimtab.errors import RunError
from trimtab.scale.bounds import Bounds
from trimtab.scale.cluster import refuse_too_large
from trimtab.scale.parcels import files_in, write_files
from trimtab.types import Contrast, PrefixTarget

ATTEMPTS = 4
HEARD_S = 1.0  # how often the trainer looks whether the fit is over


def cluster_fit(workers: int, bounds: Bounds) -> Fit:
    """`fit_on_cluster` by so many workers that need so much each.

    Raises:
        ClusterError: the cluster has no room for them beside the actor that runs the adaptation.
    """
    what = f"training by {workers} workers, beside the actor that runs the adaptation,"
    refuse_too_large(what, cpus=(workers + 1) * bounds.cpus, gpus=(workers + 1) * bounds.gpus)
    return partial(fit_on_cluster, workers=workers, bounds=bounds)


def fit_on_cluster(
    energy: EnergyModel,
    contrasts: Sequence[Contrast],
    settings: FitSettings | None = None,
    *,
    workers: int,
    bounds: Bounds,
    prefixes: Sequence[PrefixTarget] = (),
    held_out: Sequence[Contrast] = (),
    checkpoint_dir: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> FitReport:
    """`fit` by so many workers of the cluster: the same weights but for rounding.

    When one dies all begin again, from the last checkpoint where the disk with it is shared.

    Raises:
        RunError: they have died too often.
    """
    with tempfile.TemporaryDirectory(prefix="trimtab-fit-") as name, _heard(progress) as queue:
        folder = Path(name) / "fit"
        write_fit(
            folder,
            energy,
            contrasts,
            settings,
            prefixes=prefixes,
            held_out=held_out,
            checkpoint_dir=checkpoint_dir,
            threads=max(1, int(bounds.cpus)),
        )
        loop: Any = _take_part_there  # that it may give something is not in its type yet
        trainer = TorchTrainer(
            loop,
            train_loop_config={"files": ray.put(files_in(folder)), "queue": queue},
            scaling_config=_scaling(workers, bounds),
            run_config=RunConfig(
                name="fit",
                storage_path=str(Path(name) / "ray"),
                failure_config=FailureConfig(max_failures=ATTEMPTS - 1),
            ),
        )
        write_files(folder, _trained(trainer))
        return read_fit(folder, energy)


def _scaling(workers: int, bounds: Bounds) -> ScalingConfig:
    needs = {"CPU": bounds.cpus, "GPU": bounds.gpus}
    return ScalingConfig(num_workers=workers, use_gpu=bounds.gpus > 0, resources_per_worker=needs)


def _trained(trainer: TorchTrainer) -> dict[str, bytes]:
    """The files that the first worker gives. Raises RunError, or what the fit raised."""
    try:
        result: Any = trainer.fit()
    except TrainingFailedError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise RunError(f"training on the cluster has failed {ATTEMPTS} times: {lines[-1].strip()}") from None
    if isinstance(result.return_value, RunError):
        raise result.return_value
    files: dict[str, bytes] = result.return_value
    return files


def _take_part_there(given: dict[str, Any]) -> dict[str, bytes] | RunError | None:
    """What a worker does; the first gives what came out. An error of the fit's comes back: no retry."""
    with tempfile.TemporaryDirectory(prefix="trimtab-fit-") as name:
        folder = Path(name)
        before = ray.get(given["files"])
        write_files(folder, before)
        try:
            take_part(folder, given["queue"].put)
        except RunError as error:
            return error
        if get_context().get_world_rank():
            return None
        return {name: contents for name, contents in files_in(folder).items() if name not in before}


@contextmanager
def _heard(progress: Callable[[Progress], None] | None) -> Iterator[Queue]:
    """A queue for the first worker; what comes is told here until the context ends."""
    queue, over = Queue(actor_options={"num_cpus": 0}), threading.Event()

    def listen() -> None:
        while True:
            try:
                told = queue.get(timeout=HEARD_S)
            except Empty:
                if over.is_set():
                    return
                continue
            if progress:
                progress(told)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        over.set()
        thread.join()
        queue.shutdown()
