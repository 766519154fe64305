"""How many of the recorded draws are paid for when drawing stops once the leading answer is sure.

    python scripts/bench_samples.py [--recorded DATA_FOLDER] [--questions N] [--json FILE]

For each set the certainty is chosen on train as `adapt` chooses it, and dev is drawn in several orders, draw
by draw, under the majority rule: no adapter is needed, and adapters' own figures are in docs/lab.md.
`samples_ratio` is the mean over sets of draws made over all draws; `samples_difference` that of the accuracy
lost, in points. Without a folder the draws are simulated: chances of a right answer from Beta(2, 1), wrong
answers as likely as 1, 1/2, 1/3, ...; a simulation tells that the rule works, not what real models spare.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benching import write
from trimtab import tasks
from trimtab.data import load_recorded
from trimtab.pools import recorded_pool
from trimtab.sequential import Stopped, choose_certainty, stopped
from trimtab.stopping import DecisionRule
from trimtab.types import Candidate, Verdict

RULE = DecisionRule("majority")
DRAWS, SIMULATED = 8, 400
Pools = list[Sequence[Candidate]]


def recorded(path: Path, most: int | None) -> Pools:
    """The pools of a file of recorded answers."""
    rows = load_recorded(path)[:most]
    task = tasks.infer([row.question for row in rows])
    return [recorded_pool(row, task).candidates for row in rows]


def simulated(count: int, seed: int) -> Pools:
    """Pools of draws by chance."""
    rng = random.Random(seed)
    return [_simulated(rng, rng.betavariate(2, 1)) for _ in range(count)]


def _simulated(rng: random.Random, chance: float) -> list[Candidate]:
    wrong = [f"wrong {place}" for place in range(1, 6)]
    finals = [
        "right"
        if rng.random() < chance
        else rng.choices(wrong, weights=[1 / place for place in range(1, 6)])[0]
        for _ in range(DRAWS)
    ]
    verdicts = {"right": Verdict.RIGHT}
    return [
        Candidate(f"{i} {final}", final, verdict=verdicts.get(final, Verdict.WRONG))
        for i, final in enumerate(finals)
    ]


def spared(train: Pools, dev: Pools) -> Stopped:
    """What stopping is worth on dev at the certainty chosen on train."""
    return stopped(dev, replace(RULE, certainty=choose_certainty(train, RULE)))


def sets_of(folder: Path | None, most: int | None) -> dict[str, tuple[Pools, Pools]]:
    """Train and dev of each set, by name; sets without recorded answers are left out."""
    if folder is None:
        count = most or SIMULATED
        return {"simulated": (simulated(count, 0), simulated(count, 1))}
    found = {}
    for dev in sorted(folder.glob("*/dev.jsonl")):
        if '"samples"' in dev.open(encoding="utf-8").readline() and (dev.parent / "train.jsonl").is_file():
            found[dev.parent.name] = (recorded(dev.parent / "train.jsonl", most), recorded(dev, most))
    return found


def document(sets: dict[str, tuple[Pools, Pools]]) -> dict[str, Any]:
    """All figures."""
    found = {name: spared(*pools) for name, pools in sets.items()}
    ratios = [each.ratio for each in found.values()]
    return {
        "figures": {
            "samples_ratio": statistics.fmean(ratios),
            "samples_difference": 100 * statistics.fmean(each.difference for each in found.values()),
            "samples_of": ", ".join(found),
        },
        "spread": {"samples_ratio": [min(ratios), max(ratios)]},
        "sets": {name: asdict(each) for name, each in found.items()},
    }


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description="Draws paid for when drawing stops once it is sure.")
    parser.add_argument("--recorded", type=Path, help="folder of SET/train.jsonl and SET/dev.jsonl")
    parser.add_argument("--questions", type=int, help="of each file, the first so many")
    parser.add_argument("--json", type=Path, default=Path("bench-samples.json"))
    given = parser.parse_args()
    found = document(sets_of(given.recorded, given.questions))
    write(given.json, found)
    for name, each in found["sets"].items():
        print(
            f"{name:16} {each['ratio']:.2f} of the draws at certainty {each['certainty']:g}, "
            f"{100 * each['difference']:+.1f} points (± {100 * each['error']:.1f})"
        )


if __name__ == "__main__":
    main()
