"""How fast scoring is here: every engine beside the plain way, in one run.

    python scripts/bench_scoring.py [--recorded samples.jsonl] [--adapter DIR] [--threads 1]

The plain way: float32, padded batches of 32 texts in the order they came. `--recorded` names rows of recorded
answers, 2,000 pairs of which are taken; without it, pairs of the embedded world. Each of `--repeats` takes
`--each` that follow one another (48, from all over the 2,000: all of them would take a quarter of an hour)
and times every variant on them once, in turn, so that what else the machine does falls on all; tokenising is
part of it. Figures are medians over repeats, ratios medians of each repeat's own ratio.

    scoring_speedup     the fastest engine that ranks as float32 does, over the plain way
    scoring_roofline    matrix products a second in that engine, padding not counted, as a share of what one
                        large product reaches here in the same precision
    score8_ms           one answer's eight candidates, from asking the batching scorer to having the scores
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benching import Pairs, machine, pairs, summary, write
from trimtab.data import load_recorded
from trimtab.energy import BatchingScorer, load_adapter
from trimtab.energy.encoding import Pair
from trimtab.energy.engine_bench import LEAST_TAU, kendall_tau
from trimtab.energy.engines.engine import EngineScorer
from trimtab.energy.engines.making import make_engine, why_not
from trimtab.energy.engines.names import NEEDS
from trimtab.energy.model import EnergyModel, use_threads

PAIRS = 2000
ROWS = 32
PLAIN = "plain: fp32, 32 in order"
THROUGH_BATCHING = "through the batching scorer"
ANSWERS, CANDIDATES = 100, 8
PEAK_SHAPES = ((1024, 1024, 1024), (2048, 2048, 2048), (1024, 384, 1536))
Score = Callable[[Pairs], list[float]]


@dataclass
class Variant:
    """One way of scoring, and what it did in each repeat."""

    score: Score
    rates: list[float] = field(default_factory=list)  # pairs a second
    scores: list[float] = field(default_factory=list)


def recorded_pairs(path: Path, count: int) -> Pairs:
    """The first pairs of a file of recorded answers, in its order."""
    rows = load_recorded(path)
    asked = [(row.question.with_choices, sample.text) for row in rows for sample in row.samples]
    return asked[:count]


def in_order(energy: EnergyModel, asked: Pairs) -> list[float]:
    """The plain way: what a loop over batches does that knows of nothing else."""
    encoded = energy.encode(asked)
    scores: list[float] = []
    for start in range(0, len(encoded), ROWS):
        scores += energy.scores(encoded[start : start + ROWS])
    return scores


def batched(scorer: EngineScorer, asked: Pairs) -> list[float]:
    """All pairs through the batching scorer, each asked for by itself, all at the same moment."""
    return [score for scores in asyncio.run(_batched(scorer, asked)) for score in scores]


async def _batched(scorer: EngineScorer, asked: Pairs) -> list[list[float]]:
    async with BatchingScorer(scorer) as scoring:
        return await asyncio.gather(*(scoring.scored(question, [text]) for question, text in asked))


def variants(energy: EnergyModel, threads: int) -> dict[str, Variant]:
    """The plain way, and every engine that can be had here."""
    scorers = {
        name: EngineScorer(energy.encoder, make_engine(name, energy, threads=threads))
        for name in NEEDS
        if why_not(name) is None
    }
    made = {PLAIN: Variant(lambda asked: in_order(energy, asked))}
    made.update({name: Variant(scorer.score_pairs) for name, scorer in scorers.items()})
    through = scorers.get("openvino_bf16", scorers["torch_fp32"])
    made[f"{through.engine.name}, {THROUGH_BATCHING}"] = Variant(lambda asked: batched(through, asked))
    return made


def measured(work: dict[str, Variant], asked: Pairs, each: int, repeats: int) -> list[Pairs]:
    """Times every variant on slices of the pairs, `repeats` times after a short warm-up."""
    apart = (len(asked) - each) // max(1, repeats - 1)
    slices = [asked[i * apart : i * apart + each] for i in range(repeats)]
    for variant in work.values():
        variant.score(asked[-16:])
    for part in slices:
        for variant in work.values():
            started = time.perf_counter()
            variant.scores += variant.score(part)
            variant.rates.append(len(part) / (time.perf_counter() - started))
    return slices


def taus(work: dict[str, Variant]) -> dict[str, float]:
    """Kendall's tau of each variant's scores to float32's."""
    return {name: kendall_tau(each.scores, work["torch_fp32"].scores) for name, each in work.items()}


def products(energy: EnergyModel, encoded: Sequence[Pair]) -> float:
    """Floating-point operations of the matrix products that these texts need.

    Padding is not counted, nor what a last layer does for other tokens than the first, which the head reads.
    """
    *whole, last = energy.network.base_model.encoder.layer
    needed = [*whole, last.attention.self.key, last.attention.self.value]
    linear = [each for layer in needed for each in layer.modules() if isinstance(each, nn.Linear)]
    weights = sum(each.weight.numel() for each in linear)
    attention = 4 * energy.network.config.hidden_size * len(whole)  # queries x keys, weights x values
    return float(sum(len(pair) * (2 * weights + attention * len(pair)) for pair in encoded))


def peak(dtype: torch.dtype) -> float:
    """Floating-point operations a second of one matrix product, the best of several shapes and tries."""
    return max(_product_rate(dtype, *shape) for shape in PEAK_SHAPES for _ in range(3))


def _product_rate(dtype: torch.dtype, rows: int, inner: int, columns: int) -> float:
    left, right = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
    times = max(1, int(4e9 / (rows * inner * columns)))
    left @ right
    started = time.perf_counter()
    for _ in range(times):
        left @ right
    return 2.0 * rows * inner * columns * times / (time.perf_counter() - started)


async def eights(scorer: EngineScorer, asked: Pairs) -> list[float]:
    """Milliseconds of each answer's scoring, one answer after the other."""
    taken = []
    async with BatchingScorer(scorer) as scoring:
        for at in range(min(ANSWERS, len(asked) // CANDIDATES)):
            part = asked[at * CANDIDATES : (at + 1) * CANDIDATES]
            started = time.perf_counter()
            await scoring.scored(part[0][0], [f"{text} ({at})" for _, text in part])
            taken.append(1000 * (time.perf_counter() - started))
    return taken


class Costless:
    """A scorer that takes no time: what is left is gathering."""

    def score(self, question: str, texts: Sequence[str]) -> list[float]:
        """Nothing for each."""
        return [0.0] * len(texts)

    def score_pairs(self, asked: Pairs) -> list[float]:
        """Nothing for each."""
        return [0.0] * len(asked)


async def gathering_us(requests: int = 2000) -> float:
    """Microseconds a pair of the batching scorer's own work, 2,000 requests of four at once."""
    async with BatchingScorer(Costless()) as scoring:
        started = time.perf_counter()
        texts = [[f"{i} {j}" for j in range(4)] for i in range(requests)]
        await asyncio.gather(*(scoring.scored(f"q{i % 64}", each) for i, each in enumerate(texts)))
        return 1e6 * (time.perf_counter() - started) / (4 * requests)


def document(energy: EnergyModel, asked: Pairs, given: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    about = machine(given.threads)
    work = variants(energy, given.threads)
    peaks = {name: peak(dtype) for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    slices = measured(work, asked, given.each, given.repeats)
    tau = taus(work)
    ours = [name for name in NEEDS if name in work and tau[name] >= LEAST_TAU]
    speedups = {
        name: [rate / plain for rate, plain in zip(each.rates, work[PLAIN].rates, strict=True)]
        for name, each in work.items()
    }
    best = max(ours, key=lambda name: statistics.median(speedups[name]))
    done = [products(energy, energy.encode(part)) / len(part) for part in slices]
    reached = [flops * rate for flops, rate in zip(done, work[best].rates, strict=True)]
    precision = "fp32" if best.endswith("fp32") else "bf16"
    latency = asyncio.run(eights(EngineScorer(energy.encoder, make_engine(best, energy)), asked))
    return {
        "machine": about,
        "pairs": {
            "of": "recorded answers" if given.recorded else "the embedded world",
            "a_repeat": given.each,
            "repeats": given.repeats,
            "tokens": statistics.mean(len(pair) for pair in energy.encode(asked)),
        },
        "rates": {name: summary(each.rates) for name, each in work.items()},
        "speedups": {name: summary(values) for name, values in speedups.items()},
        "tau": tau,
        "engine": best,
        "peak_gflops": {name: value / 1e9 for name, value in peaks.items()},
        "figures": {
            "scoring_speedup": statistics.median(speedups[best]),
            "scoring_roofline": statistics.median(reached) / peaks[precision],
            "score8_ms": {f"p{q}": float(np.percentile(latency, q)) for q in (50, 99)},
        },
        "spread": {
            "scoring_speedup": [min(speedups[best]), max(speedups[best])],
            "scoring_roofline": [min(reached) / peaks[precision], max(reached) / peaks[precision]],
        },
        "gathering_us": statistics.median(asyncio.run(gathering_us()) for _ in range(5)),
    }


def tell(found: dict[str, Any]) -> None:
    about, taken = found["machine"], found["pairs"]
    print(f"{about['processor']}, {about['cores']} cores, {about['threads']} threads")
    print(f"load before: {about['load_average']}")
    print(
        f"{taken['a_repeat']} pairs of {taken['of']} a repeat, {taken['tokens']:.0f} tokens each on average"
    )
    print(f"{'':46} {'pairs/s':>8} {'times':>6}   (low to high)    tau")
    for name, rate in found["rates"].items():
        times = found["speedups"][name]
        print(
            f"{name:46} {rate['median']:8.1f} {times['median']:6.2f}   "
            f"({times['low']:.2f} to {times['high']:.2f})   {found['tau'][name]:.4f}"
        )
    told = found["figures"]
    print(f"scoring_speedup   {told['scoring_speedup']:.2f} ({found['engine']})")
    print(f"scoring_roofline  {told['scoring_roofline']:.2f}")
    print(f"score8_ms         p50 {told['score8_ms']['p50']:.0f}, p99 {told['score8_ms']['p99']:.0f}")
    print(f"gathering         {found['gathering_us']:.0f} microseconds a pair")
    if taken["repeats"] < 5:
        print("fewer than 5 repeats: these figures show that it runs, no more")


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of scoring, here.")
    parser.add_argument("--recorded", type=Path, help="JSONL of questions with recorded answers")
    parser.add_argument(
        "--adapter", type=Path, help="an adapter folder; MiniLM with a head by chance if left out"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=PAIRS, help="to take the slices from")
    parser.add_argument("--each", type=int, default=48, help="pairs a repeat")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("bench-scoring.json"))
    given = parser.parse_args()
    use_threads(given.threads)
    energy = (
        load_adapter(given.adapter, device="cpu")[0]
        if given.adapter
        else EnergyModel.pretrained("offline", device="cpu")
    )
    asked = recorded_pairs(given.recorded, given.pairs) if given.recorded else pairs(given.pairs)
    found = document(energy, asked, given)
    write(given.json, found)
    tell(found)


if __name__ == "__main__":
    main()
