"""Which engine scores an adapter's texts quickest without ranking them otherwise.

An engine is faithful when Kendall's tau between its scores and float32's, over all held-out answers, is at
least 0.98, and the share of questions whose best-scored answer is right falls by at most half a point. Tau
within questions is told too, and decides nothing: what flips there are answers that say almost the same.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from trimtab.energy.adapter import load_adapter, save_adapter
from trimtab.energy.encoding import Pair
from trimtab.energy.engines.engine import EngineScorer, scores_by_length
from trimtab.energy.engines.making import make_engine, why_not
from trimtab.energy.engines.names import NEEDS, REFERENCE, EngineName
from trimtab.energy.model import EnergyModel

LEAST_TAU = 0.98
MOST_LOSS = 0.005  # of accuracy, against float32
REPEATS = 11
TIMED_PAIRS = 24  # a repeat: short ones, so that what else the machine does falls on all engines alike


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A question's candidates, and which of them are right."""

    question: str
    texts: tuple[str, ...]
    is_right: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class EngineTrial:
    """One engine as measured beside the others; without figures where it cannot be had."""

    name: EngineName
    reason: str | None  # why it may not be chosen; None: it may
    pairs_per_s: float = 0.0  # median over repeats
    speedup: float = 0.0  # over float32, median of each repeat's own ratio
    tau: float = 0.0  # over all answers
    question_tau: float = 0.0  # over the answers of each question, mean
    accuracy: float = 0.0  # best of n


def choose_engine(
    folder: Path | str, held_out: Sequence[HeldOut], *, threads: int = 1, repeats: int = REPEATS
) -> tuple[EngineName, list[EngineTrial]]:
    """The adapter's engine from now on, and every engine's trial; both are written into its folder.

    The folder is replaced in one move, weights and all else as they were; the engine's files come with it.

    Raises:
        AdapterError: a folder or file that is missing, damaged or of another kind.
        ValueError: no question, or none with two answers.
    """
    energy, manifest = load_adapter(folder)
    trials = bench_engines(energy, held_out, threads=threads, repeats=repeats)
    chosen = fastest_faithful(trials).name
    record = {trial.name: asdict(trial) for trial in trials}
    save_adapter(folder, energy, manifest.model_copy(update={"engine": chosen, "engine_trials": record}))
    return chosen, trials


def bench_engines(
    energy: EnergyModel, held_out: Sequence[HeldOut], *, threads: int = 1, repeats: int = REPEATS
) -> list[EngineTrial]:
    """Every engine's trial, the reference first.

    Every repeat times every engine once, in turn, so that what else the machine does falls on all of them.

    Raises:
        ValueError: no question, or none with two answers.
    """
    if not any(len(each.texts) > 1 for each in held_out):
        raise ValueError("engines are compared on questions with at least two answers; none came")
    names: list[EngineName] = [name for name in NEEDS if energy.head == "scalar" or name == REFERENCE]
    reasons = {name: why_not(name) for name in names}
    scorers = {
        name: EngineScorer(energy.encoder, make_engine(name, energy, threads=threads))
        for name in names
        if reasons[name] is None
    }
    rates = _rates(scorers, _timed(energy, held_out), repeats)
    trials = dict(_trials(scorers, rates, held_out))
    return [trials.get(name) or EngineTrial(name, reasons[name]) for name in names]


def fastest_faithful(trials: Sequence[EngineTrial]) -> EngineTrial:
    """The quickest over float32 of those that may be chosen; of equally quick ones the first."""
    return max((trial for trial in trials if trial.reason is None), key=lambda trial: trial.speedup)


def kendall_tau(ours: Sequence[float], reference: Sequence[float]) -> float:
    """Kendall's tau over pairs of texts: (ordered alike - ordered otherwise) / all of them.

    Pairs that `reference` scores alike have no order to keep and do not count; a pair that only `ours` ties
    counts as neither. 1.0 where nothing counts.
    """
    order = np.sign(np.subtract.outer(reference, reference))
    agreed = order * np.sign(np.subtract.outer(ours, ours))
    counted = float(np.abs(order).sum())
    return float(agreed.sum()) / counted if counted else 1.0


def best_of_n(scores: Sequence[Sequence[float]], held_out: Sequence[HeldOut]) -> float:
    """The share of questions whose best-scored answer, the first of equals, is right."""
    hits = [each.is_right[int(np.argmax(of))] for of, each in zip(scores, held_out, strict=True)]
    return sum(hits) / len(hits)


def _timed(energy: EnergyModel, held_out: Sequence[HeldOut]) -> list[Pair]:
    """Pairs to be timed on, from all over the held-out ones; tokenised before."""
    pairs = [(each.question, text) for each in held_out for text in each.texts]
    step = max(1, len(pairs) // TIMED_PAIRS)
    return energy.encode(pairs[::step][:TIMED_PAIRS])


def _rates(
    scorers: Mapping[EngineName, EngineScorer], encoded: Sequence[Pair], repeats: int
) -> dict[EngineName, list[float]]:
    """Pairs a second of each engine, once a repeat, after one warm-up of each."""
    rates: dict[EngineName, list[float]] = {name: [] for name in scorers}
    for repeat in range(repeats + 1):
        for name, scorer in scorers.items():
            started = time.perf_counter()
            scores_by_length(scorer, encoded)
            if repeat:
                rates[name].append(len(encoded) / (time.perf_counter() - started))
    return rates


def _trials(
    scorers: Mapping[EngineName, EngineScorer],
    rates: Mapping[EngineName, Sequence[float]],
    held_out: Sequence[HeldOut],
) -> Iterator[tuple[EngineName, EngineTrial]]:
    reference = _scored(scorers[REFERENCE], held_out)
    aim = best_of_n(reference, held_out)
    for name, scorer in scorers.items():
        scores = reference if name == REFERENCE else _scored(scorer, held_out)
        tau = kendall_tau(list(chain(*scores)), list(chain(*reference)))
        accuracy = best_of_n(scores, held_out)
        ratios = [own / base for own, base in zip(rates[name], rates[REFERENCE], strict=True)]
        yield (
            name,
            EngineTrial(
                name,
                _unfaithful(tau, aim - accuracy),
                statistics.median(rates[name]),
                statistics.median(ratios),
                tau,
                statistics.mean(map(kendall_tau, scores, reference)),
                accuracy,
            ),
        )


def _scored(scorer: EngineScorer, held_out: Sequence[HeldOut]) -> list[list[float]]:
    pairs = [(each.question, text) for each in held_out for text in each.texts]
    scores = iter(scorer.score_pairs(pairs))
    return [[next(scores) for _ in each.texts] for each in held_out]


def _unfaithful(tau: float, loss: float) -> str | None:
    if tau < LEAST_TAU:
        return f"ranks otherwise: tau {tau:.3f}, {LEAST_TAU} is needed"
    if loss > MOST_LOSS:
        return f"loses {100 * loss:.1f} points of accuracy, {100 * MOST_LOSS:g} are allowed"
    return None
