"""How fast texts become features, against the encoder's own speed, and how fast a classifier is learnt.

    python scripts/bench_features.py [--texts 1000] [--tokens 40] [--repeats 5] [--threads 1] [--out F]

The encoder's own speed is that of its forward passes alone, on batches of the same size that lie ready as
tensors. Features are read as `classify fit` reads them: texts tokenised, run in batches, the layers picked,
rounded and kept in a folder. Every repeat measures each in turn, so that what else the machine does falls on
all of them; figures are medians over repeats, ratios medians of each repeat's own ratio. The fit is that of
14 classes of 16 shots, features at hand.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from trimtab.crosstune import CrossTuneClassifier, FolderFeatures, KeptFeatures, LocalEncoder
from trimtab.crosstune.encoder import BATCH_TOKENS

WORDS = ["the", "film", "is", "a", "long", "and", "slow", "story", "of", "people", "who", "do", "not", "talk"]
AIMED_SHARE, AIMED_FIT_S = 0.90, 5.0
CLASSES, SHOTS = 14, 16


def texts_of(count: int, tokens: int, seed: int = 0) -> list[str]:
    """So many different texts, each of so many tokens with the two special ones."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=tokens - 2)) for _ in range(count)]


def forward_passes(box: LocalEncoder, texts: Sequence[str]) -> Callable[[], None]:
    """The encoder alone: its tokens lie ready in batches of the size that `read` uses."""
    network, tokenizer = box._loaded
    encoded = tokenizer(list(texts), return_tensors="pt", padding=True)
    size = BATCH_TOKENS // encoded["input_ids"].shape[1]
    batches = [
        {name: each[at : at + size] for name, each in encoded.items()} for at in range(0, len(texts), size)
    ]

    def run() -> None:
        with torch.inference_mode():
            for batch in batches:
                network(**batch, output_hidden_states=True)

    return run


def kept(box: LocalEncoder, texts: Sequence[str]) -> Callable[[], None]:
    """Reading and keeping, into a folder that is empty every time."""

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            KeptFeatures(box, FolderFeatures(folder)).read(texts)

    return run


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def rates(box: LocalEncoder, texts: Sequence[str], repeats: int) -> dict[str, Any]:
    """Texts a second of each, and the shares of the encoder's own speed."""
    works = {
        "forward": forward_passes(box, texts),
        "read": lambda: box.read(texts),
        "read_and_kept": kept(box, texts),
    }
    took = [{name: seconds(work) for name, work in works.items()} for _ in range(repeats)]
    found: dict[str, Any] = {
        f"{name}_texts_per_s": len(texts) / statistics.median(each[name] for each in took) for name in works
    }
    for name in ("read", "read_and_kept"):
        found[f"{name}_share"] = statistics.median(each["forward"] / each[name] for each in took)
    return found


def fit_seconds(box: LocalEncoder, repeats: int) -> float:
    """The median time of a fit of 14 classes of 16 shots whose features are kept."""
    names = [f"class {number}" for number in range(CLASSES)]
    shots = {name: texts_of(SHOTS, 40, seed=number + 1) for number, name in enumerate(names)}
    texts = [text for name in names for text in shots[name]]
    labels = [name for name in names for _ in shots[name]]
    with tempfile.TemporaryDirectory() as folder:
        model = CrossTuneClassifier(
            {name: [name, shots[name][0]] for name in names}, features=box, store=FolderFeatures(folder)
        )
        model.fit(texts, labels)
        return statistics.median(seconds(lambda: model.fit(texts, labels)) for _ in range(repeats))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    box = LocalEncoder("offline")
    texts = texts_of(asked.texts, asked.tokens)
    box.read(texts[:64])  # loaded and warm
    found = {**vars(asked), "out": None, **rates(box, texts, asked.repeats)}
    found["fit_s"] = fit_seconds(box, asked.repeats)
    for name, figure in found.items():
        print(f"{name:28}{figure:.3f}" if isinstance(figure, float) else f"{name:28}{figure}")
    print(f"aims: read_and_kept_share >= {AIMED_SHARE}, fit_s < {AIMED_FIT_S:.0f}")
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
