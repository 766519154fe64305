"""The store: one database with what was paid for, what rounds of adaptation did, and what people said.

Every method is one transaction, and what it wrote is safe when it returns. Any thread may call any of
them. Each subject has a module of its own; here they become one thing.
"""

from __future__ import annotations

from pathlib import Path

from trimtab.store.batches import Batches
from trimtab.store.copying import Copying
from trimtab.store.database import MEMORY, open_database, write_back
from trimtab.store.feedback import FeedbackGiven
from trimtab.store.history import History
from trimtab.store.inferences import Inferences
from trimtab.store.key_limits import KeyLimits
from trimtab.store.keys import Keys
from trimtab.store.ledger import Ledger
from trimtab.store.retention import Retention
from trimtab.store.reviewing import Reviewing
from trimtab.store.rounds import Rounds
from trimtab.store.runs import Runs
from trimtab.store.samples import Samples
from trimtab.store.versions import Versions


class Store(
    Runs,
    Samples,
    Ledger,
    History,
    Batches,
    Rounds,
    FeedbackGiven,
    Inferences,
    Keys,
    KeyLimits,
    Versions,
    Reviewing,
    Retention,
    Copying,
):
    """A database of ours; `Store.open` makes one."""

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

    def write_back(self) -> None:
        """Moves what was written into its place in the file, so that writes need not; see `write_back`."""
        with self._explained("written"):
            write_back(self._reading)

    def close(self) -> None:
        """Let go of the database; the store cannot be used after."""
        self._reading.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()
