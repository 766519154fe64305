"""One process of a fit that `processes` has started: `python -m trimtab.energy.worker FOLDER`, by torchrun.

What it does stands in `apart`. The first process writes where it is, a line of JSON an update.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trimtab.energy.fitting import Progress


def main() -> None:
    """Takes part in the fit of the folder that the command line names."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    from trimtab.energy.apart import take_part  # seconds, in which the parent may end

    take_part(Path(sys.argv[1]), _tell)


def _tell(progress: Progress) -> None:
    sys.stdout.write(json.dumps(asdict(progress)) + "\n")
    sys.stdout.flush()


def _end_with_the_parent() -> None:
    """Ends this process when the one that started the fit is gone, whatever it died of: its pipe ends."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    main()
