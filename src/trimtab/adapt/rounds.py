"""Online adaptation as a generator of rounds (BBox-Adapter, Algorithm 1); resumable at every point.

A round in the order of time: draw from the adapted model (Eq. 4), let the judge select (Eq. 5, 6), form
contrasts, fit (Eq. 7), calibrate and choose the decision rule's temperature on held-out questions, evaluate
there, save. Round 0 is the warm start: recorded answers, or plain draws of the black box.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from trimtab.adapt.contrasts import merged, positives_after, prefix_targets, with_replay
from trimtab.adapt.held_out import HeldOut, evaluate_held_out, held_out_contrasts, judged
from trimtab.adapt.sampling import Drawer, DrawSettings, Prepay, over_most, round_seed
from trimtab.energy import (
    EnergyModel,
    Fit,
    FitSettings,
    Manifest,
    Progress,
    fit_energy,
    load_adapter,
    save_adapter,
)
from trimtab.errors import BudgetSpentError, InputError, RunError
from trimtab.judge import contrast
from trimtab.pools import recorded_pool, scored
from trimtab.stopping import RuleName
from trimtab.store import Store
from trimtab.types import (
    LLM,
    Candidate,
    Contrast,
    Judge,
    Judgement,
    Pool,
    PrefixTarget,
    Question,
    Recorded,
    Task,
    Usage,
)

CHECKPOINT = "checkpoint"
VOID = "void"  # source of what stands in for a judgement that is none: of other candidates, or failed


@dataclass(frozen=True, slots=True)
class AdaptSettings:
    """How to adapt. `rounds` counts the online rounds after the warm start (the paper's T)."""

    rounds: int = 2
    draw: DrawSettings = field(default_factory=DrawSettings)
    replay: float = 0.5  # ours: share of earlier rounds' contrasts and prefixes fitted again; 0 is the paper
    prefixes: int = 0  # prefix targets of a question in a round; beam search needs some, 8 is enough
    fit: FitSettings = field(default_factory=FitSettings)
    rule: RuleName | Literal["auto"] = "auto"
    patience: int = 1  # rounds without a better held-out accuracy before stopping
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did, and where its adapter is."""

    index: int  # 0 = warm start
    questions: int  # asked
    failed: int  # questions that the black box did not answer, or whose judge could not be asked
    samples: int
    positives: int
    negatives: int
    contrasts: int  # fitted, replayed ones included
    loss: float | None  # None when there was nothing to fit: the adapter stayed as it was
    held_out: HeldOut
    usage: Usage  # of this process: what was replayed from the store costs nothing
    seconds: float
    folder: Path
    is_best: bool = True  # the best held-out result so far
    spent: str = ""  # why it was cut short, where a limit was reached; empty for a whole round


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a round stands; `note` is a short figure to show beside the bar."""

    round: int
    name: Literal["draw", "judge", "fit", "score", "draw held-out", "judge held-out"]
    done: int
    total: int
    note: str = ""


Report = Callable[[Stage], None]


def _silent(_: Stage) -> None:
    """No progress wanted."""


@dataclass(frozen=True, slots=True)
class Job:
    """All that a run of rounds works with.

    `energy` is adapted in place. Whenever the rounds end, or are closed early, it holds the weights of the
    last round done, which need not be the best: those are in `best_round(rounds).folder`.
    """

    questions: Sequence[Question]
    held_out: Sequence[Question] | Sequence[Recorded]
    task: Task
    energy: EnergyModel
    judge: Judge
    store: Store
    folder: Path  # checkpoints and one adapter folder a round
    run_id: str
    llm: LLM | None = None
    recorded: Sequence[Recorded] = ()
    settings: AdaptSettings = field(default_factory=AdaptSettings)
    manifest: Manifest | None = None  # facts to record in every round's adapter
    report: Report = _silent
    prepay: Prepay | None = None  # see `Drawer`
    fit: Fit = fit_energy  # in this process, or elsewhere in several


def adapt(job: Job) -> Iterator[Round]:
    """The rounds of online adaptation, each yielded once it is saved; `job.energy` is adapted in place.

    Afterwards, and when closed early, `job.energy` holds the LAST round's weights. The best round's, which
    are the ones to use, are in the folder `best_round(rounds).folder`.

    A run that was killed goes on where it was: finished rounds are yielded as they were recorded, paid
    responses come from the store, and a fit resumes at its last checkpoint.

    Where a limit is reached, the round learns from what was drawn and judged by then and is the last. It is
    not recorded as done: started again with a higher limit, the run makes a whole round of it, and pays for
    what is missing only.

    Raises:
        InputError: neither recorded answers nor a black box, or nothing to learn from.
        LLMError: the black box or the judge refuses every question, or most questions fail.
        BudgetSpentError: a limit was reached before there was anything to learn from.
    """
    if job.llm is None and not job.recorded:
        raise InputError("adapting needs recorded answers or a black box to ask; neither was given")
    run = _Run(job)
    best: Round | None = None
    for index in range(job.settings.rounds + 1 if job.llm else 1):
        done = run.finished(index) or run.round(index)
        if done is None:
            break
        if best is None or _is_better(done, best):
            best = done
        done = replace(done, is_best=best is done)
        if not done.spent:
            run.note(done)
        yield done
        if done.spent or index - best.index >= max(1, job.settings.patience):
            break


def best_round(rounds: Sequence[Round]) -> Round:
    """The round with the best held-out result, the first of equals; the last where nothing is held out."""
    best = rounds[0]
    for each in rounds[1:]:
        best = each if _is_better(each, best) else best
    return best


def _is_better(later: Round, earlier: Round) -> bool:
    if not later.held_out.questions:
        return True  # nothing to choose by: what has learnt from more rounds stays
    return later.held_out.merit > earlier.held_out.merit


@dataclass(frozen=True, slots=True)
class _Lessons:
    """What one round's judged answers teach."""

    contrasts: Sequence[Contrast]
    prefixes: Sequence[PrefixTarget]
    positives: dict[str, tuple[str, ...]]  # of every question so far, after this round


class _Run:
    """The state between rounds: what was learnt from so far and the held-out questions' answers."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.earlier: list[Contrast] = []
        self.prefixes: list[PrefixTarget] = []
        self.positives: dict[str, tuple[str, ...]] = {}
        self.held_out: list[Pool] = []
        self.spent: BudgetSpentError | None = None

    # ---- a round that was finished before

    def finished(self, index: int) -> Round | None:
        """The round as an earlier process recorded it, its adapter loaded; None if it is still to do."""
        records = {each.round: each for each in self.job.store.rounds(self.job.run_id)}
        found = records.get(index)
        if found is None or found.adapter is None or not found.adapter.is_dir():
            return None
        self._adopt(found.adapter)
        pools = self._stored_pools(index)
        known = self.job.store.judgements(self.job.run_id, index)
        judgements = {pool.question.id: known.get(pool.question.id, _void(pool)) for pool in pools}
        self._remember(self._lessons(pools, judgements, index))
        return _from_record(found.record, found.adapter)

    def note(self, done: Round) -> None:
        """Keeps a round's record, so that it need never be done again."""
        self.job.store.put_round(self.job.run_id, done.index, _to_record(done), done.folder)

    def _adopt(self, folder: Path) -> None:
        """Continues from the weights in a round's folder."""
        loaded, _ = load_adapter(folder)
        self.job.energy.network.load_state_dict(loaded.network.state_dict())

    def _stored_pools(self, index: int) -> list[Pool]:
        stored = self.job.store.candidates(self.job.run_id, index)
        return [Pool(q, stored.get(q.id, ())) for q in self._asked(index)]

    # ---- a round in the order of time

    def round(self, index: int) -> Round | None:
        """One round, from its draws to its saved adapter; None where a limit left nothing to learn from."""
        started = time.monotonic()
        pools, usage = self._pools(index)
        self._keep(pools, index)
        judgements = self._judged(pools, index)
        lessons = self._lessons(pools, judgements, index)
        if self.spent and not lessons.contrasts and index > 0:
            return None
        self._refuse_nothing(lessons.contrasts, pools)
        held_out, held_out_usage = self._held_out(index)
        loss, fitted = self._fit(lessons, held_out, index)
        found = self._evaluated(held_out, index)
        folder = self._save(found, index)
        self._remember(lessons)
        return Round(
            index=index,
            questions=len(pools),
            failed=sum(_has_failed(pool, judgements[pool.question.id]) for pool in pools),
            samples=sum(len(pool.candidates) for pool in pools),
            positives=sum(len(each.positives) for each in lessons.contrasts),
            negatives=sum(len(each.negatives) for each in lessons.contrasts),
            contrasts=fitted,
            loss=loss,
            held_out=found,
            usage=usage + held_out_usage + _judging(judgements.values()),
            seconds=time.monotonic() - started,
            folder=folder,
            spent=str(self.spent or ""),
        )

    def _asked(self, index: int) -> Sequence[Question]:
        if index == 0 and self.job.recorded:
            return [row.question for row in self.job.recorded]
        return self.job.questions

    def _pools(self, index: int) -> tuple[list[Pool], Usage]:
        if index == 0 and self.job.recorded:
            return [recorded_pool(row, self.job.task) for row in self.job.recorded], Usage()
        stored = self.job.store.candidates(self.job.run_id, index)
        if all(question.id in stored for question in self.job.questions):
            return self._stored_pools(index), Usage()
        # All of them again: paid responses are kept, and scores are the same to the last bit only if all
        # answers are scored together, as they were.
        drawn = self._draw("draw", index, self.job.questions, adapted=index > 0)
        return drawn, sum((pool.usage for pool in drawn), start=Usage())

    def _draw(
        self,
        stage: Literal["draw", "draw held-out"],
        index: int,
        questions: Sequence[Question],
        *,
        adapted: bool,
    ) -> list[Pool]:
        assert self.job.llm is not None
        drawer = Drawer(
            self.job.llm,
            self.job.task,
            self.job.energy,
            replace(self.job.settings.draw, seed=round_seed(self.job.settings.seed, stage, index)),
            lambda done, total: self.job.report(Stage(index, stage, done, total)),
            self.job.prepay,
        )
        pools = drawer.draw(questions, adapted=adapted)
        self.spent = self.spent or drawer.spent
        return pools

    def _keep(self, pools: Sequence[Pool], index: int) -> None:
        """Stores the round's candidates; a judgement of other texts than these is void from here on.

        It is made void first: killed in between, the run asks the judge once more and mixes nothing up.
        """
        store, run_id = self.job.store, self.job.run_id
        stored, known = store.candidates(run_id, index), store.judgements(run_id, index)
        for pool in pools:
            asked = pool.question.id
            if asked in known and _texts(stored.get(asked, ())) != _texts(pool.candidates):
                store.put_judgement(run_id, index, _void(pool))
            store.put_candidates(run_id, index, asked, pool.candidates)

    def _judged(self, pools: Sequence[Pool], index: int) -> dict[str, Judgement]:
        """A judgement for every pool; those known cost nothing, and those that fail now are void."""
        kept = self.job.store.judgements(self.job.run_id, index).items()
        known = {asked: replace(each, usage=Usage()) for asked, each in kept if each.source != VOID}
        todo = [pool for pool in pools if pool.question.id not in known]
        return known | asyncio.run(self._judge_each(todo, len(pools), "judge", index))

    async def _judge_each(
        self, pools: Sequence[Pool], of: int, stage: Literal["judge", "judge held-out"], index: int
    ) -> dict[str, Judgement]:
        found: dict[str, Judgement] = {}
        asking = over_most(pools, self._ask, _void, concurrency=self.job.settings.draw.concurrency, of=of)
        async with aclosing(asking) as ended:
            async for judgement, error in ended:
                found[judgement.question_id] = judgement
                if isinstance(error, BudgetSpentError):
                    self.spent = error
                if stage == "judge" and error is None:  # a failed one is asked for again by a later process
                    self.job.store.put_judgement(self.job.run_id, index, judgement)
                self.job.report(Stage(index, stage, len(found), len(pools)))
        return found

    async def _ask(self, pool: Pool) -> Judgement:
        return await self.job.judge.judge(pool.question, pool.candidates)

    def _lessons(self, pools: Sequence[Pool], judgements: Mapping[str, Judgement], index: int) -> _Lessons:
        return _Lessons(
            self._contrasts(pools, judgements),
            self._prefixes([judged(pool, judgements[pool.question.id]) for pool in pools], index),
            positives_after(self.positives, pools, judgements),
        )

    def _contrasts(self, pools: Sequence[Pool], judgements: Mapping[str, Judgement]) -> list[Contrast]:
        """Eq. 5 and 6: the positives so far and this round's, against this round's negatives."""
        found = [
            contrast(p.question, p.candidates, judgements[p.question.id], self.positives.get(p.question.id))
            for p in pools
        ]
        return [each for each in found if each is not None]

    def _refuse_nothing(self, contrasts: Sequence[Contrast], pools: Sequence[Pool]) -> None:
        if contrasts or self.earlier:
            return
        if self.spent:
            raise BudgetSpentError(f"{self.spent}; nothing could be learnt from what was drawn by then")
        raise RunError(
            f"nothing to learn from: none of {len(pools)} questions has both a right and a wrong answer; "
            "use more draws, harder questions, or check that the task reads these answers (trimtab evaluate)"
        )

    def _prefixes(self, pools: Sequence[Pool], index: int) -> list[PrefixTarget]:
        limit, seed = self.job.settings.prefixes, self.job.settings.seed + index
        if not limit:
            return []
        return [
            target for pool in pools for target in prefix_targets(pool, self.job.task, limit=limit, seed=seed)
        ]

    def _held_out(self, index: int) -> tuple[list[Pool], Usage]:
        """The held-out questions with answers, the same plain draws in every round; what was paid now."""
        if self.held_out or not self.job.held_out:
            return self.held_out, Usage()
        pools = self._held_out_pools(index)
        judgements = asyncio.run(self._judge_each(pools, len(pools), "judge held-out", index))
        self.held_out = [judged(pool, judgements[pool.question.id]) for pool in pools]
        return self.held_out, sum((pool.usage for pool in pools), start=_judging(judgements.values()))

    def _held_out_pools(self, index: int) -> list[Pool]:
        rows = [row for row in self.job.held_out if isinstance(row, Recorded)]
        if rows:
            return [recorded_pool(row, self.job.task) for row in rows]
        questions = [row for row in self.job.held_out if isinstance(row, Question)]
        return self._draw("draw held-out", index, questions, adapted=False)

    def _fit(self, lessons: _Lessons, held_out: Sequence[Pool], index: int) -> tuple[float | None, int]:
        settings = self.job.settings
        seed = settings.seed + index
        contrasts = with_replay(lessons.contrasts, self.earlier, settings.replay, seed)
        prefixes = merged(with_replay(lessons.prefixes, self.prefixes, settings.replay, seed))
        if not contrasts:
            return None, 0
        checkpoint = self.job.folder / CHECKPOINT

        def progress(at: Progress) -> None:
            note = f"loss {at.loss:.3f}, {at.eta_s:.0f} s left"
            self.job.report(Stage(index, "fit", at.step, at.steps, note))

        report = self.job.fit(
            self.job.energy,
            contrasts,
            replace(settings.fit, seed=settings.fit.seed + index),
            prefixes=prefixes,
            held_out=held_out_contrasts(held_out),
            checkpoint_dir=checkpoint,
            progress=progress,
        )
        return report.training_loss, len(contrasts)

    def _evaluated(self, pools: Sequence[Pool], index: int) -> HeldOut:
        self.job.report(Stage(index, "score", 0, len(pools)))
        rows = scored(pools, self.job.energy)
        self.job.report(Stage(index, "score", len(pools), len(pools)))
        return evaluate_held_out(rows, self.job.settings.rule, self.job.task.is_comparable)

    def _save(self, found: HeldOut, index: int) -> Path:
        folder = self.job.folder / f"round-{index}"
        manifest = self.job.manifest or Manifest(
            task=self.job.task.name,
            backbone=self.job.energy.backbone,
            loss=self.job.settings.fit.loss,
            max_length=self.job.energy.max_length,
        )
        metrics = {"round": index, **{f"dev_{name}": value for name, value in found.accuracy.items()}}
        update = {**found.manifest_fields(), "metrics": metrics}
        save_adapter(folder, self.job.energy, manifest.model_copy(update=update))
        shutil.rmtree(self.job.folder / CHECKPOINT, ignore_errors=True)
        return folder

    def _remember(self, lessons: _Lessons) -> None:
        self.earlier.extend(lessons.contrasts)
        self.prefixes.extend(lessons.prefixes)
        self.positives = lessons.positives


def _void(pool: Pool) -> Judgement:
    """Selects nothing and holds nothing against anything."""
    return Judgement(pool.question.id, (), (), VOID)


def _has_failed(pool: Pool, judgement: Judgement) -> bool:
    return not pool.candidates or judgement.source == VOID


def _texts(candidates: Sequence[Candidate]) -> list[str]:
    return [each.text for each in candidates]


def _judging(judgements: Iterable[Judgement]) -> Usage:
    return sum((each.usage for each in judgements), start=Usage())


def _to_record(done: Round) -> dict[str, Any]:
    return {**asdict(done), "folder": str(done.folder)}


def _from_record(record: Any, folder: Path) -> Round:
    known = dict(record)
    return Round(
        **{
            **known,
            "folder": folder,
            "usage": Usage(),
            "held_out": HeldOut.from_record(known["held_out"]),
        }
    )
