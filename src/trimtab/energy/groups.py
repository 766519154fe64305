"""What each update of a fit looks at: contrasts drawn, bucketed and batched by seed. No torch here.

Everything depends on (seed, epoch) alone, so a resumed run sees what the unbroken one would have seen.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from typing import TypeVar

from trimtab.types import Contrast, PrefixTarget

BUCKET_BATCHES = 8  # batches whose groups are sorted by length together: little padding, much mixing
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Batch:
    """What one forward and backward pass sees."""

    contrasts: tuple[Contrast, ...]
    prefixes: tuple[PrefixTarget, ...] = ()


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of the data one epoch takes, and in what portions."""

    batch_groups: int
    max_positives: int
    max_negatives: int
    max_prefixes: int


def epoch_batches(
    contrasts: Sequence[Contrast], prefixes: Sequence[PrefixTarget], sizes: Sizes, seed: int, epoch: int
) -> list[Batch]:
    """The batches of one epoch: every contrast once, cut to size; prefixes dealt evenly among them."""
    rng = random.Random(f"{seed}:{epoch}")
    drawn = [_cut(contrast, sizes, rng) for contrast in contrasts]
    grouped = _bucketed(drawn, sizes.batch_groups, rng)
    chosen = _chosen_prefixes(prefixes, sizes.max_prefixes, rng)
    return [Batch(group, tuple(chosen[i :: len(grouped)])) for i, group in enumerate(grouped)]


def _cut(contrast: Contrast, sizes: Sizes, rng: random.Random) -> Contrast:
    return replace(
        contrast,
        positives=_some(contrast.positives, sizes.max_positives, rng),
        negatives=_some(contrast.negatives, sizes.max_negatives, rng),
    )


def _some(items: Sequence[T], most: int, rng: random.Random) -> tuple[T, ...]:
    return tuple(items) if len(items) <= most else tuple(rng.sample(items, most))


def _bucketed(contrasts: list[Contrast], size: int, rng: random.Random) -> list[tuple[Contrast, ...]]:
    """Shuffled batches whose members are about equally long."""
    rng.shuffle(contrasts)
    window = size * BUCKET_BATCHES
    ordered = [
        contrast
        for start in range(0, len(contrasts), window)
        for contrast in sorted(contrasts[start : start + window], key=_length)
    ]
    batches = [tuple(ordered[start : start + size]) for start in range(0, len(ordered), size)]
    rng.shuffle(batches)
    return batches


def _length(contrast: Contrast) -> int:
    return len(contrast.question) + max(map(len, (*contrast.positives, *contrast.negatives)))


def _chosen_prefixes(prefixes: Sequence[PrefixTarget], most: int, rng: random.Random) -> list[PrefixTarget]:
    by_question = groupby(sorted(prefixes, key=attrgetter("question_id")), key=attrgetter("question_id"))
    chosen = [prefix for _, group in by_question for prefix in _some(tuple(group), most, rng)]
    rng.shuffle(chosen)
    return chosen
