"""A new version of an adapter: the serving one's weights, trained on with the lessons of feedback.

What the lessons are is `from_feedback`'s; whether the version is good enough, `evaluate.trial`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from trimtab.adapt.contrasts import with_replay
from trimtab.adapt.from_feedback import Taught
from trimtab.adapt.held_out import evaluate_held_out, held_out_contrasts, score_deciles
from trimtab.data import split
from trimtab.energy import EnergyModel, Fit, FitReport, FitSettings, Manifest, Progress, fit_energy
from trimtab.errors import RunError
from trimtab.pools import scored
from trimtab.types import Candidate, Contrast, Pool, Verdict

LEAST = 8  # new lessons; fewer are not worth a version
CALIBRATED_BY = 100  # judged answers; with fewer, the parent's calibration stays


@dataclass(frozen=True, slots=True)
class FeedbackSettings:
    """How a version is trained from feedback. Values are ours, chosen in `scripts/lab_feedback.py`."""

    fit: FitSettings = field(default_factory=FitSettings)
    replay: float = 0.5  # share of what earlier versions learnt from that is learnt from again
    trim: float = 0.1  # at most so many of the lessons are left out, those that the others contradict most
    least: int = LEAST
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Learnt:
    """What a fit made of the lessons; the energy model was trained in place."""

    report: FitReport
    new: int
    replayed: int
    trimmed: int
    manifest_fields: Mapping[str, Any]  # what was chosen for the new weights; empty: the parent's stays


def learn(
    energy: EnergyModel,
    manifest: Manifest,
    found: Taught,
    settings: FeedbackSettings,
    *,
    since: float = 0.0,
    replayed: Sequence[Contrast] = (),
    checkpoint_dir: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    fit: Fit = fit_energy,
) -> Learnt:
    """Trains the serving adapter's energy model on, in place.

    Args:
        energy: with the serving version's weights.
        manifest: the serving version's.
        found: the lessons.
        settings: how.
        since: when the serving version was made, in seconds since the epoch; what was last spoken of before
            is replayed, like `replayed`.
        replayed: contrasts of the first training.
        checkpoint_dir: where a killed fit goes on from.
        progress: called after each update.
        fit: in this process, or elsewhere in several.

    Raises:
        RunError: there are too few new lessons.
    """
    new = [each.contrast for each in found.lessons if each.at > since]
    if len(new) < settings.least:
        raise RunError(
            f"{len(new)} new lessons are too few for a version: {settings.least} are needed "
            "(a lesson is a question with an answer found right and another that was not)"
        )
    earlier = [*(each.contrast for each in found.lessons if each.at <= since), *replayed]
    lessons = with_replay(new, earlier, settings.replay, settings.seed)
    kept = trimmed(energy, lessons, settings.fit, settings.trim)
    report = fit(
        energy,
        kept,
        settings.fit,
        held_out=held_out_contrasts(found.choosing),
        checkpoint_dir=checkpoint_dir,
        progress=progress,
    )
    chosen = _chosen(energy, manifest, found.choosing)
    return Learnt(report, len(new), len(lessons) - len(new), len(lessons) - len(kept), chosen)


def trimmed(
    energy: EnergyModel, lessons: Sequence[Contrast], fit: FitSettings, share: float
) -> tuple[Contrast, ...]:
    """The lessons without those that the others contradict most; `energy` keeps its weights.

    Each half of the lessons, by a hash of the question, is judged by a model that learnt from the other half
    in one pass: a lesson whose negatives outscore its positives there is against the rest. At most `share` of
    all lessons are left out, those with the worst margins. In this way flipped and planted feedback goes
    first, whoever gave it; so may a lesson that is hard and true, which is what a small share is for.
    """
    if not share or len(lessons) < 2:
        return tuple(lessons)
    halves = split(lessons, {"one": 0.5, "other": 0.5}, "trim")
    margins = {
        each: margin
        for judged, learnt in (("one", "other"), ("other", "one"))
        if halves[judged] and halves[learnt]
        for each, margin in _margins(energy, halves[judged], halves[learnt], replace(fit, epochs=1))
    }
    against = sorted((each for each in margins if margins[each] < 0), key=lambda each: margins[each])
    left_out = set(against[: round(share * len(lessons))])
    return tuple(each for each in lessons if each not in left_out)


def _margins(
    energy: EnergyModel, judged: Sequence[Contrast], learnt: Sequence[Contrast], fit: FitSettings
) -> list[tuple[Contrast, float]]:
    before = {name: tensor.clone() for name, tensor in energy.network.state_dict().items()}
    fit_energy(energy, learnt, fit)
    pairs = [(each.question, text) for each in judged for text in (*each.positives, *each.negatives)]
    scores = iter(energy.score_pairs(pairs))
    energy.network.load_state_dict(before)
    return [(each, _margin(each, scores)) for each in judged]


def _margin(contrast: Contrast, scores: Iterator[float]) -> float:
    right = fmean(next(scores) for _ in contrast.positives)
    return right - fmean(next(scores) for _ in contrast.negatives)


def _chosen(energy: EnergyModel, manifest: Manifest, choosing: Sequence[Pool]) -> dict[str, Any]:
    """Calibration and decision rules for the new weights; none where too little was judged to choose by."""
    pools = scored(choosing, energy)
    verdicts = [
        each.verdict is Verdict.RIGHT for pool in pools for each in pool.candidates if _is_judged(each)
    ]
    if len(verdicts) < CALIBRATED_BY or len(set(verdicts)) < 2:
        return {"score_deciles": score_deciles(pools)}
    is_comparable = manifest.rule != "argmax"
    return evaluate_held_out(pools, manifest.rule, is_comparable).manifest_fields()


def _is_judged(candidate: Candidate) -> bool:
    return candidate.verdict is not Verdict.UNJUDGED
