"""Files of classification: labelled rows and the labels' descriptions, read strictly.

Every problem of a file is reported together, as `sheets` does it. Learning stands in `classifier`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import DataError, Problem
from trimtab.sheets import Row, Sheet


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels' names in their order, and what each means; empty where only names were given."""

    names: tuple[str, ...]
    descriptions: Mapping[str, list[str]]


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text, or a pair of texts, and its label where it has one."""

    text: str | tuple[str, str]
    label: str | None


class _LabelledRow(Row):
    text: str
    text_pair: str | None = None
    label: str | None = None
    source: str | None = None  # of a text that was written or labelled by a model; it is read and left out


def load_labels(path: Path | str) -> Labels:
    """The labels of a JSON file: a list of names, or an object of name -> description or descriptions.

    Raises:
        DataError: with every problem of the file.
    """
    found = _json(Path(path))
    only_names = _is_names(found)
    named: Any = dict.fromkeys(found) if only_names else found
    wrongs = _wrong_labels(named, only_names)
    problems = [Problem(str(path), 0, name, wrong) for name, wrong in wrongs]
    if problems:
        raise DataError(problems)
    said = {name: [text] if isinstance(text, str) else text for name, text in named.items() if text}
    return Labels(tuple(named), said)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        wrong = f"cannot be read: {error.strerror}"
    except ValueError as error:
        wrong = f"not JSON: {error}"
    raise DataError([Problem(str(path), 0, "", wrong)])


def _is_names(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(name, str) for name in found)


def _wrong_labels(named: Any, only_names: bool) -> list[tuple[str, str]]:
    if not isinstance(named, dict):
        return [("", "a list of names, or an object of names and descriptions, is needed")]
    if len(named) < 2:
        return [("", f"two labels or more are needed, {len(named)} came")]
    blank = [(name, "a label's name is empty") for name in named if not name.strip()]
    missing = "the description is missing; a text or a list of texts is needed"
    unsaid = [] if only_names else [name for name, said in named.items() if not _is_said(said)]
    return blank + [(name, missing) for name in unsaid]


def _is_said(said: Any) -> bool:
    texts = [said] if isinstance(said, str) else said
    return isinstance(texts, list) and bool(texts) and all(isinstance(t, str) and t.strip() for t in texts)


def load_labelled(
    path: Path | str, labels: Sequence[str] | None = None, *, need_label: bool = True
) -> tuple[LabelledText, ...]:
    """Rows `{"text", "text_pair"?, "label"}` of a JSONL file, in its order.

    Args:
        path: the file.
        labels: those there are; another one is a problem. None takes any.
        need_label: every row must have a label.

    Raises:
        DataError: with every problem of the file.
    """
    sheet = Sheet(path)
    rows = [(line, sheet.validated(line, row, _LabelledRow)) for line, row in sheet.rows()]
    valid = [(line, row) for line, row in rows if row is not None]
    for line, row in valid:
        _check(sheet, line, row, labels, need_label)
        if (row.text_pair is None) != (valid[0][1].text_pair is None):
            sheet.complain(line, "text_pair", f"texts and pairs are mixed: line {valid[0][0]} is the other")
    sheet.close()
    return tuple(
        LabelledText(row.text if row.text_pair is None else (row.text, row.text_pair), row.label)
        for _, row in valid
    )


def _check(
    sheet: Sheet, line: int, row: _LabelledRow, labels: Sequence[str] | None, need_label: bool
) -> None:
    for field, text in (("text", row.text), ("text_pair", row.text_pair)):
        if text is not None and not text.strip():
            sheet.complain(line, field, "is empty")
    if row.label is None:
        if need_label:
            sheet.complain(line, "label", "missing")
    elif labels is not None and row.label not in labels:
        sheet.complain(line, "label", f"{row.label!r} is not among the labels {', '.join(map(repr, labels))}")
