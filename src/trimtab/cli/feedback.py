"""`trimtab feedback import`: what people said, into the store."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from trimtab.cli import build
from trimtab.cli.console import print_json, say
from trimtab.cli.settings import Settings
from trimtab.data import load_feedback


def import_feedback(file: Path, settings: Settings, as_json: bool) -> None:
    """Adds every row of the file that the store does not have yet; a bad row keeps all of them out."""
    rows = load_feedback(file)
    with closing(build.store_of(settings)) as store:
        new = store.add_feedback(rows)
    if as_json:
        print_json({"rows": len(rows), "new": new})
    say(f"{new} of {len(rows)} rows are new")
