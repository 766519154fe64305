"""`CrossTuneClassifier`: few labelled texts and a description of each label in, a classifier out.

With scikit-learn's manners: the constructor only stores, `fit` returns self, what is learnt ends in `_`. The
black box is read here; formulas are `network`'s, training `training`'s, the saved folder `folder`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from trimtab.crosstune import folder as folders
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
from trimtab.crosstune.training import STAGES, Trained, train
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
    ) -> CrossTuneClassifier:
        """Learns from labelled texts; dev texts decide where training stops, head weights and calibration.

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
        self._read_and_train(rows, self._indices(labels), described, dev_rows, dev_labels, progress)
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
            items, _ = self._items(rows[first : first + PREDICTED_AT_ONCE], self.eyes_views_)
            parts.append(self._probabilities(items))
            if progress:
                progress(min(first + PREDICTED_AT_ONCE, len(rows)), len(rows))
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
        box = _encoder(self.features) if isinstance(self.features, str) else self.features
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
        dev_rows: list[Text],
        dev_labels: Array | None,
        progress: Progress | None,
    ) -> None:
        self.is_of_pairs_ = isinstance(rows[0], tuple)
        if any(isinstance(row, tuple) != self.is_of_pairs_ for row in [*rows, *dev_rows]):
            raise InputError("rows are either all single texts or all pairs")
        views = self._views(rows)
        items, self.truncated_ = self._items([*rows, *dev_rows], views, progress)
        shots, dev_items = items[: len(rows)], items[len(rows) :]
        descriptions = self._read_descriptions(described)
        layers = range(len(self._box().layers))
        pooling: Pooling = self.label_pooling
        self.eyes_ = [open_eye(view, at, shots, descriptions, pooling) for view in views for at in layers]
        self.shares_ = (np.bincount(labels, minlength=len(self.classes_)) + 1) / (
            len(labels) + len(self.classes_)
        )
        dev = (self._asked(dev_items), dev_labels) if dev_labels is not None else None
        self.trained_ = self._train(self._asked(shots), labels, dev)

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

    def _train(
        self, asked: Sequence[Array], labels: Array, dev: tuple[Sequence[Array], Array] | None
    ) -> Trained:
        importance = self._importance(labels)
        fit = partial(self._fit, asked, labels, importance)
        return train(
            partial(fit, "each"),
            partial(fit, self.objective),
            asked,
            labels,
            dev,
            folds=self.folds,
            stages=[stage for stage in STAGES if stage < self.max_steps] + [self.max_steps],
            is_stacked=self.mixing == "stacked",
            is_calibrated=self.calibrate,
            seed=self.seed,
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

    def _importance(self, labels: Array) -> Array:
        if self.class_weight is None:
            return np.ones(len(labels))
        counts = np.bincount(labels, minlength=len(self.classes_))
        found: Array = len(labels) / (np.count_nonzero(counts) * counts[labels])
        return found

    def _probabilities(self, items: Sequence[Item]) -> Array:
        trained = self.trained_
        each = [
            head_probabilities(head, asked)
            for head, asked in zip(trained.heads, self._asked(items), strict=True)
        ]
        found = softened(mean_of_heads(each, trained.weights), trained.temperature)
        if self.prior is None:
            return found
        wanted = np.array([self.prior.get(name, 0.0) for name in self.classes_])
        if not wanted.sum() > 0 or (wanted < 0).any():
            raise InputError("a prior gives each label how frequent it is, and not all of them zero")
        return with_prior(found, self.shares_, wanted / wanted.sum())


@lru_cache(maxsize=2)
def _encoder(name: str) -> LocalEncoder:
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


def _sentences(name: str, said: str | Sequence[str]) -> list[str]:
    sentences = [said] if isinstance(said, str) else list(said)
    if not sentences or not all(isinstance(each, str) and each.strip() for each in sentences):
        raise InputError(f"the description of {name!r} is empty")
    return sentences


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(str(name)) for name in names[:8])
    return shown + (" …" if len(names) > 8 else "")
