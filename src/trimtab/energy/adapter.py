"""An adapter folder: an EnergyModel and its Manifest, written whole or not at all.

How a new folder takes the place of an old one stands in `placing`; what the manifest says is `manifest`'s.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from trimtab.energy.encoding import PairEncoder
from trimtab.energy.engines.engine import EngineScorer
from trimtab.energy.engines.making import make_engine, read_engine, usable, why_not, write_engine
from trimtab.energy.engines.names import NEEDS, REFERENCE, EngineName
from trimtab.energy.engines.prefix import PrefixEngine
from trimtab.energy.engines.pytorch import torch_engine
from trimtab.energy.manifest import (
    CARD_NAME,
    MANIFEST_NAME,
    Manifest,
    manifest_text,
    model_card,
    sha256_file,
    verify_adapter,
)
from trimtab.energy.model import EnergyModel, quiet_transformers
from trimtab.energy.placing import put_in_place

LOGGER = logging.getLogger("trimtab.energy")


def save_adapter(folder: Path | str, energy: EnergyModel, manifest: Manifest) -> Manifest:
    """The manifest as saved: with the model's own facts and the SHA-256 of every file.

    An adapter already in the folder is replaced in one move; files it does not name (a report) stay.
    The files of the engine that the manifest names are made too, where the engine is installed.

    Raises:
        AdapterError: the folder holds something that is not an adapter.
    """
    return put_in_place(Path(folder), lambda partial: _write(partial, energy, manifest))


def load_adapter(
    folder: Path | str, *, bf16: bool = False, device: str | None = None
) -> tuple[EnergyModel, Manifest]:
    """The energy model and manifest of an adapter folder; its scores are bit-equal to the saved model's.

    Raises:
        AdapterError: a folder or file that is missing, damaged or of another kind; names the file.
    """
    manifest = verify_adapter(folder)
    return _model(folder, manifest, bf16=bf16, device=device), manifest


def load_scorer(
    folder: Path | str,
    *,
    engine: EngineName | None = None,
    threads: int | None = None,
    prefix_bytes: int = 0,
) -> tuple[EngineScorer | EnergyModel, Manifest]:
    """What scores with the adapter, and its manifest: on the engine named, else on the adapter's own.

    An engine that cannot be had here is stood in for by torch, with one line in the log. One whose files the
    adapter has not is made in memory. The `mlm` head scores as `load_adapter`'s model does. `threads` as in
    `make_engine`, torch's own number if left out. With `prefix_bytes` torch scores, and keeps so many bytes
    of what it made of the texts' starts (`PrefixEngine`).

    Raises:
        AdapterError: a folder or file that is missing, damaged or of another kind; names the file. Or an
            encoder, with `prefix_bytes`.
    """
    manifest = verify_adapter(folder)
    threads = threads or torch.get_num_threads()
    wanted = engine or manifest.engine or REFERENCE
    if prefix_bytes:
        return _with_prefixes(folder, manifest, wanted, prefix_bytes), manifest
    if manifest.head == "mlm":
        return load_adapter(folder)[0], manifest
    files = NEEDS[wanted].files
    has_files = bool(files) and manifest.files.keys() >= set(files)
    name = usable(wanted, exporting=not has_files)
    if has_files and name == wanted:
        encoder = PairEncoder(_tokenizer(Path(folder)), manifest.max_length)
        return EngineScorer(encoder, read_engine(name, Path(folder), encoder, threads=threads)), manifest
    energy = _model(folder, manifest)
    return EngineScorer(energy.encoder, make_engine(name, energy, threads=threads)), manifest


def _with_prefixes(
    folder: Path | str, manifest: Manifest, engine: EngineName, prefix_bytes: int
) -> EngineScorer:
    energy = _model(folder, manifest)
    name = usable(engine) if NEEDS[engine].packages == NEEDS[REFERENCE].packages else REFERENCE
    return EngineScorer(energy.encoder, PrefixEngine(torch_engine(name, energy), prefix_bytes))


def _model(
    folder: Path | str, manifest: Manifest, *, bf16: bool = False, device: str | None = None
) -> EnergyModel:
    energy = EnergyModel.pretrained(
        Path(folder), max_length=manifest.max_length, head=manifest.head, bf16=bf16, device=device
    )
    energy.backbone = manifest.backbone
    return energy


def _tokenizer(folder: Path) -> Any:
    with quiet_transformers():
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _write(folder: Path, energy: EnergyModel, manifest: Manifest) -> Manifest:
    with quiet_transformers():
        energy.network.save_pretrained(folder)
        energy.tokenizer.save_pretrained(folder)
    if manifest.engine is not None:
        _write_engine(manifest.engine, energy, folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # weights are written private too
    facts = {"backbone": energy.backbone, "head": energy.head, "max_length": energy.max_length}
    stated = manifest.model_copy(update=facts)
    (folder / CARD_NAME).write_text(model_card(stated), "utf-8")
    files = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
    saved = stated.model_copy(update={"files": files})
    (folder / MANIFEST_NAME).write_text(manifest_text(saved), "utf-8")
    return saved


def _write_engine(name: EngineName, energy: EnergyModel, folder: Path) -> None:
    """The engine's files, unless it cannot be had here: then whoever loads the adapter goes without."""
    if (reason := why_not(name)) is None:
        write_engine(name, energy, folder)
    else:
        LOGGER.warning("the adapter is saved without its engine %s: %s", name, reason)
