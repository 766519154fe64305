"""Ranks as threads of this process: a real gloo group each, whose store is in memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from trimtab.energy.ranks import Group

T = TypeVar("T")


def together(size: int, work: Callable[[Group], T]) -> list[T]:
    """What the work gives in each rank, in their order."""
    store = distributed.HashStore()
    groups: list[distributed.ProcessGroupGloo] = []  # none ends before all have met

    def one(rank: int) -> T:
        group = distributed.ProcessGroupGloo(store, rank, size, timedelta(seconds=20))
        groups.append(group)
        return work(Group(group, torch.device("cpu")))

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(one, range(size)))
