"""What `trimtab evaluate --against` names: other adapters, black boxes, judges and earlier results.

Each is given the questions of the evaluation and gives one outcome a question. What is then compared, and
how, stands in `evaluate`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trimtab.cli import build
from trimtab.cli.progress import Bars
from trimtab.cli.scaling import ScorerOnCluster
from trimtab.cli.settings import Settings
from trimtab.data import load_recorded
from trimtab.energy import Manifest, read_manifest, verify_adapter
from trimtab.energy.manifest import MANIFEST_NAME
from trimtab.errors import ConfigError, InputError
from trimtab.evaluate import KeptScores, Spent, read_results
from trimtab.evaluate.comparison import AI_JUDGE, BEST_OF_N, OF
from trimtab.evaluate.costs import spent_on
from trimtab.evaluate.results import RESULTS_NAME, is_results
from trimtab.judge import REASONING, TRUTHFUL, AIJudge
from trimtab.pools import recorded_pool, scored
from trimtab.stopping import DecisionRule, decide
from trimtab.types import LLM, Pool, Scorer, Task, Usage, Verdict

Sort = Literal["adapter", "recorded", "results", "model", "judge"]
SCORES = "scores"  # folder in the work directory


@dataclass(frozen=True, slots=True)
class Contender:
    """One thing to compare against."""

    name: str
    sort: Sort
    what: str  # a path, or the name of a model

    @property
    def asks(self) -> bool:
        """True when a black box or a judge is called for it."""
        return self.sort in ("model", "judge")


@dataclass(frozen=True, slots=True)
class Entry:
    """What it reached: a method beside the others."""

    method: str
    outcomes: list[float]
    spent: Spent | None = None  # None: it chose among the same draws


def contenders(against: str | None) -> tuple[Contender, ...]:
    """What the setting names.

    Raises:
        ConfigError: one that cannot be read, or two of one name.
    """
    found = [_contender(part.strip()) for part in (against or "").split(",") if part.strip()]
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"against: two are called '{name}'; name them, e.g. 'old={found[0].what}'")
    return tuple(found)


def _contender(text: str) -> Contender:
    given, mark, what = text.partition("=")
    what = what.strip() if mark else given
    sort, name = _sorted(what)
    return Contender(_plain(given if mark else name), sort, what.partition(":")[2] or what)


def _sorted(what: str) -> tuple[Sort, str]:
    """What sort it is, and what it is called where no name is given."""
    if what.startswith("model:"):
        return "model", what.removeprefix("model:")
    if what.startswith("judge:"):
        return "judge", what.removeprefix("judge:")
    path = Path(what)
    if (path / MANIFEST_NAME).is_file():
        return "adapter", path.resolve().name
    if path.is_file():
        return ("results", path.resolve().parent.name) if is_results(path) else ("recorded", path.stem)
    raise ConfigError(
        f"against: '{what}' is no adapter folder, no JSONL of recorded answers, no {RESULTS_NAME} of an "
        "evaluation, and not of the form model:NAME or judge:NAME"
    )


def _plain(name: str) -> str:
    """The name as a target can spell it."""
    return re.sub(r"[^\w.-]+", "-", name.strip()).strip("-.") or "other"


# --------------------------------------------------------------------------- outcomes


@dataclass(frozen=True, slots=True)
class Field:
    """What every contender is measured on, and with."""

    settings: Settings
    task: Task
    rule: DecisionRule
    decided_by: str
    pools: Sequence[Pool]  # scored where there is an adapter
    scorer: Callable[[list[Pool]], list[Pool]]  # scores with the evaluated adapter; as they are without one
    draw: Callable[[str], list[Pool]]  # draws of the model of that name, in the order of the pools
    model: Callable[[str], LLM]
    bar: Bars

    def entry(self, contender: Contender) -> Entry:
        """What it reaches on these questions."""
        return _ENTER[contender.sort](self, contender)


def is_right(pool: Pool, rule: DecisionRule) -> float:
    """1 if the rule decides for a right answer, 0 if it does not or the question failed."""
    return float(bool(pool.candidates) and decide(pool.candidates, rule).candidate.verdict is Verdict.RIGHT)


def _adapter(field: Field, contender: Contender) -> Entry:
    folder = Path(contender.what)
    manifest = verify_adapter(folder)
    if manifest.task != field.task.name:
        raise InputError(f"against: {folder} is an adapter of task {manifest.task}, not of {field.task.name}")
    pools = with_scores_of(field.settings, folder, field.pools, field.bar)
    rule = manifest.decision_rule(None if field.settings.rule == "auto" else field.settings.rule)
    method = BEST_OF_N if rule.name == "argmax" else rule.name
    return Entry(f"{method}{OF}{contender.name}", [is_right(pool, rule) for pool in pools])


def _other_box(field: Field, contender: Contender, pools: list[Pool]) -> Entry:
    outcomes = [is_right(pool, field.rule) for pool in field.scorer(pools)]
    return Entry(f"{field.decided_by}{OF}{contender.name}", outcomes, spent_on(pools))


def _recorded(field: Field, contender: Contender) -> Entry:
    rows = load_recorded(contender.what, need_answer=build.needs_reference(field.settings))
    known = {row.question.id: recorded_pool(row, field.task) for row in rows}
    missing = [pool.question.id for pool in field.pools if pool.question.id not in known]
    if missing:
        raise InputError(f"against: {contender.what} lacks {len(missing)} of the questions ({missing[0]}, …)")
    return _other_box(field, contender, [known[pool.question.id] for pool in field.pools])


def _model(field: Field, contender: Contender) -> Entry:
    return _other_box(field, contender, field.draw(contender.what))


def _results(field: Field, contender: Contender) -> Entry:
    results = read_results(Path(contender.what))
    outcomes = results.on([pool.question.id for pool in field.pools], contender.what)
    return Entry(f"{results.method.partition(OF)[0]}{OF}{contender.name}", outcomes, Spent(0, None))


def judge_by(llm: LLM, settings: Settings, task: Task) -> AIJudge:
    """The judge that picks the best of each pool."""
    criteria = TRUTHFUL if task.name == "truthfulqa" else REASONING
    return AIJudge(llm, seed=settings.seed, criteria=criteria)


def _judge(field: Field, contender: Contender) -> Entry:
    judge = judge_by(field.model(contender.what), field.settings, field.task)
    return asyncio.run(_picked(field, judge, f"{AI_JUDGE}{OF}{contender.name}"))


async def _picked(field: Field, judge: AIJudge, method: str) -> Entry:
    """The judge's best of each pool; where it names none, or there is no choice, the first draw."""
    from trimtab.adapt.sampling import over_most

    async def pick(place: int) -> tuple[int, float, Usage]:
        pool = field.pools[place]
        judgement = await judge.judge(pool.question, pool.candidates)
        best = judgement.positives[0] if judgement.positives else 0
        right = bool(pool.candidates) and pool.candidates[best].verdict is Verdict.RIGHT
        return place, float(right), judgement.usage

    outcomes = [0.0] * len(field.pools)
    usage, done = Usage(), 0
    asking = over_most(
        range(len(field.pools)), pick, lambda at: (at, 0.0, Usage()), concurrency=field.settings.concurrency
    )
    async with aclosing(asking) as ended:
        async for (place, outcome, used), _ in ended:
            outcomes[place], usage, done = outcome, usage + used, done + 1
            field.bar("judge", done, len(outcomes))
    return Entry(method, outcomes, Spent(0, usage.usd if usage.calls else 0.0, with_draws=True))


_ENTER: dict[Sort, Callable[[Field, Contender], Entry]] = {
    "adapter": _adapter,
    "recorded": _recorded,
    "results": _results,
    "model": _model,
    "judge": _judge,
}


# --------------------------------------------------------------------------- scores that are kept


def with_scores_of(settings: Settings, folder: Path, pools: Sequence[Pool], bar: Bars) -> list[Pool]:
    """The pools as the adapter in the folder scores them; what it scored before is not scored again."""
    manifest = read_manifest(folder)
    scorer = _kept(settings.model_copy(update={"adapter": folder}), manifest, bar)
    return scored(pools, scorer, manifest.calibration.confidences if manifest.calibration else None)


def _kept(settings: Settings, manifest: Manifest, bar: Bars) -> Scorer:
    def made() -> Scorer:
        if settings.engine == "ray":
            return ScorerOnCluster(settings)
        build.limit_threads(settings)
        return build.scorer_of(settings)[0]

    if not settings.cache:
        return made()
    path = settings.work_dir / SCORES / f"{_fingerprint(settings, manifest)}.jsonl"
    return KeptScores(made, path, lambda done, total: bar("score", done, total))


def _fingerprint(settings: Settings, manifest: Manifest) -> str:
    """Of all that a score hangs on but the texts."""
    engine = "torch_bf16" if settings.bf16 else manifest.engine
    shaping = [manifest.files, manifest.max_length, manifest.head, engine]
    shaping += ["prefixes"] if settings.prefix_cache else []  # another order of adding up
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:24]
