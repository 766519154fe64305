"""TruthfulQA from its reference answers: does an adapter pick correct over incorrect ones on other questions?

    python scripts/lab_truthfulqa.py DATA_FOLDER [--seeds 0 1] [--work FOLDER]

Train's reference answers are the samples, correct ones positives; on dev the adapter picks one answer of each
question's correct and incorrect ones. Beside it: chance, and the answer nearest to the question by MiniLM.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from lab_transfer import printed
from trimtab.cli import adapting, evaluating
from trimtab.crosstune.encoder import LocalEncoder
from trimtab.evaluate import mean_estimate
from trimtab.evaluate.measures import scores_of
from trimtab.types import Candidate, Verdict

NAME = "truthfulqa_questions"
LAST = -1  # MiniLM's sentence vector is the mean of its last layer


def recorded(source: Path, target: Path) -> Path:
    """The reference answers of each question as samples that say whether they are correct."""
    rows = map(json.loads, source.read_text("utf-8").splitlines())
    target.write_text("".join(json.dumps(as_recorded(row)) + "\n" for row in rows), "utf-8")
    return target


def as_recorded(row: dict[str, Any]) -> dict[str, Any]:
    """One row; no reference is left in it, so that the samples' own labels hold."""
    sides = ((row["correct_answers"], True), (row["incorrect_answers"], False))
    samples = [
        {"text": text, "correct": correct} for texts, correct in sides for text in dict.fromkeys(texts)
    ]
    kept = {"id": row["id"], "question": row["question"], "samples": samples}
    return {**kept, "category": row["category"]} if row.get("category") else kept


def adapted(train: Path, dev: Path, work: Path, seed: int) -> dict[str, Any]:
    """One adapter, trained and evaluated by the command line's own code."""
    common = {"task": "free_text", "seed": seed, "threads": 1, "work_dir": work / "work"}
    folder = work / f"adapter-{seed}"
    printed(
        adapting.run,
        {**common, "recorded": train, "backbone": "offline", "max_length": 96, "bf16": True, "out": folder},
    )
    found = printed(evaluating.run, {**common, "adapter": folder, "recorded": dev, "rule": "argmax"})
    return {
        "method": f"adapter, seed {seed}",
        "best": found["accuracy"]["best_of_n"],
        "pairwise": found["scores"]["pairwise_accuracy"],
        "chance": found["accuracy"]["single"],
    }


def similarity(dev: Path) -> dict[str, Any]:
    """The answer whose MiniLM vector is nearest to the question's."""
    rows = [json.loads(line) for line in dev.read_text("utf-8").splitlines()]
    texts = [text for row in rows for text in (row["question"], *(each["text"] for each in row["samples"]))]
    vectors = iter(sentence_vectors(texts))
    pools = [nearness(row, vectors) for row in rows]
    best = [float(max(pool, key=lambda each: each.score or 0.0).verdict is Verdict.RIGHT) for pool in pools]
    scores = scores_of(pools)
    return {
        "method": "MiniLM similarity",
        "best": mean_estimate(best).to_json(),
        "pairwise": scores.pairwise_accuracy if scores else None,
    }


def nearness(row: dict[str, Any], vectors: Any) -> list[Candidate]:
    """The row's answers, each scored by its cosine to the question."""
    question = next(vectors)
    return [
        Candidate(
            each["text"],
            each["text"],
            float(question @ next(vectors)),
            verdict=Verdict.RIGHT if each["correct"] else Verdict.WRONG,
        )
        for each in row["samples"]
    ]


def sentence_vectors(texts: list[str]) -> list[np.ndarray[Any, Any]]:
    """Unit vectors: the mean over a text's tokens."""
    readings = LocalEncoder("offline", layers=(LAST,), template="{text}", max_length=96).read(texts)
    means = [reading.states[0].astype(np.float32).mean(axis=0) for reading in readings]
    return [mean / np.linalg.norm(mean) for mean in means]


def main() -> None:
    """Prints one JSON line a method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, default=Path(".trimtab/lab-truthfulqa"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    train, dev = (
        recorded(given.data / NAME / f"{part}.jsonl", given.work / f"{part}.jsonl")
        for part in ("train", "dev")
    )
    print(json.dumps(similarity(dev)), flush=True)
    for seed in given.seeds:
        print(json.dumps(adapted(train, dev, given.work, seed)), flush=True)


if __name__ == "__main__":
    main()
