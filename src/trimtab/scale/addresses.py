"""Addresses of object stores (s3://, gs:// and others): opened by pyarrow, with errors that say what to do.

What is read from there stands in `reading`. pyarrow comes with the extra `ray`, and is loaded on first use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from trimtab.errors import ConfigError, RunError, TrimtabError
from trimtab.redaction import without_url_secrets

SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+):/+", re.IGNORECASE)
NATIVE = ("file", "s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")  # pyarrow's own; others are fsspec's
GOOGLE = ("gs", "gcs")
HAVE_CREDENTIALS = ("s3:", "gs:", "gcs:", "abfs")
GIVES_UP_S = 15  # Google's client goes on trying for a quarter of an hour
HAVE_FOLDERS = ("local", "hdfs")  # and can rename; an object of the others appears whole, or not at all
FAILURES = (OSError, ValueError, NotImplementedError, KeyError, ImportError)  # pyarrow's and fsspec's
CREDENTIALS = (
    "credentials are looked for where the store's own tools look (AWS_ACCESS_KEY_ID and _SECRET_ACCESS_KEY, "
    "GOOGLE_APPLICATION_CREDENTIALS, the machine's role), here and on the cluster's nodes"
)


def is_address(path: Path) -> bool:
    """True for an object store's address; not for a path of this machine."""
    return SCHEME.match(str(path)) is not None


def address(path: Path) -> str:
    """The address that was taken for a path, which folds its two slashes into one; a path as it is."""
    is_file = str(path).lower().startswith("file:")
    return SCHEME.sub(r"\1:///" if is_file else r"\1://", str(path))


def opened(place: str) -> tuple[Any, str]:
    """The file system of an address, or of this machine for a path, and the path in it. Raises `FAILURES`."""
    from pyarrow.fs import FileSystem, LocalFileSystem  # type: ignore[import-untyped]

    found = SCHEME.match(place)
    if found is None:
        return LocalFileSystem(), place
    scheme = found[1].lower()
    if ":" in place[found.end() :].partition("/")[0].rpartition("@")[0]:
        raise ValueError("no credentials in an address: it stands in messages and records")
    if scheme in GOOGLE and "?" not in place:
        place = f"{place}?retry_limit_seconds={GIVES_UP_S}"
    filesystem, path = FileSystem.from_uri(place if scheme in NATIVE else f"fsspec+{place}")
    return filesystem, path


def refuse_unwritable(place: str) -> None:
    """Raises ConfigError where nothing can be written there: better now than when all is paid for."""
    with _told(place, ConfigError):
        filesystem, path = opened(place)
        beside = _beside(filesystem, path)
        filesystem.open_output_stream(beside).close()
        with suppress(OSError):  # no leave to remove it again
            filesystem.delete_file(beside)


def write_lines(place: str, lines: Iterable[str]) -> int:
    """How many lines; all of them or none are there afterwards.

    Raises:
        RunError: they cannot be written there.
    """
    rows = [f"{line}\n" for line in lines]
    with _told(place, RunError):
        filesystem, path = opened(place)
        partial = _beside(filesystem, path) if filesystem.type_name in HAVE_FOLDERS else path
        with filesystem.open_output_stream(partial) as file:
            file.write("".join(rows).encode("utf-8"))
        if partial != path:
            filesystem.move(partial, path)
    return len(rows)


def why(place: str, error: BaseException) -> str:
    """What went wrong at an address, in a line without secrets, and where credentials come from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = (lines[-1] if lines else type(error).__name__).replace(place, without_url_secrets(place))
    if isinstance(error, ImportError):
        return f"{said}; install it here and on the cluster's nodes"
    is_of_a_store = place.startswith(HAVE_CREDENTIALS) and isinstance(error, OSError)
    return f"{said}; {CREDENTIALS}" if is_of_a_store else said


@contextmanager
def _told(place: str, kind: type[TrimtabError]) -> Iterator[None]:
    try:
        yield
    except FAILURES as error:
        raise kind(f"out: {without_url_secrets(place)} cannot be written: {why(place, error)}") from None


def _beside(filesystem: Any, path: str) -> str:
    """A name for what is not whole yet, in a folder that is there."""
    folder, _, name = path.rpartition("/")
    if filesystem.type_name in HAVE_FOLDERS:
        filesystem.create_dir(folder, recursive=True)
    return f"{folder}/.{name}.partial"
