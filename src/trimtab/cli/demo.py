"""`trimtab demo`: the whole story offline, with the embedded black box.

Adapt it to one house's conventions from ground truth, with an online round; compare the methods on held-out
problems at equal numbers of draws; carry the adapter over to another black box; write the page.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab import tasks
from trimtab.cli import build
from trimtab.cli.adapting import round_line
from trimtab.cli.console import out, print_json, say, table
from trimtab.cli.evaluating import best_is_right
from trimtab.cli.progress import Bars, bars
from trimtab.cli.settings import Settings
from trimtab.data import data_hash
from trimtab.drawing import BeamSettings
from trimtab.energy import EnergyModel, FitSettings, Manifest, load_adapter, save_adapter
from trimtab.energy.manifest import sha256_file
from trimtab.evaluate import (
    Comparison,
    Estimate,
    ReportData,
    RoundPoint,
    Transfer,
    compare,
    with_costs,
    write_report,
)
from trimtab.evaluate.comparison import BEAM_SEARCH
from trimtab.evaluate.costs import spent_searching
from trimtab.evaluate.intervals import wilson_interval
from trimtab.evaluate.words import accuracy_rows, difference_rows, headline
from trimtab.judge import GroundTruth
from trimtab.llm import Cached, ChatLLM, Filled, Prices
from trimtab.llm.embedded import running
from trimtab.llm.embedded.model import MODELS
from trimtab.llm.embedded.world import questions as world_questions
from trimtab.pools import scored
from trimtab.store import Store
from trimtab.types import LLM, Pool, Question, Sampling, Task

if TYPE_CHECKING:
    from trimtab.adapt import AdaptSettings, Drawer, Job, Round, Stage

MODEL, OTHER_MODEL = "trimtab-blackbox", "trimtab-blackbox-early"
OUT = Path("adapters/demo")
LEARN, HELD_OUT, TEST, TRANSFER = 300, 50, 300, 100  # questions; only the last are shared, with the test
DRAWS = 8
CONCURRENCY = 16
THREADS = 1  # the same seed is then the same adapter, to the bit, whatever else the machine does
MAX_LENGTH = 128  # tokens of the encoder; the longest question and chain have about 110
MAX_TOKENS = 96  # the longest chain of this world has about 60
# Every step draws as many continuations as there are draws in the other methods.
BEAM = BeamSettings(width=2, samples=4, max_steps=8, max_tokens=40)
FIT = FitSettings(lr=3e-4, epochs=1, max_positives=2, max_negatives=3, batch_groups=2, accumulation=2)

NEXT = """Adapt from answers you have logged (JSONL: id, question, answer, samples):
  trimtab adapt --recorded logged.jsonl --backbone offline --out adapters/mine
  trimtab evaluate --adapter adapters/mine --recorded unseen.jsonl --out report
Adapt a model behind an API, online, with your key in OPENAI_API_KEY:
  trimtab adapt --questions questions.jsonl --model gpt-4o-mini --task numeric --out adapters/mine
  trimtab answer --adapter adapters/mine --model gpt-4o-mini --questions new.jsonl --out answers.jsonl
Play with the embedded black box yourself:
  trimtab blackbox --port 8765"""


@dataclass(frozen=True, slots=True)
class _Questions:
    """The demo's problems: to learn from, held out for choices, and for the figures."""

    learn: tuple[Question, ...]
    held_out: tuple[Question, ...]
    test: tuple[Question, ...]

    @classmethod
    def drawn(cls, seed: int) -> _Questions:
        rows = tuple(world_questions(seed, LEARN + HELD_OUT + TEST, "heldout"))
        return cls(rows[:LEARN], rows[LEARN : LEARN + HELD_OUT], rows[LEARN + HELD_OUT :])


def run(settings: Settings, as_json: bool) -> int:
    """Runs the command; returns its exit code."""
    started = time.monotonic()
    questions = _Questions.drawn(settings.seed)
    folder = settings.out or OUT
    build.refuse_other_folder(folder)
    say(
        f"An embedded black box solves everyday problems, but not by the conventions of our house.\n"
        f"It can only be called. A small adapter learns the house from {LEARN} answered problems."
    )
    with running() as base_url, closing(_store(settings)) as store, bars() as bar:
        story = _Story(settings, store, base_url, questions, bar)
        rounds = story.adapted(folder)
        comparison = story.compared(folder)
        transfer = story.transferred(folder)
    page = write_report(folder, _report(comparison, transfer, rounds, time.monotonic() - started))
    _tell(comparison, transfer, page, as_json)
    return 0


def _store(settings: Settings) -> Store:
    """The demo's answers cost nothing: they need not survive a power cut, which makes writing quicker."""
    settings.work_dir.mkdir(parents=True, exist_ok=True)
    return Store.open(settings.work_dir / "store.db", survives_power_cut=False)


class _Story:
    """The demo's steps, in the order of time."""

    def __init__(
        self, settings: Settings, store: Store, base_url: str, questions: _Questions, bar: Bars
    ) -> None:
        self.store, self.base_url, self.questions, self.bar = store, base_url, questions, bar
        self.settings = settings
        self.task: Task = tasks.by_name("house")
        self.run_id, config = build.run_identity("demo", settings, _fingerprint(settings.seed))
        self.run_folder = settings.work_dir / "runs" / self.run_id
        if settings.force:
            store.forget_run(self.run_id)
            shutil.rmtree(self.run_folder, ignore_errors=True)
        build.take_up(store, self.run_id, "demo", config)
        build.limit_threads(settings.model_copy(update={"threads": settings.threads or THREADS}))

    def box(self, model: str) -> LLM:
        """One of the embedded models; its answers are known by its weights, whatever the server's port."""
        llm = ChatLLM(
            model,
            base_url=self.base_url,
            api_key="none",
            prices=Prices(self.base_url),
            concurrency=CONCURRENCY,
        )
        scope = sha256_file(MODELS[model])
        samples = self.store.samples_of(self.run_id)
        return Filled(Cached(llm, samples, scope=scope), capabilities=llm.capabilities)

    def adapted(self, folder: Path) -> list[Round]:
        """Adapts and leaves the best round's adapter in the folder."""
        from trimtab.adapt import adapt, best_round

        rounds = []
        for done in adapt(self._job()):
            rounds.append(done)
            say(round_line(done))
        save_adapter(folder, *load_adapter(best_round(rounds).folder))
        return rounds

    def _job(self) -> Job:
        from trimtab.adapt import Job

        seed = self.settings.seed
        return Job(
            questions=self.questions.learn,
            held_out=self.questions.held_out,
            task=self.task,
            energy=EnergyModel.pretrained("offline", max_length=MAX_LENGTH, seed=seed, bf16=_has_bf16()),
            judge=GroundTruth(self.task),
            store=self.store,
            folder=self.run_folder,
            run_id=self.run_id,
            llm=self.box(MODEL),
            settings=_adapt_settings(seed),
            manifest=self._manifest(),
            report=self._report,
        )

    def _manifest(self) -> Manifest:
        return Manifest(
            task=self.task.name,
            black_box=MODEL,
            backbone="offline",
            loss=FIT.loss,
            max_length=MAX_LENGTH,
            seed=self.settings.seed,
            data_hash=data_hash(self.questions.learn),
        )

    def _report(self, stage: Stage) -> None:
        self.bar(f"round {stage.round}: {stage.name}", stage.done, stage.total, stage.note)

    def compared(self, folder: Path) -> Comparison:
        """All methods on the test problems, at equal numbers of draws."""
        pools = self._scored(folder, self._drawer(MODEL, "test").draw(self.questions.test, adapted=False))
        energy, manifest = load_adapter(folder, bf16=_has_bf16())
        search = self._drawer(MODEL, "beam search", energy).draw(self.questions.test, adapted=True)
        comparison = compare(
            pools,
            manifest.decision_rule(),
            others=manifest.decision_rules(),
            further={BEAM_SEARCH: [best_is_right(pool) for pool in search]},
        )
        prices = Prices(self.base_url)
        spent = {BEAM_SEARCH: spent_searching(search)}
        return with_costs(comparison, lambda usage: prices.usd(MODEL, usage), spent)

    def transferred(self, folder: Path) -> Transfer:
        """The same adapter in front of another black box, without training anything."""
        drawn = self._drawer(OTHER_MODEL, "transfer").draw(self.questions.test[:TRANSFER], adapted=False)
        manifest = load_adapter(folder)[1]
        return Transfer(
            OTHER_MODEL,
            compare(self._scored(folder, drawn), manifest.decision_rule(), others=manifest.decision_rules()),
        )

    def _scored(self, folder: Path, pools: Sequence[Pool]) -> list[Pool]:
        energy, manifest = load_adapter(folder, bf16=_has_bf16())
        return scored(pools, energy, manifest.calibration.confidences if manifest.calibration else None)

    def _drawer(self, model: str, title: str, scorer: EnergyModel | None = None) -> Drawer:
        from trimtab.adapt import Drawer

        draw = replace(_adapt_settings(self.settings.seed + 1).draw, seed=self.settings.seed + 1)
        how = replace(draw, search="beam" if scorer else "single")
        return Drawer(
            self.box(model),
            self.task,
            scorer,
            how,
            lambda done, total: self.bar(f"draw: {title}", done, total),
        )


def _adapt_settings(seed: int) -> AdaptSettings:
    from trimtab.adapt import AdaptSettings, DrawSettings

    sampling = Sampling(n=DRAWS, temperature=1.0, max_tokens=MAX_TOKENS, seed=seed)
    return AdaptSettings(
        rounds=1,
        draw=DrawSettings(draws=DRAWS, sampling=sampling, beam=BEAM, concurrency=CONCURRENCY),
        replay=0.25,
        prefixes=1,
        fit=replace(FIT, seed=seed),
        seed=seed,
    )


def _fingerprint(seed: int) -> str:
    """What the demo's result hangs on beside the settings: its own constants, and the black box."""
    return f"{LEARN} {HELD_OUT} {_adapt_settings(seed)} {sha256_file(MODELS[MODEL])}"


def _has_bf16() -> bool:
    from trimtab.energy.model import can_bf16

    return can_bf16()


def _report(
    comparison: Comparison, transfer: Transfer, rounds: Sequence[Round], seconds: float
) -> ReportData:
    about = {
        "problems learnt from": str(LEARN),
        "held-out problems for choices": str(HELD_OUT),
        "test problems": str(TEST),
        "draws a problem": str(DRAWS),
        "rounds": f"{len(rounds)} (the first is the warm start)",
        "time": f"{seconds:.0f} s",
    }
    return ReportData(
        "A black box, adapted",
        comparison,
        MODEL,
        rounds=tuple(_point(each) for each in rounds),
        transfers=(transfer,),
        about=about,
        training_usd=0.0,  # nobody bills for the embedded black box
        next_steps=NEXT,
    )


def _point(done: Round) -> RoundPoint:
    """The held-out accuracies of a round with Wilson's intervals."""
    shown = {"best_of_n": "best_of_n", "chosen": done.held_out.rule.name, "majority": "majority"}
    asked = done.held_out.questions
    estimates = {}
    for name, method in shown.items():
        value = done.held_out.accuracy[name]
        estimates[method] = Estimate(value, *wilson_interval(round(value * asked), asked))
    return RoundPoint(done.index, estimates)


def _tell(comparison: Comparison, transfer: Transfer, page: Path, as_json: bool) -> None:
    if as_json:
        print_json(comparison.to_json())
        return
    out.print(headline(comparison))
    table("Held-out problems", ["method", "right", "95 % interval"], accuracy_rows(comparison))
    table("Differences, paired", ["", "points", "95 % interval", "p"], difference_rows(comparison))
    table(
        f"The same adapter before {transfer.black_box}",
        ["method", "right", "95 % interval"],
        accuracy_rows(transfer.comparison),
    )
    out.print(f"\nA page with the pictures: {page}\nThe adapter: {page.parent}\n\n{NEXT}")
