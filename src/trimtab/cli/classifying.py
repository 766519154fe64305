"""`trimtab classify`: few labelled texts and what each label means in, a classifier out; its use."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trimtab.cli.console import print_json, say, table, write_lines
from trimtab.cli.settings import Settings
from trimtab.crosstune import measures
from trimtab.crosstune.folder import FACTS
from trimtab.crosstune.rows import LabelledText, load_labelled, load_labels
from trimtab.errors import ConfigError, DataError, Problem
from trimtab.evaluate.intervals import wilson_interval

if TYPE_CHECKING:
    from trimtab.crosstune import CrossTuneClassifier, FolderFeatures


def fit(
    settings: Settings, as_json: bool, *, train: Path, dev: Path | None, labels: Path, encoder: str, out: Path
) -> int:
    """Learns from the files and writes the classifier's folder; returns the exit code."""
    _refuse_other_folder(out)
    known = load_labels(labels)
    rows = load_labelled(train, known.names)
    held = load_labelled(dev, known.names) if dev else ()
    if len({row.label for row in rows}) < 2:
        raise DataError([Problem(str(train), 0, "label", "all rows have one label; two or more are needed")])
    from trimtab.crosstune import CrossTuneClassifier

    model = CrossTuneClassifier(
        known.descriptions or {name: name.replace("_", " ") for name in known.names},
        features=encoder,
        store=_store(settings),
        label_text="full" if known.descriptions else "names",
        seed=settings.seed,
    )
    if not known.descriptions:
        say("labels have names alone; descriptions are worth some points (docs/crosstune.md)")
    started = time.monotonic()
    dev_xy = (_texts(held), _labels(held)) if held else (None, None)
    model.fit(_texts(rows), _labels(rows), *dev_xy)
    seconds = time.monotonic() - started
    model.save(out)
    told = {"out": str(out), "shots": len(rows), "seconds": seconds, "truncated": model.truncated_}
    told["dev"] = _accuracy(model, held) if held else None
    if as_json:
        print_json(told)
    say(f"{out}: learnt from {len(rows)} texts in {seconds:.1f} s, {model.truncated_} of them truncated")
    say(f"next: trimtab classify evaluate --model {out} --data FILE")
    return 0


def predict(settings: Settings, as_json: bool, *, model: Path, data: Path, out: Path, below: float) -> int:
    """Writes one row a text, all or nothing; returns the exit code."""
    classifier = _load(settings, model)
    rows = load_labelled(data, need_label=False)
    found = classifier.predict_proba(_texts(rows))
    names = classifier.classes_.tolist()
    lines = [_row(row, names, each.tolist(), below) for row, each in zip(rows, found, strict=True)]
    write_lines(out, [json.dumps(line, ensure_ascii=False) for line in lines])
    abstained = sum(line["label"] is None for line in lines)
    if as_json:
        print_json({"out": str(out), "rows": len(lines), "abstained": abstained})
    say(f"{out}: {len(lines)} rows, {abstained} abstained")
    return 0


def evaluate(settings: Settings, as_json: bool, *, model: Path, data: Path) -> int:
    """Prints what the classifier is worth on labelled rows; returns the exit code."""
    classifier = _load(settings, model)
    rows = load_labelled(data, classifier.classes_.tolist())
    report = _report(classifier, rows, settings.seed)
    if as_json:
        print_json(report)
        return 0
    shown = [("accuracy", report["accuracy"]), ("macro F1", report["macro_f1"])]
    estimates = [[name, f"{e['value']:.3f}", f"{e['low']:.3f} to {e['high']:.3f}"] for name, e in shown]
    table(f"{len(rows)} texts, ECE {report['ece']:.3f}", ["", "value", "95 % interval"], estimates)
    each = [
        [name, *(f"{figures[key]:.3f}" for key in ("precision", "recall", "f1")), str(figures["count"])]
        for name, figures in report["per_class"].items()
    ]
    table("Classes", ["label", "precision", "recall", "F1", "texts"], each)
    return 0


def _report(model: CrossTuneClassifier, rows: tuple[LabelledText, ...], seed: int) -> dict[str, Any]:
    names = model.classes_.tolist()
    probabilities = model.predict_proba(_texts(rows))
    truth = np.array([names.index(row.label) for row in rows])
    said = probabilities.argmax(axis=1)
    counts = measures.confusion(truth, said, len(names))
    low, high = measures.macro_f1_interval(truth, said, len(names), seed=seed)
    figures = measures.per_class(counts)
    return {
        "asked": len(rows),
        "accuracy": _share(int((said == truth).sum()), len(rows)),
        "macro_f1": {"value": measures.macro_f1(counts), "low": low, "high": high},
        "ece": measures.calibration_error(truth, probabilities),
        "per_class": {name: asdict(each) for name, each in zip(names, figures, strict=True)},
        "confusion": {"labels": names, "counts": counts.tolist()},
    }


def _row(row: LabelledText, names: list[str], found: list[float], below: float) -> dict[str, Any]:
    best = max(range(len(names)), key=found.__getitem__)
    text = (
        {"text": row.text}
        if isinstance(row.text, str)
        else dict(zip(("text", "text_pair"), row.text, strict=True))
    )
    line = {**text, "label": names[best], "probability": found[best]}
    line["probabilities"] = dict(zip(names, found, strict=True))
    return {**line, "label": None, "status": "abstained"} if found[best] < below else line


def _refuse_other_folder(folder: Path) -> None:
    """Raises ConfigError when the classifier could not be saved there: better now than after the training."""
    is_taken = folder.is_dir() and any(folder.iterdir()) and not (folder / FACTS).is_file()
    if is_taken or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"out: {folder} exists and is no classifier's folder; name another, or empty it")


def _load(settings: Settings, folder: Path) -> CrossTuneClassifier:
    from trimtab.crosstune import CrossTuneClassifier

    return CrossTuneClassifier.load(folder, store=_store(settings))


def _store(settings: Settings) -> FolderFeatures:
    from trimtab.crosstune import FolderFeatures

    return FolderFeatures(settings.work_dir / "features")


def _accuracy(model: CrossTuneClassifier, rows: tuple[LabelledText, ...]) -> dict[str, float]:
    predicted = model.predict(_texts(rows))
    right = sum(each == row.label for each, row in zip(predicted, rows, strict=True))
    return _share(right, len(rows))


def _share(right: int, asked: int) -> dict[str, float]:
    low, high = wilson_interval(right, asked)
    return {"value": right / asked, "low": low, "high": high}


def _texts(rows: tuple[LabelledText, ...]) -> list[str | tuple[str, str]]:
    return [row.text for row in rows]


def _labels(rows: tuple[LabelledText, ...]) -> list[str]:
    return [row.label or "" for row in rows]
