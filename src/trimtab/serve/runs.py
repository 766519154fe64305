"""The pages of runs: what each round reached, its scores, whether its confidence is honest, cost, adapters.

Rounds, calls and versions come from the store, an adapter's own record from its folder, drawings from
`evaluate.plots`. Nothing here is computed that training decides by.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends
from markupsafe import Markup
from starlette.responses import Response

from trimtab.energy.manifest import Manifest, read_manifest
from trimtab.errors import AdapterError
from trimtab.evaluate import plots
from trimtab.evaluate.comparison import Scores
from trimtab.evaluate.intervals import Estimate, wilson_interval
from trimtab.evaluate.measures import calibration_of, scores_of
from trimtab.evaluate.words import label, percent
from trimtab.serve.errors import ApiError
from trimtab.serve.keys import Guard
from trimtab.serve.pages import PageRoute, drawing, page
from trimtab.store import AdapterVersion, RoundRecord, Run, Scope, Store
from trimtab.types import Candidate, Judgement, Verdict

SHOWN = 200  # runs in the list, the newest
CURVES = ("single", "majority", "best_of_n", "chosen", "oracle")  # of a round's record
_DRAWN = ("majority", "best_of_n", "chosen")
_DRAWING = threading.Lock()  # matplotlib's settings are the whole process's


@dataclass(frozen=True, slots=True)
class Figure:
    """One drawing with its title and what it shows."""

    title: str
    svg: Markup
    caption: str


@dataclass(frozen=True, slots=True)
class Lineage:
    """One adapter: where it is, and from which it was trained on."""

    name: str
    folder: Path
    weights: str  # the beginning of their hash; empty where the folder cannot be read
    parent: str
    status: str
    share: float | None
    reason: str
    at: float | None


def runs_router(store: Store, guard: Guard) -> APIRouter:
    """The pages of runs."""
    guarded = Depends(guard(Scope.REVIEW))
    router = APIRouter(route_class=PageRoute, dependencies=[guarded], include_in_schema=False)

    @router.get("/runs")
    def listed() -> Response:
        runs = [(run, _best(store.rounds(run.id)), store.usage_of(run.id)) for run in store.runs()[-SHOWN:]]
        return page("runs.html", here="runs", runs=runs[::-1], adapters=_versions(store))

    @router.get("/runs/{run_id:path}")
    def one(run_id: str) -> Response:
        run = store.run(run_id)
        if run is None:
            raise ApiError(404, "there is no such run", code="unknown_run")
        return page("run.html", here="runs", **_about(store, run))

    return router


def _about(store: Store, run: Run) -> dict[str, Any]:
    rounds = store.rounds(run.id)
    return {
        "run": run,
        "settings": _settings(run),
        "rounds": [(each.round, each.record, _name(each.adapter)) for each in rounds],
        "methods": [(name, _label(name, each.record)) for each in rounds[-1:] for name in CURVES],
        "best": _best(rounds),
        "figures": list(_figures(store, run, rounds)),
        "costs": store.costs(run.id),
        "usage": store.usage_of(run.id),
        "spared": store.replays().get(run.id),
        "lineage": [_of_folder(each) for each in rounds if each.adapter is not None],
        "adapters": _versions(store),
    }


def _settings(run: Run) -> dict[str, Any]:
    """What was set for the run, one line each; the store has blanked out its secrets."""
    given = run.config.get("settings", run.config)
    return {name: value for name, value in given.items() if value not in (None, "", [])} if given else {}


def _best(rounds: Sequence[RoundRecord]) -> float | None:
    """The best held-out accuracy of any round."""
    reached = [_accuracy(each.record).get("chosen") for each in rounds]
    return max((share for share in reached if share is not None), default=None)


def _accuracy(record: Mapping[str, Any]) -> Mapping[str, float]:
    found: Mapping[str, float] = record.get("held_out", {}).get("accuracy", {})
    return found


def _label(name: str, record: Mapping[str, Any]) -> str:
    """What a method is called; the chosen one by the rule that was chosen."""
    if name != "chosen":
        return label(name)
    rule = record.get("held_out", {}).get("rule", {}).get("name", name)
    return label({"argmax": "best_of_n"}.get(rule, rule))


# --------------------------------------------------------------------------- drawings


def _figures(store: Store, run: Run, rounds: Sequence[RoundRecord]) -> Iterator[Figure]:
    if any(_accuracy(each.record) for each in rounds):
        yield _curve(rounds)
    for each in reversed(rounds):
        pools = _judged(store.candidates(run.id, each.round), store.judgements(run.id, each.round))
        confident = _confident(pools, rounds, each.round)
        if scores_of(confident) is not None:
            yield from _scored(confident, each.round)
            return


def _curve(rounds: Sequence[RoundRecord]) -> Figure:
    known = [each for each in rounds if _accuracy(each.record)]
    curves = {_plotted(name): [_estimate(name, each.record) for each in known] for name in _DRAWN}
    drawn = _drawn_rounds(json.dumps([[each.round for each in known], _plain(curves)]))
    return Figure(
        "Accuracy by round",
        drawing(drawn),
        f"On {known[-1].record['held_out']['questions']} held-out questions, with 95 % intervals. "
        f"The adapter decides by {_label('chosen', known[-1].record)}.",
    )


def _plotted(name: str) -> str:
    return "weighted_vote" if name == "chosen" else name


def _estimate(name: str, record: Mapping[str, Any]) -> Estimate:
    share, questions = _accuracy(record).get(name, 0.0), record["held_out"]["questions"]
    low, high = wilson_interval(round(share * questions), questions)
    return Estimate(share, low, high)


def _plain(curves: Mapping[str, Sequence[Estimate]]) -> dict[str, list[list[float]]]:
    return {name: [[e.value, e.low, e.high] for e in curve] for name, curve in curves.items()}


@lru_cache(maxsize=64)
def _drawn_rounds(values: str) -> str:
    """The drawing of these values: made once, as a page is often looked at again."""
    at, curves = json.loads(values)
    with _DRAWING:
        return plots.rounds_plot(at, {name: [Estimate(*e) for e in curve] for name, curve in curves.items()})


def _scored(pools: Sequence[Sequence[Candidate]], number: int) -> Iterator[Figure]:
    """Where the scores of right and wrong answers lie, and how often a confidence keeps its word."""
    scores, calibration = scores_of(pools), calibration_of(_decisions(pools))
    if scores is not None:
        yield Figure("Scores", _drawn(plots.scores_plot, scores), _of_scores(scores, number))
    if calibration is not None:
        yield Figure(
            "Is its confidence honest?",
            _drawn(plots.reliability_plot, calibration),
            f"{calibration.decisions} answers of round {number}, the larger dots more of them; expected "
            f"calibration error {calibration.ece:.3f}.",
        )


def _decisions(pools: Sequence[Sequence[Candidate]]) -> list[tuple[float, bool]]:
    return [
        (each.confidence, each.verdict is Verdict.RIGHT)
        for pool in pools
        for each in pool
        if each.confidence is not None and each.verdict is not Verdict.UNJUDGED
    ]


def _of_scores(scores: Scores, number: int) -> str:
    drawn = f"Answers drawn in round {number}, scored before they were learnt from."
    if scores.pairwise_accuracy is None:
        return drawn
    share = percent(scores.pairwise_accuracy)
    return f"{drawn} Within a question a right answer outscores a wrong one {share} of the time."


@lru_cache(maxsize=64)
def _drawn(draw: Any, values: Any) -> Markup:
    with _DRAWING:
        return drawing(draw(values))


def _judged(
    candidates: Mapping[str, Sequence[Candidate]], judgements: Mapping[str, Judgement]
) -> list[list[Candidate]]:
    """The candidates of a round with what the judge said of each."""
    return [
        [replace(each, verdict=_verdict(judgements[asked], at)) for at, each in enumerate(drawn)]
        for asked, drawn in candidates.items()
        if asked in judgements
    ]


def _verdict(judgement: Judgement, at: int) -> Verdict:
    if at in judgement.positives:
        return Verdict.RIGHT
    return Verdict.WRONG if at in judgement.negatives else Verdict.UNJUDGED


def _confident(
    pools: Sequence[Sequence[Candidate]], rounds: Sequence[RoundRecord], number: int
) -> list[list[Candidate]]:
    """The candidates with the confidence that the adapter of the round before gives to their scores."""
    before = next((each for each in rounds if each.round == number - 1), None)
    calibrate = None if before is None else _calibration(before.record)
    if calibrate is None:
        return [list(pool) for pool in pools]
    return [
        [
            each if each.score is None else replace(each, confidence=float(calibrate.apply([each.score])[0]))
            for each in pool
        ]
        for pool in pools
    ]


def _calibration(record: Mapping[str, Any]) -> Any:
    from trimtab.energy.calibrate import Calibration

    known = record.get("held_out", {}).get("calibration")
    if known is None:
        return None
    return Calibration(**{**known, "knots": tuple(known["knots"]), "levels": tuple(known["levels"])})


# --------------------------------------------------------------------------- adapters


def _versions(store: Store) -> list[tuple[str, list[Lineage]]]:
    """The adapters that have versions, newest version first."""
    return [
        (name, [_of_version(each) for each in reversed(store.versions(name))])
        for name in store.adapter_names()
    ]


def _of_version(version: AdapterVersion) -> Lineage:
    return Lineage(
        f"v{version.version}",
        version.folder,
        _weights(version.folder),
        "" if version.parent is None else f"v{version.parent}",
        str(version.status),
        version.share,
        version.reason,
        version.decided_at or version.created_at,
    )


def _of_folder(done: RoundRecord) -> Lineage:
    assert done.adapter is not None
    manifest = _manifest(done.adapter)
    parent = "" if manifest is None or manifest.parent is None else manifest.parent[:12]
    at = None if manifest is None else manifest.created.timestamp()
    return Lineage(f"round {done.round}", done.adapter, _weights(done.adapter), parent, "", None, "", at)


def _weights(folder: Path) -> str:
    manifest = _manifest(folder)
    return (manifest.weights_sha256 or "")[:12] if manifest else ""


def _manifest(folder: Path) -> Manifest | None:
    """What the folder says of itself; None where it was moved or damaged since."""
    try:
        return read_manifest(folder)
    except AdapterError:
        return None


def _name(folder: Path | None) -> str:
    return "" if folder is None else folder.name
