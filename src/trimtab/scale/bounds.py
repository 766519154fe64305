"""How many batch actors there are: between two bounds, as the work wants. Nothing here knows Ray."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

CALM_S = 10.0  # how long one fewer must have been enough before one goes
WAITING_EACH = 256  # items that wait for each before there is one more


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many batch actors there may be, and what each needs."""

    least: int = 1
    most: int = 1
    cpus: float = 1.0
    gpus: float = 0.0


def resized(size: int, waiting: int, calm_s: float, bounds: Bounds) -> int:
    """One more where more waits than so many can take, one fewer after a calm; always within the bounds."""
    if waiting > size * WAITING_EACH:
        return min(size + 1, bounds.most)
    if calm_s >= CALM_S:
        return max(size - 1, bounds.least)
    return max(size, bounds.least)


@dataclass(slots=True)
class Calm:
    """Since when one fewer would have been enough."""

    since: float = field(default_factory=time.monotonic)

    def lasted_s(self, size: int, waiting: int, now: float) -> float:
        """For how long, so many items waiting now for so many actors."""
        if waiting > (size - 1) * WAITING_EACH:
            self.since = now
        return now - self.since
