"""The lab table on recorded answers: every data set, loss and seed, through the command line's own code.

    python scripts/lab_recorded.py DATA_FOLDER OUT_FOLDER [--losses …] [--seeds …]
    python scripts/lab_recorded.py DATA_FOLDER OUT_FOLDER --table

Each train file gives a fifth of itself, by a hash of the question, to early stopping, calibration and the
vote's temperature; dev is only evaluated on. Finished cells are not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import time
from pathlib import Path

from trimtab.cli import adapting, evaluating
from trimtab.cli.settings import Settings, resolve

SETS = ("gsm8k_gpt35", "gsm8k_weak", "strategyqa", "commonsenseqa", "worldtree", "date_gpt35")
LOSSES = ("ranking_nce", "pooled", "bce", "bradley_terry")
SMALL = 200  # questions; below it four passes, above it one (fixed before any dev figure was seen)
METHODS = ("single", "majority", "best_of_n", "weighted_vote", "oracle")


def settings_for(folder: Path, out: Path, name: str, loss: str, seed: int) -> Settings:
    """The settings of one cell's training."""
    train = folder / name / "train.jsonl"
    rows = sum(1 for _ in train.open(encoding="utf-8"))
    flags = {
        "recorded": train,
        "backbone": "offline",
        "loss": loss,
        "seed": seed,
        "lr": 1e-4,
        "epochs": 4 if rows < SMALL else 1,
        "max_positives": 2,
        "max_negatives": 4,
        "bf16": True,
        "out": out / f"{name}-{loss}-{seed}",
        "work_dir": out / "work",
    }
    return resolve(None, flags, {})


def run_cell(folder: Path, out: Path, name: str, loss: str, seed: int) -> None:
    """Trains and evaluates one cell, unless it is done."""
    result = out / f"{name}-{loss}-{seed}.json"
    if result.exists():
        return
    started = time.monotonic()
    settings = settings_for(folder, out, name, loss, seed)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        adapting.run(settings, True)
        printed.truncate(0)
        printed.seek(0)
        update = {"adapter": settings.out, "recorded": folder / name / "dev.jsonl", "out": None}
        evaluating.run(settings.model_copy(update=update), True)
    document = json.loads(printed.getvalue())
    document["seconds"] = time.monotonic() - started
    result.write_text(json.dumps(document), "utf-8")
    print(name, loss, seed, {m: round(document["accuracy"][m]["value"], 3) for m in METHODS}, flush=True)


def figure(values: list[float]) -> str:
    """A mean over seeds and its spread, in per cent."""
    mean = 100 * statistics.fmean(values)
    return f"{mean:.1f}" if len(values) == 1 else f"{mean:.1f} ± {100 * statistics.stdev(values):.1f}"


def table(out: Path, seeds: list[int]) -> None:
    """Prints the Markdown table of all finished cells."""
    print("| set | loss | seeds | single | majority | best of n | weighted vote | oracle |")
    print("|---|---|---|---|---|---|---|---|")
    gains: dict[str, list[tuple[float, float]]] = {}
    for name in SETS:
        for loss in LOSSES:
            paths = [out / f"{name}-{loss}-{seed}.json" for seed in seeds]
            cells = [json.loads(path.read_text("utf-8"))["accuracy"] for path in paths if path.exists()]
            if not cells:
                continue
            columns = [figure([cell[m]["value"] for cell in cells]) for m in METHODS]
            print(f"| {name} | {loss} | {len(cells)} | " + " | ".join(columns) + " |")
            vote = statistics.fmean(c["weighted_vote"]["value"] - c["majority"]["value"] for c in cells)
            best = statistics.fmean(c["best_of_n"]["value"] - c["single"]["value"] for c in cells)
            gains.setdefault(loss, []).append((vote, best))
    for loss, found in gains.items():
        vote, best = (100 * statistics.fmean(column) for column in zip(*found, strict=True))
        print(f"\n{loss} over {len(found)} sets: weighted vote − majority {vote:+.1f}, ", end="")
        print(f"best of n − single {best:+.1f} points")


def main() -> None:
    """Runs the cells asked for, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--losses", nargs="+", default=LOSSES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.table:
        return table(given.out, given.seeds)
    for seed in given.seeds:
        for loss in given.losses:
            for name in given.sets:
                run_cell(given.data, given.out, name, loss, seed)
    return None


if __name__ == "__main__":
    main()
