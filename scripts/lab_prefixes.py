"""What keeping prefixes saves: step-wise search trees scored by a causal network with and without.

    python scripts/lab_prefixes.py [--width 512] [--layers 8] [--questions 3] [--candidates 10]

A Llama with random weights, as time does not hang on what they say; a question of 120 tokens, six steps of
30, three beams, so many candidates a level, the survivors drawn at random. Both ways score the same trees in
turn on one thread; CPU seconds are told, and tokens run.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from trimtab.energy.engines.engine import EngineScorer
from trimtab.energy.engines.prefix import PrefixEngine
from trimtab.energy.engines.pytorch import torch_engine
from trimtab.energy.lengths import STEP, rounded
from trimtab.energy.model import EnergyModel, use_threads

QUESTION, STEPS, STEP_TOKENS, BEAMS = 120, 6, 30, 3
WORDS = 8000


@dataclass
class Side:
    """One way of scoring, and what it took."""

    name: str
    scorer: EngineScorer
    seconds: float = 0.0


def made(width: int, layers: int) -> EnergyModel:
    """A Llama of this size; every word is a token."""
    names = ["<pad>", "<unk>", "</s>", *(f"w{i}" for i in range(WORDS))]
    core = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    )
    config = LlamaConfig(
        vocab_size=len(names),
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=1024,
        pad_token_id=0,
        num_labels=1,
        use_cache=False,
    )
    torch.manual_seed(0)
    network = LlamaForSequenceClassification(config).eval()
    return EnergyModel(network, tokenizer, backbone="random", max_length=512)


def said(rng: random.Random, words: int) -> str:
    return "".join(f" w{rng.randrange(WORDS)}" for _ in range(words))


def levels(rng: random.Random, candidates: int) -> Iterator[tuple[str, list[str]]]:
    """The texts that one search has scored, level by level."""
    question = said(rng, QUESTION)
    beams = [""] * BEAMS
    for _ in range(STEPS):
        texts = [beams[i % BEAMS] + said(rng, STEP_TOKENS) for i in range(candidates)]
        yield question, texts
        beams = rng.sample(texts, BEAMS)


def main() -> None:
    parser = argparse.ArgumentParser(description="Prefixes kept, against texts scored whole.")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--questions", type=int, default=3)
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--megabytes", type=int, default=256)
    given = parser.parse_args()
    use_threads(1)
    model = made(given.width, given.layers)
    engine = PrefixEngine(torch_engine("torch_fp32", model), given.megabytes << 20)
    sides = [
        Side("whole", EngineScorer(model.encoder, torch_engine("torch_fp32", model))),
        Side("prefixes kept", EngineScorer(model.encoder, engine)),
    ]
    tokens = furthest = 0.0
    for seed in range(given.questions):
        for question, texts in levels(random.Random(seed), given.candidates):
            found = []
            for side in sides:
                started = time.process_time()
                found.append(side.scorer.score(question, texts))
                side.seconds += time.process_time() - started
            tokens += sum(rounded(len(pair), STEP) for pair in model.encode([(question, t) for t in texts]))
            furthest = max(furthest, *(abs(a - b) for a, b in zip(*found, strict=True)))
    weights = sum(p.numel() for p in model.network.parameters()) / 1e6
    print(f"Llama of {weights:.0f} million weights, {given.candidates} candidates a level, per question:")
    for side, run in zip(sides, (tokens, engine.counts.run), strict=True):
        print(
            f"{side.name:14s} {run / given.questions:8.0f} tokens {side.seconds / given.questions:7.2f} CPU s"
        )
    print(f"{sides[0].seconds / sides[1].seconds:.2f} times as fast; scores apart by at most {furthest:.1e}")


if __name__ == "__main__":
    main()
