"""How fast the embedded black box draws: eight draws of a prompt at once, against one.

python scripts/bench_blackbox.py [--repeats 5] [--prompts 8] [--json FILE]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benching import summary, write
from trimtab.llm.embedded.decoding import Request, complete
from trimtab.llm.embedded.model import Model
from trimtab.llm.embedded.world import questions

AT_ONCE = (1, 8)


def rate(model: Model, prompts: Sequence[str], n: int) -> float:
    """Tokens a second of n draws for each prompt, one request after the other."""
    requests = [Request(f"{prompt}\n", n=n, seed=1, stop=()) for prompt in prompts]
    began = time.perf_counter()
    tokens = sum(drawn.completion_tokens for request in requests for drawn in complete(model, [request]))
    return tokens / (time.perf_counter() - began)


def measured(repeats: int, count: int) -> dict[str, Any]:
    """Rates of both, once a repeat, in turn, after a warm-up."""
    model, prompts = Model.load(), [row.text for row in questions(1, count)]
    rate(model, prompts[:1], AT_ONCE[-1])
    rows = [[rate(model, prompts, n) for n in AT_ONCE] for _ in range(repeats)]
    ratios = [eight / one for one, eight in rows]
    return {
        "figures": {
            "blackbox_tokens_per_s": statistics.median(eight for _, eight in rows),
            "blackbox_speedup": statistics.median(ratios),
        },
        "spread": {"blackbox_speedup": [min(ratios), max(ratios)]},
        "tokens_per_s": {
            f"n = {n}": summary(values) for n, values in zip(AT_ONCE, zip(*rows, strict=True), strict=True)
        },
    }


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description="Speed of the embedded black box, here.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--json", type=Path, default=Path("bench-blackbox.json"))
    given = parser.parse_args()
    found = measured(given.repeats, given.prompts)
    write(given.json, found)
    for name, each in found["tokens_per_s"].items():
        print(f"{name}: {each['median']:.0f} tokens/s ({each['low']:.0f} to {each['high']:.0f})")


if __name__ == "__main__":
    main()
