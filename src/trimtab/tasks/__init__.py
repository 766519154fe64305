r"""What a question means: prompt, steps, when a chain is finished, the final answer, the verdict.

Here live the tasks that ship and their readers. Not here: search, scoring, any call of a model.

A task of your own is any object of the protocol `trimtab.types.Task`; what ships can be borrowed:

    @dataclass(frozen=True)
    class Shouted:
        name: str = "shouted"
        is_comparable: bool = True
        step_stops: tuple[str, ...] = ("\n",)
        def prompt(self, question, chain=""): return tasks.exact().prompt(question, chain)
        def steps(self, text): return tuple(text.splitlines(keepends=True))
        def is_finished(self, chain): return chain.rstrip().endswith("!")
        def final_answer(self, question, text): return text.split()[-1].upper() if text.split() else None
        def verdict(self, question, text):
            return tasks.held_against(question, self.final_answer(question, text))
"""

from __future__ import annotations

from trimtab.tasks.presets import (
    boolean,
    by_name,
    choice,
    date,
    exact,
    free_text,
    gsm8k,
    house,
    infer,
    numeric,
    scienceqa,
    strategyqa,
    truthfulqa,
)
from trimtab.tasks.referenced import ReferencedTask, held_against

__all__ = [
    "ReferencedTask",
    "boolean",
    "by_name",
    "choice",
    "date",
    "exact",
    "free_text",
    "gsm8k",
    "held_against",
    "house",
    "infer",
    "numeric",
    "scienceqa",
    "strategyqa",
    "truthfulqa",
]
