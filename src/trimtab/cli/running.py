"""A run while it goes on: its store, its client, its progress, and how it ends."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trimtab.cli import build
from trimtab.cli.batching import batch_draws, warn_of_open_batches
from trimtab.cli.caching import keep_bounded
from trimtab.cli.client import Client
from trimtab.cli.console import say
from trimtab.cli.progress import Bars, bars
from trimtab.cli.scaling import ClusterClient
from trimtab.cli.settings import Settings
from trimtab.store import Store

if TYPE_CHECKING:
    from trimtab.adapt import Prepay

BUDGET_SPENT = 4  # exit code
SPENT = "spent"  # status of a run that ended at a limit: it goes on when the limit is raised


@dataclass(frozen=True, slots=True)
class Running:
    """One run under way."""

    id: str
    store: Store
    client: Client | ClusterClient
    bar: Bars

    def prepay(self, settings: Settings) -> Prepay | None:
        """What buys complete answers by batch, where the settings ask for it."""
        if not settings.batch:
            warn_of_open_batches(self.store)
            return None
        assert isinstance(self.client, Client), "--engine ray refuses --batch"
        buying = batch_draws(
            settings, self.client, self.store, self.id, lambda done, total: self.bar("batch", done, total)
        )
        return buying.prepaid

    @property
    def exit_code(self) -> int:
        """0, or 4 where a limit has stopped it."""
        return BUDGET_SPENT if self.client.budget.is_spent else 0


@contextmanager
def running(
    settings: Settings, kind: str, *shaping: str, questions: int, given: Settings | None = None
) -> Iterator[Running]:
    """A run begun, or gone on with; it is finished when this is left, or stopped where a limit was reached.

    Args:
        settings: of the run.
        kind: the command.
        shaping: hashes of its data, and whatever else its result hangs on.
        questions: how many it is about, for its costs a thousand questions.
        given: the settings by which the run is named, where paths are others on this machine.
    """
    run_id, config = build.run_identity(kind, given or settings, *shaping)
    with closing(build.store_of(settings)) as store:
        if settings.force:
            store.forget_run(run_id)
            shutil.rmtree(build.run_folder(settings, run_id), ignore_errors=True)
        build.take_up(store, run_id, kind, {**config, "questions": questions})
        made = ClusterClient if settings.engine == "ray" else Client
        with made(settings, store, run_id) as client, bars(client.meter) as bar:
            yield Running(run_id, store, client, bar)
        reason = client.budget.is_spent
        if reason:
            say(f"stopped: {reason}. What was paid for is kept; the same command goes on with a higher limit")
        store.finish_run(run_id, *([SPENT] if reason else []))
        keep_bounded(store, settings)
