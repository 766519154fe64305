"""Whether cost grows as work grows: `trimtab evaluate` on ever more recorded questions.

    python scripts/bench_scaling.py [--sizes 100 1000 10000] [--repeats 5] [--json FILE]

Rows are made up: eight answers a question, of the length that answers to school problems have. Each run is a
process of its own, whose CPU time and peak memory are the system's figures. Starting up is measured on one
question and taken off the time, else 100 questions would seem dear; memory is told whole. Wall time would be
the same on an idle machine, and on a busy one the noise of starting up hides a hundred questions. The
largest size is run once: it is long enough to be steady.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benching import write

DRAWS = 8
SIZES = (100, 1000, 10_000)
WORDS = ["first", "we", "take", "the", "number", "of", "boxes", "and", "add", "what", "was", "left", "so"]


def row(number: int) -> dict[str, Any]:
    """A question with its recorded answers; right and wrong ones by chance."""
    rng = random.Random(number)
    right = rng.randrange(1000)
    chance = rng.random()
    finals = [right if rng.random() < chance else rng.randrange(1000) for _ in range(DRAWS)]
    return {
        "id": f"q{number}",
        "question": f"Order {number}: {' '.join(rng.choices(WORDS, k=40))}?",
        "answer": str(right),
        "samples": [
            {"text": f"{' '.join(rng.choices(WORDS, k=80))}.\nThe answer is {final}."} for final in finals
        ],
    }


def evaluated(size: int, folder: Path) -> tuple[float, float]:
    """CPU seconds and MiB of evaluating so many questions."""
    path = folder / f"{size}.jsonl"
    if not path.is_file():
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row(number)) + "\n" for number in range(size))
    command = [sys.executable, "-m", "trimtab", "evaluate", "--recorded", str(path)]
    command += ["--task", "numeric", "--work-dir", str(folder / "work"), "--json"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def measured(sizes: Sequence[int], repeats: int) -> dict[str, Any]:
    """Time a question and peak memory at each size, medians over repeats."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        times = {size: repeats if size < max(sizes) else 1 for size in (1, *sizes)}
        runs: dict[int, list[tuple[float, float]]] = {size: [] for size in times}
        for turn in range(repeats):  # in turns: a start that is slow now and quick later is no growth
            for size, count in times.items():
                runs[size] += [evaluated(size, folder)] if turn < count else []
    start_s = statistics.median(seconds for seconds, _ in runs[1])
    totals = [statistics.median(seconds for seconds, _ in runs[size]) for size in sizes]
    scaling = {
        "questions": list(sizes),
        "seconds_per_question": [(total - start_s) / size for total, size in zip(totals, sizes, strict=True)],
        "peak_mib": [statistics.median(mib for _, mib in runs[size]) for size in sizes],
    }
    return {"figures": {"scaling": scaling}, "start_s": start_s, "cpu_s": totals, "runs": runs}


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description="Time and memory of evaluating ever more questions.")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("bench-scaling.json"))
    given = parser.parse_args()
    found = measured(given.sizes, given.repeats)
    write(given.json, found)
    told = found["figures"]["scaling"]
    for size, seconds, mib in zip(*told.values(), strict=True):
        print(f"{size} questions: {1000 * seconds:.2f} ms each, peak {mib:.0f} MiB")


if __name__ == "__main__":
    main()
