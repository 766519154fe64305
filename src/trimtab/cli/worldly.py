"""Questions of the embedded black box's world, as rows: something to adapt it with."""

from __future__ import annotations

import json

from trimtab.llm.embedded.world import questions


def print_questions(count: int, seed: int) -> None:
    """Prints so many questions with the house's answers and solutions, one JSON row a line."""
    for question in questions(seed, count):
        row = {"id": question.id, "question": question.text, "answer": question.answer}
        print(json.dumps({**row, "rationale": question.rationale}, ensure_ascii=False))
