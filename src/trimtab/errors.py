"""Every error trimtab raises on purpose.

    TrimtabError
    ├── InputError            bad rows, files, flags or configuration       exit code 2
    │   ├── DataError         a row: carries every problem with file, line and field
    │   ├── ConfigError       trimtab.toml, a flag or an environment variable
    │   ├── AdapterError      an adapter folder that is missing, damaged or of another kind
    │   └── ClusterError      a Ray cluster that is unreachable, too small or of another version
    ├── MissingExtraError     an optional part is not installed             exit code 2
    ├── LLMError              the black box: carries retryable, status, request_id
    │   ├── EndpointError     unreachable, timed out or failing             exit code 1
    │   ├── RefusedError      it said no: wrong key, wrong parameter        exit code 2
    │   ├── BudgetSpentError  a limit is reached, the call was not made     exit code 4
    │   └── NoRecordError     recorded answers ran out or never held the question  exit code 2
    └── RunError              a run could not go on                         exit code 1

A message says what is needed, what came and what to do. No secret ever stands in one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class TrimtabError(Exception):
    """Base of every error raised on purpose; `exit_code` is what the command line ends with."""

    exit_code = 1


class InputError(TrimtabError):
    """Something the user gave cannot be used as it is."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one row of a file."""

    file: str
    line: int  # 1-based; 0 when the problem is of the file as a whole
    field: str  # dotted path, e.g. "samples.2.text"; empty when the whole row is meant
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.field}: {self.message}" if self.field else f"{where}: {self.message}"


class DataError(InputError):
    """A file of rows with at least one problem; all of them are reported together."""

    SHOWN = 20  # how many problems a message spells out

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        shown = [str(p) for p in self.problems[: self.SHOWN]]
        left = len(self.problems) - len(shown)
        more = [f"… and {left} more"] if left else []
        super().__init__("\n".join([*shown, *more]))


class ConfigError(InputError):
    """A setting in the config file, a flag or the environment cannot be used."""


class AdapterError(InputError):
    """An adapter folder or backbone is missing, damaged or of another kind."""


class ClusterError(InputError):
    """A Ray cluster is unreachable, too small, or runs other versions than this process."""


class MissingExtraError(InputError):
    """An optional part is needed that is not installed."""

    def __init__(self, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the extra '{extra}': pip install 'trimtab[{extra}]'")
        self.extra = extra


class LLMError(TrimtabError):
    """The black box did not answer as asked."""

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = False,
        status: int | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.status = status
        self.request_id = request_id
        self.retry_after_s: float | None = None  # how long the server asked to be left alone
        self.said = ""  # what the server itself said of the request, where that is known; free of secrets
        self.calls: tuple[Any, ...] = ()  # types.Call: the ledger's lines of the attempts that failed


class EndpointError(LLMError):
    """The endpoint is unreachable, timed out or failing on its side."""


class RefusedError(LLMError):
    """The endpoint understood the request and said no (key, parameter, model name)."""

    exit_code = 2

    @property
    def is_of_all(self) -> bool:
        """True when every other request would be refused too: the key or the model name is at fault."""
        return self.status in (401, 403, 404)


class BudgetSpentError(LLMError):
    """A limit on dollars, tokens, calls or time is reached; the call was not made."""

    exit_code = 4


class NoRecordError(LLMError):
    """The recorded answers do not hold what was asked for."""

    exit_code = 2


class RunError(TrimtabError):
    """A run could not go on."""
