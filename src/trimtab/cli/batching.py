"""The batch API as the settings have it, its batches noted in the store of the work directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trimtab.cli.client import Client
from trimtab.cli.console import say
from trimtab.cli.settings import Settings, api_key, headers_of
from trimtab.errors import ConfigError
from trimtab.llm.batch import OPEN, Batch, BatchDraws, State
from trimtab.store import Batch as Row
from trimtab.store import Store

LOCK = "batch.lock"  # file in the work directory


def batch_draws(
    settings: Settings,
    client: Client,
    store: Store,
    run_id: str,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> BatchDraws:
    """What buys draws of the black box by batch, on the account of a run.

    Args:
        settings: of the run.
        client: its black box, budget, prices and observers.
        store: where draws, ledger and batches are kept.
        run_id: on whose account.
        report: told how many requests are done, of how many.

    Raises:
        ConfigError: the model, the provider or the cache does not go with a batch.
    """
    if settings.provider == "litellm":
        raise ConfigError("--batch needs --provider openai or azure: litellm's batches are not supported")
    if not settings.cache:
        raise ConfigError("--batch puts draws into the cache, and --no-cache does not look there: choose one")
    from trimtab.llm.batch_api import BatchAPI

    box = client.box()
    api = BatchAPI(
        box.name,
        settings.base_url,
        api_key=api_key(settings),
        headers=headers_of(settings),
        api_version=settings.api_version if settings.provider == "azure" else None,
        timeout_s=settings.timeout_s,
    )
    return BatchDraws(
        box,
        api,
        store.samples_of(run_id),
        BatchBook(store, run_id),
        scope=box.endpoint,
        prices=client.prices,
        budget=client.budget,
        watch=client.observers,
        report=report,
        poll_s=settings.batch_poll_s,
        lock=settings.work_dir / LOCK,
    )


def warn_of_open_batches(store: Store) -> None:
    """Says so where an earlier run has left draws on their way: without --batch they are paid for again."""
    waiting = sum(len(row.asked) for row in store.batches(status=OPEN))
    if waiting:
        say(f"{waiting} requests of an earlier --batch run are on their way yet; --batch brings them in")


class BatchBook:
    """The batches of all runs in a store; new ones are put on the account of one.

    Args:
        store: where they are noted.
        run_id: who submits.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self._store, self._run_id = store, run_id

    def put(self, batch: Batch) -> None:
        """Note a new batch."""
        row = Row(
            id=batch.id,
            run_id=self._run_id,
            payer=batch.payer,
            endpoint=batch.endpoint,
            remote_id=batch.remote_id,
            status=batch.state,
            asked=batch.asked,
        )
        self._store.put_batch(row)

    def note(self, batch_id: str, state: State, remote_id: str) -> None:
        """Note how far a batch has come."""
        self._store.set_batch(batch_id, state, remote_id=remote_id)

    def open(self) -> Sequence[Batch]:
        """The batches that are planned, uploaded or submitted, of all runs, oldest first."""
        return [_batch(row) for row in self._store.batches(status=OPEN)]


def _batch(row: Row) -> Batch:
    return Batch(row.id, row.payer, row.endpoint, row.remote_id, State(row.status), row.asked)
