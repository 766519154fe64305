"""Which further examples are learnt from, and whether any are: the teacher's filter and the switch.

Formulas and decisions on arrays. The teacher is the classifier trained on the shots alone, `classifier` has
it read the examples; where they come from is `augmentation`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from scipy.optimize import brentq

from trimtab.crosstune.network import FLOOR, Array, each_nll
from trimtab.crosstune.training import FINAL, HeldOut, Trained

SURE = 0.8  # of a label, for its example to be kept: see docs/decisions/0024-the-switch.md
MOST_WRONG = 0.5  # of all labels: who writes more wrong ones than right ones is not learnt from at all

Learn = Callable[[Mapping[int, Array]], Trained]  # places of the examples to add, by fold -> what is learnt


@dataclass(frozen=True, slots=True)
class Filtered:
    """What the teacher makes of the examples."""

    sure: Array  # (examples,): P(the label is right)
    agrees: Array  # (examples,): the teacher's own label is the same
    wrong_share: float  # of all labels, as estimated

    @property
    def kept(self) -> Array:
        """Places of the examples that are kept."""
        return np.flatnonzero(self.sure >= SURE)


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """What became of the examples of one label."""

    given: int
    agreed: int
    kept: int


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Both decisions on further examples, what they were made on, and why.

    Figures of held-out examples are None where the switch had nothing to compare.
    """

    is_on: bool
    reason: str  # one sentence
    given: int
    copies: int  # left out: of a shot or a dev text, which would then not be held out
    agreed: int  # the teacher's own label is the same
    kept: int  # the teacher is sure enough of the label
    wrong_share: float  # of the labels, as the teacher sees it
    per_label: Mapping[str, LabelCounts]
    held_out: int  # shots and dev texts
    nll_without: float | None = None
    nll_with: float | None = None
    accuracy_without: float | None = None
    accuracy_with: float | None = None

    def to_json(self) -> dict[str, Any]:
        """For a folder or a report."""
        return asdict(self)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Augmentation:
        """What `to_json` gave."""
        known = {name: facts[name] for name in (each.name for each in fields(cls))}
        counts = {name: LabelCounts(**each) for name, each in facts["per_label"].items()}
        return cls(**{**known, "per_label": counts})


# --------------------------------------------------------------------------- example by example


def filtered(teacher: Array, labels: Array) -> Filtered:
    """How sure the teacher lets us be of each example's label.

    Paper: CrossTune's switch keeps what a teacher trained on the shots agrees with. Differs: how much
    agreement is needed is learnt from how often the teacher disagrees (`wrong_share`, `label_posterior`).
    Among right labels an example that the teacher would get wrong is the one that teaches most, and is
    kept; among wrong ones it has to be sure itself.

    Args:
        teacher: calibrated probabilities, (examples, classes), of a classifier that has not seen them.
        labels: places of the labels that the examples are meant to have, (examples,).
    """
    classes = teacher.shape[1]
    said: Array = teacher[np.arange(len(labels)), labels]
    wrong = wrong_share(said, classes)
    return Filtered(label_posterior(said, classes, wrong), teacher.argmax(axis=1) == labels, wrong)


def wrong_share(said: Array, classes: int) -> float:
    """The share of wrong labels that fits them best, by what the teacher says of them.

    A label is right with probability 1 - w, else any other with equal probability. One right and one wrong
    label are added as evidence, so that a teacher who knows nothing finds w = 1/2: the maximum of
    log w + log(1 - w) + sum log((1 - w) p + w (1 - p) / (K - 1)), which is strictly concave in w.

    Args:
        said: p, the teacher's probability of each example's label.
        classes: K, two or more.
    """
    right, other = _sides(said, classes)

    def slope(wrong: float) -> float:
        said = ((other - right) / ((1 - wrong) * right + wrong * other)).sum()
        return float(said + 1 / wrong - 1 / (1 - wrong))

    return float(brentq(slope, FLOOR, 1 - FLOOR))


def label_posterior(said: Array, classes: int, wrong: float) -> Array:
    """P(the label is right | text, label) by Bayes: (1 - w) p / ((1 - w) p + w (1 - p) / (K - 1))."""
    right, other = _sides(said, classes)
    found: Array = (1 - wrong) * right / ((1 - wrong) * right + wrong * other)
    return found


def _sides(said: Array, classes: int) -> tuple[Array, Array]:
    """P(the label | the text), and P(any one other): neither is ever 0, so that no label is impossible."""
    right = np.clip(said.astype(np.float64), FLOOR, 1 - FLOOR)
    return right, (1 - right) / (classes - 1)


# --------------------------------------------------------------------------- all or nothing


def switch(
    without: Trained,
    teachers: Mapping[int, Array],
    labels: Array,
    names: Sequence[str],
    learn: Learn,
    *,
    copies: int = 0,
) -> tuple[Augmentation, Trained]:
    """Both decisions, and what to use: what is learnt with the kept examples if it does better, or without.

    Better is, on held-out examples, a lower mean negative log probability of the label, each as foretold by
    a classifier that was trained, and had its further examples filtered, without it. A tie is no gain: off.
    Off without trying where nothing is kept, or held out, or more labels look wrong than right.

    Args:
        without: learnt from the shots alone.
        teachers: by fold, and FINAL, what a teacher without that fold says of the examples.
        labels: places of the examples' labels.
        names: of the classes.
        learn: trains with some of the examples.
        copies: examples that were left out before.
    """
    found = {fold: filtered(teacher, labels) for fold, teacher in teachers.items()}
    last = found[FINAL]

    def said(is_on: bool, reason: str, **figures: Any) -> Augmentation:
        return Augmentation(
            is_on,
            reason,
            given=len(labels) + copies,
            copies=copies,
            agreed=int(last.agrees.sum()),
            kept=len(last.kept),
            wrong_share=last.wrong_share,
            per_label=_per_label(last, labels, names),
            held_out=without.held_out,
            **figures,
        )

    in_vain = _in_vain(last, without.held)
    if without.held is None or in_vain:
        return said(False, f"off: {in_vain}"), without
    with_them = learn({fold: each.kept for fold, each in found.items()})
    assert with_them.held is not None
    figures = compared(without.held, with_them.held)
    gain = figures["nll_without"] - figures["nll_with"]
    reason = f"the kept examples change the held-out log loss by {-gain:+.4f} a text"
    if gain > 0:
        return said(True, f"on: {reason}", **figures), with_them
    return said(False, f"off: {reason}", **figures), without


def _in_vain(found: Filtered, held: HeldOut | None) -> str:
    """Why trying the examples would be in vain; empty where it would not."""
    if not len(found.kept):
        return "the teacher is sure of no example's label"
    if found.wrong_share > MOST_WRONG:
        return "more of the labels look wrong than right"
    return "" if held else "nothing could be held out to try it on"


def compared(without: HeldOut, with_them: HeldOut) -> dict[str, float]:
    """Mean negative log probability and accuracy on the same held-out examples."""
    found = {}
    for name, each in (("without", without), ("with", with_them)):
        said = each.probabilities[0, 0]
        found[f"nll_{name}"] = float(each_nll(said, each.labels).mean())
        found[f"accuracy_{name}"] = float((said.argmax(axis=1) == each.labels).mean())
    return found


def _per_label(found: Filtered, labels: Array, names: Sequence[str]) -> dict[str, LabelCounts]:
    is_kept = found.sure >= SURE
    own = {name: labels == at for at, name in enumerate(names)}
    return {
        str(name): LabelCounts(int(of.sum()), int((of & found.agrees).sum()), int((of & is_kept).sum()))
        for name, of in own.items()
        if of.any()
    }
