"""Training steps a second against a plain loop: same questions, same draws of answers, same learning rate.

    python scripts/bench_training.py [--recorded FILE] [--updates 3] [--repeats 5] [--json FILE]

The plain loop is what a first program would be, our own code: four questions an update, all their answers in
one batch padded to the longest, float32, looped AdamW. Ours is `trimtab.energy.fit` at its defaults. Each
run is a process of its own, in turn, so that its peak memory is its own too. The loss curves are compared
where dropout is drawn differently: they agree within its noise, not bit for bit.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benching import write
from trimtab.types import Contrast

KINDS = ("plain", "ours")


def contrasts_of(recorded: Path | None, count: int) -> list[Contrast]:
    """Questions with right and wrong answers: recorded ones, or chains of the embedded world."""
    rng = random.Random(0)
    if recorded is None:
        from trimtab.llm.embedded.world import questions

        rows = questions(0, count * 4)
        chains = ["".join(rng.choice(rows).rationale or "" for _ in range(rng.randint(1, 4))) for _ in rows]
        return [
            Contrast(row.id, row.text, tuple(rng.sample(chains, 4)), tuple(rng.sample(chains, 8)))
            for row in rows[:count]
        ]
    from trimtab import tasks
    from trimtab.data import load_recorded
    from trimtab.pools import recorded_pool
    from trimtab.types import Verdict

    found = []
    for row in load_recorded(recorded):
        pool = recorded_pool(row, tasks.by_name("numeric"))
        right = [each.text for each in pool.candidates if each.verdict is Verdict.RIGHT]
        wrong = [each.text for each in pool.candidates if each.verdict is not Verdict.RIGHT]
        if right and wrong:
            found.append(Contrast(row.question.id, row.question.text, tuple(right), tuple(wrong)))
    return found[:count]


def plain(contrasts: Sequence[Contrast], updates: int) -> tuple[list[float], list[float]]:
    """Losses and the times at which updates ended."""
    import torch

    from trimtab.energy import EnergyModel
    from trimtab.energy.fit import learning_rate, padded
    from trimtab.energy.fitting import FitSettings
    from trimtab.energy.groups import Sizes, epoch_batches
    from trimtab.energy.nce import LOSSES

    settings = FitSettings()
    sizes = Sizes(1, settings.max_positives, settings.max_negatives, settings.max_prefixes)
    energy = EnergyModel.pretrained("offline", device="cpu")
    optimizer = torch.optim.AdamW(energy.network.parameters(), lr=settings.lr, foreach=False, fused=False)
    batches = [batch.contrasts[0] for batch in epoch_batches(contrasts, (), sizes, settings.seed, 0)]
    losses, ended = [], [time.perf_counter()]
    energy.network.train()
    for step in range(updates):
        group = batches[step * settings.accumulation : (step + 1) * settings.accumulation]
        pairs = [(each.question, text) for each in group for text in (*each.positives, *each.negatives)]
        scores = energy.forward(energy.encoder.encode(pairs))
        loss = LOSSES[settings.loss](*padded(scores, group), settings.alpha)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(energy.network.parameters(), 1.0)
        for each in optimizer.param_groups:
            each["lr"] = learning_rate(settings, step, updates)
        optimizer.step()
        losses.append(loss.item())
        ended.append(time.perf_counter())
    return losses, ended


def ours(contrasts: Sequence[Contrast], updates: int) -> tuple[list[float], list[float]]:
    """Losses and the times at which updates ended."""
    from trimtab.energy import EnergyModel
    from trimtab.energy.fit import fit
    from trimtab.energy.fitting import FitSettings, Progress

    energy = EnergyModel.pretrained("offline", device="cpu")
    means, ended = [], [time.perf_counter()]

    def note(progress: Progress) -> None:
        means.append(progress.loss)
        ended.append(time.perf_counter())

    fit(energy, contrasts, FitSettings(epochs=1), progress=note)
    sums = [mean * count for count, mean in enumerate(means, 1)]
    return [after - before for before, after in zip([0.0, *sums], sums, strict=False)], ended


def child(kind: str, recorded: Path | None, updates: int) -> None:
    """Trains, and prints what it took."""
    from trimtab.energy import use_threads

    use_threads(1)
    contrasts = contrasts_of(recorded, updates * 4)
    losses, ended = (plain if kind == "plain" else ours)(contrasts, updates)
    seconds = ended[-1] - ended[1]  # the first update warms up
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"steps_per_s": (len(losses) - 1) / seconds, "peak_gib": peak, "losses": losses}))


def measured(recorded: Path | None, updates: int, repeats: int) -> dict[str, list[dict[str, Any]]]:
    """What each kind took, once a repeat, in turn."""
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    source = ["--recorded", str(recorded)] if recorded else []
    for _ in range(repeats):
        for kind in KINDS:
            command = [sys.executable, __file__, "--child", kind, "--updates", str(updates), *source]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs[kind].append(json.loads(done.stdout.splitlines()[-1]))
    return runs


def main() -> None:
    """Measures, prints and writes; or is the child that trains."""
    parser = argparse.ArgumentParser(description="Training against a plain padded float32 loop.")
    parser.add_argument("--recorded", type=Path)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("bench-training.json"))
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        return child(given.child, given.recorded, given.updates)
    runs = measured(given.recorded, given.updates, given.repeats)
    ratios = [b["steps_per_s"] / a["steps_per_s"] for a, b in zip(*(runs[k] for k in KINDS), strict=True)]
    figures: dict[str, Any] = {"training_speedup": statistics.median(ratios)}
    spread = {"training_speedup": [min(ratios), max(ratios)]}
    document: dict[str, Any] = {"figures": figures, "spread": spread}
    for kind in KINDS:
        late = runs[kind][0]["losses"][given.updates // 2 :]
        document[kind] = {
            "steps_per_s": statistics.median(run["steps_per_s"] for run in runs[kind]),
            "peak_gib": max(run["peak_gib"] for run in runs[kind]),
            "late_loss": statistics.fmean(late),
            "losses": runs[kind][0]["losses"],
        }
        told = document[kind]
        print(
            f"{kind}: {told['steps_per_s']:.3f} updates/s, peak {told['peak_gib']:.2f} GiB, mean loss of the "
            f"second half {told['late_loss']:.3f}"
        )
    figures["training_memory_ratio"] = document["ours"]["peak_gib"] / document["plain"]["peak_gib"]
    print(f"training speedup {figures['training_speedup']:.2f} (median of {given.repeats})")
    write(given.json, document)
    return None


if __name__ == "__main__":
    main()
