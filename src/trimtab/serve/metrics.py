"""What is counted, for Prometheus: requests, tokens, dollars, places, scores and how far they have drifted.

Drift is a shift of means: of the calibrated confidences of single candidates now, from the share of single
answers that were right on the held-out questions. A calibration fitted there by maximum likelihood has that
share as its mean, so that on questions of the same kind the difference is noise about zero.

The population stability index looks at the scores themselves: how far their shares in the ten parts that the
held-out questions' deciles make have moved from a tenth each. By custom, below 0.1 nothing has moved, above
0.25 much has: questions, or the black box, are no longer those that the adapter was made with.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from trimtab.serve.adapters import Served
from trimtab.store import Inference

SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
SCORES = tuple(float(score) for score in range(-10, 11))
SHARES = tuple(tenth / 10 for tenth in range(1, 11))
MEMORY = 0.005  # weight of the newest answer in the running mean of confidences: some 200 answers

LEAST_SHARE = 1e-4  # of a part in which there are no scores; the index would be infinite

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """The counters of one server.

    Args:
        shared: the folder in which several workers count together; without one, each counts for itself.
    """

    def __init__(self, shared: Path | None = None) -> None:
        self._shared = shared
        self.registry = CollectorRegistry()
        own: Any = {"registry": self.registry}
        self.requests = Counter(
            "trimtab_requests", "Requests answered.", ["route", "method", "status"], **own
        )
        self.seconds = Histogram(
            "trimtab_request_seconds", "Until the last byte.", ["route"], buckets=SECONDS, **own
        )
        self.in_flight = Gauge(
            "trimtab_in_flight", "Requests with a place.", multiprocess_mode="livesum", **own
        )
        self.waiting = Gauge(
            "trimtab_waiting", "Requests that wait for a place.", multiprocess_mode="livesum", **own
        )
        self.tokens = Counter("trimtab_tokens", "Tokens of the black box.", ["adapter", "direction"], **own)
        self.usd = Counter("trimtab_usd", "Dollars spent, where prices are known.", ["adapter"], **own)
        self.answers = Counter("trimtab_answers", "Answers by how they ended.", ["adapter", "status"], **own)
        self.candidates = Counter("trimtab_candidates", "Candidates drawn.", ["adapter"], **own)
        self.scores = Histogram("trimtab_score", "Scores of candidates.", ["adapter"], buckets=SCORES, **own)
        self.confidences = Histogram(
            "trimtab_confidence", "Confidence of answers.", ["adapter"], buckets=SHARES, **own
        )
        self.drift = Gauge(
            "trimtab_confidence_drift",
            "Mean confidence of single candidates, less their rate of being right on held-out questions.",
            ["adapter"],
            multiprocess_mode="mostrecent",
            **own,
        )
        self.stability = Gauge(
            "trimtab_score_psi",
            "Population stability index of candidates' scores against the held-out questions'.",
            ["adapter"],
            multiprocess_mode="mostrecent",
            **own,
        )
        self._means: dict[str, float] = {}
        self._shares: dict[str, list[float]] = {}

    def answered(self, inference: Inference, served: Served | None = None) -> None:
        """Counts an answer in."""
        name = _label(inference)
        self.answers.labels(name, inference.status).inc()
        self.tokens.labels(name, "in").inc(inference.usage.input_tokens)
        self.tokens.labels(name, "out").inc(inference.usage.output_tokens)
        self.usd.labels(name).inc(inference.usage.usd or 0.0)
        self.candidates.labels(name).inc(len(inference.candidates))
        for candidate in inference.candidates:
            if candidate.score is not None:
                self.scores.labels(name).observe(candidate.score)
        if inference.confidence is not None:
            self.confidences.labels(name).observe(inference.confidence)
        if served is not None:
            self._drifted(name, served, inference)
            self._moved(name, served, inference)

    def _drifted(self, name: str, served: Served, inference: Inference) -> None:
        known = [each.confidence for each in inference.candidates if each.confidence is not None]
        if served.usual_confidence is None or not known:
            return
        now = sum(known) / len(known)
        mean = self._means.get(name, served.usual_confidence)
        self._means[name] = mean + MEMORY * (now - mean)
        self.drift.labels(name).set(self._means[name] - served.usual_confidence)

    def _moved(self, name: str, served: Served, inference: Inference) -> None:
        scores = [each.score for each in inference.candidates if each.score is not None]
        if not (served.score_deciles and scores):
            return
        parts = len(served.score_deciles) + 1
        before = self._shares.get(name, [1 / parts] * parts)
        now = shares_between(served.score_deciles, scores)
        self._shares[name] = [old + MEMORY * (new - old) for old, new in zip(before, now, strict=True)]
        self.stability.labels(name).set(stability_index(self._shares[name]))

    def exposition(self) -> bytes:
        """All of it, as Prometheus reads it."""
        if self._shared is None:
            return bytes(generate_latest(self.registry))
        together = CollectorRegistry()
        MultiProcessCollector(together, str(self._shared))  # type: ignore[no-untyped-call]
        return bytes(generate_latest(together))


def shares_between(bounds: Sequence[float], values: Sequence[float]) -> list[float]:
    """The share of the values in each of the parts that the bounds make; one on a bound is above it."""
    counts = [0] * (len(bounds) + 1)
    for value in values:
        counts[bisect_right(bounds, value)] += 1
    return [count / len(values) for count in counts]


def stability_index(shares: Sequence[float]) -> float:
    """The population stability index of shares that once were even: sum of (a - e) ln(a / e)."""
    even = 1 / len(shares)
    held = [max(share, LEAST_SHARE) for share in shares]
    return sum((share - even) * math.log(share / even) for share in held)


def _label(inference: Inference) -> str:
    """The adapter and version that answered: few values, none of them a client's words."""
    return f"{inference.adapter}@v{inference.version}" if inference.adapter else "none"
