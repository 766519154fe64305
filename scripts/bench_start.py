"""How long `import trimtab` and `trimtab --help` take, each in a process of its own.

    python scripts/bench_start.py [--repeats 5] [--json FILE]

An empty interpreter is started beside each, and its time is told too: it is part of the figures.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benching import summary, write

COMMANDS = {
    "empty_s": [sys.executable, "-c", ""],
    "import_s": [sys.executable, "-c", "import trimtab"],
    "help_s": [sys.executable, "-m", "trimtab", "--help"],
}
AIMS = {"import_s": 0.3, "help_s": 0.5}


def seconds(command: list[str]) -> float:
    """How long the command takes."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def measured(repeats: int) -> dict[str, Any]:
    """Seconds of each command, once a repeat, in turn, after one that warms the disk's cache."""
    for command in COMMANDS.values():
        seconds(command)
    rows = [{name: seconds(command) for name, command in COMMANDS.items()} for _ in range(repeats)]
    times = {name: summary([row[name] for row in rows]) for name in COMMANDS}
    return {
        "figures": {name: times[name]["median"] for name in AIMS},
        "spread": {name: [times[name]["low"], times[name]["high"]] for name in AIMS},
        "times": times,
        "aims": AIMS,
    }


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description="How long starting takes, here.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("bench-start.json"))
    given = parser.parse_args()
    found = measured(given.repeats)
    write(given.json, found)
    for name, each in found["times"].items():
        print(f"{name}: {each['median']:.3f} s ({each['low']:.3f} to {each['high']:.3f})")


if __name__ == "__main__":
    main()
