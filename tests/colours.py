"""Recorded answers of a task that is learnt at once: rows with one right answer and one wrong."""

from __future__ import annotations

import json
from pathlib import Path


def recorded(path: Path, count: int) -> Path:
    """A file of so many rows; returns its path."""

    def row(at: int) -> dict[str, object]:
        texts = f"The blue way . The answer is {at + 1}.", f"The red way . The answer is {at + 40}."
        samples = [{"text": text} for text in texts]
        return {
            "id": f"q{at}",
            "question": f"What is {at} plus 1?",
            "answer": str(at + 1),
            "samples": samples,
        }

    path.write_text("".join(json.dumps(row(at)) + "\n" for at in range(count)), "utf-8")
    return path
