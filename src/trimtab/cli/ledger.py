"""`trimtab runs`: what each run did and cost, and the two figures of the paper's cost table."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from trimtab.cli import build
from trimtab.cli.console import out, print_json, say
from trimtab.cli.settings import Settings
from trimtab.errors import InputError
from trimtab.store import Cost, Replays, Run, Store
from trimtab.types import Outcome, Usage

# Kinds of runs whose cost is that of answering; the others prepare for it.
INFERENCE = ("answer", "evaluate", "classify")
FORGOTTEN = Run("", "", {}, "forgotten")
COUNTED_PER = 1000  # questions, as in the paper's cost table


@dataclass(frozen=True, slots=True)
class Account:
    """One run and its money."""

    id: str
    run: Run
    costs: tuple[Cost, ...]
    replays: Replays

    @property
    def usage(self) -> Usage:
        """All that the run paid, uncertain requests at their worst case."""
        return sum((cost.usage for cost in self.costs), Usage())

    @property
    def uncertain(self) -> Usage:
        """The part of it that was perhaps never billed."""
        return sum((cost.usage for cost in self.costs if cost.outcome is Outcome.UNCERTAIN), Usage())

    @property
    def full_usd(self) -> float | None:
        """What the run would have cost had nothing been kept; None where a price is unknown."""
        paid = usd_of(self.usage)
        return None if paid is None else paid + self.replays.usd

    @property
    def questions(self) -> int | None:
        """How many questions the run was about, where it noted that."""
        noted = self.run.config.get("questions")
        return noted if isinstance(noted, int) and noted > 0 else None

    @property
    def training_usd(self) -> float | None:
        """The cost of preparing an adapter; None for a run that answers."""
        return None if self.run.kind in (*INFERENCE, "") else self.full_usd

    @property
    def inference_usd(self) -> float | None:
        """The cost of answering 1,000 questions; None for a run that prepares, or that noted no number."""
        if self.run.kind not in INFERENCE or self.questions is None or self.full_usd is None:
            return None
        return self.full_usd / self.questions * COUNTED_PER


def list_runs(settings: Settings, as_json: bool) -> None:
    """All runs, oldest first, and what each has paid; those that were forgotten come last."""
    with closing(build.store_of(settings)) as store:
        accounts = accounts_of(store)
    if as_json:
        print_json([_summary(account) for account in accounts])
        return
    if not accounts:
        say(f"no runs in {settings.work_dir}")
        return
    columns = ["run", "kind", "status", "started", "calls", "tokens", "$", "uncertain $"]
    print_aligned(columns, [_row(account) for account in accounts])
    say("next: trimtab runs RUN shows what a run's money was for")


def show_run(settings: Settings, run_id: str, as_json: bool) -> None:
    """What one run paid, by purpose, model and outcome.

    Raises:
        InputError: there is no such run.
    """
    with closing(build.store_of(settings)) as store:
        account = account_of(store, run_id)
    if as_json:
        print_json({**_summary(account), "costs": [_cost(cost) for cost in account.costs]})
        return
    columns = ["purpose", "model", "outcome", "requests", "calls", "tokens in", "tokens out", "$"]
    print_aligned(columns, [_cost_row(cost) for cost in account.costs])
    for sentence in _sentences(account):
        say(sentence)


def accounts_of(store: Store) -> list[Account]:
    """The accounts of all runs; money of runs that were forgotten is not left out."""
    costs, replays = store.costs(), store.replays()
    runs = {run.id: run for run in store.runs()}
    gone = sorted({cost.run_id or "" for cost in costs} - runs.keys())
    return [_account(run_id, runs.get(run_id), costs, replays) for run_id in (*runs, *gone)]


def account_of(store: Store, run_id: str) -> Account:
    """The account of one run. Raises InputError where there is no such run."""
    accounts = {account.id: account for account in accounts_of(store)}
    if run_id not in accounts:
        close = difflib.get_close_matches(run_id, accounts, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "`trimtab runs` lists them"
        raise InputError(f"no run {run_id!r}; {hint}")
    return accounts[run_id]


def usd_of(usage: Usage) -> float | None:
    """The dollars of a usage: none for no calls, None where a price is unknown."""
    return usage.usd if usage.calls or usage.usd is not None else 0.0


def print_aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows on stdout under their columns, as wide as they are: a name that is cut short cannot be typed."""
    lines = [columns, *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    for first, *others in lines:
        cells = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True))]
        out.print("  ".join(cells), markup=False)


def dollars(usd: float | None) -> str:
    """An amount as tables show it."""
    return "unknown" if usd is None else f"{usd:.4f}"


def _account(run_id: str, run: Run | None, costs: Sequence[Cost], replays: Mapping[str, Replays]) -> Account:
    own = tuple(cost for cost in costs if (cost.run_id or "") == run_id)
    return Account(run_id, run or FORGOTTEN, own, replays.get(run_id, Replays()))


def _summary(account: Account) -> dict[str, Any]:
    started = account.run.started_at
    return {
        "id": account.id,
        "kind": account.run.kind,
        "status": account.run.status,
        "started_at": started.isoformat() if started else None,
        **_figures(account.usage),
        "uncertain": _figures(account.uncertain),
        "replayed": {"draws": account.replays.draws, "usd": account.replays.usd},
        "questions": account.questions,
        "training_usd": account.training_usd,
        "inference_usd_per_1000_questions": account.inference_usd,
    }


def _figures(usage: Usage) -> dict[str, Any]:
    tokens = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    return {"calls": usage.calls, **tokens, "usd": usd_of(usage)}


def _cost(cost: Cost) -> dict[str, Any]:
    about = {"purpose": cost.purpose, "model": cost.model, "outcome": cost.outcome}
    return {**about, "requests": cost.requests, **_figures(cost.usage), "seconds": cost.seconds}


def _row(account: Account) -> list[str]:
    started, usage = account.run.started_at, account.usage
    return [
        account.id or "(of no run)",
        account.run.kind,
        account.run.status,
        f"{started:%Y-%m-%d %H:%M}" if started else "",
        f"{usage.calls:,}",
        f"{usage.input_tokens + usage.output_tokens:,}",
        dollars(usd_of(usage)),
        dollars(usd_of(account.uncertain)),
    ]


def _cost_row(cost: Cost) -> list[str]:
    usage = cost.usage
    figures = (cost.requests, usage.calls, usage.input_tokens, usage.output_tokens)
    about = [cost.purpose.value, cost.model, cost.outcome.value]
    return [*about, *(f"{figure:,}" for figure in figures), dollars(usd_of(usage))]


def _sentences(account: Account) -> list[str]:
    said = [f"paid: ${dollars(usd_of(account.usage))}"]
    if account.uncertain.calls:
        said.append(
            f"of these uncertain: ${dollars(usd_of(account.uncertain))}; no answer said what "
            f"{account.uncertain.calls} requests cost, and each counts with the most it can have cost"
        )
    if account.replays.draws:
        said.append(
            f"spared: ${dollars(account.replays.usd)}, the price of {account.replays.draws} draws that "
            "earlier runs had paid for; the figures below count them as if they had been bought here"
        )
    if account.training_usd is not None:
        said.append(f"training: ${dollars(account.training_usd)}")
    if account.run.kind in INFERENCE:
        per = "unknown" if account.inference_usd is None else f"${dollars(account.inference_usd)}"
        said.append(f"inference: {per} per 1,000 questions ({account.questions or 'unknown number'} asked)")
    return said
