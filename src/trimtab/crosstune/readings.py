"""What a frozen black box says of a text: a `Reading`, and where readings are kept.

No model and no network here: `encoder` and `endpoints` make readings, `views` makes vectors of them.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save, save_file

from trimtab.errors import InputError

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]  # texts read so far, of how many

CHUNK = 256  # texts read before they are kept: what an interruption may cost
_PARTS = ("states", "slot", "facts")


@dataclass(frozen=True, slots=True)
class Reading:
    """One text as the black box sees it.

    `states` is layers x tokens x dimensions, special tokens included: `before` of them stand at its start
    and `after` at its end. A black box that gives one vector has one layer and one token.
    """

    states: Array
    slot: Array  # layers x dimensions: the [MASK] slot, or the first token where there is none
    before: int = 0
    after: int = 0
    is_truncated: bool = False

    @property
    def content(self) -> Array:
        """The states of the text's own tokens; of all tokens where it has none."""
        end = self.states.shape[1] - self.after
        return self.states[:, self.before : end] if end > self.before else self.states


@runtime_checkable
class Features(Protocol):
    """A frozen black box that reads texts. Yours by implementing this."""

    @property
    def name(self) -> str:
        """Everything a reading depends on but the text: model, layers, template, length."""
        ...

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers it gives, by their number in the model."""
        ...

    def read(self, texts: Sequence[str], progress: Progress | None = None) -> list[Reading]:
        """One reading a text, in order."""
        ...


class FeatureStore(Protocol):
    """Where readings are kept, by `reading_key`."""

    def get_many(self, keys: Sequence[str]) -> dict[str, Reading]:
        """Those of the keys that are kept."""
        ...

    def put_many(self, readings: Mapping[str, Reading]) -> None:
        """Keep these; one that is there already stays as it is."""
        ...


def reading_key(features_name: str, text: str) -> str:
    """The key of a text's reading: a hash of everything it depends on."""
    return hashlib.sha256(f"{features_name}\0{text}".encode()).hexdigest()


class MemoryFeatures:
    """A store of readings for as long as the program runs."""

    def __init__(self) -> None:
        self._kept: dict[str, Reading] = {}

    def __deepcopy__(self, memo: dict[int, object]) -> MemoryFeatures:
        return self  # scikit-learn's clone copies what it is given; a store is shared

    def get_many(self, keys: Sequence[str]) -> dict[str, Reading]:
        """Those of the keys that are kept."""
        return {key: self._kept[key] for key in keys if key in self._kept}

    def put_many(self, readings: Mapping[str, Reading]) -> None:
        """Keep these; one that is there already stays as it is."""
        self._kept = {**readings, **self._kept}


class FolderFeatures:
    """A store of readings in a folder: one safetensors file for each time something is put.

    Raises:
        InputError: a file of it cannot be read.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._places: dict[str, Path] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            self._places.update(dict.fromkeys(_keys_in(path), path))

    def __deepcopy__(self, memo: dict[int, object]) -> FolderFeatures:
        return self

    def get_many(self, keys: Sequence[str]) -> dict[str, Reading]:
        """Those of the keys that are kept."""
        wanted: dict[Path, list[str]] = {}
        for key in dict.fromkeys(keys):
            if key in self._places:
                wanted.setdefault(self._places[key], []).append(key)
        return {key: found for path, some in wanted.items() for key, found in _read_from(path, some)}

    def put_many(self, readings: Mapping[str, Reading]) -> None:
        """Keep these; one that is there already stays as it is."""
        new = {key: reading for key, reading in readings.items() if key not in self._places}
        if not new:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256("".join(sorted(new)).encode()).hexdigest()[:32]
        path = self.folder / f"{name}.safetensors"
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".") as partial:
            save_file(_tensors(new), Path(partial) / "part")
            os.replace(Path(partial) / "part", path)
        self._places.update(dict.fromkeys(new, path))


class KeptFeatures:
    """Features that are read once a text: what the store holds is not read again.

    Equal texts are read once. New readings are kept every `CHUNK` texts.
    """

    def __init__(self, features: Features, store: FeatureStore) -> None:
        self.features = features
        self.store = store

    def __deepcopy__(self, memo: dict[int, object]) -> KeptFeatures:
        return self

    @property
    def name(self) -> str:
        """That of the features that are kept."""
        return self.features.name

    @property
    def layers(self) -> tuple[int, ...]:
        """Those of the features that are kept."""
        return self.features.layers

    def read(self, texts: Sequence[str], progress: Progress | None = None) -> list[Reading]:
        """One reading a text, in order; `progress` counts the texts that had to be read."""
        keys = {text: reading_key(self.name, text) for text in texts}
        found = self.store.get_many(list(keys.values()))
        # texts of like length together: a batch takes as long as its longest text
        missing = sorted((text for text, key in keys.items() if key not in found), key=len, reverse=True)
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            moved = partial(_moved, progress, start, len(missing)) if progress else None
            new = dict(zip((keys[text] for text in chunk), self.features.read(chunk, moved), strict=True))
            self.store.put_many(new)
            found.update(new)
            if progress:
                progress(start + len(chunk), len(missing))
        return [found[keys[text]] for text in texts]


def _moved(progress: Progress, before: int, total: int, done: int, of: int) -> None:
    """Tells of the texts of one chunk; its last is told of when all of them are kept."""
    if done < of:
        progress(before + done, total)


def reading_bytes(reading: Reading) -> bytes:
    """A reading as safetensors, for stores that keep bytes."""
    return bytes(save(_parts(reading)))


def reading_from(data: bytes) -> Reading:
    """The reading in the bytes that `reading_bytes` gave.

    Raises:
        InputError: they are damaged.
    """
    try:
        return _joined(load(data))
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"a kept reading is damaged ({error}); remove it, and it is read again") from None


def _parts(reading: Reading) -> dict[str, Array]:
    facts = np.array([reading.before, reading.after, reading.is_truncated], dtype=np.int64)
    values = (np.ascontiguousarray(reading.states), np.ascontiguousarray(reading.slot), facts)
    return dict(zip(_PARTS, values, strict=True))


def _joined(parts: Mapping[str, Array]) -> Reading:
    before, after, is_truncated = (int(fact) for fact in parts["facts"])
    return Reading(parts["states"], parts["slot"], before, after, bool(is_truncated))


def _tensors(readings: Mapping[str, Reading]) -> dict[str, Array]:
    return {f"{key}.{name}": part for key, each in readings.items() for name, part in _parts(each).items()}


def _keys_in(path: Path) -> set[str]:
    with _opened(path) as file:
        return {name.rpartition(".")[0] for name in file.keys()}  # noqa: SIM118, it is no mapping


def _read_from(path: Path, keys: Sequence[str]) -> list[tuple[str, Reading]]:
    with _opened(path) as file:
        return [(key, _joined({name: file.get_tensor(f"{key}.{name}") for name in _PARTS})) for key in keys]


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is damaged ({error}); remove it, and its texts are read again") from None
