"""trimtab adapts language models you can only call.

The public names are loaded on first use: importing trimtab loads no torch, no client and no database.

    task   = trimtab.tasks.numeric()
    energy = trimtab.EnergyModel.pretrained("offline")
    for done in trimtab.adapt(trimtab.Job(...)):
        print(done.index, done.held_out.accuracy)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab import tasks as tasks
    from trimtab.adapt import AdaptSettings as AdaptSettings
    from trimtab.adapt import DrawSettings as DrawSettings
    from trimtab.adapt import Job as Job
    from trimtab.adapt import Round as Round
    from trimtab.adapt import adapt as adapt
    from trimtab.data import load_questions as load_questions
    from trimtab.data import load_recorded as load_recorded
    from trimtab.drawing import BeamSettings as BeamSettings
    from trimtab.drawing import answer_question as answer_question
    from trimtab.energy import EnergyModel as EnergyModel
    from trimtab.energy import FitSettings as FitSettings
    from trimtab.energy import load_adapter as load_adapter
    from trimtab.energy import save_adapter as save_adapter
    from trimtab.evaluate import compare as compare
    from trimtab.judge import AIJudge as AIJudge
    from trimtab.judge import Combined as Combined
    from trimtab.judge import GroundTruth as GroundTruth
    from trimtab.judge import Human as Human
    from trimtab.llm import Budget as Budget
    from trimtab.llm import Cached as Cached
    from trimtab.llm import ChatLLM as ChatLLM
    from trimtab.llm import Filled as Filled
    from trimtab.llm import Limits as Limits
    from trimtab.llm import Prices as Prices
    from trimtab.llm import RecordedLLM as RecordedLLM
    from trimtab.llm import ScriptedLLM as ScriptedLLM
    from trimtab.stopping import DecisionRule as DecisionRule
    from trimtab.store import Store as Store
    from trimtab.types import Pool as Pool
    from trimtab.types import Question as Question
    from trimtab.types import Sampling as Sampling

_PLACES = {
    "AIJudge": "judge",
    "AdaptSettings": "adapt",
    "BeamSettings": "drawing",
    "ChatLLM": "llm",
    "Combined": "judge",
    "DecisionRule": "stopping",
    "DrawSettings": "adapt",
    "EnergyModel": "energy",
    "FitSettings": "energy",
    "GroundTruth": "judge",
    "Human": "judge",
    "Job": "adapt",
    "Budget": "llm",
    "Cached": "llm",
    "Filled": "llm",
    "Limits": "llm",
    "Prices": "llm",
    "Pool": "types",
    "Question": "types",
    "RecordedLLM": "llm",
    "Round": "adapt",
    "Sampling": "types",
    "ScriptedLLM": "llm",
    "Store": "store",
    "answer_question": "drawing",
    "compare": "evaluate",
    "load_adapter": "energy",
    "load_questions": "data",
    "load_recorded": "data",
    "save_adapter": "energy",
}

__all__ = [*sorted(_PLACES), "adapt", "tasks"]


def __getattr__(name: str) -> Any:
    """The public name, its room loaded on first use."""
    if name in ("adapt", "tasks"):  # rooms of their own; calling `adapt` adapts
        return import_module(f"trimtab.{name}")
    if name not in _PLACES:
        raise AttributeError(f"module 'trimtab' has no attribute '{name}'")
    return getattr(import_module(f"trimtab.{_PLACES[name]}"), name)
