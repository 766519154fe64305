"""The switch's table in docs/lab-classification.md: real texts as generated ones, part of their labels wrong.

    python scripts/lab_switch.py DATA_FOLDER [--sets sst2 …] [--seeds 13 …] [--on devtest] [--out F]

For each seed, up to `--each` texts a class of the other seeds' train and dev rows stand for generated ones; a
share of them gets another label, drawn at random. With `--on pool` a classifier is tried on what is left of
those rows: what choices were made on. Files and `--cache` as for lab_classification.py.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lab_classification import LARGEST, SEEDS, SETS, Lab, Rows, smallest_hashes
from trimtab.crosstune import CrossTuneClassifier

SHARES = [0.0, 0.3, 0.6]
WITHOUT, ALL, SWITCH = "without", "all of it", "with the switch"


def split(lab: Lab, seed: int, each: int) -> tuple[Rows, Rows]:
    """Unused rows of a seed: at most `each` a class that stand for generated ones, and the others."""
    texts, labels = lab.asked("pool", seed, SEEDS)
    taken: Counter[str] = Counter()
    generated, others = [], []
    for at in np.random.default_rng(seed).permutation(len(texts)).tolist():
        taken[labels[at]] += 1
        (generated if taken[labels[at]] <= each else others).append(at)
    first, second = (
        [[column[at] for at in part] for column in (texts, labels)] for part in (generated, others)
    )
    return (first[0], first[1]), (second[0], second[1])


def corrupted(labels: Sequence[str], share: float, seed: int) -> list[str]:
    """The labels, this share of them another one, drawn at random."""
    rng, names, found = np.random.default_rng(1000 + seed), sorted(set(labels)), list(labels)
    for at in rng.permutation(len(found))[: round(share * len(found))]:
        found[at] = str(rng.choice([name for name in names if name != found[at]]))
    return found


def tried(lab: Lab, seed: int, on: str, each: int, has_dev: bool) -> list[dict[str, Any]]:
    """Accuracy without, with all and with the switch, for each share of wrong labels."""
    train, dev = lab.rows(f"{seed}/train.jsonl"), lab.rows(f"{seed}/dev.jsonl")
    (texts, truth), others = split(lab, seed, each)
    asked = smallest_hashes(lab.rows("devtest.jsonl"), LARGEST) if on == "devtest" else others
    held = dev if has_dev else (None, None)

    def line(method: str, share: float, rows: Rows, **given: Any) -> dict[str, Any]:
        started = time.perf_counter()
        model = CrossTuneClassifier(lab.descriptions, features=lab.encoder).fit(*rows, *held, **given)
        seconds = time.perf_counter() - started
        found = model.augmentation_.to_json() if model.augmentation_ else None
        accuracy = 100 * model.score(*asked)
        known = {"set": lab.name, "seed": seed, "on": on, "has_dev": has_dev}
        return {
            **known,
            "method": method,
            "share": share,
            "accuracy": accuracy,
            "seconds": seconds,
            "decided": found,
        }

    lines = [line(WITHOUT, 0.0, train)]
    for share in SHARES:
        labels = corrupted(truth, share, seed)
        lines.append(line(ALL, share, (train[0] + texts, train[1] + labels)))
        lines.append(line(SWITCH, share, train, augmented=(texts, labels)))
    return lines


def told(name: str, lines: Sequence[dict[str, Any]]) -> None:
    """Prints the means over seeds of one set."""
    without = np.mean([each["accuracy"] for each in lines if each["method"] == WITHOUT])
    parts = [f"{name:14s} without {without:.1f}"]
    for share in SHARES:
        at = [each for each in lines if each["share"] == share]
        means = [np.mean([e["accuracy"] for e in at if e["method"] == m]) - without for m in (ALL, SWITCH)]
        on = [e["decided"]["is_on"] for e in at if e["method"] == SWITCH]
        parts.append(f"{share:.0%}: all {means[0]:+.1f}, switch {means[1]:+.1f} (on {sum(on)}/{len(on)})")
    print("   ".join(parts), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--each", type=int, default=64)
    parser.add_argument("--on", choices=["devtest", "pool"], default="pool")
    parser.add_argument("--no-dev", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path(".lab-classification"))
    parser.add_argument("--out", type=Path, help="JSON lines, one a set, seed, method and share")
    asked = parser.parse_args()
    lines: list[dict[str, Any]] = []
    for name in asked.sets:
        lab = Lab(asked.data, name, asked.cache)
        own = [
            line
            for seed in asked.seeds
            for line in tried(lab, seed, asked.on, asked.each, has_dev=not asked.no_dev)
        ]
        told(name, own)
        lines += own
        if asked.out:
            asked.out.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


if __name__ == "__main__":
    main()
