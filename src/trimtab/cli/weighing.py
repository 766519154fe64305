"""`classify evaluate --compare`: the classifier beside its baselines and the LLM itself, on the same rows.

Every method labels every row; a reply that failed or cannot be read is wrong and stays in the denominator.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from trimtab.cli.console import say
from trimtab.cli.labelling import Ask, Labelled
from trimtab.cli.ledger import dollars, print_aligned
from trimtab.crosstune import measures
from trimtab.crosstune.asking import AskSettings
from trimtab.crosstune.requesting import Text
from trimtab.crosstune.rows import LabelledText, Labels
from trimtab.evaluate.intervals import Difference, paired_difference, wilson_interval

if TYPE_CHECKING:
    from trimtab.crosstune import CrossTuneClassifier

CROSSTUNE, ZERO_SHOT, IN_CONTEXT = "crosstune", "llm_zero_shot", "llm_in_context"
SHOWN = {
    CROSSTUNE: "CrossTune",
    "label_similarity": "label similarity, zero-shot",
    "nearest_mean": "nearest class mean",
    "logistic_regression": "logistic regression, last layer",
    "logistic_regression_layers": "logistic regression, all layers",
    "dect": "DecT-style head",
    ZERO_SHOT: "the LLM, zero-shot",
    IN_CONTEXT: "the LLM, in-context",
}
NEEDS_SHOTS = ("nearest_mean", "logistic_regression", "logistic_regression_layers", "dect")


@dataclass(frozen=True, slots=True)
class Figures:
    """What one method is worth, and how far it is from the classifier."""

    accuracy: dict[str, float]
    macro_f1: dict[str, float]
    minus_crosstune: Difference | None  # None: of the classifier itself


@dataclass(frozen=True, slots=True)
class Weighed:
    """One method on all rows."""

    name: str
    labels: tuple[str | None, ...]  # None: it said none
    seconds: float  # with learning, features at hand; the classifier has learnt already
    llm: Labelled | None = None

    @classmethod
    def by_llm(cls, name: str, found: Labelled) -> Weighed:
        """The LLM as a method."""
        return cls(name, tuple(said.label for said in found.said), found.seconds, found)

    def to_json(self, figures: Figures) -> dict[str, Any]:
        """Plain values, in stable order; nothing but the LLM costs dollars."""
        llm = self.llm.to_json() if self.llm else None
        difference = figures.minus_crosstune.to_json() if figures.minus_crosstune else None
        return {
            "accuracy": figures.accuracy,
            "macro_f1": figures.macro_f1,
            "minus_crosstune": difference,
            "seconds": self.seconds,
            "usd": llm["usd"] if llm else 0.0,
            "llm": llm,
        }


# --------------------------------------------------------------------------- the methods


def of_features(
    model: CrossTuneClassifier, texts: list[Text], shots: Sequence[LabelledText], seed: int
) -> Iterator[Weighed]:
    """The classifier, then every baseline on the same features that these shots allow."""
    yield _timed(CROSSTUNE, partial(model.predict, texts))
    learnt_from = ([row.text for row in shots], [row.label or "" for row in shots])
    for name, baseline in _baselines(model, bool(shots), seed):
        # without shots, label similarity takes the centre of the texts themselves: it looks at no label
        given = learnt_from if shots else (texts, [""] * len(texts))
        yield _timed(name, partial(_learnt, baseline, given, texts))


def _timed(name: str, work: Callable[[], Any]) -> Weighed:
    started = time.monotonic()
    labels = tuple(work().tolist())
    return Weighed(name, labels, time.monotonic() - started)


def _learnt(baseline: Any, given: tuple[list[Text], list[str]], texts: list[Text]) -> Any:
    return baseline.fit(*given).predict(texts)


def _baselines(model: CrossTuneClassifier, has_shots: bool, seed: int) -> Iterator[tuple[str, Any]]:
    from trimtab.crosstune import DecTClassifier, LabelSimilarity, LogisticProbe, NearestMean

    box, names = model._box(), model.classes_.tolist()
    said = model._described(names)
    layers = range(len(box.layers))
    yield "label_similarity", LabelSimilarity(said, features=box)
    if not has_shots:
        return
    yield "nearest_mean", NearestMean(features=box)
    yield "logistic_regression", LogisticProbe(features=box, seed=seed)
    if len(layers) > 1:
        probe = LogisticProbe(features=box, layers=layers, views=("mean", "largest"), seed=seed)
        yield "logistic_regression_layers", probe
    yield "dect", DecTClassifier(said, features=box, seed=seed)


def ways_of_asking(
    texts: Sequence[Text], labels: Labels, shots: Sequence[LabelledText], how: AskSettings
) -> list[Ask]:
    """Zero-shot, and in-context where shots are shown."""
    asks = [Ask(ZERO_SHOT, tuple(texts), labels, (), replace(how, shots_a_label=0))]
    if how.shots_a_label:
        asks.append(Ask(IN_CONTEXT, tuple(texts), labels, tuple(shots), how))
    return asks


def left_out(replies: Mapping[str, Labelled], has_shots: bool, has_llm: bool) -> dict[str, str]:
    """The methods that are not compared, and why."""
    wanting = {} if has_shots else dict.fromkeys((*NEEDS_SHOTS, IN_CONTEXT), "needs shots: --train FILE")
    unnamed = {} if has_llm else dict.fromkeys((ZERO_SHOT, IN_CONTEXT), "no LLM is named: --llm NAME")
    return {**wanting, **unnamed, **{name: _cut(found) for name, found in replies.items() if found.is_cut}}


def _cut(found: Labelled) -> str:
    asked = sum(not said.is_unasked for said in found.said)
    return f"stopped at a limit after {asked} of {len(found.said)} texts; a higher one goes on from there"


# --------------------------------------------------------------------------- what they are worth


def figures(
    methods: Sequence[Weighed], truth: Sequence[str], names: Sequence[str], seed: int
) -> list[Figures]:
    """One a method, the classifier first; differences are paired over the rows."""
    rights = [
        [float(said == wanted) for said, wanted in zip(method.labels, truth, strict=True)]
        for method in methods
    ]
    return [
        Figures(
            share(round(sum(right)), len(truth)),
            f1(method.labels, truth, names, seed),
            paired_difference(right, rights[0], seed=seed) if right is not rights[0] else None,
        )
        for method, right in zip(methods, rights, strict=True)
    ]


def share(right: int, asked: int) -> dict[str, float]:
    """A share and Wilson's interval of it."""
    low, high = wilson_interval(right, asked)
    return {"value": right / asked, "low": low, "high": high}


def f1(said: Sequence[str | None], truth: Sequence[str], names: Sequence[str], seed: int) -> dict[str, float]:
    """Macro-F1 and its interval; no label is a class of its own, which no row has."""
    places = {name: at for at, name in enumerate(names)}
    none = len(places)
    right = np.array([places[name] for name in truth])
    given = np.array([none if name is None else places[name] for name in said])
    low, high = measures.macro_f1_interval(right, given, none + 1, seed=seed)
    return {"value": measures.macro_f1(measures.confusion(right, given, none + 1)), "low": low, "high": high}


# --------------------------------------------------------------------------- what a person is told


def tell(compared: Mapping[str, Any], rows: int) -> None:
    """One row a method, side by side."""
    methods = compared["methods"]
    columns = ["method", "accuracy", "95 % interval", "macro F1", "minus CrossTune", "seconds", "$"]
    say(f"side by side on {rows} texts; differences are in points, paired over the texts")
    print_aligned(columns, [_row(SHOWN[name], each) for name, each in methods.items()])
    for name, each in methods.items():
        if each["llm"]:
            say(f"{SHOWN[name]}: {_endings(each['llm'])}")
    for name, reason in compared["left_out"].items():
        say(f"left out: {SHOWN[name]}: {reason}")


def _row(name: str, found: Mapping[str, Any]) -> list[str]:
    accuracy, difference = found["accuracy"], found["minus_crosstune"]
    points = [f"{100 * difference[key]:+.1f}" for key in ("value", "low", "high")] if difference else []
    return [
        name,
        f"{accuracy['value']:.3f}",
        f"{accuracy['low']:.3f} to {accuracy['high']:.3f}",
        f"{found['macro_f1']['value']:.3f}",
        "{} ({} to {})".format(*points) if points else "",
        f"{found['seconds']:.1f}",
        dollars(found["usd"]) if found["llm"] else "0",
    ]


def _endings(found: Mapping[str, Any]) -> str:
    wrong = f"{found['unreadable']} replies unreadable and {found['failed']} failed, which counts as wrong"
    return f"{found['calls']:,} calls paid, {wrong}"
