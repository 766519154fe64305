"""What a question is one of: a cluster of variants, a category, a seed. Rows say it; nothing is read here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.evaluate.intervals import Clusters

VARIANT = "#"  # "gsm8k-4#2" is a variant of gsm8k-4, like "gsm8k-4#1" and "gsm8k-4" itself


@dataclass(frozen=True, slots=True)
class Mark:
    """Where one pool belongs."""

    cluster: str  # questions of one cluster are variants of each other
    category: str | None = None
    seed: int = 0  # of its draws


def cluster_of(question_id: str, given: str | None = None) -> str:
    """The cluster that the row gives, else the id without what follows its last `#`."""
    return given or question_id.rpartition(VARIANT)[0] or question_id


def unmarked(question_ids: Iterable[str]) -> tuple[Mark, ...]:
    """The marks that ids alone make."""
    return tuple(Mark(cluster_of(each)) for each in question_ids)


def clusters_of(marks: Sequence[Mark]) -> Clusters | None:
    """The number of each question's cluster; None where every question stands alone."""
    names, numbers = np.unique([mark.cluster for mark in marks], return_inverse=True)
    return None if len(names) == len(marks) else numbers.astype(np.int64)
