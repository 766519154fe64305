"""The table of docs/lab-classification.md: CrossTune, its ablations and the baselines on ten sets.

    python scripts/lab_classification.py DATA_FOLDER [--sets sst2 …] [--seeds 13 …] [--on devtest] [--out F]

DATA_FOLDER/NAME/SEED/{train,dev}.jsonl, DATA_FOLDER/NAME/devtest.jsonl, DATA_FOLDER/NAME/labels.json. With
`--on pool` a classifier is tried on the train and dev rows of the *other* seeds: what choices were made on,
so that devtest stays for the final figures. States are read once a text and kept in `--cache`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.crosstune import (
    CrossTuneClassifier,
    DecTClassifier,
    FolderFeatures,
    KeptFeatures,
    LabelSimilarity,
    LocalEncoder,
    LogisticProbe,
    MemoryFeatures,
    NearestMean,
)
from trimtab.energy.calibrate import expected_calibration_error

SETS = ["sst2", "mr", "cr", "subj", "trec", "agnews", "dbpedia", "yelp_polarity", "rte", "mrpc"]
SEEDS = [13, 21, 42, 87, 100]
LARGEST = 1000  # rows of devtest that are read; those with the smallest hashes
LAYERS = (3, 4, 5, 6)
SLOTS = {
    "subj": "{text} This is [MASK].",
    "trec": "[MASK] question: {text}",
    "agnews": "[MASK] news: {text}",
    "dbpedia": "{text} It is a [MASK].",
}
SLOT = "{text} It was [MASK]."

Rows = tuple[list[Any], list[str]]


class Lab:
    """One set: its rows, its descriptions, and what is read of them."""

    def __init__(self, folder: Path, name: str, cache: Path) -> None:
        self.folder, self.name = folder / name, name
        said = json.loads((Path(__file__).parent / "label_descriptions.json").read_text("utf-8"))
        self.descriptions: dict[str, list[str]] = said[name]
        self.encoder = self._kept(LocalEncoder("offline", layers=LAYERS), cache / name)
        slot = LocalEncoder("offline", layers=LAYERS, template=SLOTS.get(name, SLOT))
        self.slot_encoder = self._kept(slot, cache / f"{name}-slot")

    def _kept(self, encoder: LocalEncoder, cache: Path) -> KeptFeatures:
        return KeptFeatures(KeptFeatures(encoder, FolderFeatures(cache)), MemoryFeatures())

    def rows(self, path: str) -> Rows:
        """Texts (or pairs) and labels of a file below the set's folder."""
        found = [json.loads(line) for line in (self.folder / path).read_text("utf-8").splitlines()]
        texts = [(row["text"], row["text_pair"]) if row.get("text_pair") else row["text"] for row in found]
        return texts, [row["label"] for row in found]

    def asked(self, on: str, seed: int, seeds: Sequence[int]) -> Rows:
        """What a classifier of this seed is tried on."""
        if on == "devtest":
            return smallest_hashes(self.rows("devtest.jsonl"), LARGEST)
        own = {text for part in ("train", "dev") for text in self.rows(f"{seed}/{part}.jsonl")[0]}
        known = set(self.rows("devtest.jsonl")[0]) | own
        others: dict[Any, str] = {}
        for other in seeds:
            for part in ("train", "dev"):
                pairs = zip(*self.rows(f"{other}/{part}.jsonl"), strict=True)
                others |= {text: label for text, label in pairs if other != seed and text not in known}
        return list(others), list(others.values())


def smallest_hashes(rows: Rows, count: int) -> Rows:
    """At most `count` of the rows, the same ones every time."""
    order = sorted(range(len(rows[0])), key=lambda at: hashlib.sha256(repr(rows[0][at]).encode()).digest())
    kept = sorted(order[:count])
    return [rows[0][at] for at in kept], [rows[1][at] for at in kept]


def crosstune(**options: Any) -> Callable[[Lab, Rows, Rows, list[Any]], Any]:
    """A method of the table: CrossTune with these options."""

    def method(lab: Lab, train: Rows, dev: Rows, asked: list[Any]) -> Any:
        given = dict(options)
        box = lab.slot_encoder if given.pop("is_slot", False) else lab.encoder
        has_dev = given.pop("has_dev", True)
        if isinstance(train[0][0], tuple) and given.get("views") and "comparison" not in given["views"]:
            given["pair_template"] = "{text} ? {text_pair}"
        model = CrossTuneClassifier(lab.descriptions, features=box, **given)
        model.fit(*train, *(dev if has_dev else ()))
        return model.classes_, model.predict_proba(asked)

    return method


def probe(layers: Sequence[Sequence[int]], views: Sequence[str] = ("mean",)) -> Callable[..., Any]:
    """Logistic regression; of several choices of layers the best on dev."""

    def method(lab: Lab, train: Rows, dev: Rows, asked: list[Any]) -> Any:
        models = [LogisticProbe(features=lab.encoder, layers=each, views=views) for each in layers]
        best = max((model.fit(*train, *dev) for model in models), key=lambda model: model.dev_merit_)
        return best.classes_, best.predict_proba(asked)

    return method


def described_probe(lab: Lab, train: Rows, dev: Rows, asked: list[Any]) -> Any:
    """Logistic regression that is given the descriptions' sentences as further examples."""
    more = [(text, name) for name, sentences in lab.descriptions.items() for text in sentences]
    if isinstance(train[0][0], tuple):
        more = []  # a description is no pair
    texts, labels = [*train[0], *(text for text, _ in more)], [*train[1], *(name for _, name in more)]
    model = LogisticProbe(features=lab.encoder, layers=range(len(LAYERS))).fit(texts, labels, *dev)
    return model.classes_, model.predict_proba(asked)


def simple(kind: Any, *, is_described: bool, **options: Any) -> Callable[..., Any]:
    """A baseline that does not look at dev."""

    def method(lab: Lab, train: Rows, dev: Rows, asked: list[Any]) -> Any:
        first = [lab.descriptions] if is_described else []
        model = kind(*first, features=lab.encoder, **options).fit(*train)
        return model.classes_, model.predict_proba(asked)

    return method


SINGLE = [(layer,) for layer in range(len(LAYERS))]
METHODS: dict[str, Callable[..., Any]] = {
    "label similarity, last layer": simple(LabelSimilarity, is_described=True),
    "nearest mean, last layer": simple(NearestMean, is_described=False),
    "DecT-style, last layer": simple(DecTClassifier, is_described=True),
    "LR last layer": probe([(-1,)]),
    "LR best layers on dev": probe([*SINGLE, tuple(range(len(LAYERS)))]),
    "LR layers 3-6 mean": probe([tuple(range(len(LAYERS)))]),
    "LR layers 3-6 mean and max": probe([tuple(range(len(LAYERS)))], ("mean", "largest")),
    "LR layers 3-6, descriptions as examples": described_probe,
    "CrossTune": crosstune(),
    "CrossTune, no dev": crosstune(has_dev=False),
    "CrossTune, label names only": crosstune(label_text="names"),
    "CrossTune, mean view only": crosstune(views=["mean"]),
    "CrossTune, no opening": crosstune(views=["mean", "evidence"]),
    "CrossTune, no token attention": crosstune(views=["mean", "opening"]),
    "CrossTune, token attention only": crosstune(views=["evidence"]),
    "CrossTune, equal heads": crosstune(mixing="equal"),
    "CrossTune, heads trained apart": crosstune(objective="each"),
    "CrossTune, with slot": crosstune(views=["mean", "opening", "evidence", "slot"], is_slot=True),
    "CrossTune as described (slot, random start)": crosstune(
        views=["slot"], start="random", mixing="equal", label_pooling="largest", ridge=0.01, is_slot=True
    ),
    "CrossTune, random start on the mean": crosstune(views=["mean"], start="random", ridge=0.01),
}


def measured(
    method: Callable[..., Any], lab: Lab, seed: int, seeds: Sequence[int], on: str
) -> dict[str, Any]:
    """Accuracy, calibration error and seconds of one method on one seed."""
    train, dev = lab.rows(f"{seed}/train.jsonl"), lab.rows(f"{seed}/dev.jsonl")
    texts, labels = lab.asked(on, seed, seeds)
    started = time.perf_counter()
    classes, probabilities = method(lab, train, dev, texts)
    right = classes[probabilities.argmax(axis=1)] == np.array(labels)
    ece = expected_calibration_error(probabilities.max(axis=1), right)
    return {"accuracy": 100 * float(right.mean()), "ece": ece, "seconds": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--on", choices=["devtest", "pool"], default="pool")
    parser.add_argument("--cache", type=Path, default=Path(".lab-classification"))
    parser.add_argument("--out", type=Path, help="JSON lines, one a method, set and seed")
    asked = parser.parse_args()
    lines: list[dict[str, Any]] = []
    for name in asked.sets:
        lab = Lab(asked.data, name, asked.cache)
        for title in asked.methods:
            found = [measured(METHODS[title], lab, seed, asked.seeds, asked.on) for seed in asked.seeds]
            lines += [
                {"set": name, "method": title, "seed": seed, "on": asked.on, **each}
                for seed, each in zip(asked.seeds, found, strict=True)
            ]
            accuracies = [each["accuracy"] for each in found]
            print(
                f"{name:14s} {title:45s} {np.mean(accuracies):5.1f} ± {np.std(accuracies, ddof=1):4.1f}"
                f"  ECE {np.mean([each['ece'] for each in found]):.3f}"
                f"  {np.mean([each['seconds'] for each in found]):.1f} s",
                flush=True,
            )
            if asked.out:
                asked.out.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


if __name__ == "__main__":
    main()
