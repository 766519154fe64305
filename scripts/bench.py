"""All figures of speed and cost in one run: `make bench`. Prints a table and writes bench.json.

    python scripts/bench.py [--recorded DATA_FOLDER] [--only PART …] [--repeats 5] [--small] [--json FILE]

Each part is a script of its own, run in a process of its own, one after the other: nothing else should run
meanwhile. A part's document says under `figures` what is lifted to the top of bench.json, and under `spread`
the lowest and highest of its repeats; the whole of it stands under `parts`. `--recorded` names a folder of
SET/train.jsonl and SET/dev.jsonl with recorded answers; without it texts are made up. `--small` shows in a
minute or two that all parts run; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benching import FEWEST, machine, write

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Part:
    """One script, and how it is called."""

    script: str
    small: tuple[str, ...] = ()  # what makes it short
    whole: tuple[str, ...] = ()  # what makes it as it should be, where that is not its default
    recorded: str = ""  # what it reads of the folder of recorded sets: "" nothing, "." all of it
    repeats: bool = True  # whether it takes --repeats

    def command(self, given: argparse.Namespace, out: Path) -> list[str]:
        """The command line of this part."""
        command = [sys.executable, str(HERE / self.script), "--json", str(out)]
        command += self.small if given.small else self.whole
        if self.repeats:
            command += ["--repeats", str(given.repeats)]
        if given.recorded and self.recorded:
            command += ["--recorded", str(given.recorded / self.recorded)]
        return command


SEARCH = ("--questions", "4", "--latencies", "50")
PARTS = {
    "start": Part("bench_start.py"),
    "driving": Part("bench_search.py", small=SEARCH),
    "search": Part("bench_search.py", small=("--scored", *SEARCH), whole=("--scored",)),
    "scoring": Part(
        "bench_scoring.py", small=("--each", "16", "--pairs", "64"), recorded="gsm8k_weak/dev.jsonl"
    ),
    "training": Part(
        "bench_training.py",
        small=("--updates", "2"),
        whole=("--updates", "2"),
        recorded="gsm8k_weak/train.jsonl",
    ),
    "samples": Part("bench_samples.py", small=("--questions", "40"), recorded=".", repeats=False),
    "scaling": Part("bench_scaling.py", small=("--sizes", "10", "50")),
    "blackbox": Part("bench_blackbox.py", small=("--prompts", "2")),
    "client": Part(
        "bench_client.py",
        small=("--calls", "200", "--storm-s", "11", "--questions", "40"),
        whole=("--calls", "1000", "--storm-s", "13", "--questions", "60"),
        repeats=False,
    ),
}


def run(part: Part, given: argparse.Namespace, folder: Path) -> dict[str, Any] | None:
    """The part's document; None when it failed, which is told."""
    out = folder / "part.json"
    out.unlink(missing_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(part.command(given, out), env=environment, stdout=sys.stderr, check=False)
    if done.returncode or not out.is_file():
        print(f"{part.script} failed with exit code {done.returncode}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(out.read_text("utf-8"))
    return found


def document(names: Sequence[str], given: argparse.Namespace) -> dict[str, Any]:
    """Figures of all parts, each part's own document, and how long it took."""
    found: dict[str, Any] = {"machine": machine(), "repeats": given.repeats, "spread": {}}
    parts: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            print(f"-- {name}", file=sys.stderr, flush=True)
            began = time.perf_counter()
            parts[name] = run(PARTS[name], given, Path(folder))
            seconds[name] = round(time.perf_counter() - began, 1)
            found |= (parts[name] or {}).get("figures", {})
            found["spread"] |= (parts[name] or {}).get("spread", {})
    failed = [name for name, part in parts.items() if part is None]
    return {**found, "seconds": seconds, "failed": failed, "parts": parts}


def tell(found: dict[str, Any]) -> None:
    """The table."""
    about = found["machine"]
    print(f"{about['processor']}, {about['cores']} cores; load before: {about['load_average']}")
    figures = [name for part in found["parts"].values() if part for name in part.get("figures", {})]
    for name in figures:
        print(f"{name:24} {shown(found[name])}{spread_of(found['spread'].get(name))}")
    print(f"{sum(found['seconds'].values()):.0f} s in all: {found['seconds']}")
    if found["failed"]:
        print(f"failed: {', '.join(found['failed'])}")


def shown(figure: Any) -> str:
    """A figure in a line: a number, or numbers by their names."""
    if isinstance(figure, dict):
        return ", ".join(f"{name} {shown(value)}" for name, value in figure.items())
    if isinstance(figure, list):
        return " ".join(shown(value) for value in figure)
    return f"{figure:.4g}" if isinstance(figure, float) else str(figure)


def spread_of(spread: Sequence[float] | None) -> str:
    """How far repeats lay apart, where that is known."""
    return f"   ({spread[0]:.4g} to {spread[1]:.4g})" if spread else ""


def main() -> int:
    """Runs the parts; 1 when one of them failed."""
    parser = argparse.ArgumentParser(description="All figures of speed and cost, here.")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", default=list(PARTS))
    parser.add_argument("--recorded", type=Path, help="folder of SET/train.jsonl and SET/dev.jsonl")
    parser.add_argument("--repeats", type=int, default=FEWEST)
    parser.add_argument("--small", action="store_true", help="only show that everything runs")
    parser.add_argument("--json", type=Path, default=Path("bench.json"))
    given = parser.parse_args()
    found = document(given.only, given)
    write(given.json, found)
    tell(found)
    if given.repeats < FEWEST or given.small:
        print("small, or fewer than 5 repeats: these figures show that it runs, no more")
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
