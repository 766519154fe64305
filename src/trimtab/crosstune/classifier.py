"""`CrossTuneClassifier`: few labelled texts and a description of each label in, a classifier out.

With scikit-learn's manners: the constructor only stores, `fit` returns self, what is learnt ends in `_`. The
black box is read here; formulas are `network`'s, training `training`'s, the saved folder `folder`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from trimtab.crosstune import folder as folders
from trimtab.crosstune.copies import Copies, Likeness
from trimtab.crosstune.encoder import LocalEncoder
from trimtab.crosstune.network import (
    Array,
    Head,
    Objective,
    fit_heads,
    fit_projections,
    head_probabilities,
    mean_of_heads,
    softened,
    with_prior,
)
from trimtab.crosstune.readings import Features, FeatureStore, KeptFeatures, Progress, Reading
from trimtab.crosstune.switch import Augmentation, switch
from trimtab.crosstune.training import FINAL, NONE, STAGES, Trained, stratified_folds, train
from trimtab.crosstune.views import Item, Pooling, ViewName, open_eye, queries
from trimtab.errors import InputError

Text = str | tuple[str, str]
Views = Literal["auto"] | Sequence[ViewName]

TEXT_VIEWS: tuple[ViewName, ...] = ("mean", "opening", "evidence")
PAIR_VIEWS: tuple[ViewName, ...] = ("comparison",)
VECTOR_VIEWS: tuple[ViewName, ...] = ("mean",)  # of a black box that gives one vector
SHARPNESS = 5.0  # where training starts: cosines between -1 and 1 then give probabilities that are not flat
PREDICTED_AT_ONCE = 512  # token states of so many texts are held in memory


class CrossTuneClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Label-enhanced cross-attention over the frozen states of a black box (CrossTune).

    Rows of X are texts, or (text, text) pairs.

    Args:
        descriptions: what each label means, in one or more sentences: `{"label": "text" or ["text", ...]}`.
        features: the black box: 'offline', the name or folder of an encoder, or any `Features`.
        store: where readings are kept, so that no text is read twice.
        views: what heads look at, one head a view and layer; 'auto' is mean, opening and evidence for texts,
            comparison for pairs, mean where the black box gives one vector a text.
        label_text: 'full' reads the descriptions, 'names' the labels' names only.
        label_pooling: how the sentences of a description become one key.
        pair_template: how a pair is read as one text, by views other than comparison.
        start: 'labels' starts every head at the likeness of text and description; 'random' draws W_q and W_k
            (the paper's form, with `heads` heads of `width`).
        heads: heads of the random start.
        width: of a head of the random start.
        ridge: how strongly keys are held at the descriptions'.
        max_steps: the longest training; where it stops is chosen on held-out examples.
        mixing: 'stacked' weighs heads by held-out examples, 'equal' is the paper's mean.
        objective: 'averaged' trains the mean of heads, 'each' every head by itself.
        folds: of the cross-validation inside the shots.
        class_weight: None, or 'balanced' to make every class weigh the same in training.
        prior: how frequent each label is where the classifier will be used; None leaves it as learnt.
        calibrate: whether probabilities are calibrated by a temperature on held-out examples.
        seed: of folds and random starts.
    """

    def __init__(
        self,
        descriptions: Mapping[str, str | Sequence[str]] | None = None,
        *,
        features: str | Features = "offline",
        store: FeatureStore | None = None,
        views: Views = "auto",
        label_text: Literal["full", "names"] = "full",
        label_pooling: Pooling = "mean",
        pair_template: str = "{text} {text_pair}",
        start: Literal["labels", "random"] = "labels",
        heads: int = 8,
        width: int = 64,
        ridge: float = 1.0,
        max_steps: int = 40,
        mixing: Literal["stacked", "equal"] = "stacked",
        objective: Objective = "averaged",
        folds: int = 5,
        class_weight: Literal["balanced"] | None = None,
        prior: Mapping[str, float] | None = None,
        calibrate: bool = True,
        seed: int = 0,
    ) -> None:
        self.descriptions = descriptions
        self.features = features
        self.store = store
        self.views = views
        self.label_text = label_text
        self.label_pooling = label_pooling
        self.pair_template = pair_template
        self.start = start
        self.heads = heads
        self.width = width
        self.ridge = ridge
        self.max_steps = max_steps
        self.mixing = mixing
        self.objective = objective
        self.folds = folds
        self.class_weight = class_weight
        self.prior = prior
        self.calibrate = calibrate
        self.seed = seed

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags

    def fit(
        self,
        X: Sequence[Text],  # noqa: N803
        y: Sequence[str],
        X_dev: Sequence[Text] | None = None,  # noqa: N803
        y_dev: Sequence[str] | None = None,
        progress: Progress | None = None,
        augmented: tuple[Sequence[Text], Sequence[str]] | None = None,
    ) -> CrossTuneClassifier:
        """Learns from labelled texts; dev texts decide where training stops, head weights and calibration.

        Args:
            X: texts, or pairs.
            y: their labels.
            X_dev: further labelled texts that are not learnt from.
            y_dev: their labels.
            progress: told how many texts have been read.
            augmented: texts that were written or labelled by a model, and their labels. A teacher trained
                on X picks among them, and none is used unless that helps on held-out texts: see
                `augmentation_`, an `Augmentation`, which is None without any.

        Raises:
            InputError: a label without a description, an empty text, fewer than two classes.
            AdapterError, LLMError: the black box cannot be read.
        """
        rows, labels = checked_texts(X, "text"), checked_labels(y, len(X))
        if len(set(labels)) < 2:
            raise InputError(
                f"two classes or more are needed to learn; all {len(labels)} texts are {labels[0]!r}"
            )
        described = self._described(labels)
        self.classes_ = np.array(sorted(described))
        dev_rows, dev_labels = self._dev(X_dev, y_dev)
        more = self._dev(*augmented) if augmented is not None and len(augmented[0]) else ([], None)
        told = self._indices(labels)
        self._read_and_train(rows, told, described, (dev_rows, dev_labels), more, progress)
        return self

    def predict_proba(self, X: Sequence[Text], progress: Progress | None = None) -> Array:  # noqa: N803
        """(texts, classes): calibrated probabilities, in the order of `classes_`.

        Raises:
            InputError: an empty text, or texts where pairs were learnt from, or the other way round.
        """
        check_is_fitted(self)
        rows = checked_texts(X, "text")
        if any(isinstance(row, tuple) != self.is_of_pairs_ for row in rows):
            raise InputError(f"this classifier reads {'pairs' if self.is_of_pairs_ else 'single texts'}")
        parts = []
        for first in range(0, len(rows), PREDICTED_AT_ONCE):
            some = rows[first : first + PREDICTED_AT_ONCE]
            moved = partial(_moved, progress, first, len(some), len(rows)) if progress else None
            items, _ = self._items(some, self.eyes_views_, moved)
            parts.append(self._probabilities(items))
            if progress:
                progress(first + len(some), len(rows))
        return np.concatenate(parts)

    def predict(self, X: Sequence[Text]) -> Array:  # noqa: N803
        """The most likely label of each text; of equally likely ones the first of `classes_`."""
        found: Array = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return found

    def score(self, X: Sequence[Text], y: Sequence[str], sample_weight: Any = None) -> float:  # noqa: N803
        """The share of texts whose label is predicted.

        Raises:
            InputError: a label that the classifier does not know; it is named.
        """
        check_is_fitted(self)
        right = self.predict_proba(X).argmax(axis=1) == self._indices(checked_labels(y, len(X)))
        return float(np.average(right, weights=sample_weight))

    def save(self, folder: Path | str) -> Path:
        """The folder it was written to, as safetensors and JSON; see `load`.

        Raises:
            AdapterError: the folder holds something else.
        """
        check_is_fitted(self)
        return folders.save(self, Path(folder))

    @classmethod
    def load(
        cls, folder: Path | str, *, features: Features | None = None, store: FeatureStore | None = None
    ) -> CrossTuneClassifier:
        """The classifier in a folder; its probabilities are those of the one that was saved.

        Args:
            folder: where it was saved.
            features: the black box; needed where it is an endpoint, since no key is ever saved.
            store: where readings are kept.

        Raises:
            AdapterError: a folder or file that is missing, damaged or of another kind.
            InputError: the black box is needed, or is another one.
        """
        return folders.load(cls, Path(folder), features, store)

    # ----------------------------------------------------------------------- labels and rows

    def _described(self, labels: Sequence[str]) -> dict[str, list[str]]:
        """The sentences of each label."""
        if self.label_text == "names":
            names = sorted({*labels, *(self.descriptions or {})})
            return {name: [name.replace("_", " ")] for name in names}
        if not self.descriptions:
            raise InputError("descriptions of the labels are needed, or label_text='names'")
        sentences = {name: _sentences(name, said) for name, said in self.descriptions.items()}
        missing = sorted(set(labels) - set(sentences))
        if missing:
            raise InputError(
                f"no description of {_listed(missing)}; described are {_listed(sorted(sentences))}"
            )
        return sentences

    def _indices(self, labels: Sequence[str]) -> Array:
        known = {name: index for index, name in enumerate(self.classes_)}
        unknown = sorted(set(labels) - set(known))
        if unknown:
            raise InputError(
                f"{_listed(unknown)} is not among the labels of this classifier: {_listed(list(known))}"
            )
        return np.array([known[label] for label in labels])

    def _dev(
        self, rows: Sequence[Text] | None, labels: Sequence[str] | None
    ) -> tuple[list[Text], Array | None]:
        if rows is None or labels is None:
            return [], None
        return checked_texts(rows, "dev text"), self._indices(checked_labels(labels, len(rows)))

    # ----------------------------------------------------------------------- reading

    def _box(self) -> Features:
        box = encoder_of(self.features) if isinstance(self.features, str) else self.features
        return KeptFeatures(box, self.store) if self.store is not None else box

    def _items(
        self, rows: Sequence[Text], views: Sequence[ViewName], progress: Progress | None = None
    ) -> tuple[list[Item], int]:
        """What is read of each row, and how many of the read texts were cut."""
        joined = [self._joined(row) for row in rows if set(views) != {"comparison"}]
        apart = [part for row in rows if isinstance(row, tuple) and "comparison" in views for part in row]
        readings = self._box().read([*joined, *apart], progress)
        wholes, parts = readings[: len(joined)], readings[len(joined) :]
        pairs = list(zip(parts[::2], parts[1::2], strict=True))
        cut = sum(reading.is_truncated for reading in readings)
        if not pairs:
            return [Item(whole) for whole in wholes], cut
        first = wholes or [pair[0] for pair in pairs]  # comparison looks at the parts alone
        return [Item(whole, pair) for whole, pair in zip(first, pairs, strict=True)], cut

    def _joined(self, row: Text) -> str:
        if isinstance(row, str):
            return row
        return self.pair_template.replace("{text_pair}", row[1]).replace("{text}", row[0])

    def _views(self, rows: Sequence[Text]) -> tuple[ViewName, ...]:
        if self.views != "auto":
            if not self.is_of_pairs_ and "comparison" in self.views:
                raise InputError("the view 'comparison' needs text pairs")
            return tuple(self.views)
        if self.is_of_pairs_:
            return PAIR_VIEWS
        (probe,) = self._box().read([self._joined(rows[0])])
        return TEXT_VIEWS if probe.states.shape[1] > 1 else VECTOR_VIEWS

    # ----------------------------------------------------------------------- training

    def _read_and_train(
        self,
        rows: list[Text],
        labels: Array,
        described: Mapping[str, Sequence[str]],
        dev: tuple[list[Text], Array | None],
        more: tuple[list[Text], Array | None],
        progress: Progress | None,
    ) -> None:
        (dev_rows, dev_labels), (more_rows, more_labels) = dev, more
        self.is_of_pairs_ = isinstance(rows[0], tuple)
        if any(isinstance(row, tuple) != self.is_of_pairs_ for row in [*rows, *dev_rows, *more_rows]):
            raise InputError("rows are either all single texts or all pairs")
        views = self._views(rows)
        new = _places_of_new(more_rows, [*rows, *dev_rows])
        read = [*rows, *dev_rows, *(more_rows[at] for at in new)]
        items, self.truncated_ = self._items(read, views, progress)
        shots, dev_items = items[: len(rows)], items[len(rows) : len(rows) + len(dev_rows)]
        descriptions = self._read_descriptions(described)
        layers = range(len(self._box().layers))
        pooling: Pooling = self.label_pooling
        self.eyes_ = [open_eye(view, at, shots, descriptions, pooling) for view in views for at in layers]
        self.shares_ = _shares(np.bincount(labels, minlength=len(self.classes_)))
        held = (self._asked(dev_items), dev_labels) if dev_labels is not None else None
        asked = self._asked(shots)
        self.augmentation_: Augmentation | None = None
        self.trained_ = self._train(asked, labels, held)
        if more_labels is not None:
            added = self._asked(items[len(rows) + len(dev_rows) :]) if len(new) else []
            self._switch(asked, labels, held, added, more_labels[new], len(more_rows) - len(new))

    @property
    def eyes_views_(self) -> tuple[ViewName, ...]:
        """The views it looks with."""
        return tuple(dict.fromkeys(eye.view for eye in self.eyes_))

    def _read_descriptions(self, described: Mapping[str, Sequence[str]]) -> list[list[Reading]]:
        sentences = [sentence for name in self.classes_ for sentence in described[name]]
        readings = iter(self._box().read(sentences))
        return [[next(readings) for _ in described[name]] for name in self.classes_]

    def _asked(self, items: Sequence[Item]) -> list[Array]:
        """For each head its queries."""
        seen = [queries(eye, items) for eye in self.eyes_]
        if self.start == "labels":
            return seen
        return [np.mean(seen, axis=0)] * self.heads

    def _switch(
        self,
        asked: Sequence[Array],
        labels: Array,
        dev: tuple[Sequence[Array], Array] | None,
        added: Sequence[Array],
        added_labels: Array,
        copies: int,
    ) -> None:
        """Learns from the added examples too, where a teacher keeps some and held-out texts gain by them."""
        shots = len(labels)
        every = [np.concatenate(pair) for pair in zip(asked, added, strict=False)]
        learn = partial(self._train, every, np.append(labels, added_labels), dev, shots=shots)
        self.augmentation_, self.trained_ = switch(
            self.trained_,
            self._teachers(asked, labels, added),
            added_labels,
            self.classes_.tolist(),
            lambda kept: learn(added={fold: shots + places for fold, places in kept.items()}),
            copies=copies,
        )
        if self.augmentation_.is_on:
            counts = [self.augmentation_.per_label.get(name) for name in self.classes_]
            kept = np.array([each.kept if each else 0 for each in counts])
            self.shares_ = _shares(np.bincount(labels, minlength=len(kept)) + kept)

    def _teachers(self, asked: Sequence[Array], labels: Array, added: Sequence[Array]) -> dict[int, Array]:
        """By fold, what is said of the added examples by what is learnt without it; FINAL, with all."""
        if not added:
            return {FINAL: np.empty((0, len(self.classes_)))}
        fold = stratified_folds(labels, self.folds, self.seed)
        trained, importance = self.trained_, self._importance(labels)
        fit = partial(self._fit, asked, labels, importance, self.objective)
        heads = {FINAL: trained.heads}
        for number in np.unique(fold[fold >= 0]).tolist():
            heads[number] = fit(np.flatnonzero(fold != number), trained.weights, trained.steps)[-1]
        return {number: self._said(replace(trained, heads=each), added) for number, each in heads.items()}

    def _train(
        self,
        asked: Sequence[Array],
        labels: Array,
        dev: tuple[Sequence[Array], Array] | None,
        *,
        shots: int | None = None,
        added: Mapping[int, Array] = NONE,
    ) -> Trained:
        """What is learnt from the first `shots` rows (all, if left out), and from the added ones."""
        learnt_from = np.append(np.arange(len(labels))[:shots], added.get(FINAL, np.empty(0, np.int_)))
        fit = partial(self._fit, asked, labels, self._importance(labels, learnt_from))
        return train(
            partial(fit, "each"),
            partial(fit, self.objective),
            [each[:shots] for each in asked],
            labels[:shots],
            dev,
            folds=self.folds,
            stages=[stage for stage in STAGES if stage < self.max_steps] + [self.max_steps],
            is_stacked=self.mixing == "stacked",
            is_calibrated=self.calibrate,
            seed=self.seed,
            added=added,
        )

    def _fit(
        self,
        asked: Sequence[Array],
        labels: Array,
        importance: Array,
        objective: Objective,
        rows: Array,
        weights: Array,
        steps: int,
    ) -> list[list[Head]]:
        if self.start == "random":
            return fit_projections(
                asked[0][rows],
                np.mean([eye.guide for eye in self.eyes_], axis=0),
                labels[rows],
                heads=self.heads,
                width=self.width,
                ridge=self.ridge,
                steps=steps,
                seed=self.seed,
                sample_weights=importance[rows],
            )
        return fit_heads(
            [Head(eye.guide, np.zeros_like(eye.guide), SHARPNESS) for eye in self.eyes_],
            [each[rows] for each in asked],
            labels[rows],
            ridge=self.ridge,
            steps=steps,
            weights=weights if len(weights) else None,
            objective=objective,
            sample_weights=importance[rows],
        )

    def _importance(self, labels: Array, learnt_from: Array | None = None) -> Array:
        """How much each row counts; balanced over those that are learnt from."""
        if self.class_weight is None:
            return np.ones(len(labels))
        own = labels if learnt_from is None else labels[learnt_from]
        counts = np.bincount(own, minlength=len(self.classes_))
        found: Array = len(own) / (np.count_nonzero(counts) * np.maximum(counts, 1)[labels])
        return found

    def _said(self, trained: Trained, asked: Sequence[Array]) -> Array:
        """(texts, classes): calibrated probabilities, as they were learnt."""
        each = [head_probabilities(*pair) for pair in zip(trained.heads, asked, strict=True)]
        return softened(mean_of_heads(each, trained.weights), trained.temperature)

    def _probabilities(self, items: Sequence[Item]) -> Array:
        found = self._said(self.trained_, self._asked(items))
        if self.prior is None:
            return found
        wanted = np.array([self.prior.get(name, 0.0) for name in self.classes_])
        if not wanted.sum() > 0 or (wanted < 0).any():
            raise InputError("a prior gives each label how frequent it is, and not all of them zero")
        return with_prior(found, self.shares_, wanted / wanted.sum())


@lru_cache(maxsize=2)
def encoder_of(name: str) -> LocalEncoder:
    """One encoder for all classifiers that name it: clones share the loaded weights."""
    return LocalEncoder(name)


def checked_texts(rows: Sequence[Any], what: str) -> list[Text]:
    """Texts, or pairs as tuples. Raises InputError for anything else, or an empty one; names its place."""
    if isinstance(rows, str) or not len(rows):
        raise InputError(f"a list of {what}s is needed, with at least one")
    return [_checked_row(row, f"{what} {number}") for number, row in enumerate(rows, start=1)]


def _checked_row(row: Any, where: str) -> Text:
    if isinstance(row, str):
        if not row.strip():
            raise InputError(f"{where} is empty")
        return str(row)
    parts = list(row) if isinstance(row, tuple | list | np.ndarray) else []
    if len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise InputError(f"{where} is neither a text nor a pair of texts")
    if not all(part.strip() for part in parts):
        raise InputError(f"{where}: one of the pair is empty")
    return str(parts[0]), str(parts[1])


def checked_labels(labels: Sequence[Any], count: int) -> list[str]:
    """The labels as strings. Raises InputError when one is no string, or there are not `count` of them."""
    if len(labels) != count:
        raise InputError(f"one label for each text is needed; {len(labels)} labels and {count} texts came")
    wrong = next((label for label in labels if not isinstance(label, str)), None)
    if wrong is not None:
        raise InputError(f"labels are strings; {wrong!r} is none")
    return [str(label) for label in labels]


def _moved(progress: Progress, before: int, here: int, total: int, done: int, of: int) -> None:
    """Tells how many rows are read in all, from how much is read of those here: a pair is two texts."""
    if done < of:
        progress(before + here * done // of, total)


def _places_of_new(rows: Sequence[Text], known: Sequence[Text]) -> Array:
    """Places of the rows that are no copies of known ones: a copy of a held-out text would give it away."""
    copies = Copies(known if rows else ())
    new = [at for at, row in enumerate(rows) if copies.likeness(row) is Likeness.NEW]
    return np.array(new, dtype=np.int_)


def _shares(counts: Array) -> Array:
    """How frequent each class is among so many examples; one more of each, so that none is impossible."""
    found: Array = (counts + 1) / (counts.sum() + len(counts))
    return found


def _sentences(name: str, said: str | Sequence[str]) -> list[str]:
    sentences = [said] if isinstance(said, str) else list(said)
    if not sentences or not all(isinstance(each, str) and each.strip() for each in sentences):
        raise InputError(f"the description of {name!r} is empty")
    return sentences


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(str(name)) for name in names[:8])
    return shown + (" …" if len(names) > 8 else "")
