"""Values of JSON files that know where they stand, so that what is wrong with one can be told.

A file is one JSON document or one a line; lists and pages of an API are opened. What the values mean is not
known here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trimtab.errors import DataError, Problem
from trimtab.sheets import kind_of, parsed


@dataclass(frozen=True, slots=True)
class Node:
    """A JSON value, and where it stands."""

    value: Any
    file: str
    line: int  # 0 in a document of several lines
    field: str = ""

    @property
    def where(self) -> str:
        """As a message names it."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.field}" if self.field else place

    def problem(self, message: str) -> DataError:
        """What to raise where this value cannot be used."""
        return DataError([Problem(self.file, self.line, self.field, message)])

    def get(self, *keys: str) -> Node | None:
        """The first of these keys that stands here and is not null."""
        found = (key for key in keys if isinstance(self.value, dict) and self.value.get(key) is not None)
        key = next(found, None)
        return None if key is None else self._part(key, self.value[key])

    def need(self, *keys: str) -> Node:
        """The same. Raises DataError where none does."""
        found = self.get(*keys)
        if found is None:
            raise self._part(keys[0], None).problem("missing")
        return found

    @property
    def text(self) -> str:
        """A string. Raises DataError where it is none, or holds nothing."""
        if not isinstance(self.value, str):
            raise self.problem(f"a string is needed, not {kind_of(self.value)}")
        if not self.value.strip():
            raise self.problem("is empty")
        return self.value

    @property
    def parts(self) -> list[Node]:
        """The values of a list. Raises DataError where it is none."""
        if not isinstance(self.value, list):
            raise self.problem(f"a list is needed, not {kind_of(self.value)}")
        return [self._part(str(at), each) for at, each in enumerate(self.value)]

    @property
    def decoded(self) -> Node:
        """The JSON that a string holds, where it holds an object or a list; else the value as it is."""
        if not (isinstance(self.value, str) and self.value.lstrip()[:1] in ("{", "[")):
            return self
        try:
            return replace(self, value=parsed(self.value))
        except (ValueError, RecursionError):
            return self

    def _part(self, key: str, value: Any) -> Node:
        return Node(value, self.file, self.line, f"{self.field}.{key}" if self.field else key)


def read_documents(path: Path) -> tuple[list[Node], list[Problem]]:
    """The objects of a file, lists and pages opened, and the lines that hold none.

    Raises:
        DataError: the file cannot be read, or holds nothing.
    """
    text = _text(path)
    try:
        whole = parsed(text)
    except json.JSONDecodeError as error:
        if path.suffix == ".json" or text.lstrip().startswith("["):
            raise DataError([Problem(str(path), error.lineno, "", f"not JSON: {error.msg}")]) from None
        return _lines(path, text)
    except (ValueError, RecursionError):
        return _lines(path, text)
    line = 0 if "\n" in text.strip() else 1
    return list(_opened(Node(whole, str(path), line))), []


def _text(path: Path) -> str:
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError([Problem(str(path), 0, "", f"not UTF-8: {error.reason}")]) from None
    except OSError as error:
        raise DataError([Problem(str(path), 0, "", f"cannot be read: {error.strerror}")]) from None
    if not text.strip():
        raise DataError([Problem(str(path), 0, "", "holds nothing; JSON is needed, or one object a line")])
    return text


def _lines(path: Path, text: str) -> tuple[list[Node], list[Problem]]:
    found: list[Node] = []
    problems: list[Problem] = []
    for line, written in enumerate(text.split("\n"), start=1):
        if not written.strip():
            continue
        try:
            found += _opened(Node(parsed(written), str(path), line))
        except (ValueError, RecursionError) as error:
            problems.append(Problem(str(path), line, "", f"not usable JSON: {error}"))
    return found, problems


def _opened(node: Node) -> Iterator[Node]:
    """The objects of a list, or of the page that an API gives: `data`, with what it says of the page."""
    if isinstance(node.value, list):
        for part in node.parts:
            yield from _opened(part)
    elif isinstance(node.value, dict) and isinstance(node.value.get("data"), list):
        yield from _opened(node.need("data"))
    else:
        yield node
