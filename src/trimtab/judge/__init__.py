"""SEL: who says which answers are positives (BBox-Adapter, Eq. 5 and 6), and what follows for training.

Four sources: ground truth, an LLM, people, and a combination. How answers are drawn, and what is learned
from them, is decided elsewhere.
"""

from __future__ import annotations

from trimtab.judge.ai import REASONING, TRUTHFUL, AIJudge
from trimtab.judge.combined import Combined
from trimtab.judge.human import Human
from trimtab.judge.selection import contrast, select
from trimtab.judge.truth import GroundTruth

__all__ = [
    "REASONING",
    "TRUTHFUL",
    "AIJudge",
    "Combined",
    "GroundTruth",
    "Human",
    "contrast",
    "select",
]
