"""What the online loop is worth, and what bad feedback does to it: the demo's adapter, simulated users.

    python scripts/lab_feedback.py [--adapter adapters/demo] [--seeds 0 1 2] [--conditions …]
    python scripts/lab_feedback.py --table

The embedded black box answers problems that the adapter never saw; users say of each answer whether it is
right, and some correct it. A version is trained from that, and both choose among the same candidates of
further problems, on which nobody has said anything. Finished cells are not run again.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trimtab import tasks
from trimtab.adapt import Drawer, DrawSettings
from trimtab.adapt.from_feedback import taught
from trimtab.adapt.new_version import FeedbackSettings, learn
from trimtab.data import Feedback, FeedbackKind, question_hash
from trimtab.energy import EnergyModel, FitSettings, Manifest, load_adapter, use_threads
from trimtab.evaluate.intervals import paired_difference
from trimtab.evaluate.trial import Contender, outcome
from trimtab.feedback import GuardSettings
from trimtab.llm import ChatLLM, Filled, Prices
from trimtab.llm.embedded import running
from trimtab.llm.embedded.world import questions as world_questions
from trimtab.pools import scored
from trimtab.stopping import decide
from trimtab.store import Heard, Inference
from trimtab.types import Candidate, Pool, Question, Sampling, Verdict

MODEL = "trimtab-blackbox"
SPOKEN_OF, TEST = 240, 240  # problems
USERS = 20  # who give the honest feedback; each problem is one user's
CORRECTS = 0.5  # of users who got a wrong answer say what it should have been; the others, that it is wrong
DEMO = 650  # problems of seed 0 that the demo's adapter was made and measured with
# As in the demo, whose world this is.
FIT = FitSettings(lr=3e-4, epochs=1, max_positives=2, max_negatives=3, batch_groups=2, accumulation=2)
TASK = tasks.by_name("house")


# Without guards every source has its prior, whatever it says, and every balance decides.
GUARDS, BARE = GuardSettings(), GuardSettings(1.0, prior_right=4e9, prior_wrong=1e9, decided=0.0)


@dataclass(frozen=True)
class Condition:
    """A share of bad feedback, who gives it, and whether the guards are on."""

    bad: float = 0.0
    planted: bool = False  # by one source, beside the honest feedback; else honest users' own, flipped
    guards: GuardSettings = GUARDS
    trim: float = 0.1


CONDITIONS = {
    "clean": Condition(),
    "clean, no guards": Condition(guards=BARE, trim=0.0),
    "10 % flipped": Condition(bad=0.1),
    "10 % flipped, no guards": Condition(bad=0.1, guards=BARE, trim=0.0),
    "10 % planted": Condition(bad=0.1, planted=True),
    "10 % planted, no guards": Condition(bad=0.1, planted=True, guards=BARE, trim=0.0),
    "50 % planted": Condition(bad=0.5, planted=True),
    "50 % planted, no guards": Condition(bad=0.5, planted=True, guards=BARE, trim=0.0),
}


# --------------------------------------------------------------------------- problems and their candidates


def pools(work: Path) -> list[Pool]:
    """Problems that the demo never used, with eight answers each; drawn once."""
    kept = work / "pools.jsonl"
    if not kept.exists():
        work.mkdir(parents=True, exist_ok=True)
        rows = [json.dumps([p.question.id, [c.text for c in p.candidates]]) for p in drawn()]
        kept.write_text("\n".join(rows), "utf-8")
    texts = dict(map(json.loads, kept.read_text("utf-8").splitlines()))
    return [judged(each, texts[each.id]) for each in problems()]


def problems() -> list[Question]:
    """Problems, none of them one of the demo's."""
    used = {question_hash(each.text) for each in world_questions(0, DEMO, "heldout")}
    fresh = world_questions(4242, 2 * (SPOKEN_OF + TEST), "heldout")
    return [each for each in fresh if question_hash(each.text) not in used][: SPOKEN_OF + TEST]


def drawn() -> list[Pool]:
    """The problems' candidates."""
    sampling = Sampling(n=8, temperature=1.0, max_tokens=96, seed=7)
    with running() as base_url:
        box = ChatLLM(MODEL, base_url=base_url, api_key="none", prices=Prices(base_url), concurrency=16)
        how = DrawSettings(draws=8, sampling=sampling, concurrency=16, seed=7)
        return Drawer(Filled(box, capabilities=box.capabilities), TASK, None, how).draw(
            problems(), adapted=False
        )


def judged(question: Question, texts: Sequence[str]) -> Pool:
    """The candidates with what is true of them."""
    found = (
        Candidate(text, TASK.final_answer(question, text), verdict=TASK.verdict(question, text))
        for text in texts
    )
    return Pool(question, tuple(found))


# --------------------------------------------------------------------------- users


def served(spoken_of: Sequence[Pool], serving: Contender) -> list[tuple[Pool, Inference]]:
    """What the serving version answered."""
    ready = scored(spoken_of, serving.scorer, serving.calibrate)
    return [(pool, _inference(pool, decide(pool.candidates, serving.rule).index)) for pool in ready]


def _inference(pool: Pool, index: int) -> Inference:
    plain = tuple(Candidate(each.text, each.answer, each.score) for each in pool.candidates)
    asked = pool.question
    return Inference(asked.id, 1.0, "demo", 1, asked.text, (), plain, plain[index].text, "answered", index)


def said(answers: Sequence[tuple[Pool, Inference]], how: Condition, seed: int) -> list[Heard]:
    """What honest users say, some of it flipped; what one source plants comes last."""
    rng = random.Random(seed)
    rows = [
        spoken(
            pool, answer, f"user-{rng.randrange(USERS)}", rng, lies=not how.planted and rng.random() < how.bad
        )
        for pool, answer in answers
    ]
    if how.planted:
        count = round(how.bad * len(rows) / (1 - how.bad))
        rows += [spoken(pool, answer, "planter", rng, lies=True) for pool, answer in answers[:count]]
    return [Heard(number, 2.0, each) for number, each in enumerate(rows)]


def spoken(pool: Pool, answer: Inference, source: str, rng: random.Random, *, lies: bool) -> Feedback:
    """A verdict on the answer given, or a correction; a liar calls right wrong, and shows a wrong one."""
    assert answer.chosen is not None
    is_right = pool.candidates[answer.chosen].verdict is Verdict.RIGHT
    wanted = Verdict.WRONG if lies else Verdict.RIGHT
    shown = [each.text for each in pool.candidates if each.verdict is wanted]
    about = {"source": source, "inference_id": answer.id}
    if is_right == lies and shown and rng.random() < CORRECTS:
        return Feedback(pool.question.text, FeedbackKind.CORRECTION, rng.choice(shown), **about)
    verdict = "right" if is_right != lies else "wrong"
    return Feedback(pool.question.text, FeedbackKind.VERDICT, answer.text, verdict, **about)


# --------------------------------------------------------------------------- cells


class Bench:
    """What all cells share: the serving version, what it answered, and how it does on further problems."""

    def __init__(self, adapter: Path, work: Path) -> None:
        self.adapter, found = adapter, pools(work)
        serving = contender(*load_adapter(adapter, bf16=True))
        self.test = found[SPOKEN_OF:]
        self.answers = served(found[:SPOKEN_OF], serving)
        self.before = outcomes(serving, self.test)

    def run(self, name: str, seed: int) -> dict[str, Any]:
        """Trains a version under one condition and holds it against the serving one."""
        started, how = time.monotonic(), CONDITIONS[name]
        heard = said(self.answers, how, seed)
        lessons = taught(heard, {each.id: each for _, each in self.answers}, TASK, how.guards)
        energy, manifest = load_adapter(self.adapter, bf16=True)
        fit = FeedbackSettings(replace(FIT, seed=seed), trim=how.trim, seed=seed)
        learnt = learn(energy, manifest, lessons, fit)
        new = contender(energy, manifest.model_copy(update=dict(learnt.manifest_fields)))
        after = outcomes(new, self.test)
        return {
            "condition": name,
            "seed": seed,
            "serving": statistics.fmean(self.before),
            "new": statistics.fmean(after),
            "difference": paired_difference(after, self.before, seed=seed).to_json(),
            "counts": dict(lessons.counts),
            "trimmed": learnt.trimmed,
            "seconds": round(time.monotonic() - started),
            "outcomes": [int(each) for each in after],
        }


def contender(energy: EnergyModel, manifest: Manifest) -> Contender:
    """A version, ready to choose."""
    calibrate = manifest.calibration.confidences if manifest.calibration else None
    return Contender(energy, manifest.decision_rule(), calibrate)


def outcomes(version: Contender, test: Sequence[Pool]) -> list[float]:
    """1 for each problem that the version gets right."""
    return [outcome(each) for each in version.decisions(test)]


def cells(path: Path) -> Iterator[dict[str, Any]]:
    """The finished cells."""
    return map(json.loads, path.read_text("utf-8").splitlines()) if path.exists() else iter(())


def table(path: Path) -> None:
    """Prints the Markdown table of the finished cells; differences in points, with their mean intervals."""
    found = list(cells(path))
    clean = {each["seed"]: each["outcomes"] for each in found if each["condition"] == "clean"}
    print("| feedback | seeds | lessons | left out | serving | new | new − serving | new − clean feedback |")
    print("|---|---|---|---|---|---|---|---|")
    for name in CONDITIONS:
        rows = [each for each in found if each["condition"] == name]
        if rows:
            lessons = statistics.fmean(each["counts"]["lessons"] for each in rows)
            shown = [f"{lessons:.0f}", f"{statistics.fmean(each['trimmed'] for each in rows):.0f}"]
            shown += [
                f"{100 * statistics.fmean(each[key] for each in rows):.1f}" for key in ("serving", "new")
            ]
            against = [paired_difference(each["outcomes"], clean[each["seed"]]).to_json() for each in rows]
            shown += [points([each["difference"] for each in rows]), points(against)]
            print(f"| {name} | {len(rows)} | " + " | ".join(shown) + " |")


def points(differences: Sequence[dict[str, float]]) -> str:
    """The mean difference over seeds, and its mean interval."""
    value, low, high = (
        100 * statistics.fmean(d[key] for d in differences) for key in ("value", "low", "high")
    )
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def main() -> None:
    """Runs the cells asked for, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapter", type=Path, default=Path("adapters/demo"))
    parser.add_argument("--work", type=Path, default=Path(".trimtab/lab-feedback"))
    parser.add_argument("--cells", type=Path, default=Path("docs/lab-feedback.jsonl"), help="finished cells")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--conditions", nargs="+", default=list(CONDITIONS), choices=list(CONDITIONS))
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.table:
        return table(given.cells)
    use_threads(1)
    bench = Bench(given.adapter, given.work)
    for seed in given.seeds:
        for name in given.conditions:
            if (name, seed) not in {(each["condition"], each["seed"]) for each in cells(given.cells)}:
                done = bench.run(name, seed)
                with given.cells.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(done) + "\n")
                print(
                    name, seed, round(done["serving"], 3), round(done["new"], 3), done["seconds"], flush=True
                )
    return None


if __name__ == "__main__":
    main()
