"""What a person sees: progress and logs on stderr, results on stdout. With --json, stdout is one document."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, highlight=False)


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False))


def say(text: str) -> None:
    """A line of narration on stderr."""
    err.print(text, markup=False, soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; the first column is text, the others are figures."""
    grid = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        grid.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))  # a path may hold what would read as markup
    out.print(grid)


def write_lines(path: Path | None, lines: Iterable[str]) -> int:
    """How many lines; all of them or none in the file: written beside it and moved into its place.

    Without a path they go to stdout.
    """
    if path is None:
        return sum(1 for line in lines if sys.stdout.write(f"{line}\n"))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            count = sum(1 for line in lines if file.write(f"{line}\n"))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count
