"""`trimtab store copy|step-down`: a store moved to another place, or taken back to an older version."""

from __future__ import annotations

from pathlib import Path

from trimtab.cli.console import print_json, say
from trimtab.cli.progress import bars
from trimtab.errors import InputError
from trimtab.store import Store, step_down


def copy(source: str, target: str, as_json: bool) -> None:
    """All rows of one store into another, empty one.

    Args:
        source: a file, which must be there, or a postgresql:// URL.
        target: a file or URL; made if missing.
        as_json: one JSON document on stdout.

    Raises:
        InputError: there is no source, or the target holds rows.
    """
    if "://" not in source and not Path(source).is_file():
        raise InputError(f"{source}: there is no store to copy")
    with Store.open(source) as held, Store.open(target) as empty, bars() as told:
        copied = held.copy_to(empty, lambda done, total: told("rows", done, total))
    if as_json:
        return print_json({"rows": copied})
    for table, rows in copied.items():
        say(f"{table}: {rows:,} rows")
    return say(f"{sum(copied.values()):,} rows copied; the source is as it was")


def back(place: str, to: str, is_agreed: bool, as_json: bool) -> None:
    """A store's schema back to an older version, for an older trimtab; what only newer ones keep is deleted.

    Raises:
        InputError: it was not agreed to, there is no store, or the version is not an older one.
    """
    if not is_agreed:
        raise InputError(f"stepping {place} down deletes what only newer versions keep; say --yes")
    was, now = step_down(place, to)
    if as_json:
        return print_json({"was": was, "now": now})
    return say(
        f"the schema was {was} and is {now}; this version of trimtab brings it up again when it opens it"
    )
