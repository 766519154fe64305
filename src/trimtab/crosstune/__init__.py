"""Few-shot classification through a black box (CrossTune).

Names are loaded on first use, so that importing this package loads neither scikit-learn nor torch:

    readings            what a black box says of a text, and where that is kept
    encoder, endpoints  black boxes: a local encoder; embeddings over HTTP
    views               readings -> vectors, and the keys that descriptions give
    network, training   the cross-attention, its fit, held-out decisions
    classifier, folder  CrossTuneClassifier <-> a folder
    baselines           what it must beat on the same features
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trimtab.errors import MissingExtraError

if TYPE_CHECKING:
    from trimtab.crosstune.baselines import DecTClassifier as DecTClassifier
    from trimtab.crosstune.baselines import LabelSimilarity as LabelSimilarity
    from trimtab.crosstune.baselines import LogisticProbe as LogisticProbe
    from trimtab.crosstune.baselines import NearestMean as NearestMean
    from trimtab.crosstune.classifier import CrossTuneClassifier as CrossTuneClassifier
    from trimtab.crosstune.encoder import LocalEncoder as LocalEncoder
    from trimtab.crosstune.endpoints import EmbeddingsEndpoint as EmbeddingsEndpoint
    from trimtab.crosstune.endpoints import TokenEmbeddingsEndpoint as TokenEmbeddingsEndpoint
    from trimtab.crosstune.readings import Features as Features
    from trimtab.crosstune.readings import FeatureStore as FeatureStore
    from trimtab.crosstune.readings import FolderFeatures as FolderFeatures
    from trimtab.crosstune.readings import KeptFeatures as KeptFeatures
    from trimtab.crosstune.readings import MemoryFeatures as MemoryFeatures
    from trimtab.crosstune.readings import Reading as Reading

_PLACES = {
    "CrossTuneClassifier": "classifier",
    "DecTClassifier": "baselines",
    "EmbeddingsEndpoint": "endpoints",
    "FeatureStore": "readings",
    "Features": "readings",
    "FolderFeatures": "readings",
    "KeptFeatures": "readings",
    "LabelSimilarity": "baselines",
    "LocalEncoder": "encoder",
    "LogisticProbe": "baselines",
    "MemoryFeatures": "readings",
    "NearestMean": "baselines",
    "Reading": "readings",
    "TokenEmbeddingsEndpoint": "endpoints",
}


def __getattr__(name: str) -> Any:
    """The public name, its module loaded on first use. Raises MissingExtraError without scikit-learn."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "sklearn":
            raise MissingExtraError("train", "a classifier") from None
        raise
