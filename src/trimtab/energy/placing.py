"""A new adapter folder in the place of an old one: whole or not at all, and nothing else lost. No torch."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from trimtab.energy.manifest import MANIFEST_NAME, read_manifest
from trimtab.errors import AdapterError

Result = TypeVar("Result")
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h


def put_in_place(folder: Path, write: Callable[[Path], Result]) -> Result:
    """What `write` gives, called with a folder beside this one that then takes its place in one move.

    Files of the folder that its adapter does not name (a report) are carried over.

    Raises:
        AdapterError: the folder holds something that is not an adapter.
    """
    target = folder.resolve()  # a link's own folder is replaced, not the link
    extras = _files_to_carry(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        partial.chmod(0o755)  # mkdtemp's folders are private
        written = write(partial)
        for path in extras:
            _copy(path, partial / path.name)
        _sync_all(partial)
        _move_into_place(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return written


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
