"""Rows that Ray Data reads: Parquet, folders, and object stores by address.

They become one JSONL file, which the one strict loader (`data`) then checks like any other. What a row means
is not known here.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import ray.data

from trimtab.errors import DataError, Problem

SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*):/+", re.IGNORECASE)
JSON = ("jsonl", "json", "ndjson")


def read_rows(source: Path, folder: Path) -> Path:
    """A JSONL file in the folder with the source's rows, files in the order of their names.

    Args:
        source: a Parquet or JSONL file, a folder of either, or an address such as s3://bucket/questions.
        folder: where the file is put, under a name made of its contents.

    Raises:
        DataError: it cannot be read, or holds no rows.
    """
    place = address(source)
    try:
        lines = [_line(row) for row in _rows(place)]
    except (OSError, ValueError, ray.exceptions.RayError) as error:
        raise DataError([Problem(place, 0, "", f"cannot be read: {_reason(error)}")]) from None
    if not lines:
        raise DataError([Problem(place, 0, "", "holds no rows")])
    written = "".join(lines).encode("utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(written).hexdigest()[:16]}.jsonl"
    partial = path.with_suffix(".partial")
    partial.write_bytes(written)
    return partial.replace(path)


def address(source: Path) -> str:
    """The source as Ray reads it. A path folds the two slashes of an address into one: they come back."""
    return SCHEME.sub(r"\1://", str(source))


def _rows(place: str) -> Any:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    if _is_parquet(place):
        return ray.data.read_parquet(place, file_extensions=["parquet"]).iter_rows()
    return ray.data.read_json(place, lines=True, file_extensions=list(JSON)).iter_rows()


def _is_parquet(place: str) -> bool:
    """By its name; a folder of this machine by what is in it."""
    folder = Path(place)
    if folder.is_dir():
        return any(folder.rglob("*.parquet"))
    return not place.endswith(JSON)


def _line(row: dict[str, Any]) -> str:
    """A row without what is not given: every row of a table has every column."""
    given = {key: _plain(value) for key, value in row.items() if value is not None}
    return f"{json.dumps(given, ensure_ascii=False)}\n"


def _plain(value: Any) -> Any:
    """The value as JSON has it; a table's numbers and arrays are numpy's."""
    return _plain(value.tolist()) if hasattr(value, "tolist") else value


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
