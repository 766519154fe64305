"""A fit as a folder: all that another process needs to take part in it, and what has come out of it.

Weights are safetensors, all else is JSON; nothing is pickled. Who starts the processes is not known here:
`processes` does on this machine, `scale` on a cluster.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from trimtab.energy.adapter import load_adapter, save_adapter
from trimtab.energy.fit import check_fit, fit
from trimtab.energy.fitting import Evaluation, FitReport, FitSettings, Progress
from trimtab.energy.manifest import Manifest
from trimtab.energy.model import EnergyModel, use_threads
from trimtab.energy.ranks import joined
from trimtab.types import Contrast, PrefixTarget

_START = "start"  # an adapter folder: the energy model that is trained
_GIVEN = "fit.json"
_WEIGHTS = "trained.safetensors"
_REPORT = "report.json"


def write_fit(
    folder: Path,
    energy: EnergyModel,
    contrasts: Sequence[Contrast],
    settings: FitSettings | None,
    *,
    prefixes: Sequence[PrefixTarget] = (),
    held_out: Sequence[Contrast] = (),
    checkpoint_dir: Path | None = None,
    threads: int = 1,
) -> None:
    """Puts a fit into a folder, for processes of so many threads; arguments and errors as of `fit`."""
    chosen = settings or FitSettings()
    check_fit(energy, contrasts, prefixes, chosen)
    manifest = Manifest(
        task="", backbone=energy.backbone, loss=chosen.loss, max_length=energy.max_length, head=energy.head
    )
    save_adapter(folder / _START, energy, manifest)
    given = {
        "settings": asdict(chosen),
        "contrasts": [asdict(each) for each in contrasts],
        "prefixes": [asdict(each) for each in prefixes],
        "held_out": [asdict(each) for each in held_out],
        "checkpoint_dir": str(checkpoint_dir.absolute()) if checkpoint_dir else None,
        "threads": threads,
        "cpu": energy.device.type == "cpu",
    }
    (folder / _GIVEN).write_text(json.dumps(given), "utf-8")


def take_part(folder: Path, progress: Callable[[Progress], None] | None = None) -> None:
    """Fits what is in the folder as one of the processes; the first leaves there what came out.

    Args:
        folder: that `write_fit` has filled.
        progress: called after each update, in the first process.

    Raises:
        MissingExtraError: accelerate is not installed.
        RunError: see `fit`.
    """
    given = json.loads((folder / _GIVEN).read_text("utf-8"))
    use_threads(given["threads"])
    with joined(cpu=given["cpu"]) as ranks:
        energy, _ = load_adapter(folder / _START, device=str(ranks.device))
        report = fit(
            energy,
            _contrasts(given["contrasts"]),
            FitSettings(**given["settings"]),
            prefixes=[PrefixTarget(**each) for each in given["prefixes"]],
            held_out=_contrasts(given["held_out"]),
            checkpoint_dir=Path(given["checkpoint_dir"]) if given["checkpoint_dir"] else None,
            progress=progress if ranks.rank == 0 else None,
            ranks=ranks,
        )
        if ranks.rank == 0:
            _write_trained(folder, energy, report)


def _write_trained(folder: Path, energy: EnergyModel, report: FitReport) -> None:
    weights = {name: each.detach().contiguous() for name, each in energy.network.named_parameters()}
    save_file(weights, folder / _WEIGHTS)
    (folder / _REPORT).write_text(json.dumps(asdict(report)), "utf-8")


def read_fit(folder: Path, energy: EnergyModel) -> FitReport:
    """The report of a fit that was done apart; the energy model has its weights from now on."""
    trained = load_file(folder / _WEIGHTS)
    with torch.no_grad():
        for name, parameter in energy.network.named_parameters():
            parameter.copy_(trained[name])
    report = json.loads((folder / _REPORT).read_text("utf-8"))
    history = tuple(Evaluation(**each) for each in report.pop("history"))
    return FitReport(**report, history=history)


def _contrasts(given: Sequence[dict[str, object]]) -> list[Contrast]:
    return [_contrast(**each) for each in given]  # type: ignore[arg-type]


def _contrast(question_id: str, question: str, positives: list[str], negatives: list[str]) -> Contrast:
    return Contrast(question_id, question, tuple(positives), tuple(negatives))
