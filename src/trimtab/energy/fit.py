"""Training an energy model on contrasts, resumable to the last bit.

One update reads `batch_groups * accumulation` questions. Every random choice (which answers, in what order,
dropout) follows from (seed, step), none from the clock, so a run killed at any moment and started again
ends in the same weights on one thread as one left alone. What the losses are is `nce`'s; where contrasts
come from, `adapt`'s. Nothing is printed: a caller's `progress` is called after each update.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.energy.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from trimtab.energy.encoding import Pair, by_length
from trimtab.energy.fitting import Evaluation, FitReport, FitSettings, Progress
from trimtab.energy.groups import Batch, Sizes, epoch_batches
from trimtab.energy.held_out import held_out_evaluation
from trimtab.energy.memory import must_recompute, padded_lengths
from trimtab.energy.mlm import masked_loss
from trimtab.energy.model import EnergyModel, bf16_autocast, can_bf16
from trimtab.energy.nce import LOSSES, prefix_value
from trimtab.energy.parameters import (
    give_freed_memory_back,
    optimizer,
    quick_attention,
    recomputing,
    trainable,
)
from trimtab.energy.ranks import ALONE, Ranks, of_first, part, sum_gradients
from trimtab.errors import RunError
from trimtab.types import Contrast, PrefixTarget

TRAINING_TOKENS = 2048  # padded tokens of one forward pass: short answers are not padded to the longest
TRAINING_STEP = 16  # lengths are multiples of it: what one pass frees then fits another
CLIP = 1.0  # gradient norm; usual for fine-tuning encoders


class Fit(Protocol):
    """What fits: `fit` itself, or what has it done elsewhere, in several processes or on a cluster."""

    def __call__(
        self,
        energy: EnergyModel,
        contrasts: Sequence[Contrast],
        settings: FitSettings | None = None,
        *,
        prefixes: Sequence[PrefixTarget] = (),
        held_out: Sequence[Contrast] = (),
        checkpoint_dir: Path | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> FitReport:
        """See `fit`."""
        ...


def fit(
    energy: EnergyModel,
    contrasts: Sequence[Contrast],
    settings: FitSettings | None = None,
    *,
    prefixes: Sequence[PrefixTarget] = (),
    held_out: Sequence[Contrast] = (),
    checkpoint_dir: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    ranks: Ranks = ALONE,
) -> FitReport:
    """Trains the energy model in place; with held-out questions, its best weights are kept.

    The untrained weights are a candidate too: a fit never leaves the model worse on held-out questions.
    With `checkpoint_dir`, a fit of the same data, settings and starting weights goes on where it was; a
    checkpoint of any other fit is written over.

    As one of several `ranks` it takes its part of an update's passes. All are given the same, and all end in
    the same weights: those of one process but for the rounding of sums. The first keeps the checkpoints.

    Raises:
        ValueError: no contrast, an empty side, or a loss that does not suit the model's head.
        RunError: the loss is not a number any more.
    """
    chosen = settings or FitSettings()
    check_fit(energy, contrasts, prefixes, chosen)
    with (
        trainable(energy.network, chosen.frozen_layers) as parameters,
        quick_attention(energy.network),
        recomputing(energy.network, _recomputes(energy, contrasts, prefixes, chosen, ranks)),
    ):
        training = _Training(
            energy,
            tuple(contrasts),
            tuple(prefixes),
            tuple(held_out),
            chosen,
            parameters,
            checkpoint_dir,
            ranks,
        )
        training.run(progress)
    return training.report()


class _Training:
    """The state of one fit: where it is, what it has seen, its optimiser."""

    def __init__(
        self,
        energy: EnergyModel,
        contrasts: tuple[Contrast, ...],
        prefixes: tuple[PrefixTarget, ...],
        held_out: tuple[Contrast, ...],
        settings: FitSettings,
        parameters: dict[str, nn.Parameter],
        checkpoint_dir: Path | None,
        ranks: Ranks,
    ) -> None:
        self.energy, self.settings, self.parameters = energy, settings, parameters
        self.contrasts, self.prefixes, self.held_out = contrasts, prefixes, held_out
        self.checkpoint_dir, self.ranks = checkpoint_dir, ranks
        self.bf16 = can_bf16(energy.device) if settings.bf16 == "auto" else settings.bf16
        passes = math.ceil(len(contrasts) / settings.batch_groups)
        self.updates_per_epoch = math.ceil(passes / settings.accumulation)
        self.steps = self.updates_per_epoch * settings.epochs
        self.optimizer = optimizer(parameters, settings.lr, settings.weight_decay)
        self.step = 0
        self.resumed_from = 0
        self.losses: list[float] = []  # since the last evaluation
        self.history: list[Evaluation] = []
        self.best: dict[str, Tensor] = {}
        self.epoch_drawn = -1
        self.batches: list[Batch] = []
        self.started = self.saved_at = time.monotonic()

    # ---- the order of time

    def run(self, progress: Callable[[Progress], None] | None) -> None:
        """Updates, evaluations and checkpoints until the end or until patience is out."""
        fingerprint = self._fingerprint() if self.checkpoint_dir and self.ranks.rank == 0 else ""
        self._restore(fingerprint)
        if self.held_out and not self.history:
            self._evaluate()
        while self.step < self.steps and not self._is_out_of_patience():
            self._update()
            give_freed_memory_back()
            if self.held_out and self._is_evaluation_due():
                self._evaluate()
            self._checkpoint_when_due(fingerprint)
            if progress:
                progress(self._progress())
        self._keep_best()

    def _update(self) -> None:
        batches = self._batches_of(self.step)
        questions = sum(len(batch.contrasts) for batch in batches)
        self.energy.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for number, batch in part(list(enumerate(batches)), self.ranks):
            with _dropout_seed(self.settings.seed, self.step, number, self.energy.device):
                loss = self._loss(batch, number) * (len(batch.contrasts) / questions)
                loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        total = sum_gradients(self.parameters.values(), total, self.ranks)
        self._refuse_nonsense(total)
        nn.utils.clip_grad_norm_(self.parameters.values(), CLIP)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, self.step, self.steps)
        self.optimizer.step()
        self.energy.network.eval()
        self.losses.append(total)
        self.step += 1

    def _batches_of(self, step: int) -> list[Batch]:
        epoch, place = divmod(step, self.updates_per_epoch)
        if epoch != self.epoch_drawn:
            self.batches = _drawn(self.contrasts, self.prefixes, self.settings, epoch)
            self.epoch_drawn = epoch
        start = place * self.settings.accumulation
        return self.batches[start : start + self.settings.accumulation]

    # ---- the loss of one batch

    def _loss(self, batch: Batch, number: int) -> Tensor:
        if self.settings.loss == "mlm":
            return self._masked_loss(batch, random.Random(f"{self.settings.seed}:{self.step}:{number}"))
        answers, chains = _pairs(batch)
        scores = self._scores([*answers, *chains])
        loss = LOSSES[self.settings.loss](*padded(scores, batch.contrasts), self.settings.alpha)
        if not chains:
            return loss
        values = scores.new_tensor([p.value for p in batch.prefixes])
        weights = scores.new_tensor([float(p.weight) for p in batch.prefixes])
        value_loss = prefix_value(scores[len(answers) :], values, weights)
        return loss + self.settings.prefix_weight * value_loss

    def _scores(self, pairs: Sequence[tuple[str, str]]) -> Float[Tensor, " texts"]:
        encoded = self.energy.encoder.encode(pairs)
        order: list[int] = []
        parts: list[Tensor] = []
        with bf16_autocast(self.energy.device, self.bf16):
            for indices in by_length(encoded, TRAINING_TOKENS):
                order += indices
                parts.append(self.energy.forward([encoded[i] for i in indices], step=TRAINING_STEP))
        places = torch.tensor(order, device=self.energy.device).argsort()
        return torch.cat(parts)[places]

    def _masked_loss(self, batch: Batch, rng: random.Random) -> Tensor:
        encoded: list[Pair] = self.energy.encoder.encode(
            [(c.question, text) for c in batch.contrasts for text in c.positives]
        )
        inputs = self.energy.encoder.collate(encoded, self.energy.device)
        mask_id = int(self.energy.tokenizer.mask_token_id)
        with bf16_autocast(self.energy.device, self.bf16):
            return masked_loss(self.energy.network, inputs, encoded, mask_id, rng)

    def _refuse_nonsense(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise RunError(
                f"the training loss became {loss} at step {self.step + 1}; try a lower learning rate than "
                f"{self.settings.lr:g}, or bf16 off"
            )

    # ---- held-out questions

    def _is_evaluation_due(self) -> bool:
        place = self.step % self.updates_per_epoch or self.updates_per_epoch
        parts = self.settings.evaluations_per_epoch
        return place in {math.ceil(self.updates_per_epoch * part / parts) for part in range(1, parts + 1)}

    def _evaluate(self) -> None:
        found = held_out_evaluation(self.energy, self.held_out, bf16=self.bf16, ranks=self.ranks)
        loss = sum(self.losses) / len(self.losses) if self.losses else None
        self.losses = []
        self.history.append(replace(found, step=self.step, training_loss=loss))
        if self._best_step() == self.step:
            self.best = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def _best_step(self) -> int:
        """The step of the best evaluation, the first of equals; the last step without held-out questions."""
        if not self.history:
            return self.step
        return max(self.history, key=self._merit).step

    def _merit(self, evaluation: Evaluation) -> tuple[float, float]:
        """What makes an evaluation the better one; of equals the one with the lower ranking loss."""
        if self.settings.stop_on == "ranking_loss":
            return -evaluation.ranking_loss, 0.0
        chosen = evaluation.pairwise if self.settings.stop_on == "pairwise" else evaluation.best_of_n
        return chosen, -evaluation.ranking_loss

    def _is_out_of_patience(self) -> bool:
        steps = [evaluation.step for evaluation in self.history]
        return bool(steps) and len(steps) - 1 - steps.index(self._best_step()) >= self.settings.patience

    def _keep_best(self) -> None:
        with torch.no_grad():
            for name, tensor in self.best.items():
                self.parameters[name].copy_(tensor)

    # ---- checkpoints

    def _fingerprint(self) -> str:
        """A hash of all that the final weights depend on."""
        settings = asdict(replace(self.settings, checkpoint_every_s=0.0, bf16=self.bf16, recompute=False))
        data = [[asdict(item) for item in items] for items in (self.contrasts, self.prefixes, self.held_out)]
        facts = [settings, data, self.energy.max_length, self.energy.head, torch.__version__]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for name, parameter in sorted(self.energy.network.named_parameters()):
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _checkpoint_when_due(self, fingerprint: str) -> None:
        is_over = self.step == self.steps or self._is_out_of_patience()
        is_due = time.monotonic() - self.saved_at >= self.settings.checkpoint_every_s
        if self.checkpoint_dir is None or self.ranks.rank or not (is_over or is_due):
            return
        counters = {"losses": self.losses, "history": [asdict(e) for e in self.history]}
        tensors = {f"weight.{name}": parameter.data for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            if state := self.optimizer.state[parameter]:  # empty for weights this encoder never uses
                tensors[f"mean.{name}"], tensors[f"square.{name}"] = state["exp_avg"], state["exp_avg_sq"]
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        save_checkpoint(self.checkpoint_dir, Checkpoint(fingerprint, self.step, counters, tensors))
        self.saved_at = time.monotonic()

    def _restore(self, fingerprint: str) -> None:
        found = (
            load_checkpoint(self.checkpoint_dir, fingerprint) if self.checkpoint_dir and fingerprint else None
        )
        found = of_first(found, self.ranks)
        if found is None:
            return
        self.step = self.resumed_from = found.step
        self.losses = found.counters["losses"]
        self.history = [Evaluation(**evaluation) for evaluation in found.counters["history"]]
        device = self.energy.device
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(found.tensors[f"weight.{name}"])
                if f"mean.{name}" in found.tensors:
                    self.optimizer.state[parameter] = {
                        "step": torch.tensor(float(found.step)),
                        "exp_avg": found.tensors[f"mean.{name}"].to(device, copy=True),
                        "exp_avg_sq": found.tensors[f"square.{name}"].to(device, copy=True),
                    }
        best = {
            name.removeprefix("best."): t for name, t in found.tensors.items() if name.startswith("best.")
        }
        self.best = {name: tensor.to(device) for name, tensor in best.items()}

    # ---- what is told

    def _progress(self) -> Progress:
        done = self.step - self.resumed_from
        pace = (time.monotonic() - self.started) / done
        return Progress(
            step=self.step,
            steps=self.steps,
            epoch=self.step / self.updates_per_epoch,
            loss=self._recent_loss(),
            eta_s=pace * (self.steps - self.step),
        )

    def _recent_loss(self) -> float:
        if self.losses:
            return sum(self.losses) / len(self.losses)
        stated = [e.training_loss for e in self.history if e.training_loss is not None]
        return stated[-1] if stated else math.nan

    def report(self) -> FitReport:
        """What was done, once `run` is over."""
        return FitReport(
            steps=self.step,
            planned_steps=self.steps,
            best_step=self._best_step(),
            training_loss=self._recent_loss(),
            history=tuple(self.history),
            seconds=time.monotonic() - self.started,
            resumed_from=self.resumed_from,
        )


def _drawn(
    contrasts: Sequence[Contrast], prefixes: Sequence[PrefixTarget], settings: FitSettings, epoch: int
) -> list[Batch]:
    sizes = Sizes(
        settings.batch_groups, settings.max_positives, settings.max_negatives, settings.max_prefixes
    )
    return epoch_batches(contrasts, prefixes, sizes, settings.seed, epoch)


def _pairs(batch: Batch) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The batch's answers and its prefixes, each with its question."""
    answers = [(c.question, text) for c in batch.contrasts for text in (*c.positives, *c.negatives)]
    return answers, [(p.question, p.prefix) for p in batch.prefixes]


def _recomputes(
    energy: EnergyModel,
    contrasts: Sequence[Contrast],
    prefixes: Sequence[PrefixTarget],
    settings: FitSettings,
    ranks: Ranks,
) -> bool:
    """Whether activations are worked out again: as it is set, else where the longest pass has too many.

    That is the first epoch's longest, in characters; other epochs draw others that are about as long.
    """
    if settings.recompute != "auto":
        return settings.recompute
    passes = [
        [*answers, *chains] for answers, chains in map(_pairs, _drawn(contrasts, prefixes, settings, 0))
    ]
    longest = max(passes, key=lambda pairs: sum(len(question) + len(text) for question, text in pairs))
    layers = energy.network.config.num_hidden_layers - settings.frozen_layers
    lengths = padded_lengths(energy.encode(longest), TRAINING_TOKENS, TRAINING_STEP)
    return must_recompute(energy.network, lengths, layers, sharing=ranks.size)


def padded(scores: Float[Tensor, " texts"], contrasts: Sequence[Contrast]) -> tuple[Tensor, Tensor, Tensor]:
    """Flat scores, question by question and positives first, as a padded matrix with its two masks.

    Scores beyond the contrasts' own are not looked at.
    """
    sizes = [(len(c.positives), len(c.negatives)) for c in contrasts]
    width = max(positives + negatives for positives, negatives in sizes)
    starts = [0]
    for positives, negatives in sizes[:-1]:
        starts.append(starts[-1] + positives + negatives)
    places = torch.arange(width, device=scores.device)[None]
    first = torch.tensor(starts, device=scores.device)[:, None]
    split, end = (
        torch.tensor(column, device=scores.device)[:, None]
        for column in ([p for p, _ in sizes], [p + n for p, n in sizes])
    )
    matrix = scores[(first + places).clamp(max=len(scores) - 1)]
    return matrix, places < split, (places >= split) & (places < end)


def learning_rate(settings: FitSettings, step: int, steps: int) -> float:
    """The rate of update `step` (from 0): up in a line over the warm-up, then down in a line to 0."""
    warmup = max(1, round(settings.warmup * steps))
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    return settings.lr * (steps - step) / max(1, steps - warmup)


def check_fit(
    energy: EnergyModel,
    contrasts: Sequence[Contrast],
    prefixes: Sequence[PrefixTarget],
    settings: FitSettings,
) -> None:
    """Raises ValueError for what `fit` cannot do."""
    if not contrasts:
        raise ValueError("a fit needs at least one contrast")
    for contrast in contrasts:
        if not contrast.positives or not contrast.negatives:
            raise ValueError(f"question {contrast.question_id}: a contrast needs positives and negatives")
    if (settings.loss == "mlm") != (energy.head == "mlm"):
        raise ValueError(
            f"the loss '{settings.loss}' does not suit the head '{energy.head}'; "
            "EnergyModel.pretrained(..., head='mlm') goes with 'mlm' and no other loss"
        )
    if settings.loss == "mlm" and prefixes:
        raise ValueError("the mlm loss knows no prefixes")


@contextmanager
def _dropout_seed(seed: int, step: int, number: int, device: torch.device) -> Iterator[None]:
    """Dropout in this context follows from seed, step and pass; the outer generator stays as it was."""
    digest = hashlib.sha256(f"{seed}:{step}:{number}".encode()).digest()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        yield
