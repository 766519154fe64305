"""SetFit written out, beside CrossTune on the same encoder: what fine-tuning it brings.

    python scripts/lab_setfit.py DATA_FOLDER --sets sst2 … --seeds 13 … [--out F]

Contrastive pairs from the shots (20 rounds, each shot with one of its class and one of another), squared
error of the cosine, one pass of at most 240 updates of 16 pairs at 2e-5, then logistic regression. Pairs of
texts are read as one. No dropout inside attention and bfloat16, which halve the time on a CPU.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel, AutoTokenizer

from lab_classification import SEEDS, SETS, Lab
from trimtab.energy.backbone import backbone_folder

ROUNDS, BATCH, RATE, MOST_UPDATES, MAX_LENGTH = 20, 16, 2e-5, 240, 128


class Encoder:
    """MiniLM with mean pooling and unit vectors."""

    def __init__(self) -> None:
        folder = backbone_folder("offline")
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.network = AutoModel.from_pretrained(
            folder, dtype=torch.float32, attention_probs_dropout_prob=0.0
        )
        for parameter in self.network.parameters():  # memory-mapped ones are slow
            parameter.data = parameter.data.clone()

    def __call__(self, rows: Sequence[Any]) -> torch.Tensor:
        """One vector a row."""
        texts = [row if isinstance(row, str) else " ".join(row) for row in rows]
        options = {"padding": True, "truncation": True, "max_length": MAX_LENGTH}
        batch = self.tokenizer(texts, return_tensors="pt", **options)
        states = self.network(**batch).last_hidden_state.float()
        mask = batch["attention_mask"][..., None]
        return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


def drawn_pairs(labels: Sequence[str]) -> list[tuple[int, int, float]]:
    """Shuffled pairs of shots: 1 for one class, 0 for two."""
    pairs = []
    for _ in range(ROUNDS):
        for at, label in enumerate(labels):
            same = [other for other, said in enumerate(labels) if said == label and other != at]
            apart = [other for other, said in enumerate(labels) if said != label]
            pairs += [(at, random.choice(same), 1.0), (at, random.choice(apart), 0.0)]
    random.shuffle(pairs)
    return pairs[: MOST_UPDATES * BATCH]


def tune(encoder: Encoder, texts: Sequence[Any], labels: Sequence[str]) -> None:
    """Fine-tunes the encoder on the shots."""
    pairs = drawn_pairs(labels)
    updates = len(pairs) // BATCH
    optimiser = torch.optim.AdamW(encoder.network.parameters(), lr=RATE, weight_decay=0.01)
    encoder.network.train()
    for at in range(updates):
        batch = pairs[at * BATCH : (at + 1) * BATCH]
        for group in optimiser.param_groups:
            group["lr"] = RATE * min((at + 1) / (0.1 * updates), (updates - at) / (0.9 * updates))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            vectors = encoder([texts[i] for i, _, _ in batch] + [texts[j] for _, j, _ in batch]).float()
        cosines = (vectors[: len(batch)] * vectors[len(batch) :]).sum(1)
        loss = ((cosines - torch.tensor([wanted for *_, wanted in batch])) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.network.parameters(), 1.0)
        optimiser.step()
    encoder.network.eval()


def accuracy(lab: Lab, seed: int) -> float:
    """On devtest, after tuning on this seed's shots."""
    random.seed(seed)
    torch.manual_seed(seed)
    encoder = Encoder()
    texts, labels = lab.rows(f"{seed}/train.jsonl")
    asked, wanted = lab.asked("devtest", seed, SEEDS)
    tune(encoder, texts, labels)
    with torch.inference_mode():
        parts = [encoder(asked[first : first + 32]).numpy() for first in range(0, len(asked), 32)]
        head = LogisticRegression().fit(encoder(texts).numpy(), labels)
    return 100 * float(head.score(np.concatenate(parts), wanted))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS[:1])
    parser.add_argument("--cache", type=Path, default=Path(".lab-classification"))
    parser.add_argument("--out", type=Path, help="JSON lines, one a set and seed")
    asked = parser.parse_args()
    for name in asked.sets:
        for seed in asked.seeds:
            found = accuracy(Lab(asked.data, name, asked.cache), seed)
            print(f"{name:14s} {seed:4d} {found:5.1f}", flush=True)
            if asked.out:
                with asked.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"set": name, "seed": seed, "accuracy": found}) + "\n")


if __name__ == "__main__":
    main()
