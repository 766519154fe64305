"""From queries and labels to trained heads: cross-validation inside the shots, early stopping, head weights.

Arrays only: what is read and compared is made by `views`, the formulas are `network`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from trimtab.crosstune.network import (
    Array,
    Head,
    averaged_nll,
    best_temperature,
    each_nll,
    head_probabilities,
    mean_of_heads,
    softened,
    stacked_weights,
)

Fit = Callable[[Array, Array, int], list[list[Head]]]  # rows, head weights, steps -> heads after each step

STAGES = (0, 2, 5, 10, 20, 40)  # after how many steps stopping is considered
SURE = 2.0  # standard errors
FINAL = -1  # in place of the number of a fold: the fit on all shots
NONE: Mapping[int, Array] = MappingProxyType({})


_NOTHING = np.empty(0, dtype=np.int_)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What heads trained without an example say of it, after each stage of training."""

    probabilities: Array  # stages x heads x texts x classes
    labels: Array

    @property
    def right(self) -> Array:
        """(stages, heads, texts): the probability of the right class."""
        rows = np.arange(len(self.labels))
        right: Array = self.probabilities[:, :, rows, self.labels]
        return right


@dataclass(frozen=True, slots=True)
class Trained:
    """Heads, how much each counts, the calibration, and what was seen on the way."""

    heads: list[Head]
    weights: Array
    temperature: float
    steps: int  # of L-BFGS, where training stopped
    held_out_nll: float | None  # of the calibrated mean of heads; None where nothing could be held out
    held_out: int
    held: HeldOut | None = field(default=None, repr=False)  # what the calibrated mean said of them; not saved


def train(
    fit_folds: Fit,
    fit_final: Fit,
    queries: Sequence[Array],
    labels: Array,
    dev: tuple[Sequence[Array], Array] | None,
    *,
    folds: int,
    stages: Sequence[int],
    is_stacked: bool,
    is_calibrated: bool,
    seed: int,
    added: Mapping[int, Array] = NONE,
) -> Trained:
    """The heads after the number of steps, and with the weights, that held-out examples ask for.

    Held out are the dev examples and, fold by fold, the shots themselves; an example that is the only one
    of its class is never held out.

    Args:
        fit_folds: for the held-out decisions.
        fit_final: for the heads that come back.
        queries: of the shots, a head.
        labels: of the shots.
        dev: queries a head and labels of the dev examples.
        folds: of the cross-validation.
        stages: steps after which stopping is considered.
        is_stacked: whether heads are weighed, or all weigh the same.
        is_calibrated: whether there is a temperature.
        seed: of the folds.
        added: rows beyond the shots that are learnt from as well and never held out, by the number of the
            fold; FINAL for the fit on all shots.
    """
    everything = np.append(np.arange(len(labels)), added.get(FINAL, _NOTHING))
    held = _held_out(fit_folds, queries, labels, dev, folds, stages, seed, added)
    heads_count = held.probabilities.shape[1]
    equal = np.full(heads_count, 1 / heads_count)
    if not len(held.labels):
        return Trained(fit_final(everything, equal, stages[-1])[-1], equal, 1.0, stages[-1], None, 0)
    weights = [stacked_weights(right) if is_stacked else equal for right in held.right]
    means = [mean_of_heads(list(p), w) for p, w in zip(held.probabilities, weights, strict=True)]
    # calibrated before they are compared, or training would be stopped for being too sure, which is mended
    temperatures = [best_temperature(mean, held.labels) for mean in means]
    calibrated = [softened(mean, t) for mean, t in zip(means, temperatures, strict=True)]
    best = stopping_stage(np.stack([each_nll(mean, held.labels) for mean in calibrated]))
    temperature = temperatures[best] if is_calibrated else 1.0
    heads = fit_final(everything, weights[best], stages[best])[-1]
    loss = averaged_nll(calibrated[best], held.labels)
    said = HeldOut(calibrated[best][None, None], held.labels)
    return Trained(heads, weights[best], temperature, stages[best], loss, len(held.labels), said)


def stopping_stage(losses: Array) -> int:
    """The stage to stop at, by the losses (stages, held-out examples): the last, or one surely better.

    A few dozen examples tell stages apart badly, and the ridge guards against too much training already:
    an earlier stage is taken only where its loss is lower by more than `SURE` standard errors of the paired
    difference; of several, the one with the least loss.
    """
    better = losses - losses[-1]
    error = better.std(axis=1) / np.sqrt(max(1, losses.shape[1] - 1))
    is_surely_better = better.mean(axis=1) < -SURE * error
    candidates = [at for at in range(len(losses)) if is_surely_better[at]] or [len(losses) - 1]
    return min(candidates, key=lambda at: float(losses[at].mean()))


def stratified_folds(labels: Array, folds: int, seed: int) -> Array:
    """The fold of each example, -1 for one that is alone in its class; a class is spread over all folds."""
    rng = np.random.default_rng(seed)
    found = np.full(len(labels), -1)
    for number, label in enumerate(np.unique(labels)):
        own = rng.permutation(np.flatnonzero(labels == label))
        if len(own) > 1:
            found[own] = (np.arange(len(own)) + number) % folds
    return found


def _held_out(
    fit: Fit,
    queries: Sequence[Array],
    labels: Array,
    dev: tuple[Sequence[Array], Array] | None,
    folds: int,
    stages: Sequence[int],
    seed: int,
    added: Mapping[int, Array],
) -> HeldOut:
    fold = stratified_folds(labels, folds, seed)
    parts, right = [], []
    equal = np.empty(0)
    for number in range(folds):
        out = np.flatnonzero(fold == number)
        if len(out):
            rows = np.append(np.flatnonzero(fold != number), added.get(number, _NOTHING))
            path = fit(rows, equal, stages[-1])
            parts.append(_staged(path, [each[out] for each in queries], stages))
            right.append(labels[out])
    if dev is not None or not parts:
        path = fit(np.append(np.arange(len(labels)), added.get(FINAL, _NOTHING)), equal, stages[-1])
        asked, said = dev or ([each[:0] for each in queries], labels[:0])
        parts.append(_staged(path, asked, stages))
        right.append(said)
    return HeldOut(np.concatenate(parts, axis=2), np.concatenate(right))


def _staged(path: Sequence[Sequence[Head]], queries: Sequence[Array], stages: Sequence[int]) -> Array:
    """(stages, heads, texts, classes); a fit that ended early stays as it ended."""
    snapshots = [path[min(stage, len(path) - 1)] for stage in stages]
    return np.stack(
        [
            np.stack([head_probabilities(head, each) for head, each in zip(heads, queries, strict=True)])
            for heads in snapshots
        ]
    )
