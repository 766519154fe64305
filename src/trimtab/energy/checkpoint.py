"""Where a fit stands, on disk: tensors as safetensors, counters as JSON, nothing pickled.

A checkpoint is a folder `step-N` that appears by one rename, so a kill leaves the one before it. Whether
it belongs to this fit is told by a fingerprint of everything the fit depends on.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trimtab.energy.placing import sync

_TENSORS = "state.safetensors"
_COUNTERS = "state.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a fit after `step` updates."""

    fingerprint: str
    step: int
    counters: dict[str, Any]
    tensors: dict[str, Tensor]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Keeps the checkpoint in `folder` in place of earlier ones."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    tensors = {name: tensor.detach().contiguous() for name, tensor in checkpoint.tensors.items()}
    save_file(tensors, partial / _TENSORS)
    counters = {
        "fingerprint": checkpoint.fingerprint,
        "step": checkpoint.step,
        "counters": checkpoint.counters,
    }
    (partial / _COUNTERS).write_text(json.dumps(counters), "utf-8")
    for path in partial.iterdir():
        sync(path)
    earlier = _steps(folder)
    final = folder / f"step-{checkpoint.step:09d}"
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    sync(folder)
    for path in earlier:
        shutil.rmtree(path, ignore_errors=True)


def load_checkpoint(folder: Path, fingerprint: str) -> Checkpoint | None:
    """The latest readable checkpoint of the fit with this fingerprint, if there is one."""
    for path in reversed(_steps(folder)):
        try:
            counters = json.loads((path / _COUNTERS).read_text("utf-8"))
            if counters["fingerprint"] == fingerprint:
                tensors = load_file(path / _TENSORS)
                return Checkpoint(fingerprint, counters["step"], counters["counters"], tensors)
        except (OSError, ValueError, KeyError, SafetensorError):
            continue  # damaged: an earlier one, or the start, is as good
    return None


def _steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))
