"""The paper's masked-language-model ablation: learn to restore masked words of good answers, score by it.

Paper: BBox-Adapter, table 6, gives no formula. Ours: training masks a seeded 15 % of a positive text's
tokens and learns to restore them from the question and the rest. The score is the mean log-probability of
the text's tokens, each masked exactly once, over `FOLDS` passes that mask every FOLDS-th token.

Differs from the full pseudo-log-likelihood (Salazar et al. 2020), which masks one token a pass: with 15 %
to 17 % masked together the passes look like training, and a text costs 6 passes in place of its length.
Negatives play no part in this loss. A backbone whose weights lack the head (MiniLM) learns it from scratch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from trimtab.energy.encoding import Pair

FOLDS = 6  # 1/6 of the tokens masked at once, near BERT's 15 %
MASKED_SHARE = 0.15


def masked_scores(
    network: Any, inputs: dict[str, Int[Tensor, "texts tokens"]], batch: Sequence[Pair], mask_id: int
) -> Float[Tensor, " texts"]:
    """Mean log-probability of each text's tokens; a text without tokens scores 0."""
    total = torch.zeros(len(batch), device=inputs["input_ids"].device)
    for fold in range(FOLDS):
        rows, columns = _positions(batch, lambda at, fold=fold: at % FOLDS == fold)  # type: ignore[misc]
        if rows:
            losses = _restoring(network, inputs, rows, columns, mask_id)
            total = total.index_add(0, torch.tensor(rows, device=total.device), -losses)
    lengths = [max(1, pair.text_end - pair.text_start) for pair in batch]
    return total / torch.tensor(lengths, device=total.device)


def masked_loss(
    network: Any,
    inputs: dict[str, Int[Tensor, "texts tokens"]],
    batch: Sequence[Pair],
    mask_id: int,
    rng: random.Random,
) -> Float[Tensor, ""]:
    """Mean cross-entropy of a random 15 % of the texts' tokens, restored from the rest.

    Differs: a chosen token is always replaced by the mask (BERT: 80 %), as it is when scoring.
    """
    rows, columns = _positions(batch, lambda _: rng.random() < MASKED_SHARE)
    if not rows:  # short texts may draw nothing: then their first token
        rows, columns = _positions(batch, lambda at: at == 0)
    losses = _restoring(network, inputs, rows, columns, mask_id)
    return losses.sum() / max(1, len(rows))  # a text of no tokens at all teaches nothing


def _positions(batch: Sequence[Pair], is_chosen: Callable[[int], bool]) -> tuple[list[int], list[int]]:
    """Row and column of the chosen tokens of each text; the choice sees the place within the text."""
    chosen = [
        (row, column)
        for row, pair in enumerate(batch)
        for column in range(pair.text_start, pair.text_end)
        if is_chosen(column - pair.text_start)
    ]
    return [row for row, _ in chosen], [column for _, column in chosen]


def _restoring(
    network: Any, inputs: dict[str, Tensor], rows: list[int], columns: list[int], mask_id: int
) -> Float[Tensor, " masked"]:
    masked = inputs["input_ids"].clone()
    wanted = masked[rows, columns]
    masked[rows, columns] = mask_id
    logits = network(**{**inputs, "input_ids": masked}).logits[rows, columns]
    return cross_entropy(logits.float(), wanted, reduction="none")
