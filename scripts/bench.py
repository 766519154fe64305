"""How fast scoring and the embedded black box are here, measured side by side in one run.

    python scripts/bench.py [--repeats 5] [--texts 64] [--threads 1] [--out bench.json]        (make bench)

Every repeat measures every variant once, in turn, so that what else the machine does falls on all of them;
figures are medians over repeats, ratios medians of each repeat's own ratio. `make bench` exports
OMP_NUM_THREADS=1, as the tests do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from trimtab.energy.model import EnergyModel, bf16_autocast, evaluating, use_threads
from trimtab.llm.embedded.decoding import Request, complete
from trimtab.llm.embedded.model import Model
from trimtab.llm.embedded.world import questions

ROWS = 16  # texts of one padded batch in the order they came: what a plain loop would do
LONGEST = 6  # chains put together into the longest text
PROMPTS = 8
Pairs = list[tuple[str, str]]


def pairs(count: int, seed: int = 0) -> Pairs:
    """(question, text) pairs, all different, whose texts are one to six chains long, as answers are."""
    rng = random.Random(seed)
    rows = questions(seed, count)
    return [
        (row.text, "".join(rng.choice(rows).rationale or "" for _ in range(rng.randint(1, LONGEST))))
        for row in rows
    ]


def scored_in_order(energy: EnergyModel, asked: Pairs) -> list[float]:
    """The scores, a fixed number of texts a batch, in the order they came."""
    encoded = energy.encoder.encode(asked)
    scores: list[float] = []
    with evaluating(energy.network), torch.inference_mode(), bf16_autocast(energy.device, False):
        for start in range(0, len(encoded), ROWS):
            scores += energy.forward(encoded[start : start + ROWS]).tolist()
    return scores


def tokens_drawn(model: Model, prompts: Sequence[str], n: int) -> int:
    """Tokens of n draws for each prompt, one request after the other."""
    requests = [Request(f"{prompt}\n", n=n, seed=1, stop=()) for prompt in prompts]
    return sum(drawn.completion_tokens for request in requests for drawn in complete(model, [request]))


def variants(texts: int) -> dict[str, tuple[str, Callable[[], int]]]:
    """By name: the unit, and what does the work and says how many units it did."""
    energy = EnergyModel.pretrained("offline", device="cpu")
    asked = pairs(texts)
    model = Model.load()
    prompts = [row.text for row in questions(1, PROMPTS)]
    return {
        "scoring, fp32, sorted by length": ("texts/s", lambda: len(energy.score_pairs(asked, bf16=False))),
        "scoring, bf16, sorted by length": ("texts/s", lambda: len(energy.score_pairs(asked, bf16=True))),
        "scoring, fp32, padded in order": ("texts/s", lambda: len(scored_in_order(energy, asked))),
        "embedded black box, n = 1": ("tokens/s", lambda: tokens_drawn(model, prompts, 1)),
        "embedded black box, n = 8": ("tokens/s", lambda: tokens_drawn(model, prompts, 8)),
    }


RATIOS = {
    "bf16 over fp32": ("scoring, bf16, sorted by length", "scoring, fp32, sorted by length"),
    "sorted by length over padded in order": (
        "scoring, fp32, sorted by length",
        "scoring, fp32, padded in order",
    ),
    "n = 8 over n = 1": ("embedded black box, n = 8", "embedded black box, n = 1"),
}


def measured(work: dict[str, tuple[str, Callable[[], int]]], repeats: int) -> dict[str, list[float]]:
    """Units a second of each variant, once a repeat, after one warm-up of each."""
    rates: dict[str, list[float]] = {name: [] for name in work}
    for _, run in work.values():
        run()
    for _ in range(repeats):
        for name, (_, run) in work.items():
            started = time.perf_counter()
            units = run()
            rates[name].append(units / (time.perf_counter() - started))
    return rates


def summary(values: Sequence[float]) -> dict[str, Any]:
    """The median, and how far single repeats lay from it."""
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "values": list(values),
    }


def machine(threads: int) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "numpy", "trimtab")},
    }


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text("utf-8").splitlines() if listed.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of scoring and of the embedded black box, here.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    given = parser.parse_args()
    use_threads(given.threads)
    about = machine(given.threads)
    work = variants(given.texts)
    rates = measured(work, given.repeats)
    ratios = {
        name: [ours / theirs for ours, theirs in zip(rates[over], rates[under], strict=True)]
        for name, (over, under) in RATIOS.items()
    }
    document = {
        "machine": about,
        "repeats": given.repeats,
        "texts": given.texts,
        "rates": {name: {"unit": work[name][0], **summary(values)} for name, values in rates.items()},
        "ratios": {name: summary(values) for name, values in ratios.items()},
    }
    given.out.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
    tell(document)


def tell(document: dict[str, Any]) -> None:
    about = document["machine"]
    print(f"{about['processor']}, {about['cores']} cores, {about['threads']} threads")
    print(f"load before: {about['load_average']}")
    for name, rate in document["rates"].items():
        print(f"{name:40} {rate['median']:10.1f} {rate['unit']:9} ({rate['low']:.1f} to {rate['high']:.1f})")
    for name, ratio in document["ratios"].items():
        print(f"{name:40} {ratio['median']:10.2f} {'times':9} ({ratio['low']:.2f} to {ratio['high']:.2f})")
    if document["repeats"] < 5:
        print("fewer than 5 repeats: these figures show that it runs, no more")


if __name__ == "__main__":
    main()
