"""A classifier in a folder: safetensors and JSON, nothing pickled; every byte under a hash.

`crosstune.json` says what the classifier is and the SHA-256 of `heads.safetensors`; its own last key is the
checksum of all the others.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from trimtab.crosstune.encoder import LocalEncoder
from trimtab.crosstune.network import Array, Head
from trimtab.crosstune.readings import Features, FeatureStore, KeptFeatures
from trimtab.crosstune.switch import Augmentation
from trimtab.crosstune.training import Trained
from trimtab.crosstune.views import Eye
from trimtab.energy.manifest import sha256_file
from trimtab.errors import AdapterError, InputError

if TYPE_CHECKING:
    from trimtab.crosstune.classifier import CrossTuneClassifier

FACTS = "crosstune.json"
TENSORS = "heads.safetensors"
_NOT_SAVED = {"features", "store"}


def save(classifier: CrossTuneClassifier, target: Path) -> Path:
    """The folder, written whole and then moved to its place; a classifier there before is replaced.

    Raises:
        AdapterError: the folder holds something that is no classifier, or the features cannot be described.
    """
    if target.exists() and any(target.iterdir()) and not (target / FACTS).is_file():
        raise AdapterError(f"{target} exists and is not a classifier's folder; name another, or empty it")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        partial.chmod(0o755)
        save_file(_tensors(classifier), partial / TENSORS)
        facts = {**_facts(classifier), "files": {TENSORS: sha256_file(partial / TENSORS)}}
        text = json.dumps({**facts, "checksum": _checksum(facts)}, indent=2, ensure_ascii=False)
        (partial / FACTS).write_text(text + "\n", "utf-8")
        if target.exists():
            for name in (FACTS, TENSORS):
                (target / name).unlink(missing_ok=True)
            for path in partial.iterdir():
                path.replace(target / path.name)
        else:
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def load(
    kind: type[CrossTuneClassifier], target: Path, features: Features | None, store: FeatureStore | None
) -> CrossTuneClassifier:
    """The classifier in the folder.

    Raises:
        AdapterError: missing, damaged or of another kind.
        InputError: its black box is an endpoint and was not given, or another one was given.
    """
    facts = _read_facts(target)
    tensors = _read_tensors(target, facts)
    box = features or _local(facts["features"], target)
    if box.name != facts["features"]["name"]:
        raise InputError(f"it was made with {facts['features']['name']!r}, and {box.name!r} was given")
    classifier = kind(**facts["params"], features=box, store=store)
    classifier.classes_ = np.array(facts["classes"])
    classifier.is_of_pairs_ = facts["is_of_pairs"]
    classifier.truncated_ = facts["truncated"]
    noted = facts.get("augmentation")  # folders of before have no word of it
    classifier.augmentation_ = Augmentation.from_json(noted) if noted else None
    classifier.shares_ = tensors["shares"]
    classifier.eyes_ = [_eye(each, tensors, number) for number, each in enumerate(facts["eyes"])]
    heads = [_head(sharpness, tensors, number) for number, sharpness in enumerate(facts["sharpness"])]
    classifier.trained_ = Trained(heads, tensors["weights"], **facts["training"])
    return classifier


def _facts(classifier: CrossTuneClassifier) -> dict[str, Any]:
    trained = classifier.trained_
    params = {name: _plain(value) for name, value in classifier.get_params(deep=False).items()}
    return {
        "format": 1,
        "kind": "crosstune",
        "params": {name: value for name, value in params.items() if name not in _NOT_SAVED},
        "features": _features_facts(classifier),
        "classes": classifier.classes_.tolist(),
        "is_of_pairs": classifier.is_of_pairs_,
        "truncated": classifier.truncated_,
        "augmentation": classifier.augmentation_.to_json() if classifier.augmentation_ else None,
        "eyes": [{"view": eye.view, "layer": eye.layer} for eye in classifier.eyes_],
        "sharpness": [head.sharpness for head in trained.heads],
        "training": {
            "temperature": trained.temperature,
            "steps": trained.steps,
            "held_out_nll": trained.held_out_nll,
            "held_out": trained.held_out,
        },
    }


def _features_facts(classifier: CrossTuneClassifier) -> dict[str, Any]:
    box: Any = classifier._box()
    inner = box.features if isinstance(box, KeptFeatures) else box
    facts = inner.to_json() if hasattr(inner, "to_json") else {}
    kind = "local" if isinstance(inner, LocalEncoder) else "given"
    return {"kind": kind, "name": inner.name, "facts": facts}


def _plain(value: Any) -> Any:
    """Mappings and sequences as JSON has them."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _tensors(classifier: CrossTuneClassifier) -> dict[str, Array]:
    found: dict[str, Array] = {"weights": classifier.trained_.weights, "shares": classifier.shares_}
    for number, eye in enumerate(classifier.eyes_):
        found |= {f"eye.{number}.centre": eye.centre, f"eye.{number}.spread": eye.spread}
        found[f"eye.{number}.guide"] = eye.guide
    for number, head in enumerate(classifier.trained_.heads):
        found |= {f"head.{number}.start": head.start, f"head.{number}.shift": head.shift}
        if head.projection is not None:
            found[f"head.{number}.projection"] = head.projection
    return {name: np.ascontiguousarray(tensor) for name, tensor in found.items()}


def _eye(facts: dict[str, Any], tensors: dict[str, Array], number: int) -> Eye:
    centre, spread, guide = (tensors[f"eye.{number}.{part}"] for part in ("centre", "spread", "guide"))
    return Eye(facts["view"], facts["layer"], centre, spread, guide)


def _head(sharpness: float, tensors: dict[str, Array], number: int) -> Head:
    start, shift = tensors[f"head.{number}.start"], tensors[f"head.{number}.shift"]
    return Head(start, shift, sharpness, tensors.get(f"head.{number}.projection"))


def _local(features: dict[str, Any], target: Path) -> Features:
    if features["kind"] != "local":
        raise InputError(
            f"{target} was made with {features['name']!r}, of which no key is saved: "
            "give features=… to load it"
        )
    return LocalEncoder(**features["facts"])


def _read_facts(target: Path) -> dict[str, Any]:
    path = target / FACTS
    if not path.is_file():
        raise AdapterError(f"{target} is not a classifier's folder: it has no {FACTS}")
    try:
        facts = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path} is damaged or not readable: {error}") from None
    if not isinstance(facts, dict) or facts.pop("checksum", None) != _checksum(facts):
        raise AdapterError(f"{path} is damaged: its content does not match its own checksum")
    if facts.get("kind") != "crosstune" or facts.get("format") != 1:
        raise AdapterError(f"{path} is not a classifier of format 1")
    return facts


def _read_tensors(target: Path, facts: dict[str, Any]) -> dict[str, Array]:
    path = target / TENSORS
    if not path.is_file() or sha256_file(path) != facts["files"][TENSORS]:
        raise AdapterError(f"{path} is missing or not the file that was saved; copy or fit it again")
    try:
        tensors: dict[str, Array] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{path} cannot be read: {error}") from None
    return tensors


def _checksum(facts: dict[str, Any]) -> str:
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
