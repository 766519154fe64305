"""An adapter folder: an EnergyModel and its Manifest, written whole or not at all.

The folder is made beside its place and moved there at once, so nobody ever reads half of one. What the
manifest says is `manifest`'s.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from trimtab.energy.checkpoint import sync
from trimtab.energy.encoding import PairEncoder
from trimtab.energy.engines.engine import EngineScorer
from trimtab.energy.engines.making import make_engine, read_engine, usable, why_not, write_engine
from trimtab.energy.engines.names import NEEDS, REFERENCE, EngineName
from trimtab.energy.manifest import (
    CARD_NAME,
    MANIFEST_NAME,
    Manifest,
    manifest_text,
    model_card,
    read_manifest,
    sha256_file,
    verify_adapter,
)
from trimtab.energy.model import EnergyModel, quiet_transformers
from trimtab.errors import AdapterError

LOGGER = logging.getLogger("trimtab.energy")
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h


def save_adapter(folder: Path | str, energy: EnergyModel, manifest: Manifest) -> Manifest:
    """The manifest as saved: with the model's own facts and the SHA-256 of every file.

    An adapter already in the folder is replaced in one move; files it does not name (a report) stay.
    The files of the engine that the manifest names are made too, where the engine is installed.

    Raises:
        AdapterError: the folder holds something that is not an adapter.
    """
    target = Path(folder).resolve()  # a link's own folder is replaced, not the link
    extras = _files_to_carry(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        saved = _write(partial, energy, manifest)
        for path in extras:
            _copy(path, partial / path.name)
        _sync_all(partial)
        _move_into_place(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return saved


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
    folder: Path | str, *, engine: EngineName | None = None, threads: int | None = None
) -> tuple[EngineScorer | EnergyModel, Manifest]:
    """What scores with the adapter, and its manifest: on the engine named, else on the adapter's own.

    An engine that cannot be had here is stood in for by torch, with one line in the log. One whose files the
    adapter has not is made in memory. The `mlm` head scores as `load_adapter`'s model does. `threads` as in
    `make_engine`, torch's own number if left out.

    Raises:
        AdapterError: a folder or file that is missing, damaged or of another kind; names the file.
    """
    manifest = verify_adapter(folder)
    threads = threads or torch.get_num_threads()
    if manifest.head == "mlm":
        return load_adapter(folder)[0], manifest
    wanted = engine or manifest.engine or REFERENCE
    files = NEEDS[wanted].files
    has_files = bool(files) and manifest.files.keys() >= set(files)
    name = usable(wanted, exporting=not has_files)
    if has_files and name == wanted:
        encoder = PairEncoder(_tokenizer(Path(folder)), manifest.max_length)
        return EngineScorer(encoder, read_engine(name, Path(folder), encoder, threads=threads)), manifest
    energy = _model(folder, manifest)
    return EngineScorer(energy.encoder, make_engine(name, energy, threads=threads)), manifest


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
    folder.chmod(0o755)  # mkdtemp's folders are private
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


def _files_to_carry(target: Path) -> list[Path]:
    """What stands in the folder beside the adapter it holds. Raises AdapterError if it holds no adapter."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return []
    if not (target / MANIFEST_NAME).is_file():
        raise AdapterError(f"{target} exists and is not an adapter folder; name another folder, or empty it")
    try:
        named = {MANIFEST_NAME, *read_manifest(target).files}
    except AdapterError:  # a damaged adapter may be replaced; then nothing tells its files from others
        return []
    return [path for path in target.iterdir() if path.name not in named]


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


def _sync_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        if not path.is_symlink():
            sync(path)
    sync(folder)


def _move_into_place(partial: Path, target: Path) -> None:
    """The new folder at the target, the old one (if any) at `partial`'s name, where it is then removed."""
    if not target.exists():
        partial.rename(target)
    elif not _exchange(partial, target):
        _swap_in_two_moves(partial, target)
    sync(target.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Both names swapped in one system call; False where the system has none."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    done = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return bool(done == 0)


def _swap_in_two_moves(partial: Path, target: Path) -> None:
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    target.rename(aside / "adapter")
    partial.rename(target)
    shutil.rmtree(aside, ignore_errors=True)
