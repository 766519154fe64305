"""Rows that Ray Data reads: Parquet, folders, and object stores by address.

They become one JSONL file, which the one strict loader (`data`) then checks like any other. What a row means
is not known here.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray.data

from trimtab.errors import DataError, Problem
from trimtab.redaction import without_url_secrets
from trimtab.scale.addresses import FAILURES, address, opened, why

PARQUET = (".parquet",)
JSON = (".jsonl", ".json", ".ndjson")


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
    except (*FAILURES, ray.exceptions.RayError) as error:
        raise _refused(place, f"cannot be read: {why(place, error)}") from None
    if not lines:
        raise _refused(place, "holds no rows")
    written = "".join(lines).encode("utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(written).hexdigest()[:16]}.jsonl"
    partial = path.with_suffix(".partial")
    partial.write_bytes(written)
    return partial.replace(path)


def _refused(place: str, message: str) -> DataError:
    return DataError([Problem(without_url_secrets(place), 0, "", message)])


def _rows(place: str) -> Any:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    filesystem, path = opened(place)
    files = _files(filesystem, path)
    if tables := _named(files, PARQUET):
        return ray.data.read_parquet(tables, filesystem=filesystem).iter_rows()
    if documents := _named(files, JSON):
        return ray.data.read_json(documents, filesystem=filesystem, lines=True).iter_rows()
    raise FileNotFoundError(f"no file there ends in {', '.join((*PARQUET, *JSON))}")


def _files(filesystem: Any, path: str) -> list[str]:
    """The file, or all files beneath the folder, by name; folders of some stores are no more than names."""
    from pyarrow.fs import FileSelector  # type: ignore[import-untyped]

    if filesystem.get_file_info(path).is_file:
        return [path]
    beneath = filesystem.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
    return sorted(each.path for each in beneath if each.is_file)


def _named(files: Sequence[str], endings: tuple[str, ...]) -> list[str]:
    return [file for file in files if file.lower().endswith(endings)]


def _line(row: dict[str, Any]) -> str:
    """A row without what is not given: every row of a table has every column."""
    given = {key: _plain(value) for key, value in row.items() if value is not None}
    return f"{json.dumps(given, ensure_ascii=False)}\n"


def _plain(value: Any) -> Any:
    """The value as JSON has it; a table's numbers and arrays are numpy's."""
    return _plain(value.tolist()) if hasattr(value, "tolist") else value
