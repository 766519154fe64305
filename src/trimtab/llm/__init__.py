"""The black box: language models that can only be called, and what wraps them.

From the outside in: `Filled` (all draws asked for), `Cached` (none paid for twice), `ChatLLM` (shaped, paced,
charged and tried again), a transport (one HTTP request). The SDK's module is loaded on first use, because it
takes as long to import as all the rest. What to ask and what to make of the answers is decided elsewhere.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trimtab.llm.budget import Budget, Limits
from trimtab.llm.cached import Cached
from trimtab.llm.capabilities import Capabilities, Learned
from trimtab.llm.filled import Filled
from trimtab.llm.limiter import Limiter
from trimtab.llm.prices import Prices
from trimtab.llm.recorded import RecordedLLM
from trimtab.llm.scripted import ScriptedLLM

if TYPE_CHECKING:
    from trimtab.llm.chat import ChatLLM

__all__ = [
    "Budget",
    "Cached",
    "Capabilities",
    "ChatLLM",
    "Filled",
    "Learned",
    "Limiter",
    "Limits",
    "Prices",
    "RecordedLLM",
    "ScriptedLLM",
]


def __getattr__(name: str) -> Any:
    if name == "ChatLLM":
        return import_module("trimtab.llm.chat").ChatLLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
