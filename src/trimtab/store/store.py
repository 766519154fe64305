"""The store: paid responses, what rounds of adaptation did, and what people said.

Every method is one transaction, and what it wrote is safe when it returns. Any thread may call any of
them. No key, token or password is kept: `start_run` blanks them out of the configuration it is given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Row, Table, delete, exists, func, insert, literal, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from trimtab.data import Feedback, FeedbackKind, question_hash
from trimtab.errors import InputError, RunError
from trimtab.redaction import without_url_secrets
from trimtab.store import tables
from trimtab.store.database import MEMORY, open_database, shown
from trimtab.types import Candidate, Completion, Completions, Judgement, ResponseStore, Usage, Verdict

RUNNING, FINISHED = "running", "finished"
BLANK = "***"
_SECRET_KEY = re.compile(r"(^|[_-])(api[_-]?key|authorization|password|secret|token)$", re.IGNORECASE)
_URL = re.compile(r"\S*://\S*")


@dataclass(frozen=True, slots=True)
class Run:
    """One run as the store knows it."""

    id: str
    kind: str
    config: Mapping[str, Any]
    status: str

    @property
    def is_finished(self) -> bool:
        """True once `finish_run` has been called without a later start."""
        return self.status == FINISHED


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """What one finished round left behind."""

    round: int
    record: Mapping[str, Any]
    adapter: Path | None  # the folder it saved


class Store:
    """A database of ours; `Store.open` makes one."""

    def __init__(self, engine: Engine) -> None:
        self._reading = engine
        self._writing = engine.execution_options(trimtab_writes=True)

    @classmethod
    def open(cls, url_or_path: str | Path, *, survives_power_cut: bool = True) -> Store:
        """The store at a file (made if missing, SQLite) or a database URL, its schema brought up to date.

        Args:
            url_or_path: the file, or e.g. postgresql://user@host/database.
            survives_power_cut: see `open_database`; what cost nothing need not.

        Raises:
            InputError: what is there is no database, another program's, or of a newer version.
        """
        return cls(open_database(url_or_path, survives_power_cut=survives_power_cut))

    @classmethod
    def in_memory(cls) -> Store:
        """A store that ends with the process."""
        return cls.open(MEMORY)

    def close(self) -> None:
        """Let go of the database; the store cannot be used after."""
        self._reading.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    # ------------------------------------------------------------------ runs

    def start_run(self, run_id: str, kind: str, config: Mapping[str, Any]) -> Run:
        """The run, made or taken up again; its status is then "running".

        Raises:
            InputError: a run of this id is there with another kind or configuration.
        """
        run = Run(run_id, kind, _without_secrets(config), RUNNING)
        with self._write() as connection:
            known = _run(connection, run_id)
            if known is None:
                connection.execute(
                    insert(tables.runs).values(**asdict(run), created_at=_now(), updated_at=_now())
                )
            else:
                _refuse_another(known, run)
                _set_status(connection, run_id, RUNNING)
        return run

    def finish_run(self, run_id: str, status: str = FINISHED) -> None:
        """Note how a run ended.

        Raises:
            InputError: there is no such run.
        """
        with self._write() as connection:
            if not _set_status(connection, run_id, status):
                raise InputError(f"{self._place}: no run {run_id!r}")

    def run(self, run_id: str) -> Run | None:
        """The run of this id, if there is one."""
        with self._read() as connection:
            return _run(connection, run_id)

    def runs(self) -> tuple[Run, ...]:
        """All runs, oldest first (ties: by id)."""
        oldest_first = select(tables.runs).order_by(tables.runs.c.created_at, tables.runs.c.id)
        with self._read() as connection:
            return tuple(_as_run(row) for row in connection.execute(oldest_first))

    def forget_run(self, run_id: str) -> None:
        """Forget a run's rounds, candidates and judgements; paid responses and what they cost stay."""
        with self._write() as connection:
            for table in (tables.candidates, tables.judgements, tables.rounds):
                connection.execute(delete(table).where(table.c.run_id == run_id))
            connection.execute(delete(tables.runs).where(tables.runs.c.id == run_id))

    # ------------------------------------------------------------------ paid responses

    def kept(self, key: str) -> Completions | None:
        """The response kept under this key, if any."""
        with self._read() as connection:
            row = connection.execute(select(tables.responses).where(tables.responses.c.key == key)).first()
        return None if row is None else _as_completions(row)

    def keep(self, key: str, completions: Completions, *, run_id: str | None = None) -> None:
        """Keep a response; under a key that is taken, the first one stays.

        Args:
            key: what was asked, as the client names it.
            completions: the response.
            run_id: the run that paid for it.
        """
        row = {"key": key, "run_id": run_id, **_response_row(completions), "created_at": _now()}
        with self._write() as connection:
            _insert_new(connection, tables.responses, "key", row)

    def responses_of(self, run_id: str) -> ResponseStore:
        """The same responses, where what is kept is put on the account of a run."""
        return _RunResponses(self, run_id)

    def usage_of(self, run_id: str) -> Usage:
        """What the run itself has paid; responses that an earlier run had paid for are not in it."""
        paid = tables.responses.c
        sums = [func.sum(column) for column in (paid.input_tokens, paid.output_tokens, paid.calls, paid.usd)]
        unpriced = func.count().filter(paid.usd.is_(None) & (paid.calls > 0))
        with self._read() as connection:
            row = connection.execute(select(*sums, unpriced).where(paid.run_id == run_id)).one()
        return Usage(int(row[0] or 0), int(row[1] or 0), int(row[2] or 0), None if row[4] else row[3])

    # ------------------------------------------------------------------ rounds

    def put_candidates(
        self, run_id: str, round_number: int, question_id: str, candidates: Sequence[Candidate]
    ) -> None:
        """Keep a question's candidates of a round, in their order; earlier ones of it are replaced.

        Raises:
            RunError: a score or confidence is not a number.
        """
        table = tables.candidates
        place = {"run_id": run_id, "round": round_number, "question_id": question_id}
        rows = [{**place, "draw": draw, **_candidate_row(c)} for draw, c in enumerate(candidates)]
        with self._write() as connection:
            connection.execute(_deletion(table, place))
            if rows:
                connection.execute(insert(table), rows)

    def candidates(self, run_id: str, round_number: int) -> dict[str, tuple[Candidate, ...]]:
        """The candidates of a round by question id, in the order they were put."""
        table = tables.candidates.c
        wanted = select(tables.candidates).where(table.run_id == run_id, table.round == round_number)
        found: dict[str, list[Candidate]] = {}
        with self._read() as connection:
            for row in connection.execute(wanted.order_by(table.question_id, table.draw)):
                found.setdefault(row.question_id, []).append(_as_candidate(row))
        return {question_id: tuple(candidates) for question_id, candidates in found.items()}

    def put_judgement(self, run_id: str, round_number: int, judgement: Judgement) -> None:
        """Keep a question's judgement of a round; an earlier one of it is replaced."""
        place = {"run_id": run_id, "round": round_number, "question_id": judgement.question_id}
        with self._write() as connection:
            connection.execute(_deletion(tables.judgements, place))
            connection.execute(insert(tables.judgements).values(**place, judgement=asdict(judgement)))

    def judgements(self, run_id: str, round_number: int) -> dict[str, Judgement]:
        """The judgements of a round by question id."""
        table = tables.judgements.c
        wanted = select(table.judgement).where(table.run_id == run_id, table.round == round_number)
        with self._read() as connection:
            found = [_as_judgement(value) for value in connection.scalars(wanted.order_by(table.question_id))]
        return {judgement.question_id: judgement for judgement in found}

    def put_round(
        self, run_id: str, round_number: int, record: Mapping[str, Any], adapter: str | Path | None = None
    ) -> None:
        """Keep what a finished round did (anything JSON can say); an earlier record of it is replaced.

        Raises:
            RunError: the record holds something that JSON cannot say, such as NaN.
        """
        place = {"run_id": run_id, "round": round_number}
        folder = None if adapter is None else str(adapter)
        with self._write() as connection:
            connection.execute(_deletion(tables.rounds, place))
            connection.execute(insert(tables.rounds).values(**place, record=dict(record), adapter=folder))

    def rounds(self, run_id: str) -> tuple[RoundRecord, ...]:
        """The finished rounds of a run, in their order."""
        table = tables.rounds
        wanted = select(table).where(table.c.run_id == run_id).order_by(table.c.round)
        with self._read() as connection:
            rows = connection.execute(wanted).all()
        return tuple(
            RoundRecord(r.round, r.record, None if r.adapter is None else Path(r.adapter)) for r in rows
        )

    # ------------------------------------------------------------------ what people said

    def add_feedback(self, rows: Sequence[Feedback]) -> int:
        """How many of the rows were new; what was said before is said once.

        Raises:
            InputError: an id of the same source, question and kind stands with other words; none is added.
        """
        with self._write() as connection:
            return sum(_added(connection, said) for said in rows)

    def feedback_for(self, question_text: str) -> tuple[Feedback, ...]:
        """What was said about a question, in the order it came."""
        table = tables.feedback
        wanted = select(table).where(table.c.question_hash == question_hash(question_text))
        with self._read() as connection:
            return tuple(_as_feedback(row) for row in connection.execute(wanted.order_by(table.c.number)))

    # ------------------------------------------------------------------ transactions

    @property
    def _place(self) -> str:
        return shown(self._reading.url)

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with self._explained("read"), self._reading.begin() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with self._explained("written"), self._writing.begin() as connection:
            yield connection

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            reason = getattr(error, "orig", None) or error
            raise RunError(f"{self._place}: the store cannot be {what}: {reason}") from error


@dataclass(frozen=True, slots=True)
class _RunResponses:
    """A ResponseStore that keeps on behalf of one run."""

    store: Store
    run_id: str

    def kept(self, key: str) -> Completions | None:
        return self.store.kept(key)

    def keep(self, key: str, completions: Completions) -> None:
        self.store.keep(key, completions, run_id=self.run_id)


# --------------------------------------------------------------------------- statements


def _now() -> datetime:
    return datetime.now(UTC)


def _deletion(table: Table, place: Mapping[str, Any]) -> Any:
    return delete(table).where(*(table.c[column] == value for column, value in place.items()))


def _insert_new(connection: Connection, table: Table, key: str, row: Mapping[str, Any]) -> bool:
    """True when the row went in, False when its key was taken.

    One portable statement; should another process take the key in between, the savepoint is rolled back.
    """
    is_taken = exists().where(table.c[key] == row[key])
    values = select(*(literal(value, table.c[name].type) for name, value in row.items())).where(~is_taken)
    addition = insert(table).from_select(list(row), values).execution_options(preserve_rowcount=True)
    try:
        with connection.begin_nested():
            return connection.execute(addition).rowcount > 0
    except IntegrityError:
        if connection.scalar(select(is_taken)):
            return False
        raise


def _added(connection: Connection, said: Feedback) -> bool:
    if _insert_new(connection, tables.feedback, "id", _feedback_row(said)):
        return True
    table = tables.feedback
    there = _as_feedback(connection.execute(select(table).where(table.c.id == said.key)).one())
    if (there.text, there.value) != (said.text, said.value):
        raise InputError(
            f"feedback {said.id!r} of {said.source!r} is there already with other words; "
            "give it another id, or another 'source' where another person said it"
        )
    return False


def _run(connection: Connection, run_id: str) -> Run | None:
    row = connection.execute(select(tables.runs).where(tables.runs.c.id == run_id)).first()
    return None if row is None else _as_run(row)


def _set_status(connection: Connection, run_id: str, status: str) -> bool:
    change = update(tables.runs).where(tables.runs.c.id == run_id).values(status=status, updated_at=_now())
    return connection.execute(change).rowcount > 0


def _refuse_another(known: Run, run: Run) -> None:
    if known.kind != run.kind:
        raise InputError(f"run {run.id!r} is there already, as {known.kind!r}, not {run.kind!r}")
    keys = sorted(known.config.keys() | run.config.keys())
    differing = [key for key in keys if known.config.get(key) != run.config.get(key)]
    if differing:
        raise InputError(f"run {run.id!r} was started with other settings: {', '.join(differing)}")


def _without_secrets(value: Any) -> Any:
    """The value as JSON gives it back, with secrets blanked out, logins and queries of URLs among them."""
    match value:
        case Mapping():
            return {
                str(key): BLANK if _SECRET_KEY.search(str(key)) and inner else _without_secrets(inner)
                for key, inner in value.items()
            }
        case str():
            return _URL.sub(lambda found: without_url_secrets(found[0]), value)
        case list() | tuple():
            return [_without_secrets(inner) for inner in value]
        case Path():
            return str(value)
        case _:
            return value


# --------------------------------------------------------------------------- rows to nouns and back


def _as_run(row: Row[Any]) -> Run:
    return Run(row.id, row.kind, row.config, row.status)


def _response_row(response: Completions) -> dict[str, Any]:
    usage = asdict(response.usage)
    return {"model": response.model, "completions": [asdict(c) for c in response.completions], **usage}


def _as_completions(row: Row[Any]) -> Completions:
    completions = tuple(Completion(**completion) for completion in row.completions)
    return Completions(completions, Usage(row.input_tokens, row.output_tokens, row.calls, row.usd), row.model)


def _candidate_row(candidate: Candidate) -> dict[str, Any]:
    for name, value in (("score", candidate.score), ("confidence", candidate.confidence)):
        if value is not None and math.isnan(value):  # SQL would turn it into "not scored"
            raise RunError(f"the {name} of a candidate is not a number; it reads {candidate.text[:80]!r}")
    return asdict(candidate)


def _as_candidate(row: Row[Any]) -> Candidate:
    return Candidate(row.text, row.answer, row.score, row.confidence, Verdict(row.verdict))


def _as_judgement(value: Mapping[str, Any]) -> Judgement:
    lists = {name: tuple(value[name]) for name in ("positives", "negatives", "extra_positives")}
    return Judgement(**{**value, **lists, "usage": Usage(**value["usage"])})


def _feedback_row(said: Feedback) -> dict[str, Any]:
    return {
        "id": said.key,
        "given_id": said.id,
        "question_hash": question_hash(said.question),
        "question": said.question,
        "kind": said.kind,
        "text": said.text,
        "value": said.value,
        "source": said.source,
        "created_at": _now(),
    }


def _as_feedback(row: Row[Any]) -> Feedback:
    return Feedback(row.question, FeedbackKind(row.kind), row.text, row.value, row.source, row.given_id)
