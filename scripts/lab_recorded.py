"""The lab table on recorded answers: every data set, loss and seed, through the command line's own code.

    python scripts/lab_recorded.py DATA_FOLDER [--sets …] [--losses …] [--seeds …]
    python scripts/lab_recorded.py DATA_FOLDER --table

Each train file gives a fifth of itself, by a hash of the question, to early stopping, calibration and the
vote's temperature; dev is only evaluated on. Finished cells are not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any

from trimtab.cli import adapting, evaluating
from trimtab.cli.settings import Settings, resolve

SETS = ("gsm8k_gpt35", "gsm8k_weak", "strategyqa", "commonsenseqa", "worldtree", "date_gpt35")
LOSSES = ("ranking_nce", "pooled", "bce", "bradley_terry")
SMALL = 200  # questions; below it four passes, above it three (chosen on held-out parts of train)
VOTE = ("weighted_vote", "majority")
BEST = ("best_of_n", "single")
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
        "epochs": 4 if rows < SMALL else 3,
        "max_positives": 2,
        "max_negatives": 4,
        "bf16": True,
        "out": out / f"{name}-{loss}-{seed}",
        "work_dir": out / "work",
    }
    return resolve(None, flags, {})


def run_cell(folder: Path, work: Path, name: str, loss: str, seed: int) -> dict[str, Any]:
    """Trains and evaluates one cell; returns what the table and a later reader need of it."""
    started = time.monotonic()
    settings = settings_for(folder, work, name, loss, seed)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        adapting.run(settings, True)
        printed.truncate(0)
        printed.seek(0)
        update = {"adapter": settings.out, "recorded": folder / name / "dev.jsonl", "out": None}
        evaluating.run(settings.model_copy(update=update), True)
    found = json.loads(printed.getvalue())
    return {
        "set": name,
        "loss": loss,
        "seed": seed,
        "epochs": settings.epochs,
        **{
            key: found[key] for key in ("asked", "answered", "unreadable", "samples_per_question", "accuracy")
        },
        **{key: found[key] for key in ("weighted_vote_minus_majority", "best_of_n_minus_single")},
        "temperature": found["rule"]["temperature"],
        "pairwise": found["scores"]["pairwise_accuracy"],
        "ece": found["calibration"]["ece"],
        "seconds": round(time.monotonic() - started),
    }


def cells(path: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """The finished cells of a file, by set, loss and seed."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return {(row["set"], row["loss"], row["seed"]): row for row in map(json.loads, lines)}


def figure(values: list[float]) -> str:
    """A mean over seeds and its spread, in per cent."""
    mean = 100 * statistics.fmean(values)
    return f"{mean:.1f}" if len(values) == 1 else f"{mean:.1f} ± {100 * statistics.stdev(values):.1f}"


def table(found: dict[tuple[str, str, int], dict[str, Any]]) -> None:
    """Prints the Markdown table of all finished cells, and each loss's mean gains over its sets."""
    print("| set | loss | seeds | single | majority | best of n | weighted vote | oracle | pairwise |")
    print("|---|---|---|---|---|---|---|---|---|")
    gains: dict[str, list[tuple[float, float]]] = {}
    for name in SETS:
        for loss in LOSSES:
            rows = [row for (a_set, a_loss, _), row in found.items() if (a_set, a_loss) == (name, loss)]
            if rows:
                columns = [figure([row["accuracy"][m]["value"] for row in rows]) for m in METHODS]
                columns.append(figure([row["pairwise"] for row in rows]))
                print(f"| {name} | {loss} | {len(rows)} | " + " | ".join(columns) + " |")
                gains.setdefault(loss, []).append((gain(rows, *VOTE), gain(rows, *BEST)))
    for loss, pairs in gains.items():
        vote, best = (100 * statistics.fmean(column) for column in zip(*pairs, strict=True))
        print(f"\n{loss} over {len(pairs)} sets: weighted vote − majority {vote:+.1f}, ", end="")
        print(f"best of n − single {best:+.1f} points")


def gain(rows: list[dict[str, Any]], ours: str, theirs: str) -> float:
    """The mean over seeds of one method's accuracy less another's."""
    return statistics.fmean(row["accuracy"][ours]["value"] - row["accuracy"][theirs]["value"] for row in rows)


def main() -> None:
    """Runs the cells asked for, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--work", type=Path, default=Path(".trimtab/lab"), help="adapters, store, checkpoints"
    )
    parser.add_argument("--cells", type=Path, default=Path("docs/lab-cells.jsonl"), help="finished cells")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--losses", nargs="+", default=LOSSES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    if given.table:
        return table(cells(given.cells))
    for seed, loss, name in itertools.product(given.seeds, given.losses, given.sets):
        if (name, loss, seed) not in cells(given.cells):
            row = run_cell(given.data, given.work, name, loss, seed)
            with given.cells.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(name, loss, seed, {m: round(row["accuracy"][m]["value"], 3) for m in METHODS}, flush=True)
    return None


if __name__ == "__main__":
    main()
