"""The protocol of an engine, and a scorer on any of them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from trimtab.energy.encoding import Pair, PairEncoder
from trimtab.energy.engines.names import EngineName
from trimtab.energy.lengths import of_one_length
from trimtab.energy.scoring import BatchScorer


class ScoringEngine(Protocol):
    """Computes scores; nothing else differs between engines."""

    @property
    def name(self) -> EngineName:
        """Its name in manifests and settings."""
        ...

    @property
    def tokens(self) -> int:
        """The padded tokens of a batch at which it is quickest."""
        ...

    @property
    def streams(self) -> int:
        """How many threads may be inside `scores` at once."""
        ...

    def scores(self, batch: Sequence[Pair]) -> list[float]:
        """One score an encoded pair, in order, in one pass; higher is better.

        On a CPU, the same to the last bit whoever shares the batch, where all are of one length (`lengths`).
        """
        ...


class EngineScorer:
    """A Scorer on an engine; a BatchScorer too, so that `scoring.BatchingScorer` can cut its batches."""

    def __init__(self, encoder: PairEncoder, engine: ScoringEngine) -> None:
        self.encoder = encoder
        self.engine = engine

    @property
    def tokens(self) -> int:
        """The engine's own."""
        return self.engine.tokens

    @property
    def streams(self) -> int:
        """The engine's own."""
        return self.engine.streams

    def encode(self, pairs: Sequence[tuple[str, str]]) -> list[Pair]:
        """Each pair's tokens, in order."""
        return self.encoder.encode(pairs)

    def scores(self, batch: Sequence[Pair]) -> list[float]:
        """One score an encoded pair, in order, in one pass."""
        return self.engine.scores(batch)

    def score(self, question: str, texts: Sequence[str]) -> list[float]:
        """g(question, text) for each text, in order; higher is better."""
        return self.score_pairs([(question, text) for text in texts])

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The score of each (question, text) pair, in order; equal pairs are scored once."""
        distinct = list(dict.fromkeys(pairs))
        scores = dict(zip(distinct, scores_by_length(self, self.encode(distinct)), strict=True))
        return [scores[pair] for pair in pairs]


def scores_by_length(scorer: BatchScorer, encoded: Sequence[Pair]) -> list[float]:
    """The scores of encoded pairs, in order, worked out in batches of one length on all of its streams."""
    batches = list(of_one_length([len(pair) for pair in encoded], scorer.tokens, scorer.streams))
    scores = [0.0] * len(encoded)
    found = _on_streams(scorer, [[encoded[i] for i in indices] for indices in batches])
    for indices, values in zip(batches, found, strict=True):
        for index, score in zip(indices, values, strict=True):
            scores[index] = score
    return scores


def _on_streams(scorer: BatchScorer, batches: Sequence[Sequence[Pair]]) -> list[list[float]]:
    """Each batch's scores, in order."""
    if scorer.streams == 1:
        return [scorer.scores(batch) for batch in batches]
    with ThreadPoolExecutor(scorer.streams) as threads:
        return list(threads.map(scorer.scores, batches))
