"""What CrossTune must beat, on the same frozen features and with the same manners.

LabelSimilarity   no shot is learnt from: the label whose description is nearest
NearestMean       the class whose shots' mean is nearest
LogisticProbe     logistic regression on the mean states of one layer or several, C chosen on held-out texts
DecTClassifier    projected features against class vectors with learned radii (DecT, in our own words)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.utils.validation import check_is_fitted

from trimtab.crosstune.classifier import Text, checked_labels, checked_texts, encoder_of
from trimtab.crosstune.network import Array, averaged_nll
from trimtab.crosstune.readings import Features
from trimtab.crosstune.training import stratified_folds
from trimtab.crosstune.views import Item, ViewName, text_vectors, unit
from trimtab.errors import InputError

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)  # the C that is chosen among
PAIR_TEMPLATE = "{text} {text_pair}"
SHARPNESS = 20.0  # of a cosine, where a baseline gives probabilities and nothing is learnt


class _Baseline(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Reading, checking and answering; a baseline adds what it learns and how it scores."""

    features: str | Features
    layers: Sequence[int]
    classes_: Array

    def predict_proba(self, X: Sequence[Text]) -> Array:  # noqa: N803
        """(texts, classes): probabilities, in the order of `classes_`."""
        check_is_fitted(self)
        return self._probabilities(self._vectors(checked_texts(X, "text")))

    def predict(self, X: Sequence[Text]) -> Array:  # noqa: N803
        """The most likely label of each text."""
        found: Array = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return found

    def _probabilities(self, vectors: Array) -> Array:
        raise NotImplementedError

    def _vectors(self, rows: Sequence[Text], views: Sequence[ViewName] = ("mean",)) -> Array:
        """The unit mean states of the layers, side by side; pairs are read as one text."""
        box = encoder_of(self.features) if isinstance(self.features, str) else self.features
        texts = [row if isinstance(row, str) else _joined(row) for row in rows]
        items = [Item(reading) for reading in box.read(texts)]
        layers = [range(len(box.layers))[layer] for layer in self.layers]
        return np.concatenate([text_vectors(v, layer, items) for layer in layers for v in views], axis=1)

    def _coded(self, labels: Sequence[str]) -> Array:
        known = {name: index for index, name in enumerate(self.classes_)}
        unknown = sorted(set(labels) - set(known))
        if unknown:
            raise InputError(f"{unknown[0]!r} is not among the labels {', '.join(map(repr, known))}")
        return np.array([known[label] for label in labels])


class LabelSimilarity(_Baseline):
    """Zero-shot: the label whose description is nearest, around the centre of the descriptions.

    `layers` are places among the layers that the features give; -1 is the last.
    """

    def __init__(
        self,
        descriptions: Mapping[str, str | Sequence[str]],
        *,
        features: str | Features = "offline",
        layers: Sequence[int] = (-1,),
    ) -> None:
        self.descriptions = descriptions
        self.features = features
        self.layers = layers

    def fit(self, X: Sequence[Text], y: Sequence[str]) -> LabelSimilarity:  # noqa: N803
        """Takes the centre of the texts from X; labels are not looked at."""
        rows = checked_texts(X, "text")
        self.classes_ = np.array(sorted(self.descriptions))
        said = [self.descriptions[name] for name in self.classes_]
        pooled = [
            self._vectors([each] if isinstance(each, str) else list(each)).mean(axis=0) for each in said
        ]
        means = np.stack(pooled)
        self.keys_ = unit(means - means.mean(axis=0))
        self.centre_ = self._vectors(rows).mean(axis=0)
        return self

    def _probabilities(self, vectors: Array) -> Array:
        found: Array = softmax(SHARPNESS * unit(vectors - self.centre_) @ self.keys_.T, axis=1)
        return found


class NearestMean(_Baseline):
    """The class whose shots' mean is nearest."""

    def __init__(self, *, features: str | Features = "offline", layers: Sequence[int] = (-1,)) -> None:
        self.features = features
        self.layers = layers

    def fit(self, X: Sequence[Text], y: Sequence[str]) -> NearestMean:  # noqa: N803
        """Takes the mean of each class."""
        vectors = self._vectors(checked_texts(X, "text"))
        labels = np.array(checked_labels(y, len(vectors)))
        self.classes_ = np.unique(labels)
        self.means_ = unit(np.stack([vectors[labels == name].mean(axis=0) for name in self.classes_]))
        return self

    def _probabilities(self, vectors: Array) -> Array:
        found: Array = softmax(SHARPNESS * vectors @ self.means_.T, axis=1)
        return found


class LogisticProbe(_Baseline):
    """Logistic regression on mean states; C has the best accuracy on held-out texts, then the least NLL.

    Held out are the dev texts, or without any the shots themselves, fold by fold. `layers` are places among
    the layers that the features give; `views` adds further poolings.
    """

    def __init__(
        self,
        *,
        features: str | Features = "offline",
        layers: Sequence[int] = (-1,),
        views: Sequence[ViewName] = ("mean",),
        strengths: Sequence[float] = STRENGTHS,
        folds: int = 5,
        seed: int = 0,
    ) -> None:
        self.features = features
        self.layers = layers
        self.views = views
        self.strengths = strengths
        self.folds = folds
        self.seed = seed

    def fit(
        self,
        X: Sequence[Text],  # noqa: N803
        y: Sequence[str],
        X_dev: Sequence[Text] | None = None,  # noqa: N803
        y_dev: Sequence[str] | None = None,
    ) -> LogisticProbe:
        """Learns with each C, and keeps the best on dev, or by cross-validation inside the shots."""
        vectors = self._vectors(checked_texts(X, "text"), self.views)
        labels = np.array(checked_labels(y, len(vectors)))
        self.classes_ = np.unique(labels)
        if X_dev is None or y_dev is None:
            return self._cross_validated(vectors, labels)
        dev = self._vectors(checked_texts(X_dev, "dev text"), self.views)
        wanted = self._coded(checked_labels(y_dev, len(dev)))
        models = [_probe(strength, vectors, labels) for strength in self.strengths]
        self.model_ = max(models, key=lambda model: _merit(model.predict_proba(dev), wanted))
        self.dev_merit_ = _merit(self.model_.predict_proba(dev), wanted)
        return self

    def _cross_validated(self, vectors: Array, labels: Array) -> LogisticProbe:
        fold = stratified_folds(labels, self.folds, self.seed)
        merits = [self._held_out_merit(strength, vectors, labels, fold) for strength in self.strengths]
        best = max(range(len(merits)), key=merits.__getitem__)
        self.model_ = _probe(self.strengths[best], vectors, labels)
        return self

    def _held_out_merit(
        self, strength: float, vectors: Array, labels: Array, fold: Array
    ) -> tuple[float, float]:
        """Of the shots, each told by a probe that has not seen its fold; none that is alone in its class."""
        out = np.unique(fold[fold >= 0])
        parts = [
            _probe(strength, vectors[fold != number], labels[fold != number]).predict_proba(
                vectors[fold == number]
            )
            for number in out
        ]
        if not parts:
            return 0.0, -abs(float(np.log(strength)))  # nothing can be held out: scikit-learn's own default
        wanted = self._coded(np.concatenate([labels[fold == number] for number in out]).tolist())
        return _merit(np.concatenate(parts), wanted)

    def _probabilities(self, vectors: Array) -> Array:
        found: Array = self.model_.predict_proba(vectors)
        return found

    def predict_proba(self, X: Sequence[Text]) -> Array:  # noqa: N803
        """(texts, classes): probabilities, in the order of `classes_`."""
        check_is_fitted(self)
        return self._probabilities(self._vectors(checked_texts(X, "text"), self.views))


class DecTClassifier(_Baseline):
    """Decoder tuning: a linear projection, one vector and one radius a class.

    Paper: Cui et al. 2023, DecT: score = radius_c - |W h - z_c|, beside the score of the label words.
    Differs: the label words' score is the likeness of text and description (an embedding model has no
    label words); cross-entropy by L-BFGS with a ridge in place of its two contrastive losses.
    """

    def __init__(
        self,
        descriptions: Mapping[str, str | Sequence[str]] | None = None,
        *,
        features: str | Features = "offline",
        layers: Sequence[int] = (-1,),
        width: int = 64,
        label_share: Literal[0, 1] = 1,
        ridge: float = 0.01,
        steps: int = 30,
        seed: int = 0,
    ) -> None:
        self.descriptions = descriptions
        self.features = features
        self.layers = layers
        self.width = width
        self.label_share = label_share
        self.ridge = ridge
        self.steps = steps
        self.seed = seed

    def fit(self, X: Sequence[Text], y: Sequence[str]) -> DecTClassifier:  # noqa: N803
        """Learns projection, class vectors and radii from all of X."""
        rows = checked_texts(X, "text")
        labels = checked_labels(y, len(rows))
        self.classes_ = np.unique(labels)
        self.words_ = self._words(rows, labels)
        vectors, coded = self._vectors(rows), self._coded(labels)
        rng = np.random.default_rng(self.seed)
        projection = rng.normal(0, self.width**-0.5, (vectors.shape[1], self.width))
        projected = vectors @ projection
        centres = np.stack([projected[coded == each].mean(axis=0) for each in range(len(self.classes_))])
        start = np.concatenate([projection.ravel(), centres.ravel(), np.zeros(len(self.classes_))])
        base = self._word_scores(vectors)
        found = minimize(
            lambda flat: self._loss(flat, start, vectors, coded, base),
            start,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": self.steps},
        ).x
        self.projection_, self.centres_, self.radii_ = self._parts(found, vectors.shape[1])
        return self

    def _words(self, rows: Sequence[Text], labels: Sequence[str]) -> LabelSimilarity | None:
        if self.descriptions is None or not self.label_share:
            return None
        said = {name: self.descriptions[name] for name in self.classes_}
        return LabelSimilarity(said, features=self.features, layers=self.layers).fit(rows, labels)

    def _word_scores(self, vectors: Array) -> Array:
        if self.words_ is None:
            return np.zeros((len(vectors), len(self.classes_)))
        return np.log(self.words_._probabilities(vectors) + 1e-9) / 4  # so that training can overrule it

    def _parts(self, flat: Array, dimension: int) -> tuple[Array, Array, Array]:
        split = dimension * self.width
        count = len(self.classes_)
        centres = flat[split : split + count * self.width]
        return (
            flat[:split].reshape(dimension, self.width),
            centres.reshape(count, self.width),
            flat[split + centres.size :],
        )

    def _loss(
        self, flat: Array, start: Array, vectors: Array, labels: Array, base: Array
    ) -> tuple[float, Array]:
        projection, centres, radii = self._parts(flat, vectors.shape[1])
        away = (vectors @ projection)[:, None] - centres
        distance = np.linalg.norm(away, axis=2) + 1e-9
        log_p = log_softmax(base + radii - distance, axis=1)
        rows = np.arange(len(labels))
        slope = np.exp(log_p)
        slope[rows, labels] -= 1
        pull = -(slope / distance)[:, :, None] * away
        gradient = np.concatenate(
            [(vectors.T @ pull.sum(axis=1)).ravel(), -pull.sum(axis=0).ravel(), slope.sum(axis=0)]
        )
        moved = flat - start
        loss = -log_p[rows, labels].sum() + self.ridge * moved @ moved
        return float(loss), gradient + 2 * self.ridge * moved

    def _probabilities(self, vectors: Array) -> Array:
        away = (vectors @ self.projection_)[:, None] - self.centres_
        scores = self._word_scores(vectors) + self.radii_ - np.linalg.norm(away, axis=2)
        found: Array = softmax(scores, axis=1)
        return found


def _joined(pair: tuple[str, str]) -> str:
    return PAIR_TEMPLATE.replace("{text_pair}", pair[1]).replace("{text}", pair[0])


def _probe(strength: float, vectors: Array, labels: Array | Sequence[str]) -> Any:
    return LogisticRegression(C=strength, max_iter=1000).fit(vectors, labels)


def _merit(probabilities: Array, labels: Array) -> tuple[float, float]:
    right = (probabilities.argmax(axis=1) == labels).mean()
    return float(right), -averaged_nll(probabilities, labels)
