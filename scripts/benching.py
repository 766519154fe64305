"""What the benches share: the machine they ran on, medians with their spread, and made-up texts."""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trimtab.llm.embedded.world import questions

LONGEST = 6  # chains put together into the longest text
FEWEST = 5  # repeats; with fewer a figure shows that its bench runs, no more
Pairs = list[tuple[str, str]]


def pairs(count: int, seed: int = 0) -> Pairs:
    """(question, text) pairs, all different, whose texts are one to six chains long, as answers are."""
    rng = random.Random(seed)
    rows = questions(seed, count)
    return [
        (row.text, "".join(rng.choice(rows).rationale or "" for _ in range(rng.randint(1, LONGEST))))
        for row in rows
    ]


def summary(values: Sequence[float]) -> dict[str, Any]:
    """The median, and how far single repeats lay from it."""
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "values": list(values),
    }


def machine(threads: int = 1) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "numpy", "openai", "trimtab")},
    }


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text("utf-8").splitlines() if listed.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def write(path: Path, document: dict[str, Any]) -> None:
    """The document as a JSON file."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
