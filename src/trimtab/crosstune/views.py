"""Views: what a head looks at in a reading, and the key that a label's description gives it.

A view turns readings into unit vectors around the centre of the shots; no label of a shot is looked at here,
and nothing is trained.

    mean        the mean state of all tokens, one layer
    opening     the text's first words: the weight of a token falls by e every OPENING_TOKENS tokens
    evidence    attention over the tokens, guided by each class's key: what in the text speaks for the class
    slot        the [MASK] slot, or the first token where the template has none
    largest     the largest value of each dimension over the tokens
    comparison  text pairs: how far each text's tokens find their like in the other
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trimtab.crosstune.readings import Reading

Array = npt.NDArray[Any]
ViewName = Literal["mean", "opening", "evidence", "slot", "largest", "comparison"]
Pooling = Literal["mean", "largest"]

OPENING_TOKENS = 2.0  # where a question's kind is said; 1.5 to 4 did about as well
EVIDENCE_SHARPNESS = 20.0  # of the attention over tokens; 15 to 30 did about as well
_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Item:
    """What was read of one text or pair."""

    whole: Reading  # of the text; of a pair, both through one template
    parts: tuple[Reading, Reading] | None = None  # of a pair, each by itself


@dataclass(frozen=True, slots=True)
class Eye:
    """One view of one layer, made ready by the shots and the labels."""

    view: ViewName
    layer: int  # its place in the reading
    centre: Array  # d: the shots' mean; for a comparison also taken off
    spread: Array  # d: 1, or the shots' standard deviation for a comparison
    guide: Array  # classes x d: the keys that the labels give; zeros for a comparison


def open_eye(
    view: ViewName,
    layer: int,
    shots: Sequence[Item],
    descriptions: Sequence[Sequence[Reading]],
    pooling: Pooling = "mean",
) -> Eye:
    """The eye of a view on a layer: its centre from the shots, its guide from the labels' descriptions."""
    if view == "comparison":
        raw = _raw(view, layer, shots)
        spread = (raw.std(axis=0) + 1e-6) * np.sqrt(raw.shape[1], dtype=raw.dtype)
        guide = np.zeros((len(descriptions), raw.shape[1]), raw.dtype)
        return Eye(view, layer, raw.mean(axis=0), spread, guide)
    base: ViewName = "mean" if view == "evidence" else view
    centre = _raw(base, layer, shots).mean(axis=0)
    return Eye(view, layer, centre, np.ones_like(centre), _guide(base, layer, descriptions, pooling))


def queries(eye: Eye, items: Sequence[Item]) -> Array:
    """(texts, d), or (texts, classes, d) for `evidence`: what the heads of this eye are asked with."""
    if eye.view == "evidence":
        found: Array = np.stack([_evidence(eye, item.whole) for item in items])
        return unit(found - eye.centre)
    moved: Array = (_raw(eye.view, eye.layer, items) - eye.centre) / eye.spread
    asked: Array = moved if eye.view == "comparison" else unit(moved)
    return asked


def text_vectors(view: ViewName, layer: int, items: Sequence[Item]) -> Array:
    """(texts, d): the unit vectors of a view, not centred. For the baselines."""
    return _raw(view, layer, items)


def unit(vectors: Array) -> Array:
    """Vectors of length 1 along the last axis; zeros stay zeros."""
    scaled: Array = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _TINY)
    return scaled


def _guide(view: ViewName, layer: int, descriptions: Sequence[Sequence[Reading]], pooling: Pooling) -> Array:
    pooled = []
    for readings in descriptions:
        vectors = _raw(view, layer, [Item(reading) for reading in readings])
        pooled.append(vectors.mean(axis=0) if pooling == "mean" else vectors.max(axis=0))
    stacked = np.stack(pooled)
    return unit(stacked - stacked.mean(axis=0))


def _raw(view: ViewName, layer: int, items: Sequence[Item]) -> Array:
    if view == "comparison":
        return np.stack([_coverage(item, layer) for item in items])
    return unit(np.stack([_pooled(view, layer, item.whole) for item in items]))


def _pooled(view: ViewName, layer: int, reading: Reading) -> Array:
    if view == "slot":
        slot: Array = reading.slot[layer].astype(np.float32)
        return slot
    if view == "mean":
        mean: Array = reading.states[layer].astype(np.float32).mean(axis=0)
        return mean
    tokens = reading.content[layer].astype(np.float32)
    if view == "largest":
        largest: Array = tokens.max(axis=0)
        return largest
    weights = np.exp(-np.arange(len(tokens), dtype=np.float32) / OPENING_TOKENS)
    opening: Array = weights @ tokens / weights.sum()
    return opening


def _evidence(eye: Eye, reading: Reading) -> Array:
    """(classes, d): the tokens' unit states, each class attending to those that are like its key."""
    tokens = unit(reading.content[eye.layer].astype(np.float32))
    attention = EVIDENCE_SHARPNESS * (tokens @ eye.guide.T)
    attention = np.exp(attention - attention.max(axis=0))
    attention /= attention.sum(axis=0)
    found: Array = attention.T @ tokens
    return found


def _coverage(item: Item, layer: int) -> Array:
    """How well the pair covers the text, and the text the pair: mean over tokens of the best likeness."""
    if item.parts is None:
        raise ValueError("a comparison needs a pair")
    one, other = (unit(part.content[layer].astype(np.float32)) for part in item.parts)
    likeness = one @ other.T
    return np.array([likeness.max(axis=1).mean(), likeness.max(axis=0).mean()], np.float32)
