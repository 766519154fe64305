"""Shards: a run's rows on disk as they come, so that a killed run goes on where it was.

A shard is written beside its place and moved into it, then named in the manifest with its hash. What is not
named, or is not what was named, counts as not done. What is in a row is not known here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import ConfigError, RunError

MANIFEST = "manifest.jsonl"


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows `start` to `stop` of a run."""

    index: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Written:
    """A line of the manifest."""

    shard: int
    rows: int
    sha256: str
    is_final: bool  # False: some row failed, and is tried again when the run goes on


class Shards:
    """The shards of one run in a folder.

    Args:
        folder: where they are; made if missing. What another run left there is removed.
        of: names the run and all that shapes its rows.
        rows: how many there will be.
        size: rows of a shard.

    Raises:
        ConfigError: the folder cannot be written.
    """

    def __init__(self, folder: Path, *, of: str, rows: int, size: int) -> None:
        self.folder, self.rows, self.size = folder, rows, size
        self._about = {"of": of, "rows": rows, "size": size}
        self._written: dict[int, _Written] = {}
        try:
            self._open()
        except OSError as error:
            raise ConfigError(f"{folder}: shards cannot be written there: {error.strerror}") from None

    def all(self) -> list[Shard]:
        """Every shard, in order."""
        starts = range(0, self.rows, self.size)
        return [Shard(at, start, min(start + self.size, self.rows)) for at, start in enumerate(starts)]

    def missing(self) -> list[Shard]:
        """Those that are not done, or not whole, or hold rows that failed; in order."""
        return [shard for shard in self.all() if not self._is_done(shard)]

    def put(self, shard: Shard, lines: Sequence[str], *, is_final: bool = True) -> None:
        """Keeps a shard's rows durably.

        Args:
            shard: which.
            lines: a row each.
            is_final: False where some row should be tried again when the run goes on.

        Raises:
            RunError: the disk refuses it; nothing that was kept before is lost.
        """
        written = _bytes(lines)
        line = _Written(shard.index, len(lines), hashlib.sha256(written).hexdigest(), is_final)
        try:
            partial = self._path(shard.index).with_suffix(".partial")
            partial.write_bytes(written)
            partial.replace(self._path(shard.index))
            self._note(asdict(line))
        except OSError as error:
            raise RunError(f"{self.folder}: a shard cannot be written: {error.strerror}") from error
        self._written[shard.index] = line

    def lines(self) -> Iterator[str]:
        """All rows of all shards, in order; every shard must have been put.

        Raises:
            RunError: a shard is missing, or is not what was put.
        """
        for shard in self.all():
            known = self._written.get(shard.index)
            written = self._read(shard.index)
            if known is None or hashlib.sha256(written).hexdigest() != known.sha256:
                raise RunError(f"{self._path(shard.index)}: the shard is not whole; start the command again")
            yield from written.decode("utf-8").split("\n")[:-1]

    def remove(self) -> None:
        """Nothing is left of them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------------ the folder

    def _open(self) -> None:
        about, *lines = self._manifest() or [{}]
        if about != self._about:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            self._note(self._about)
            return
        for partial in self.folder.glob("*.partial"):
            partial.unlink()
        found = [_Written(**line) for line in lines]
        self._written = {each.shard: each for each in found if self._is_whole(each)}
        self._note(None)  # a killed run may have left half a line: what comes now begins on its own

    def _manifest(self) -> list[dict[str, Any]]:
        path = self.folder / MANIFEST
        lines = path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []
        return [row for row in map(_parsed, lines) if row is not None]

    def _note(self, line: Mapping[str, Any] | None) -> None:
        with (self.folder / MANIFEST).open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(line)}\n" if line else "\n")

    def _is_whole(self, written: _Written) -> bool:
        return hashlib.sha256(self._read(written.shard)).hexdigest() == written.sha256

    def _is_done(self, shard: Shard) -> bool:
        written = self._written.get(shard.index)
        return written is not None and written.is_final and written.rows == shard.stop - shard.start

    def _read(self, index: int) -> bytes:
        path = self._path(index)
        return path.read_bytes() if path.is_file() else b""

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:06}.jsonl"


def _bytes(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8")


def _parsed(line: str) -> dict[str, Any] | None:
    """The line, unless it is empty or half written."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
