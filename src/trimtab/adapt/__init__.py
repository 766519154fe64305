"""Online adaptation: rounds of drawing, judging, fitting and evaluating, as a generator.

Names are loaded on first use, so that importing this package loads no torch. The package is called as the
function it is named after: `trimtab.adapt(job)` is `trimtab.adapt.adapt(job)`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.adapt.held_out import HeldOut as HeldOut
    from trimtab.adapt.held_out import evaluate_held_out as evaluate_held_out
    from trimtab.adapt.rounds import AdaptSettings as AdaptSettings
    from trimtab.adapt.rounds import Job as Job
    from trimtab.adapt.rounds import Round as Round
    from trimtab.adapt.rounds import Stage as Stage
    from trimtab.adapt.rounds import adapt as adapt
    from trimtab.adapt.rounds import best_round as best_round
    from trimtab.adapt.sampling import Drawer as Drawer
    from trimtab.adapt.sampling import DrawSettings as DrawSettings
    from trimtab.adapt.sampling import Prepay as Prepay

_PLACES = {
    "AdaptSettings": "rounds",
    "DrawSettings": "sampling",
    "Drawer": "sampling",
    "HeldOut": "held_out",
    "Job": "rounds",
    "Prepay": "sampling",
    "Round": "rounds",
    "Stage": "rounds",
    "adapt": "rounds",
    "best_round": "rounds",
    "evaluate_held_out": "held_out",
}


def __getattr__(name: str) -> Any:
    """The public name, its module loaded on first use."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


class _CallablePackage(ModuleType):
    def __call__(self, job: Job) -> Iterator[Round]:
        """The rounds of the job; see `rounds.adapt`."""
        rounds: Iterator[Round] = __getattr__("adapt")(job)
        return rounds


sys.modules[__name__].__class__ = _CallablePackage
