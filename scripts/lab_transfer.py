"""Plug and play: an adapter trained on one family of models' answers, used on another's.

    python scripts/lab_transfer.py DATA_FOLDER [--questions 150] [--work FOLDER]

gsm8k_weak names the model of each sample. Each family has a row (trained on) and a column (used on); the
questions that are trained on and evaluated on never meet.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from pathlib import Path
from typing import Any

from trimtab.cli import adapting, evaluating
from trimtab.cli.settings import resolve

FAMILIES = {
    "davinci": ("text-davinci-002", "text-davinci-003"),
    "llama2-gsm": ("llama2-gsm",),  # fine-tuned on GSM8K
    "llama2-chat": ("llama2-chat",),
}
METHODS = ("single", "majority", "best_of_n", "weighted_vote", "oracle")


def of_family(source: Path, target: Path, family: str, most: int) -> Path:
    """The first rows of the file with this family's samples alone."""
    rows = [json.loads(line) for line in source.read_text("utf-8").splitlines()[:most]]
    for row in rows:
        row["samples"] = [each for each in row["samples"] if each["model"].startswith(FAMILIES[family])]
    kept = [row for row in rows if row["samples"]]
    target.write_text("".join(json.dumps(row) + "\n" for row in kept), "utf-8")
    return target


def printed(run: Any, flags: dict[str, Any]) -> dict[str, Any]:
    """What a command prints as JSON under these flags."""
    held = io.StringIO()
    with contextlib.redirect_stdout(held):
        run(resolve(None, flags, {}), True)
    found: dict[str, Any] = json.loads(held.getvalue())
    return found


def main() -> None:
    """Prints one JSON line a cell: trained on, used on, accuracy by method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--questions", type=int, default=150, help="of train and of dev")
    parser.add_argument("--work", type=Path, default=Path(".trimtab/lab-transfer"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    common = {"threads": 1, "work_dir": given.work / "work", "bf16": True}
    parts = {
        (part, family): of_family(
            given.data / "gsm8k_weak" / f"{part}.jsonl",
            given.work / f"{part}-{family}.jsonl",
            family,
            given.questions,
        )
        for part in ("train", "dev")
        for family in FAMILIES
    }
    for source in FAMILIES:
        folder = given.work / source
        training = {"recorded": parts["train", source], "backbone": "offline", "epochs": 2, "out": folder}
        if not folder.exists():
            printed(adapting.run, {**common, **training, "max_positives": 2, "max_negatives": 3})
        for target in FAMILIES:
            found = printed(
                evaluating.run,
                {**common, "adapter": folder, "recorded": parts["dev", target], "budgets": "1"},
            )
            cell = {name: round(100 * found["accuracy"][name]["value"], 1) for name in METHODS}
            gain = found["best_of_n_minus_single"]
            pairwise = round(100 * found["scores"]["pairwise_accuracy"], 1)
            print(
                json.dumps(
                    {"trained on": source, "used on": target, **cell, "pairwise": pairwise, "gain": gain}
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
