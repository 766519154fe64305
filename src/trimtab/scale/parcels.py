"""Parcels: files of the driver's machine, found on another by their contents, with or without a shared disk.

Contents travel once through the cluster's object store, and are kept on each machine in a folder named by
their hash. What the files are, and which of them a run needs, is the command line's.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import ray

from trimtab.energy.manifest import sha256_file
from trimtab.errors import InputError, RunError

UNUSED_S = 7 * 24 * 3600.0  # what nobody has used for so long goes when something new comes


@dataclass(frozen=True, slots=True)
class Item:
    """One file of a parcel."""

    name: str  # within the parcel
    sha256: str
    contents: Any  # reference of its bytes


@dataclass(frozen=True, slots=True)
class Parcel:
    """A file, or a folder of files; without items it stays where it is, on a machine that all work on."""

    origin: Path  # absolute
    items: tuple[Item, ...] = ()
    is_folder: bool = True

    @property
    def key(self) -> str:
        """What names its contents."""
        lines = "".join(f"{each.sha256} {each.name}\n" for each in self.items)
        return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def here(self) -> Path:
        """Where these contents are on this machine: where they came from, else kept, else unpacked now.

        Raises:
            RunError: they cannot be kept here, or did not come whole.
        """
        if self._is_in(self._beside(self.origin)):
            return self.origin
        try:
            folder = self._kept()
        except OSError as error:
            raise RunError(f"{self.origin.name} cannot be kept on {os.uname().nodename}: {error}") from error
        return folder if self.is_folder else folder / self.items[0].name

    def _beside(self, path: Path) -> Path:
        return path if self.is_folder else path.parent

    def _is_in(self, folder: Path) -> bool:
        return all(_has(folder / each.name, each.sha256) for each in self.items)

    def _kept(self) -> Path:
        place = own_folder("parcels")
        folder = place / self.key
        if not self._is_in(folder):
            _remove_unused(place)
            self._unpack(folder)
        os.utime(folder)
        return folder

    def _unpack(self, folder: Path) -> None:
        """The folder appears whole, whoever else unpacks it at the same time; a damaged one is replaced."""
        partial = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
        try:
            write_files(partial / "new", {each.name: ray.get(each.contents) for each in self.items})
            if not self._is_in(partial / "new"):
                raise RunError(f"{self.origin.name} did not come whole to {os.uname().nodename}")
            if folder.exists():
                folder.rename(partial / "old")
            (partial / "new").rename(folder)
        except OSError:
            if not self._is_in(folder):  # unless another has just put it there
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def parcel(path: Path, names: Iterable[str] | None = None) -> Parcel:
    """A parcel of a file, or of a folder: of the files named, else of all that are in it.

    Raises:
        InputError: a file that is not there or cannot be read, or a name that leads out of the folder.
    """
    path = path.absolute()
    folder, named = (path.parent, [path.name]) if path.is_file() else (path, names)
    found = sorted(named if named is not None else _names(folder))
    return Parcel(path, tuple(_item(folder, name) for name in found), folder == path)


def files_in(folder: Path) -> dict[str, bytes]:
    """The contents of all files in a folder, by name."""
    return {name: (folder / name).read_bytes() for name in sorted(_names(folder))}


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Puts the files into a folder, made if missing."""
    for name, contents in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(contents)


def own_folder(name: str) -> Path:
    """A folder on this machine's own disk, kept from run to run; nobody else may write there.

    Raises:
        RunError: it belongs to somebody else.
    """
    ours = Path(tempfile.gettempdir()) / f"trimtab-{os.getuid()}"
    ours.mkdir(mode=0o700, parents=True, exist_ok=True)
    if ours.stat().st_uid != os.getuid():
        raise RunError(f"{ours} belongs to another user; remove it, or set TMPDIR on the cluster's nodes")
    folder = ours / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _item(folder: Path, name: str) -> Item:
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise InputError(f"{folder}: a file named {name!r} leads out of the folder")
    try:
        contents = (folder / name).read_bytes()
    except OSError as error:
        raise InputError(f"{folder / name} cannot be sent to the cluster: {error.strerror}") from None
    return Item(name, hashlib.sha256(contents).hexdigest(), ray.put(contents))


def _names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def _has(path: Path, sha256: str) -> bool:
    try:
        return path.is_file() and sha256_file(path) == sha256
    except OSError:  # no leave to read what is there: it is another machine's
        return False


def _remove_unused(place: Path) -> None:
    for folder in place.iterdir():
        if folder.stat().st_mtime < time.time() - UNUSED_S:
            shutil.rmtree(folder, ignore_errors=True)
