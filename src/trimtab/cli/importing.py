"""`trimtab import-logs`: completions that others logged, as rows of recorded answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from trimtab.cli.console import print_json, say, write_lines
from trimtab.data import load_questions
from trimtab.errors import ConfigError
from trimtab.logs import LOG_FORMATS, Imported, LogFormat, read_logs


def import_logs(
    files: Sequence[Path], out: Path | None, as_json: bool, *, form: str, questions: Path | None
) -> None:
    """Writes the rows to the file, or to stdout; a log that cannot be read keeps all of them out."""
    if as_json and out is None:
        raise ConfigError("--json is a document on stdout, where the rows go without --out; name a file")
    known = None if questions is None else load_questions(questions)
    found = read_logs(files, _known(form), known)
    write_lines(out, (json.dumps(row, ensure_ascii=False) for row in found.rows))
    if as_json:
        print_json(_document(found, out))
    for line in _told(found, out):
        say(line)


def _document(found: Imported, out: Path | None) -> dict[str, object]:
    counts = {"rows": len(found.rows), "samples": found.samples, "duplicates": found.duplicates}
    return {**counts, "left_out": dict(found.left_out), "out": str(out)}


def _told(found: Imported, out: Path | None) -> list[str]:
    said = [f"{len(found.rows):,} questions with {found.samples:,} answers" + (f" in {out}" if out else "")]
    if found.duplicates:
        said.append(f"{found.duplicates:,} were logged twice and count once")
    said += [f"{count:,} left out: {reason}" for reason, count in found.left_out.items()]
    if found.of_conversations:
        said.append(f"{found.of_conversations:,} answers end a conversation; its earlier turns are left out")
    if not any("answer" in row or "correct_answers" in row for row in found.rows):
        said.append(
            "no row has a reference answer; with --questions FILE the rows get those of the same questions"
        )
    return said


def _known(form: str) -> LogFormat:
    if form not in LOG_FORMATS:
        raise ConfigError(f"--format: {form!r}; there are: {', '.join(LOG_FORMATS)}")
    return form
