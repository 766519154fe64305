"""`trimtab classify predict` and `classify evaluate`: a classifier on texts, alone or beside others.

What it is not sure of can be asked of the LLM itself (`routing`); `--compare` weighs it against its baselines
and against that LLM (`weighing`). Both cost money only through `labelling`, which says first how much.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trimtab.cli import labelling, routing, weighing
from trimtab.cli.classifying import loaded, reading_bar, refuse_folder
from trimtab.cli.console import print_json, say, table
from trimtab.cli.labelling import Ask, Labelled
from trimtab.cli.outlay import Estimate
from trimtab.cli.scaling import classified, on_cluster, read_rows, refuse_unwritable, write_lines
from trimtab.cli.settings import Settings
from trimtab.cli.weighing import IN_CONTEXT, ZERO_SHOT, Weighed, share
from trimtab.crosstune import measures
from trimtab.crosstune.asking import AskSettings
from trimtab.crosstune.network import Array
from trimtab.crosstune.readings import Progress
from trimtab.crosstune.requesting import Text
from trimtab.crosstune.rows import LabelledText, load_labelled
from trimtab.errors import ConfigError

if TYPE_CHECKING:
    from trimtab.crosstune import CrossTuneClassifier


@dataclass(frozen=True, slots=True)
class Applied:
    """A classifier, the rows it was applied to, and what it said of them."""

    settings: Settings
    model: CrossTuneClassifier
    rows: tuple[LabelledText, ...]
    shots: tuple[LabelledText, ...]  # to learn baselines from, and to show to the LLM; may be none
    shown: int  # shots a label that the LLM is shown
    probabilities: Array

    @property
    def names(self) -> list[str]:
        """The labels, in the order of the probabilities' columns."""
        found: list[str] = self.model.classes_.tolist()
        return found

    @property
    def texts(self) -> list[Text]:
        """The texts of the rows."""
        return [row.text for row in self.rows]

    @property
    def truth(self) -> list[str]:
        """The rows' own labels."""
        return [row.label or "" for row in self.rows]

    @property
    def unsure(self) -> list[int]:
        """Places of the rows on which it abstains."""
        return routing.unsure(self.probabilities, self.settings.abstain_below)

    @property
    def how(self) -> AskSettings:
        """How the LLM is asked."""
        shown = self.shown if self.shots else 0
        return AskSettings(shown, seed=self.settings.seed, concurrency=self.settings.concurrency)

    @property
    def way(self) -> str:
        """Which way of asking routing takes: with shots where there are any."""
        return IN_CONTEXT if self.how.shots_a_label else ZERO_SHOT

    def asks(self, *, compare: bool, route: bool) -> list[Ask]:
        """What is asked of the LLM: all texts for a comparison, for routing those it is not sure of."""
        labels = labelling.labels_of(self.model)
        if compare and self.settings.model:
            return weighing.ways_of_asking(self.texts, labels, self.shots, self.how)
        if not route:
            return []
        texts = tuple(self.rows[at].text for at in self.unsure)
        return [Ask(self.way, texts, labels, self.shots, self.how)]

    def routed(self, replies: Mapping[str, Labelled]) -> Labelled:
        """What the LLM said of those it is not sure of; of all rows, where all were asked."""
        found = replies[self.way]
        is_of_all = len(found.said) == len(self.rows) != len(self.unsure)
        return Labelled(tuple(found.said[at] for at in self.unsure)) if is_of_all else found


def predict(
    settings: Settings,
    as_json: bool,
    *,
    model: Path,
    data: Path,
    out: Path,
    route: bool,
    train: Path | None,
    llm: str | None,
    shots: int,
) -> int:
    """Writes one row a text, all or nothing; returns the exit code."""
    refuse_folder(out)
    refuse_unwritable(out, is_local=settings.engine == "local")
    settings = labelling.with_llm(settings, llm)
    _refuse_unroutable(settings, route)
    with on_cluster(settings):
        return _predicted(settings, as_json, model, data, out, route=route, train=train, shots=shots)


def _predicted(
    settings: Settings,
    as_json: bool,
    model: Path,
    data: Path,
    out: Path,
    *,
    route: bool,
    train: Path | None,
    shots: int,
) -> int:
    applied = _applied(settings, as_json, model, data, train, shots, need_label=False)
    asks = applied.asks(compare=False, route=route)
    estimate = _said_first(settings, asks)
    if settings.dry_run:
        return _nothing_asked(as_json, estimate)
    replies, code = labelling.asked(settings, asks, questions=len(applied.rows))
    routed = applied.routed(replies) if route else None
    below = settings.abstain_below
    lines = routing.rows_of(applied.rows, applied.names, applied.probabilities, below, routed)
    write_lines(out, [json.dumps(line, ensure_ascii=False) for line in lines])
    abstained = sum(line["label"] is None for line in lines)
    if as_json:
        told = {"out": str(out), "rows": len(lines), "abstained": abstained}
        print_json({**told, "llm": routed.to_json() if routed else None})
    if replies:
        labelling.tell_paid(replies)
    say(f"{out}: {len(lines)} rows, {abstained} abstained")
    return code


def evaluate(
    settings: Settings,
    as_json: bool,
    *,
    model: Path,
    data: Path,
    compare: bool,
    route: bool,
    train: Path | None,
    llm: str | None,
    shots: int,
) -> int:
    """Prints what the classifier is worth on labelled rows; returns the exit code."""
    settings = labelling.with_llm(settings, llm)
    _refuse_unroutable(settings, route)
    applied = _applied(settings, as_json, model, data, train, shots, need_label=True)
    asks = applied.asks(compare=compare, route=route)
    estimate = _said_first(settings, asks)
    if settings.dry_run:
        return _nothing_asked(as_json, estimate)
    replies, code = labelling.asked(settings, asks, questions=len(applied.rows))
    report = _report(applied)
    if settings.abstain_below:
        report["abstention"] = _abstention(applied, applied.routed(replies) if route else None)
    if compare:
        report["compared"] = _compared(applied, replies)
    if asks:
        report["estimate"] = estimate.to_json()
    if as_json:
        print_json(report)
    else:
        _tell(report)
    if replies:
        labelling.tell_paid(replies)
    return code


# --------------------------------------------------------------------------- what it is about


def _applied(
    settings: Settings,
    as_json: bool,
    folder: Path,
    data: Path,
    train: Path | None,
    shown: int,
    *,
    need_label: bool,
) -> Applied:
    model = loaded(settings, folder)
    names = model.classes_.tolist()
    rows = load_labelled(read_rows(settings, data), names if need_label else None, need_label=need_label)
    shots = load_labelled(train, names) if train else ()
    _refuse_mixed(rows, shots, data, train)
    with reading_bar(as_json) as progress:
        texts = [row.text for row in rows]
        found = _probabilities(settings, model, folder, texts, progress)
    return Applied(settings, model, rows, shots, shown, found)


def _probabilities(
    settings: Settings,
    model: CrossTuneClassifier,
    folder: Path,
    texts: list[Text],
    progress: Progress | None,
) -> Array:
    if settings.engine == "local":
        return model.predict_proba(texts, progress)
    return np.array(classified(settings, folder, texts, progress))


def _refuse_mixed(
    rows: tuple[LabelledText, ...], shots: tuple[LabelledText, ...], data: Path, train: Path | None
) -> None:
    if shots and isinstance(rows[0].text, str) != isinstance(shots[0].text, str):
        raise ConfigError(f"train: {train} and {data}: one holds pairs, the other single texts")


def _refuse_unroutable(settings: Settings, route: bool) -> None:
    if route and not settings.abstain_below:
        raise ConfigError("--route needs --abstain-below: what is less likely than that is asked of the LLM")
    if route and not settings.model:
        raise ConfigError("--route needs --llm, the model that is asked (or `model` in the config file)")


def _said_first(settings: Settings, asks: list[Ask]) -> Estimate:
    """What asking will cost, told to the user; nothing where nothing is asked."""
    if not asks:
        return labelling.FREE
    found = labelling.estimated(settings, asks)
    labelling.tell_estimate(settings, found)
    return found


def _nothing_asked(as_json: bool, estimate: Estimate) -> int:
    say("nothing was asked")
    if as_json:
        print_json(estimate.to_json())
    return 0


# --------------------------------------------------------------------------- what it is worth


def _report(applied: Applied) -> dict[str, Any]:
    names, found = applied.names, applied.probabilities
    truth = np.array([names.index(label) for label in applied.truth])
    said = found.argmax(axis=1)
    counts = measures.confusion(truth, said, len(names))
    figures = measures.per_class(counts)
    labels = [names[at] for at in said]
    return {
        "asked": len(truth),
        "accuracy": share(int((said == truth).sum()), len(truth)),
        "macro_f1": weighing.f1(labels, applied.truth, names, applied.settings.seed),
        "ece": measures.calibration_error(truth, found),
        "per_class": {name: asdict(each) for name, each in zip(names, figures, strict=True)},
        "confusion": {"labels": names, "counts": counts.tolist()},
    }


def _abstention(applied: Applied, routed: Labelled | None) -> dict[str, Any]:
    below = applied.settings.abstain_below
    return routing.abstention(applied.probabilities, applied.truth, applied.names, below, routed)


def _compared(applied: Applied, replies: Mapping[str, Labelled]) -> dict[str, Any]:
    seed = applied.settings.seed
    methods = list(weighing.of_features(applied.model, applied.texts, applied.shots, seed))
    methods += [Weighed.by_llm(name, found) for name, found in replies.items() if not found.is_cut]
    out = weighing.left_out(replies, bool(applied.shots), bool(applied.settings.model))
    figures = weighing.figures(methods, applied.truth, applied.names, seed)
    told = zip(methods, figures, strict=True)
    return {"methods": {each.name: each.to_json(found) for each, found in told}, "left_out": out}


# --------------------------------------------------------------------------- what a person is told


def _tell(report: Mapping[str, Any]) -> None:
    shown = [("accuracy", report["accuracy"]), ("macro F1", report["macro_f1"])]
    estimates = [[name, f"{e['value']:.3f}", f"{e['low']:.3f} to {e['high']:.3f}"] for name, e in shown]
    table(f"{report['asked']} texts, ECE {report['ece']:.3f}", ["", "value", "95 % interval"], estimates)
    each = [
        [name, *(f"{figures[key]:.3f}" for key in ("precision", "recall", "f1")), str(figures["count"])]
        for name, figures in report["per_class"].items()
    ]
    table("Classes", ["label", "precision", "recall", "F1", "texts"], each)
    if "abstention" in report:
        below = report["abstention"]["below"]
        rows = routing.table_rows(report["abstention"])
        table(f"No answer below {below:g}", ["", "share", "95 % interval"], rows)
    if "compared" in report:
        weighing.tell(report["compared"], report["asked"])
