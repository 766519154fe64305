"""Stated targets (`--require "weighted_vote>=0.8"`): read from text, held against a comparison."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

from trimtab.errors import ConfigError
from trimtab.evaluate.comparison import (
    BEAM_SEARCH,
    BEST_OF_N,
    IMPORTANCE_VOTE,
    MAJORITY,
    METHODS,
    OF,
    SINGLE,
    STOPPED,
    WEIGHTED_VOTE,
    Comparison,
)
from trimtab.evaluate.intervals import Difference, Estimate

_SIGNS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_TARGET = re.compile(r"\s*([a-z_][\w.@-]*)\s*(>=|<=|>|<)\s*(-?\d+(?:\.\d+)?)\s*(%?)\s*")
_COUNTS = ("asked", "answered", "unreadable", "failed", "abstained")
_DIFFERENCES = tuple(
    f"{ours}_minus_{theirs}"
    for ours in (BEAM_SEARCH, BEST_OF_N, IMPORTANCE_VOTE, MAJORITY, STOPPED, WEIGHTED_VOTE)
    for theirs in (SINGLE, MAJORITY)
    if ours != theirs
)
MEASURES = (
    *METHODS,
    IMPORTANCE_VOTE,
    BEAM_SEARCH,
    STOPPED,
    *_DIFFERENCES,
    "answered_right",
    "ece",
    "brier",
    "risk_area",
    "samples_per_question",
    *_COUNTS,
)


@dataclass(frozen=True, slots=True)
class Target:
    """One bound that a measure has to keep."""

    measure: str  # a name of `MEASURES`, or one of its interval's ends: "weighted_vote.low"
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{self.measure}{self.sign}{self.bound:g}"


def parse_targets(text: str, measures: Collection[str] = MEASURES) -> tuple[Target, ...]:
    """The targets in a comma-separated text such as "weighted_vote>=0.8, weighted_vote_minus_majority.low>0".

    Raises:
        ConfigError: a part cannot be read, or names no measure.
    """
    return tuple(_target(part, measures) for part in text.split(","))


def _target(part: str, measures: Collection[str]) -> Target:
    read = _TARGET.fullmatch(part)
    if read is None:
        raise ConfigError(
            f"require: '{part.strip()}' is not a target; write NAME>=NUMBER (or <=, >, <), commas "
            f"between several, e.g. 'weighted_vote>=0.8, weighted_vote_minus_majority.low>0'"
        )
    measure, sign, number, percent = read.groups()
    name = measure.removesuffix(".low").removesuffix(".high")
    if OF not in name and name not in measures:  # what it is compared against is known when it was compared
        close = difflib.get_close_matches(name, measures, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(sorted(measures))}"
        raise ConfigError(f"require: no measure '{name}'; {hint}")
    return Target(measure, sign, float(number) / (100 if percent else 1))


def missed_targets(comparison: Comparison, targets: Sequence[Target]) -> list[str]:
    """One sentence for each target that the comparison misses; empty when all are met.

    Raises:
        ConfigError: a target is on something that this evaluation did not measure.
    """
    reached = _reached(comparison)
    missed = []
    for target in targets:
        if target.measure not in reached:
            has = ", ".join(sorted(reached))
            raise ConfigError(f"require: this evaluation did not measure '{target.measure}'; it has: {has}")
        value = reached[target.measure]
        if not _SIGNS[target.sign](value, target.bound):
            missed.append(f"required {target}, reached {value:.4g}")
    return missed


def _reached(comparison: Comparison) -> dict[str, float]:
    found: dict[str, float] = {
        **asdict(comparison.counts),
        "samples_per_question": comparison.samples_per_question,
    }
    found.update(_with_ends({**comparison.accuracy, **comparison.differences}))
    if comparison.answered_right is not None:
        found.update(_with_ends({"answered_right": comparison.answered_right}))
    if comparison.calibration is not None:
        found.update(ece=comparison.calibration.ece, brier=comparison.calibration.brier)
    if comparison.risk is not None:
        found["risk_area"] = comparison.risk.area
    return found


def _with_ends(estimates: Mapping[str, Estimate | Difference]) -> dict[str, float]:
    found = {}
    for name, estimate in estimates.items():
        found.update({name: estimate.value, f"{name}.low": estimate.low, f"{name}.high": estimate.high})
    return found
