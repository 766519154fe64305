"""`trimtab classify augment`: more labelled texts than the shots, by an LLM; what they cost is said first."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from trimtab.cli import build
from trimtab.cli.console import print_json, say, table, write_lines
from trimtab.cli.foreseeing import BYTES_A_TOKEN, REASONED_SHARE, bytes_of
from trimtab.cli.ledger import dollars, usd_of
from trimtab.cli.outlay import Estimate, foreseeing, rates_of, spelt_usage
from trimtab.cli.running import running
from trimtab.cli.settings import Settings
from trimtab.crosstune.augmentation import (
    Augmented,
    AugmentSettings,
    augment,
    labels_with_shots,
    pseudo_labelled,
    text_id,
)
from trimtab.crosstune.rows import LabelledText, Labels, load_labelled, load_labels
from trimtab.errors import BudgetSpentError, ConfigError, RunError
from trimtab.llm.budget import worst_case
from trimtab.store import Store
from trimtab.types import LLM, Completion, Completions, Prompt, Sampling, Usage

Bar = Callable[[str, int, int], None]  # title, done, of how many

FAILED = 1  # exit code: the endpoint failed before all was done


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be written and labelled."""

    shots: tuple[LabelledText, ...]
    labels: Labels
    unlabelled: tuple[str | tuple[str, str], ...]
    how: AugmentSettings

    @property
    def wanted(self) -> int:
        """The texts that come out at most."""
        written = self.how.per_label * len(labels_with_shots(self.shots, self.labels))
        return written + len(self.unlabelled)

    @property
    def digest(self) -> str:
        """A hash of all that shapes the result."""
        return hashlib.sha256(repr((self.shots, self.labels, self.unlabelled, self.how)).encode()).hexdigest()


def run(
    settings: Settings,
    as_json: bool,
    *,
    train: Path,
    labels: Path,
    per_label: int,
    unlabelled: Path | None,
    check: bool,
) -> int:
    """Runs the command; returns its exit code."""
    build.named(settings, "model", "out")
    assert settings.out is not None
    if settings.out.is_dir():
        raise ConfigError(f"out: {settings.out} is a folder; name a file for the texts")
    job = _job(settings, train, labels, per_label, unlabelled, check)
    estimate = _estimate(settings, job)
    _tell_estimate(settings, job, estimate)
    if settings.dry_run:
        say("nothing was asked")
        if as_json:
            print_json({"texts_at_most": job.wanted, **estimate.to_json()})
        return 0
    return _made(settings, as_json, job, estimate)


def _job(
    settings: Settings, train: Path, labels: Path, per_label: int, unlabelled: Path | None, check: bool
) -> Job:
    known = load_labels(labels)
    shots = load_labelled(train, known.names)
    own = load_labelled(unlabelled, need_label=False) if unlabelled else ()
    if own and isinstance(own[0].text, str) != isinstance(shots[0].text, str):
        raise ConfigError(f"unlabelled: {unlabelled} and {train}: one holds pairs, the other single texts")
    how = AugmentSettings(
        per_label=per_label,
        is_checked=check,
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
        seed=settings.seed,
        concurrency=settings.concurrency,
    )
    if not how.per_label and not own:
        raise ConfigError("per-label: with 0 nothing is written; give --unlabelled, or 1 and more")
    return Job(shots, known, tuple(row.text for row in own), how)


def _made(settings: Settings, as_json: bool, job: Job, estimate: Estimate) -> int:
    """Asks, writes what there is, and says what came of it."""
    with running(settings, "augment", job.digest, questions=job.wanted) as under_way:
        found = asyncio.run(_done(job, under_way.client.model(), under_way.bar))
    code = under_way.exit_code or (FAILED if found.is_cut else 0)
    _refuse_nothing(found, under_way.exit_code)
    write_lines(settings.out, [json.dumps(each.to_json(), ensure_ascii=False) for each in found.made])
    _tell(settings, job, found, with_table=not as_json)
    if as_json:
        told = {"out": str(settings.out), "rows": len(found.made), **asdict(found.counts)}
        print_json(
            {**told, "is_cut": found.is_cut, "paid": spelt_usage(found.usage), "estimate": estimate.to_json()}
        )
    return code


def _refuse_nothing(found: Augmented, code: int) -> None:
    """Raises where there is nothing worth a file: BudgetSpentError at a limit, RunError else."""
    if code and not found.made:
        raise BudgetSpentError("budget spent before any text was made: there is nothing to write")
    if not found.made:
        counts = found.counts
        raise RunError(
            f"nothing to write: of {counts.asked} replies {counts.unreadable} could not be read, "
            f"{counts.failed} failed; of {counts.texts} texts in them none could be kept"
        )


async def _done(job: Job, llm: LLM, bar: Bar) -> Augmented:
    """The user's own texts first: they are worth more than written ones, and their cost is known."""
    labelled = await pseudo_labelled(
        llm, job.unlabelled, job.shots, job.labels, job.how, partial(bar, "label")
    )
    written = await augment(llm, job.shots, job.labels, job.how, partial(bar, "write"))
    return _together(labelled, written)


def _together(found: Augmented, written: Augmented) -> Augmented:
    return Augmented(
        found.made + written.made,
        found.counts + written.counts,
        found.usage + written.usage,
        found.is_cut or written.is_cut,
    )


# --------------------------------------------------------------------------- the cost, beforehand


class _Foreseen:
    """A black box that costs nothing: it writes texts as long as the shots and notes what that would cost.

    Args:
        job: what is to be done.
        name: of the model it stands for.
        hidden: tokens of reasoning that a reply may take at most.
        is_worst: every reply as long as allowed, and all for nothing: unreadable, or where texts are checked
            of another label; else one text of five is a copy, and checks agree.
    """

    def __init__(self, job: Job, name: str, hidden: int, *, is_worst: bool) -> None:
        self.name, self.usage, self.asked = name, Usage(), 0
        self._job, self._hidden, self._is_worst = job, hidden, is_worst
        self._written: dict[str, str] = {}  # label of each text
        shots = [shot.text if isinstance(shot.text, str) else " ".join(shot.text) for shot in job.shots]
        self._length = round(fmean(map(len, shots)))
        if is_worst:
            self._length = max(1, job.how.max_tokens // job.how.texts_a_reply)

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """One reply, at no cost."""
        label, mark, number = (prompt.question_id or "").rpartition("#")
        said = self._texts(label, number) if mark else self._label(prompt.question_id or "")
        self.asked += 1
        self.usage += self._cost(prompt, sampling, said)
        return Completions((Completion(said),), Usage(), self.name)

    def _cost(self, prompt: Prompt, sampling: Sampling, said: str) -> Usage:
        if self._is_worst:
            return worst_case(prompt.messages, 1, sampling.max_tokens + self._hidden)
        out = min(len(said) / BYTES_A_TOKEN, sampling.max_tokens) + REASONED_SHARE * self._hidden
        return Usage(round(bytes_of(prompt) / BYTES_A_TOKEN), round(out), 1)

    def _texts(self, label: str, number: str) -> str:
        if self._is_worst and not self._job.how.is_checked:
            return ""
        count = self._job.how.texts_a_reply
        texts = [self._text(label, f"{label} {number} {at}") for at in range(count)]
        if not self._is_worst and count > 1:
            texts[-1] = texts[0]
        return "\n".join(f"{at}. {text}" for at, text in enumerate(texts, start=1))

    def _text(self, label: str, name: str) -> str:
        """A text that is like no other; of a pair, its second half says nothing."""
        digest = hashlib.sha256(name.encode()).hexdigest()
        words = " ".join(digest[at : at + 5] for at in range(0, 60, 5))
        text = (words * (1 + self._length // len(words)))[: max(self._length, 24)].strip()
        is_pair = isinstance(self._job.shots[0].text, tuple)
        self._written[text_id((text, "-") if is_pair else text)] = label
        return f"First: {text} | Second: -" if is_pair else text

    def _label(self, text: str) -> str:
        names = self._job.labels.names
        right = self._written.get(text, names[0])
        return next(name for name in names if name != right) if self._is_worst else right


def _estimate(settings: Settings, job: Job) -> Estimate:
    """What the job itself comes to, done with a black box that costs nothing; what is kept is found there."""
    model = settings.model or ""
    prices, hidden = rates_of(settings)
    boxes = [_Foreseen(job, model, hidden, is_worst=is_worst) for is_worst in (False, True)]
    with closing(build.store_of(settings)) as store:
        kept = [asyncio.run(_foreseen(settings, job, box, store)) for box in boxes]
    expected, worst = (prices.priced(model, box.usage) for box in boxes)
    return Estimate(expected, worst, kept[0])


async def _foreseen(settings: Settings, job: Job, box: _Foreseen, store: Store) -> int:
    """Does the job with this box; returns how many of its replies were kept already."""
    found = await _done(job, foreseeing(box, store, settings), lambda title, done, total: None)
    return found.counts.asked - box.asked


# --------------------------------------------------------------------------- what a person is told


def _tell_estimate(settings: Settings, job: Job, estimate: Estimate) -> None:
    usage, worst = estimate.expected, estimate.worst
    tokens = f"{usage.input_tokens + usage.output_tokens:,} tokens"
    say(
        f"{job.wanted} texts at most, by {settings.model}: about {usage.calls:,} calls, {tokens}, "
        f"${dollars(usd_of(usage))}; at worst {worst.calls:,} calls, ${dollars(usd_of(worst))}"
    )
    estimate.tell_kept()


def _tell(settings: Settings, job: Job, found: Augmented, *, with_table: bool) -> None:
    counts = found.counts
    if with_table:
        kept = [[name, str(counts.kept.get(name, 0))] for name in job.labels.names]
        table("Texts kept", ["label", "texts"], kept)
    told = {name: value for name, value in asdict(counts).items() if name != "kept" and value}
    said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in told.items())
    paid = f"{found.usage.calls:,} calls, ${dollars(usd_of(found.usage))}"
    say(f"{said}; paid for {paid}")
    say(f"{settings.out}: {len(found.made)} rows")
    if found.is_cut:
        say("cut short: the same command goes on from here, and pays for nothing twice")
    say(f"next: trimtab classify fit --train FILE --labels FILE --augmented {settings.out} --out DIR")
