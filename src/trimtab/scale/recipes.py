"""What an actor is made of: recipes that the command line hands over, and secrets that no repr shows.

An actor is created empty and handed its recipe by a call, which goes from process to process: what stands in
a constructor is kept by the cluster for restarts. How recipes are made from settings is the command line's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from trimtab.drawing import BeamSettings, Waves
from trimtab.energy import Calibration
from trimtab.llm.observed import Meter
from trimtab.scale.leases import LeasedBudget, LeasedLimiter
from trimtab.stopping import DecisionRule
from trimtab.types import LLM, Sampling, Usage


@dataclass(frozen=True, slots=True)
class Secrets:
    """Values of environment variables, by name."""

    values: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return Secrets, (dict(self.values),)


class Box(Protocol):
    """The black boxes of a run, as one actor has them."""

    @property
    def meter(self) -> Meter:
        """What its calls come to."""
        ...

    def model(self, name: str | None = None) -> LLM:
        """The black box, or another model at its endpoint."""
        ...

    def close(self) -> None:
        """Lets go of store and log."""
        ...


class BoxRecipe(Protocol):
    """Makes the black boxes in an actor."""

    def __call__(self, limiter: LeasedLimiter, budget: LeasedBudget, secrets: Secrets) -> Box:
        """The boxes, under this limiter and this budget. Raises TrimtabError."""
        ...


BatchWork: TypeAlias = Callable[
    [Sequence[Any]], Iterable[Any]
]  # a result an item, in order, e.g. of a scorer


Say: TypeAlias = Callable[[str, str], None]  # a channel and a text
LongWork: TypeAlias = Callable[[Say], Any]


class BatchRecipe(Protocol):
    """Makes what a batch actor does, e.g. loads an adapter."""

    def __call__(self) -> BatchWork:
        """The work. Raises TrimtabError."""
        ...


@dataclass(frozen=True, slots=True)
class Answering:
    """How questions are answered (`drawing.answer_question`)."""

    task: str
    rule: DecisionRule
    how: Sampling | Waves | BeamSettings
    calibration: Calibration | None = None
    abstain_below: float = 0.0
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """What an actor's calls come to so far; adds up with +."""

    usage: Usage = field(default_factory=Usage)
    failed: int = 0
    in_flight: int = 0
    cache_hits: int = 0
    tokens_per_s: float = 0.0

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            self.usage + other.usage,
            self.failed + other.failed,
            self.in_flight + other.in_flight,
            self.cache_hits + other.cache_hits,
            self.tokens_per_s + other.tokens_per_s,
        )
