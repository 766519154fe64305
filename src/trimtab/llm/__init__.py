"""The black box: language models that can only be called, and what wraps them.

`ChatLLM` is loaded on first use, because the SDK under it takes as long to import as all the rest.
What to ask and what to make of the answers is decided elsewhere.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trimtab.llm.filled import Filled
from trimtab.llm.kept import Kept
from trimtab.llm.recorded import RecordedLLM
from trimtab.llm.scripted import ScriptedLLM

if TYPE_CHECKING:
    from trimtab.llm.chat import ChatLLM

__all__ = ["ChatLLM", "Filled", "Kept", "RecordedLLM", "ScriptedLLM"]


def __getattr__(name: str) -> Any:
    if name == "ChatLLM":
        return import_module("trimtab.llm.chat").ChatLLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
