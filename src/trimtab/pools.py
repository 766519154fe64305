"""Pools of candidates: made from recorded answers, scored, counted. No model and no black box lives here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from trimtab.types import Candidate, Pool, Recorded, Sample, Scorer, Task, Verdict

Calibrate = Callable[[Sequence[float]], Sequence[float]]


def recorded_pool(row: Recorded, task: Task) -> Pool:
    """The pool that a row of recorded answers makes.

    The task's reading against the reference decides; the source's own label only where there is no reference.
    """
    return Pool(row.question, tuple(_candidate(row, sample, task) for sample in row.samples))


def _candidate(row: Recorded, sample: Sample, task: Task) -> Candidate:
    verdict = task.verdict(row.question, sample.text)
    if verdict is Verdict.UNJUDGED and sample.correct is not None:
        verdict = Verdict.RIGHT if sample.correct else Verdict.WRONG
    return Candidate(sample.text, task.final_answer(row.question, sample.text), verdict=verdict)


def scored(pools: Sequence[Pool], scorer: Scorer, calibrate: Calibrate | None = None) -> list[Pool]:
    """The same pools with every candidate's score, and its confidence if a calibration is given.

    All pools go to the scorer at once, so that it can sort them by length.
    """
    pairs = [(pool.question.with_choices, each.text) for pool in pools for each in pool.candidates]
    scores = iter(scorer.score_pairs(pairs) if pairs else [])
    return [_with_scores(pool, [next(scores) for _ in pool.candidates], calibrate) for pool in pools]


def recalibrated(pools: Sequence[Pool], calibrate: Calibrate) -> list[Pool]:
    """The same scored pools with the confidences of another calibration."""
    return [_with_scores(pool, [_known(each) for each in pool.candidates], calibrate) for pool in pools]


def _known(candidate: Candidate) -> float:
    if candidate.score is None:
        raise ValueError("a candidate without a score cannot be calibrated")
    return candidate.score


def share_right(pool: Pool) -> float:
    """The share of a pool's candidates that are right: the expected accuracy of one draw; 0 without any."""
    right = sum(candidate.verdict is Verdict.RIGHT for candidate in pool.candidates)
    return right / len(pool.candidates) if pool.candidates else 0.0


def _with_scores(pool: Pool, scores: Sequence[float], calibrate: Calibrate | None) -> Pool:
    confidences = calibrate(scores) if calibrate and scores else [None] * len(scores)
    return replace(
        pool,
        candidates=tuple(
            replace(each, score=score, confidence=None if confidence is None else float(confidence))
            for each, score, confidence in zip(pool.candidates, scores, confidences, strict=True)
        ),
    )
