"""The embedded black box itself: a small decoder-only transformer in numpy.

Pre-norm blocks without gains, rotary positions, squared ReLU, embedding and output tied. Here: the weights,
the forward pass of a whole prompt and of one further token for many rows. Not here: which row draws what
(`decoding`), the wire (`server`), training (scripts/train_blackbox.py, whose torch twin computes the same).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from trimtab.llm.embedded.vocabulary import Vocabulary

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

PACKAGED = Path(__file__).parent / "blackbox.safetensors"

MODELS: Mapping[str, Path] = {
    "trimtab-blackbox": PACKAGED,
    # an earlier checkpoint of the same training: the other black box that an adapter can be carried over to
    "trimtab-blackbox-early": PACKAGED.with_name("blackbox-early.safetensors"),
}
_ROTARY_BASE = 1000.0  # texts are shorter than a hundred tokens
_EPSILON = 1e-6
_NEVER = np.float32(-1e9)

BLOCK = 8  # rows are decoded in whole blocks of so many; see `_product`


@dataclass(frozen=True)
class Config:
    """The shape of the model."""

    vocabulary: int
    layers: int
    width: int
    heads: int
    context: int = 256  # longer than any prompt and chain of its world

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    def rotations(self) -> tuple[Floats, Floats]:
        """Cosines and sines of the rotary positions, each (context, head_width / 2)."""
        half = self.head_width // 2
        angles = np.outer(np.arange(self.context), _ROTARY_BASE ** (-np.arange(half) / half))
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


@dataclass(frozen=True)
class Weights:
    """The learned numbers, in float32: matrices map from their last axis but one to their last."""

    embedding: Floats  # vocabulary, width
    qkv: Floats  # layers, width, 3 * width; queries already divided by the root of the head's width
    out: Floats  # layers, width, width
    up: Floats  # layers, width, 4 * width
    down: Floats  # layers, 4 * width, width

    @cached_property
    def unembedding(self) -> Floats:
        """The embedding turned over, contiguous: (width, vocabulary)."""
        return np.ascontiguousarray(self.embedding.T)


class Cache:
    """Keys and values of a fixed number of rows, kept in place while the rows live."""

    def __init__(self, config: Config, rows: int) -> None:
        shape = (config.layers, rows, config.heads, config.context, config.head_width)
        self.keys: Floats = np.zeros(shape, np.float32)
        self.values: Floats = np.zeros(shape, np.float32)

    def fill(self, row: int, count: int, keys: Floats, values: Floats) -> None:
        """Begin `count` rows with a prompt's keys and values, each (layers, heads, length, head_width)."""
        length = keys.shape[2]
        self.keys[:, row : row + count, :, :length] = keys[:, None]
        self.values[:, row : row + count, :, :length] = values[:, None]

    def move(self, source: int, target: int, length: int) -> None:
        """Put one row where another was."""
        self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]


class Model:
    """A causal language model over a closed vocabulary."""

    def __init__(self, config: Config, weights: Weights, vocabulary: Vocabulary) -> None:
        self.config = config
        self.weights = weights
        self.vocabulary = vocabulary
        self._cosine, self._sine = config.rotations()

    @classmethod
    def load(cls, path: Path = PACKAGED) -> Model:
        """The model kept in a safetensors file, by default the one in the package."""
        with safe_open(path, framework="numpy") as kept:
            metadata = kept.metadata()
            tensors = {name: kept.get_tensor(name).astype(np.float32) for name in kept.keys()}  # noqa: SIM118
        config = Config(**json.loads(metadata["config"]))
        tensors["qkv"][:, 0] /= np.sqrt(config.head_width)
        tensors["qkv"] = np.concatenate([tensors["qkv"][:, part] for part in range(3)], axis=-1)
        return cls(config, Weights(**tensors), Vocabulary(json.loads(metadata["vocabulary"])))

    def tokens(self, prompt: str) -> Ints:
        """A prompt as the model reads it."""
        return np.array([self.vocabulary.bos, *self.vocabulary.encode(prompt)])

    def read(self, tokens: Ints) -> tuple[Floats, Floats, Floats]:
        """A whole prompt at once.

        Returns:
            Logits (length, vocabulary) for the token after each one, and the keys and values of every layer,
            each (layers, heads, length, head_width).
        """
        config, length = self.config, len(tokens)
        mask = np.triu(np.full((length, length), _NEVER, np.float32), 1)
        stream = _normed(self.weights.embedding[tokens])
        shape = (config.layers, config.heads, length, config.head_width)
        keys, values = np.empty(shape, np.float32), np.empty(shape, np.float32)
        for layer in range(config.layers):
            heads = self._heads(layer, stream, np.arange(length))
            queries, keys[layer], values[layer] = (part.swapaxes(0, 1) for part in heads)
            mixed = _softmax(queries @ keys[layer].swapaxes(-1, -2) + mask) @ values[layer]
            stream = self._block(layer, stream, mixed.swapaxes(0, 1))
        return _product(_normed(stream), self.weights.unembedding), keys, values

    def step(self, tokens: Ints, positions: Ints, cache: Cache) -> Floats:
        """Logits (rows, vocabulary) after one further token in each of the cache's first rows.

        Args:
            tokens: The new token of each row; a multiple of `BLOCK` of them.
            positions: Where it stands in its row.
            cache: Holds everything before; the new token's keys and values are added.
        """
        rows = np.arange(len(tokens))
        length = _rounded_up(int(positions.max()) + 1, self.config.context)
        mask = np.where(np.arange(length) > positions[:, None], _NEVER, np.float32(0))[:, None]
        stream = _normed(self.weights.embedding[tokens])
        for layer in range(self.config.layers):
            queries, key, value = self._heads(layer, stream, positions)
            cache.keys[layer, rows, :, positions] = key
            cache.values[layer, rows, :, positions] = value
            keys = cache.keys[layer, : len(rows), :, :length]
            values = cache.values[layer, : len(rows), :, :length]
            shares = _softmax((keys @ queries[..., None])[..., 0] + mask)
            stream = self._block(layer, stream, (shares[:, :, None] @ values)[:, :, 0])
        return _product(_normed(stream), self.weights.unembedding)

    def _heads(self, layer: int, stream: Floats, positions: Ints) -> tuple[Floats, Floats, Floats]:
        """Rotated queries, rotated keys and values, each (rows, heads, head_width)."""
        config = self.config
        parts = _product(_normed(stream), self.weights.qkv[layer]).reshape(
            len(stream), 3, config.heads, config.head_width
        )
        half = config.head_width // 2
        cosine, sine = self._cosine[positions][:, None, None], self._sine[positions][:, None, None]
        left, right = parts[:, :2, :, :half], parts[:, :2, :, half:]
        turned = np.empty((len(stream), 2, config.heads, config.head_width), np.float32)
        turned[..., :half] = left * cosine - right * sine
        turned[..., half:] = right * cosine + left * sine
        return turned[:, 0], turned[:, 1], parts[:, 2]

    def _block(self, layer: int, stream: Floats, mixed: Floats) -> Floats:
        """The rest of a layer after its heads have mixed the values."""
        stream = stream + _product(mixed.reshape(stream.shape), self.weights.out[layer])
        hidden = _product(_normed(stream), self.weights.up[layer])
        np.maximum(hidden, 0, out=hidden)
        np.square(hidden, out=hidden)
        return stream + _product(hidden, self.weights.down[layer])


def _product(rows: Floats, matrix: Floats) -> Floats:
    """Rows times a matrix, block by block where they fill blocks.

    A BLAS sums in another order for another number of rows. In blocks of one size a row's result does not
    depend on how many rows stand beside it, so draws can be repeated; it costs about a fifth of the speed.
    """
    if len(rows) % BLOCK:
        plain: Floats = rows @ matrix
        return plain
    blocks: Floats = rows.reshape(-1, BLOCK, rows.shape[-1]) @ matrix
    return blocks.reshape(len(rows), matrix.shape[-1])


def _normed(stream: Floats) -> Floats:
    scale = np.einsum("rw,rw->r", stream, stream)[:, None] / np.float32(stream.shape[-1])
    normed: Floats = stream / np.sqrt(scale + np.float32(_EPSILON))
    return normed


def _softmax(scores: Floats) -> Floats:
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def _rounded_up(length: int, limit: int) -> int:
    """A multiple of sixteen: sums over masked places then group the same whoever else is being read."""
    return min(-(-length // 16) * 16, limit)
