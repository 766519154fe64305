"""`trimtab classify fit`: few labelled texts and what each label means in, a classifier out.

How classifiers are used stands in `applying`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.cli.console import err, print_json, say
from trimtab.cli.progress import bars
from trimtab.cli.settings import Settings
from trimtab.cli.weighing import share
from trimtab.crosstune.folder import FACTS
from trimtab.crosstune.readings import Progress
from trimtab.crosstune.rows import LabelledText, load_labelled, load_labels
from trimtab.errors import ConfigError, DataError, Problem

if TYPE_CHECKING:
    from trimtab.crosstune import CrossTuneClassifier, FolderFeatures
    from trimtab.crosstune.switch import Augmentation


def fit(
    settings: Settings,
    as_json: bool,
    *,
    train: Path,
    dev: Path | None,
    labels: Path,
    augmented: Path | None,
    encoder: str,
    out: Path,
) -> int:
    """Learns from the files and writes the classifier's folder; returns the exit code."""
    _refuse_other_folder(out)
    known = load_labels(labels)
    rows = load_labelled(train, known.names)
    held = load_labelled(dev, known.names) if dev else ()
    more = load_labelled(augmented, known.names) if augmented else ()
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
    dev_x, dev_y = (_texts(held), _labels(held)) if held else (None, None)
    with reading_bar(as_json) as progress:
        added = (_texts(more), _labels(more))
        model.fit(_texts(rows), _labels(rows), dev_x, dev_y, progress, augmented=added)
    seconds = time.monotonic() - started
    model.save(out)
    told = {"out": str(out), "shots": len(rows), "seconds": seconds, "truncated": model.truncated_}
    told["dev"] = _accuracy(model, held) if held else None
    told["augmentation"] = model.augmentation_.to_json() if model.augmentation_ else None
    if as_json:
        print_json(told)
    say(f"{out}: learnt from {len(rows)} texts in {seconds:.1f} s, {model.truncated_} of them truncated")
    for sentence in _decisions(model.augmentation_):
        say(sentence)
    say(f"next: trimtab classify evaluate --model {out} --data FILE")
    return 0


def _decisions(found: Augmentation | None) -> list[str]:
    """What was decided on further examples: of each one, and of all together."""
    if found is None:
        return []
    agreed = f"the teacher agrees with {found.agreed} and is sure of {found.kept}"
    copies = f" ({found.copies} are copies of yours)" if found.copies else ""
    wrong = f"about {100 * found.wrong_share:.0f} % of the labels look wrong"
    return [f"of {found.given} further texts{copies} {agreed}; {wrong}", f"augmentation {found.reason}"]


@contextmanager
def reading_bar(as_json: bool) -> Iterator[Progress | None]:
    """What is told how many texts are read: a bar for who watches, nothing for a file or a program."""
    if as_json or not err.is_terminal:
        yield None
        return
    with bars() as bar:
        yield partial(bar, "features")


def refuse_folder(out: Path) -> None:
    """Raises ConfigError where a file is to be written and a folder stands: better now than at the end."""
    if out.is_dir():
        raise ConfigError(f"out: {out} is a folder; name a file")


def _refuse_other_folder(folder: Path) -> None:
    """Raises ConfigError when the classifier could not be saved there: better now than after the training."""
    is_taken = folder.is_dir() and any(folder.iterdir()) and not (folder / FACTS).is_file()
    if is_taken or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"out: {folder} exists and is no classifier's folder; name another, or empty it")


def loaded(settings: Settings, folder: Path) -> CrossTuneClassifier:
    """The classifier in a folder; what it reads is kept in the work directory."""
    from trimtab.crosstune import CrossTuneClassifier

    return CrossTuneClassifier.load(folder, store=_store(settings))


def _store(settings: Settings) -> FolderFeatures:
    from trimtab.crosstune import FolderFeatures

    return FolderFeatures(settings.work_dir / "features")


def _accuracy(model: CrossTuneClassifier, rows: tuple[LabelledText, ...]) -> dict[str, float]:
    predicted = model.predict(_texts(rows))
    right = sum(each == row.label for each, row in zip(predicted, rows, strict=True))
    return share(right, len(rows))


def _texts(rows: tuple[LabelledText, ...]) -> list[str | tuple[str, str]]:
    return [row.text for row in rows]


def _labels(rows: tuple[LabelledText, ...]) -> list[str]:
    return [row.label or "" for row in rows]
