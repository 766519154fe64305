"""How an energy model ranks the answers of questions that it does not learn from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trimtab.energy.fitting import Evaluation
from trimtab.energy.model import EnergyModel
from trimtab.energy.nce import ranking_nce
from trimtab.energy.ranks import ALONE, Ranks, part
from trimtab.types import Contrast


def held_out_evaluation(
    energy: EnergyModel, contrasts: Sequence[Contrast], *, bf16: bool | None = None, ranks: Ranks = ALONE
) -> Evaluation:
    """How the model ranks these questions' answers. Raises ValueError without a question."""
    if not contrasts:
        raise ValueError("an evaluation needs at least one held-out question")
    rows = torch.zeros(len(contrasts), 3, dtype=torch.float64)
    places = part(range(len(contrasts)), ranks)
    for place, found in zip(places, _all_ranked(energy, part(contrasts, ranks), bf16), strict=True):
        rows[place] = torch.tensor(found, dtype=torch.float64)
    ranks.sum_(rows)
    ranking_loss, pairwise, best = rows.mean(dim=0).tolist()
    return Evaluation(0, None, ranking_loss, pairwise, best)


def _all_ranked(
    energy: EnergyModel, contrasts: Sequence[Contrast], bf16: bool | None
) -> list[tuple[float, float, float]]:
    pairs = [(c.question, text) for c in contrasts for text in (*c.positives, *c.negatives)]
    scores = iter(energy.score_pairs(pairs, bf16=bf16))
    return [
        _ranked(
            torch.tensor([next(scores) for _ in c.positives]),
            torch.tensor([next(scores) for _ in c.negatives]),
        )
        for c in contrasts
    ]


def _ranked(positive: Tensor, negative: Tensor) -> tuple[float, float, float]:
    order = torch.sign(positive[:, None] - negative[None, :])
    best = torch.sign(positive.max() - negative.max())
    return (
        float(ranking_nce(positive, negative)),
        float((order.mean() + 1) / 2),
        float((best + 1) / 2),
    )
