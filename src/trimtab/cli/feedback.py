"""`trimtab feedback import` and `export`: what people said, into the store and out of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from trimtab.cli import build
from trimtab.cli.console import print_json, say, write_lines
from trimtab.cli.settings import Settings
from trimtab.data import Feedback
from trimtab.errors import ConfigError
from trimtab.feedback import (
    FORMATS,
    FormatName,
    as_json_lines,
    as_label_studio,
    as_preferences,
    read_feedback,
)


def import_feedback(file: Path, settings: Settings, as_json: bool, *, form: str = "jsonl") -> None:
    """Adds every row of the file that the store does not have yet; a bad row keeps all of them out."""
    rows = read_feedback(file, _known(form))
    with closing(build.store_of(settings)) as store:
        new = store.add_feedback(rows)
    if as_json:
        print_json({"rows": len(rows), "new": new})
    say(f"{new} of {len(rows)} rows are new")


def export_feedback(file: Path | None, settings: Settings, *, form: str = "jsonl") -> None:
    """Writes everything that was said, to the file or to stdout."""
    chosen = _known(form)
    with closing(build.store_of(settings)) as store:
        said = [each.said for each in store.heard()]
    count = write_lines(file, _lines(said, chosen))
    say(f"{len(said)} things were said" + (f"; {count} lines written to {file}" if file else ""))


def _lines(said: list[Feedback], form: FormatName) -> Iterable[str]:
    if form == "label-studio":
        return json.dumps(as_label_studio(said), ensure_ascii=False, indent=1).split("\n")
    return as_preferences(said) if form == "preferences" else as_json_lines(said)


def _known(form: str) -> FormatName:
    if form not in FORMATS:
        raise ConfigError(f"--format: {form!r}; there are: {', '.join(FORMATS)}")
    return form
