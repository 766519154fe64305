"""Losses: tensors in, one number out. No model, no text, no random number.

A training unit is one question with answers for it (positives) and against it (negatives). Each loss
comes for one question and, as `LOSSES`, for a padded batch: `scores` is questions x candidates, two masks
say which entries are positives and negatives, all other entries are padding and do not matter.

Symbols: g is the score g_theta(x, y), higher is better; energy is -g.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

BatchLoss = Callable[[Tensor, Tensor, Tensor, float], Tensor]

# ------------------------------------------------------------------------------- one question


def ranking_nce(
    positive: Float[Tensor, " positives"], negative: Float[Tensor, " negatives"], alpha: float = 0.0
) -> Float[Tensor, ""]:
    """Ranking NCE of one question: how surprising each positive is among the negatives.

    Paper: BBox-Adapter Eq. 2, -E[g(x+) - log sum_k exp g(x_k)], plus alpha E[g^2] on both sides (Eq. 3).
    `positive` is g(x+), `negative` the g(x_k) of the black box's draws.

    Differs: with several positives each has a denominator of itself and the negatives; a positive does not
    compete with another positive. alpha is not stated in the paper.

    Raises:
        ValueError: one side is empty.
    """
    return ranking_nce_batch(*_one_row(positive, negative), alpha)


def pooled(positive: Float[Tensor, " positives"], negative: Float[Tensor, " negatives"]) -> Float[Tensor, ""]:
    """The loss of the paper's released code: -E[g+]/5 + E[g-]/5 + E[g^2].

    Paper: none; it stands in the code in place of Eq. 3. It fits +0.1 and -0.1 by least squares and does
    not rank within a question. Kept as a baseline.

    Differs: nothing; over a batch, positives and negatives of all questions are pooled as there. No term
    knows of another answer, so the size of the batch only changes how answers are weighted.

    Raises:
        ValueError: one side is empty.
    """
    return pooled_batch(*_one_row(positive, negative), 0.0)


def bce(positive: Float[Tensor, " positives"], negative: Float[Tensor, " negatives"]) -> Float[Tensor, ""]:
    """Binary cross-entropy: each answer by itself is right or wrong, P(right) = sigmoid(g).

    Raises:
        ValueError: one side is empty.
    """
    return bce_batch(*_one_row(positive, negative), 0.0)


def bradley_terry(
    positive: Float[Tensor, " positives"], negative: Float[Tensor, " negatives"]
) -> Float[Tensor, ""]:
    """Mean of -log sigmoid(g+ - g-) over all pairs of a positive and a negative.

    Paper: Bradley & Terry 1952; the usual loss of reward models.

    Raises:
        ValueError: one side is empty.
    """
    return bradley_terry_batch(*_one_row(positive, negative), 0.0)


def prefix_value(
    scores: Float[Tensor, " prefixes"],
    values: Float[Tensor, " prefixes"],
    weights: Float[Tensor, " prefixes"],
) -> Float[Tensor, ""]:
    """Weighted cross-entropy between sigmoid(g) of partial chains and how their completions turned out.

    Paper: OVM (Yu et al. 2024), Eq. 4: the value of a prefix is the mean outcome of what continues it.

    Differs: cross-entropy in place of squared error; `weights` count the completions behind each mean.

    Raises:
        ValueError: no prefix, or no weight above 0.
    """
    if not len(scores) or not bool(weights.sum() > 0):
        raise ValueError("prefix_value needs at least one prefix with a weight above 0")
    losses = binary_cross_entropy_with_logits(scores, values, reduction="none")
    return (losses * weights).sum() / weights.sum()


# ------------------------------------------------------------------------------- padded batches


def ranking_nce_batch(
    scores: Float[Tensor, "questions candidates"],
    is_positive: Bool[Tensor, "questions candidates"],
    is_negative: Bool[Tensor, "questions candidates"],
    alpha: float = 0.0,
) -> Float[Tensor, ""]:
    """Mean of `ranking_nce` over questions.

    With N = log sum exp of a question's negatives, -(g - log(exp g + exp N)) = softplus(N - g).

    Raises:
        ValueError: a question with an empty side.
    """
    _refuse_empty(is_positive, is_negative)
    against = torch.logsumexp(scores.masked_fill(~is_negative, -torch.inf), dim=1, keepdim=True)
    loss = _row_means(softplus(against - scores), is_positive)
    if alpha:
        squares = scores.square()
        loss = loss + alpha * (_row_means(squares, is_positive) + _row_means(squares, is_negative))
    return loss.mean()


def pooled_batch(
    scores: Float[Tensor, "questions candidates"],
    is_positive: Bool[Tensor, "questions candidates"],
    is_negative: Bool[Tensor, "questions candidates"],
    alpha: float = 0.0,
) -> Float[Tensor, ""]:
    """`pooled` over all positives and negatives of the batch; alpha is not used.

    Raises:
        ValueError: a question with an empty side.
    """
    _refuse_empty(is_positive, is_negative)
    positive, negative = scores[is_positive], scores[is_negative]
    squares = torch.cat([positive, negative]).square()
    return -positive.mean() / 5 + negative.mean() / 5 + squares.mean()


def bce_batch(
    scores: Float[Tensor, "questions candidates"],
    is_positive: Bool[Tensor, "questions candidates"],
    is_negative: Bool[Tensor, "questions candidates"],
    alpha: float = 0.0,
) -> Float[Tensor, ""]:
    """Mean of `bce` over questions; alpha is not used.

    Raises:
        ValueError: a question with an empty side.
    """
    _refuse_empty(is_positive, is_negative)
    losses = torch.where(is_positive, softplus(-scores), softplus(scores))
    return _row_means(losses, is_positive | is_negative).mean()


def bradley_terry_batch(
    scores: Float[Tensor, "questions candidates"],
    is_positive: Bool[Tensor, "questions candidates"],
    is_negative: Bool[Tensor, "questions candidates"],
    alpha: float = 0.0,
) -> Float[Tensor, ""]:
    """Mean of `bradley_terry` over questions; alpha is not used.

    Raises:
        ValueError: a question with an empty side.
    """
    _refuse_empty(is_positive, is_negative)
    losses = softplus(scores[:, None, :] - scores[:, :, None])  # [question, positive, negative]
    is_pair = is_positive[:, :, None] & is_negative[:, None, :]
    return _row_means(losses.flatten(1), is_pair.flatten(1)).mean()


LOSSES: dict[str, BatchLoss] = {
    "ranking_nce": ranking_nce_batch,
    "pooled": pooled_batch,
    "bce": bce_batch,
    "bradley_terry": bradley_terry_batch,
}


def _one_row(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scores = torch.cat([positive, negative])[None]
    is_positive = (torch.arange(scores.shape[1], device=scores.device) < len(positive))[None]
    return scores, is_positive, ~is_positive


def _row_means(values: Tensor, mask: Tensor) -> Float[Tensor, " questions"]:
    return values.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1)


def _refuse_empty(is_positive: Tensor, is_negative: Tensor) -> None:
    if not is_positive.numel() or not bool((is_positive.any(dim=1) & is_negative.any(dim=1)).all()):
        raise ValueError("every question needs at least one positive and one negative")
