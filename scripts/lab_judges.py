"""AI, combined and human feedback on the embedded black box: accuracy against the judge's error rate.

    python scripts/lab_judges.py [--learn 120] [--test 150] [--rates 0 0.1 …] [--seeds 0 1] [--work FOLDER]

The answers are drawn once; every cell learns from the same ones, by the words of another judge. The AI judge
is asked, and its reply read, as a real one; behind it is a script that knows the house's answer and names a
wrong one at the stated rate. People give a verdict on each answer, of which that share is turned round, and
it is imported as any feedback is. Only the judge may see references: calibration uses held-out ones.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from trimtab import tasks
from trimtab.adapt import AdaptSettings, Drawer, DrawSettings, Job, adapt, best_round
from trimtab.data import Feedback, FeedbackKind
from trimtab.energy import EnergyModel, FitSettings, load_adapter, use_threads
from trimtab.evaluate import Comparison, compare
from trimtab.judge import AIJudge, Combined, GroundTruth, Human
from trimtab.llm import ChatLLM, Filled, Prices, ScriptedLLM
from trimtab.llm.embedded import running
from trimtab.llm.embedded.world import questions as world_questions
from trimtab.pools import recorded_pool, scored
from trimtab.store import Store
from trimtab.types import Judge, Pool, Prompt, Question, Recorded, Sample, Sampling, Verdict

TASK = tasks.by_name("house")
DRAWS, HELD_OUT, MAX_LENGTH = 8, 40, 128
FIT = FitSettings(lr=3e-4, epochs=1, max_positives=2, max_negatives=3, batch_groups=2, accumulation=2)
SHOWN = re.compile(r"\[(\w+) ([^\]\n]+)\]\n(.*?)\n\[end of \1 \2\]", re.DOTALL)


def drawn(questions: Sequence[Question], path: Path) -> list[Recorded]:
    """Answers of the embedded black box, drawn once and kept in a file."""
    if not path.exists():
        with running() as url:
            box = ChatLLM(
                "trimtab-blackbox", base_url=url, api_key="none", prices=Prices(url), concurrency=16
            )
            how = DrawSettings(draws=DRAWS, sampling=Sampling(n=DRAWS, max_tokens=96), concurrency=16)
            filled = Filled(box, capabilities=box.capabilities)
            pools = Drawer(filled, TASK, None, how).draw(questions, adapted=False)
        texts = {pool.question.id: [each.text for each in pool.candidates] for pool in pools}
        path.write_text(json.dumps(texts), "utf-8")
    kept = json.loads(path.read_text("utf-8"))
    return [Recorded(each, tuple(map(Sample, kept[each.id]))) for each in questions]


def is_right(question: Question, text: str) -> bool:
    """What the house says of an answer."""
    return TASK.verdict(question, text) is Verdict.RIGHT


def ai_judge(questions: Mapping[str, Question], rate: float, seed: int) -> AIJudge:
    """The judge as it ships, before a script that errs at the rate. It must choose, even among wrong ones."""

    def reply(prompt: Prompt, number: int) -> str:
        question = questions[prompt.question_id or ""]
        shown = {label: text for label, _, text in SHOWN.findall(prompt.messages[-1].content)}
        rng = random.Random(f"{seed}:{rate}:{question.id}:{number}")
        wanted = rng.random() >= rate
        fitting = [label for label, text in shown.items() if is_right(question, text) is wanted]
        return f"BEST: {rng.choice(fitting or sorted(shown))}"

    return AIJudge(ScriptedLLM(reply, name="judge"), outcome_supervision=True)


def human_judge(rows: Sequence[Recorded], rate: float, seed: int, store: Store) -> Human:
    """People's verdicts in a store, a share of them turned round."""
    rng = random.Random(f"{seed}:human:{rate}")
    said = [
        Feedback(
            row.question.text,
            FeedbackKind.VERDICT,
            text,
            "right" if is_right(row.question, text) is (rng.random() >= rate) else "wrong",
        )
        for row in rows
        for text in dict.fromkeys(sample.text for sample in row.samples)
    ]
    store.add_feedback(said)
    return Human(store.feedback_for)


def learnt(
    learn: Sequence[Recorded], held_out: Sequence[Recorded], judge: Judge, seed: int, folder: Path
) -> Path:
    """An adapter trained by the judge's words; returns its folder."""
    questions = [row.question for row in learn]
    if not isinstance(
        judge, GroundTruth | Combined
    ):  # who judges without references shall not learn from one
        questions = [replace(each, answer=None, rationale=None) for each in questions]
        learn = [replace(row, question=asked) for row, asked in zip(learn, questions, strict=True)]
    with closing(Store.open(folder / "store.db", survives_power_cut=False)) as store:
        job = Job(
            questions=(),
            held_out=held_out,
            task=TASK,
            energy=EnergyModel.pretrained("offline", max_length=MAX_LENGTH, seed=seed, bf16=True),
            judge=judge,
            store=store,
            folder=folder,
            run_id="lab",
            recorded=learn,
            settings=AdaptSettings(rounds=0, fit=replace(FIT, seed=seed), seed=seed),
        )
        return best_round(list(adapt(job))).folder


def reached(folder: Path, pools: Sequence[Pool]) -> Comparison:
    """All methods on the test problems."""
    energy, manifest = load_adapter(folder, bf16=True)
    calibrate = manifest.calibration.confidences if manifest.calibration else None
    rule = manifest.decision_rule("weighted_vote")
    return compare(scored(pools, energy, calibrate), rule, others=manifest.decision_rules(), budgets=())


def cell(
    name: str,
    rate: float,
    seed: int,
    rows: tuple[list[Recorded], list[Recorded]],
    tests: list[Pool],
    work: Path,
) -> None:
    """Trains and prints one cell."""
    learn, held_out = rows
    folder = work / f"{name}-{rate:g}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    judged = [*learn, *held_out]  # the held-out ones' contrasts say when to stop fitting
    known = {row.question.id: row.question for row in judged}
    with closing(Store.open(folder / "feedback.db", survives_power_cut=False)) as store:
        judges: dict[str, Judge] = {
            "truth": GroundTruth(TASK, use_rationale=False),
            "ai": ai_judge(known, rate, seed),
            "combined": Combined(GroundTruth(TASK, use_rationale=False), ai_judge(known, rate, seed)),
        }
        judge = human_judge(judged, rate, seed, store) if name == "human" else judges[name]
        found = reached(learnt(learn, held_out, judge, seed, folder), tests)
    accuracy = {method: round(100 * each.value, 1) for method, each in found.accuracy.items()}
    gain = found.differences["best_of_n_minus_single"].to_json()
    print(
        json.dumps({"judge": name, "error rate": rate, "seed": seed, **accuracy, "best − single": gain}),
        flush=True,
    )


def main() -> None:
    """Prints one JSON line a cell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--learn", type=int, default=120)
    parser.add_argument("--test", type=int, default=150)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0, 0.1, 0.2, 0.3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--judges", nargs="+", default=["ai", "human", "combined", "truth"])
    parser.add_argument("--work", type=Path, default=Path(".trimtab/lab-judges"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    use_threads(1)
    questions = list(world_questions(0, given.learn + HELD_OUT + given.test, "heldout"))
    rows = drawn(questions, given.work / f"drawn-{len(questions)}.json")
    learn, held_out, test = (
        rows[: given.learn],
        rows[given.learn : given.learn + HELD_OUT],
        rows[given.learn + HELD_OUT :],
    )
    tests = [as_pool(row) for row in test]
    for seed, rate, name in itertools.product(given.seeds, given.rates, given.judges):
        if name != "truth" or rate == 0:
            cell(name, rate, seed, (learn, held_out), tests, given.work)


def as_pool(row: Recorded) -> Pool:
    """The row's answers, judged by the house."""
    return recorded_pool(row, TASK)


if __name__ == "__main__":
    main()
