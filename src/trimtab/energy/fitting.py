"""What a fit is asked for and what it says: its settings, progress, evaluations and report.

No torch here; the work itself is `fit`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LossName = Literal["ranking_nce", "pooled", "bce", "bradley_terry", "mlm"]
StopOn = Literal["pairwise", "best_of_n", "ranking_loss"]


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How to fit. Values without a source are ours, chosen on parts of training sets."""

    loss: LossName = "ranking_nce"
    alpha: float = 0.01  # of E[g^2] in ranking_nce; the paper does not state its own
    lr: float = 5e-5  # the paper's 5e-6 is for 6,000 steps
    epochs: int = 3
    batch_groups: int = 1  # questions in one pass: what is held in memory at once
    accumulation: int = 4  # passes in one update
    warmup: float = 0.1  # share of all updates over which the rate rises; then it falls to 0 in a line
    weight_decay: float = 0.01  # paper, section 4.1; not on biases and norms
    max_positives: int = 4  # of a question in one epoch, drawn anew each epoch
    max_negatives: int = 8
    max_prefixes: int = 4
    prefix_weight: float = 1.0  # of the prefixes' loss beside the contrasts'
    frozen_layers: int = 0  # lower encoder layers left as they are, the embeddings with them
    bf16: bool | Literal["auto"] = "auto"  # auto: where the hardware has it
    recompute: bool | Literal["auto"] = "auto"  # activations: slower by a third; auto: when memory is short
    stop_on: StopOn = "pairwise"  # what held-out questions must improve
    evaluations_per_epoch: int = 1
    patience: int = 2  # evaluations without improvement before stopping
    seed: int = 0
    checkpoint_every_s: float = 60.0  # 0: after each update


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a fit stands after an update."""

    step: int
    steps: int
    epoch: float
    loss: float  # mean since the last evaluation
    eta_s: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Held-out questions after `step` updates."""

    step: int
    training_loss: float | None  # mean since the evaluation before; None before the first update
    ranking_loss: float  # ranking NCE without its penalty, mean over questions
    pairwise: (
        float  # share of (positive, negative) pairs in the right order, mean over questions; a tie is half
    )
    best_of_n: (
        float  # share of questions whose best-scored answer is a positive; a tie with a negative is half
    )


@dataclass(frozen=True, slots=True)
class FitReport:
    """What a fit did. With held-out questions the weights of `best_step` were kept."""

    steps: int  # updates made
    planned_steps: int
    best_step: int
    training_loss: float  # mean over the updates since the last evaluation but one
    history: tuple[Evaluation, ...]
    seconds: float
    resumed_from: int  # updates found in the checkpoint; 0 = from the start

    @property
    def best(self) -> Evaluation | None:
        """The held-out evaluation of the weights kept, if there were held-out questions."""
        return next((e for e in self.history if e.step == self.best_step), None)
