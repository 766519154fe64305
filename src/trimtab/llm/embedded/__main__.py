"""The process that `trimtab.llm.embedded.running` starts; it ends when its standard input is closed.

It gets its port as the argument and its key as a line of JSON, so that no key stands in a list of processes.
"""

from __future__ import annotations

import json
import os
import sys
import threading

# Before numpy is loaded: products this small are slower on two threads, and the caller needs the other core.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

from trimtab.errors import TrimtabError
from trimtab.llm.embedded.server import listen


def main() -> None:
    """Serve until told to stop, or until whoever started it is gone."""
    api_key = json.loads(sys.stdin.readline())["api_key"]
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        listen(int(sys.argv[1]), api_key=api_key, on_ready=_say)
    except TrimtabError as error:
        sys.exit(str(error))


def _say(base_url: str) -> None:
    sys.stdout.write(base_url + "\n")
    sys.stdout.flush()


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
