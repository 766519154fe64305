"""Strict JSONL: rows of a stated shape, and all problems of a file together, each with its line and field.

What kinds of rows there are, and what they become, is `data`'s affair and that of others who read files.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, TypeAlias, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from trimtab.errors import DataError, Problem

_HALF_PAIR = re.compile("[\ud800-\udfff]")  # no tokenizer takes one


# --------------------------------------------------------------------------- what a row is made of


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "is empty")
    return text


def _number_as_text(value: object) -> object:
    """Numbers as their shortest decimal text; everything else as it is, for the next check."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return str(int(value)) if float(value).is_integer() else repr(value)


def _without_nul(value: str) -> str:
    if "\0" in value:
        raise PydanticCustomError("nul", "holds a NUL character, which databases do not keep")
    return value


Text: TypeAlias = Annotated[str, AfterValidator(_not_blank)]
TextOrNumber: TypeAlias = Annotated[Text, BeforeValidator(_number_as_text)]
Id: TypeAlias = Annotated[TextOrNumber, AfterValidator(_without_nul)]
References: TypeAlias = list[TextOrNumber]


class Row(BaseModel):
    """One row: no key that it does not know, nothing turned into another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    hints: ClassVar[Mapping[str, str]] = MappingProxyType({})  # of keys that another kind of row has


RowModel = TypeVar("RowModel", bound=Row)


# --------------------------------------------------------------------------- reading a file


class Sheet:
    """One file being read: its rows, and the problems found so far."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.problems: list[Problem] = []

    def complain(self, line: int, field: str, message: str) -> None:
        """Notes a problem; line 0 is the file as a whole."""
        self.problems.append(Problem(str(self.path), line, field, message))

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Line number and JSON object of every line that holds one, read as they are asked for."""
        is_empty = True
        for line, raw in enumerate(self._lines(), start=1):
            if raw.strip():
                is_empty = False
                row = self._object(line, raw)
                if row is not None:
                    yield line, row
        if is_empty:
            self.complain(0, "", "holds no rows; one JSON object a line is needed")

    def _lines(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                yield file.readline().removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n")
                yield from (line.removesuffix(b"\n") for line in file)
                return
        except FileNotFoundError:
            self.complain(0, "", "no such file")
        except IsADirectoryError:
            self.complain(0, "", "is a folder; a JSONL file is needed")
        except OSError as error:
            self.complain(0, "", f"cannot be read: {error.strerror}")
        raise DataError(self.problems)

    def _object(self, line: int, raw: bytes) -> dict[str, Any] | None:
        try:
            row = parsed(raw.decode())
        except UnicodeDecodeError as error:
            self.complain(line, "", f"not UTF-8: {error.reason} at byte {error.start + 1}")
        except json.JSONDecodeError as error:
            self.complain(line, "", f"not JSON: {error.msg} at column {error.colno}")
        except (ValueError, RecursionError) as error:
            self.complain(line, "", f"not usable JSON: {error}")
        else:
            if isinstance(row, dict):
                return row
            self.complain(line, "", f"a JSON object is needed, not {kind_of(row)}")
        return None

    def validated(self, line: int, row: dict[str, Any], model: type[RowModel]) -> RowModel | None:
        """The row in its shape, or None when it has problems (which are noted)."""
        try:
            return model.model_validate(row)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                field = ".".join(str(part) for part in detail["loc"])
                self.complain(line, field, _explain(detail, model))
        return None

    def refuse_duplicate_ids(self, ids: Iterable[tuple[int, str | None]]) -> None:
        """Notes each id that an earlier line has; rows without one are left out."""
        first: dict[str, int] = {}
        for line, given in ids:
            if given is not None and first.setdefault(given, line) != line:
                self.complain(line, "id", f"{given!r} stands on line {first[given]} already; ids must differ")

    def close(self) -> None:
        """Raises DataError with every problem, in the order of lines, if there is any."""
        if self.problems:
            raise DataError(sorted(self.problems, key=lambda problem: problem.line))


def parsed(text: str) -> Any:
    """The JSON value of a text. Raises ValueError for what is no JSON, or no text that can be used."""
    row = json.loads(text, object_pairs_hook=_object_of_distinct_keys, parse_constant=_no_constant)
    if r"\ud" in text.lower() and _HALF_PAIR.search(json.dumps(row, ensure_ascii=False)):
        raise ValueError("it holds half of a surrogate pair, which is no character")
    return row


def _object_of_distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return row


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def kind_of(value: object) -> str:
    """What sort of JSON value it is, as a message says it."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a Boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _explain(detail: ErrorDetails, model: type[Row]) -> str:
    match detail["type"]:
        case "missing":
            return "missing"
        case "extra_forbidden":
            return _unknown_key(detail["loc"], model)
        case "string_type":
            return f"a string is needed, not {kind_of(detail['input'])}"
        case "list_type":
            return f"a list is needed, not {kind_of(detail['input'])}"
        case "model_type":
            return f"an object is needed, not {kind_of(detail['input'])}"
        case "bool_type":
            return f"true or false is needed, not {kind_of(detail['input'])}"
        case "literal_error":
            return f"{detail['ctx']['expected']} is needed, not {detail['input']!r}"
        case "too_short":
            return f"at least {detail['ctx']['min_length']} needed, {detail['ctx']['actual_length']} given"
        case _:
            return detail["msg"]


def _unknown_key(location: tuple[int | str, ...], model: type[Row]) -> str:
    shape = _nested(model, str(location[0])) if len(location) > 1 else model
    known = list(shape.model_fields)
    key = str(location[-1])
    if key in shape.hints:
        return f"unknown key here: {shape.hints[key]}"
    close = difflib.get_close_matches(key, known, n=1)
    return f"unknown key; did you mean {close[0]!r}?" if close else f"unknown key; known: {', '.join(known)}"


def _nested(model: type[Row], field: str) -> type[Row]:
    """The shape of the rows that stand in a list in this field."""
    shapes: list[type[Row]] = [*get_args(model.model_fields[field].annotation)]
    return next(shape for shape in shapes if issubclass(shape, Row))
