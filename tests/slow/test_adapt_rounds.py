"""Laws of online adaptation on a real, tiny encoder: rounds, stopping, failures, going on after a kill."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch

from trimtab import tasks
from trimtab.adapt import AdaptSettings, DrawSettings, Job, Round, Stage, adapt, best_round
from trimtab.energy import EnergyModel, FitSettings, fit_energy, read_manifest, verify_adapter
from trimtab.errors import BudgetSpentError, EndpointError, InputError, LLMError, RefusedError, RunError
from trimtab.judge import GroundTruth
from trimtab.llm import Cached, ScriptedLLM
from trimtab.store import Store
from trimtab.types import (
    LLM,
    Candidate,
    Completions,
    Judgement,
    PrefixTarget,
    Prompt,
    Question,
    Recorded,
    Sample,
    Sampling,
    Usage,
    Verdict,
)

pytestmark = pytest.mark.slow

TASK = tasks.numeric()
FIT = FitSettings(
    lr=5e-3, epochs=2, batch_groups=2, accumulation=1, bf16=False, max_prefixes=2, checkpoint_every_s=0.0
)
SETTINGS = AdaptSettings(
    rounds=2, draw=DrawSettings(draws=4, sampling=Sampling(max_tokens=30), concurrency=3), fit=FIT, patience=5
)
RUN = "run"
DOWN = EndpointError("the endpoint is down")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def question(number: int) -> Question:
    return Question(f"q{number}", f"What is {number} + 1?", str(number + 1))


QUESTIONS = [question(number) for number in range(8)]
HELD_OUT = [question(number) for number in range(20, 26)]


def right(asked: Question) -> str:
    return f"The blue way. The answer is {asked.answer}."


def wrong(asked: Question) -> str:
    return f"The red way. The answer is {int(asked.answer or 0) + 40}."


def recorded(asked: Question, *, has_wrong: bool = True) -> Recorded:
    texts = [right(asked), wrong(asked) if has_wrong else right(asked), f"Blue plus. {right(asked)}"]
    return Recorded(asked, tuple(Sample(text) for text in texts))


def asked_in(prompt: Prompt) -> Question:
    return question(int(re.findall(r"What is (\d+) \+ 1\?", prompt.messages[-1].content)[-1]))


def says(prompt: Prompt, draw: int) -> str:
    """Right, wrong and unreadable answers, by the number of the draw."""
    asked = asked_in(prompt)
    return (right(asked), wrong(asked), f"Way {draw % 7}. {right(asked)}", "What is it?")[draw % 4]


def job(folder: Path, backbone: Path, llm: LLM | None = None, **changes) -> Job:
    """A job whose paid responses are kept in the folder's store."""
    store = Store.open(folder / "store.db", survives_power_cut=False)
    if store.run(RUN) is None:
        store.start_run(RUN, "adapt", {})
    plain = Job(
        questions=QUESTIONS,
        held_out=HELD_OUT if llm else [recorded(each) for each in HELD_OUT],
        task=TASK,
        energy=EnergyModel.pretrained(backbone, max_length=48, device="cpu"),
        judge=GroundTruth(TASK),
        store=store,
        folder=folder / "rounds",
        run_id=RUN,
        llm=Cached(llm, store.samples_of(RUN)) if llm else None,
        settings=SETTINGS,
    )
    return replace(plain, **changes)


def run(given: Job) -> list[Round]:
    with given.store:
        return list(adapt(given))


def results(rounds: Sequence[Round]) -> list[Round]:
    """What must be the same whenever, wherever and in however many processes a run was done."""
    return [replace(each, usage=Usage(), seconds=0.0, folder=Path(each.folder.name)) for each in rounds]


def weights(rounds: Sequence[Round]) -> list[str | None]:
    return [verify_adapter(each.folder).weights_sha256 for each in rounds]


# --------------------------------------------------------------------------- the warm start


def test_recorded_answers_alone_make_one_round_and_teach_the_ranking(tmp_path, tiny_backbone):
    rows = [recorded(each) for each in QUESTIONS]
    (done,) = run(job(tmp_path, tiny_backbone, recorded=rows))
    assert (done.index, done.questions, done.failed, done.samples) == (0, 8, 0, 24)
    assert (done.positives, done.negatives, done.contrasts) == (16, 8, 8)
    assert done.usage == Usage()
    assert done.held_out.questions == 6
    assert done.held_out.accuracy["single"] == pytest.approx(2 / 3)
    assert done.held_out.accuracy["best_of_n"] == 1.0
    manifest = read_manifest(done.folder)
    assert (manifest.task, manifest.rule) == ("numeric", done.held_out.rule.name)
    assert manifest.calibration == done.held_out.calibration
    assert manifest.metrics["dev_best_of_n"] == 1.0


def test_online_rounds_may_follow_a_warm_start_from_recorded_answers(tmp_path, tiny_backbone):
    llm = ScriptedLLM(says)
    rows = [recorded(question(number)) for number in range(40, 44)]
    rounds = run(job(tmp_path, tiny_backbone, llm, recorded=rows))
    assert [each.questions for each in rounds] == [4, 8, 8]
    assert llm.calls == len(HELD_OUT) + 2 * len(QUESTIONS)


def test_a_reference_solution_is_a_positive_too(tmp_path, tiny_backbone):
    rows = [recorded(replace(each, rationale=f"Plus. {right(each)}")) for each in QUESTIONS]
    (done,) = run(job(tmp_path, tiny_backbone, recorded=rows))
    assert done.positives == 3 * 8


def test_the_package_is_called_as_the_function_of_its_name(tmp_path, tiny_backbone):
    given = job(tmp_path, tiny_backbone, recorded=[recorded(each) for each in QUESTIONS])
    with given.store:
        (done,) = import_module("trimtab.adapt")(given)
    assert (done.index, done.samples) == (0, 24)


def test_adapting_needs_something_to_adapt_from(tmp_path, tiny_backbone):
    with pytest.raises(InputError, match="recorded answers or a black box"):
        run(job(tmp_path, tiny_backbone))


def test_answers_that_are_all_right_teach_nothing_and_the_message_says_so(tmp_path, tiny_backbone):
    rows = [recorded(each, has_wrong=False) for each in QUESTIONS]
    with pytest.raises(RunError, match="none of 8 questions has both a right and a wrong answer"):
        run(job(tmp_path, tiny_backbone, recorded=rows))
    assert not (tmp_path / "rounds" / "round-0").exists()


# --------------------------------------------------------------------------- online rounds


def test_each_round_asks_every_question_once_and_the_held_out_ones_once_in_all(tmp_path, tiny_backbone):
    llm = ScriptedLLM(says)
    rounds = run(job(tmp_path, tiny_backbone, llm))
    assert [each.index for each in rounds] == [0, 1, 2]
    assert llm.calls == 3 * len(QUESTIONS) + len(HELD_OUT)
    assert [each.usage.calls for each in rounds] == [len(QUESTIONS) + len(HELD_OUT), 8, 8]
    asked = [(asked_in(prompt).id in {q.id for q in HELD_OUT}) for prompt in llm.prompts]
    assert sum(asked) == len(HELD_OUT)


def test_a_round_keeps_as_many_answers_as_wanted_of_those_drawn_all_scored(tmp_path, tiny_backbone):
    given = job(tmp_path, tiny_backbone, ScriptedLLM(says))
    rounds = run(given)
    assert [each.samples for each in rounds] == [8 * 4] * 3
    with Store.open(tmp_path / "store.db") as store:
        plain, adapted = store.candidates(RUN, 0), store.candidates(RUN, 1)
    assert {len(each) for each in (*plain.values(), *adapted.values())} == {4}
    assert all(candidate.score is None for each in plain.values() for candidate in each)
    assert all(candidate.score is not None for each in adapted.values() for candidate in each)


def test_draws_of_the_adapted_model_are_right_more_often(tmp_path, tiny_backbone):
    draw = replace(SETTINGS.draw, oversample=4)
    rounds = run(
        job(tmp_path, tiny_backbone, ScriptedLLM(says), settings=replace(SETTINGS, draw=draw, rounds=1))
    )
    with Store.open(tmp_path / "store.db") as store:
        shares = [_share_right(store, each.index) for each in rounds]
    assert shares[1] > shares[0]


def _share_right(store: Store, index: int) -> float:
    drawn = [candidate for each in store.candidates(RUN, index).values() for candidate in each]
    return sum(candidate.verdict is Verdict.RIGHT for candidate in drawn) / len(drawn)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_all_earlier_contrasts_is_fitted_again(tmp_path, tiny_backbone, share):
    def half(prompt: Prompt, draw: int) -> str:
        return right(asked_in(prompt)) if draw % 2 else wrong(asked_in(prompt))

    draw = replace(SETTINGS.draw, oversample=1)  # the pool itself: every question has both sides
    settings = replace(SETTINGS, replay=share, draw=draw)
    rounds = run(job(tmp_path, tiny_backbone, ScriptedLLM(half), settings=settings))
    assert [each.contrasts for each in rounds] == [8, 8 + round(8 * share), 8 + round(16 * share)]


def step_by_step(prompt: Prompt, draw: int) -> str:
    """The same answers in several steps."""
    return says(prompt, draw).replace(". ", ".\n")


def fitted_prefixes(folder: Path, backbone: Path, replay: float) -> list[list[PrefixTarget]]:
    """The prefixes that each round fits."""
    fitted: list[list[PrefixTarget]] = []

    def watched(*given, **how):
        fitted.append(list(how["prefixes"]))
        return fit_energy(*given, **how)

    settings = replace(SETTINGS, prefixes=50, replay=replay)
    run(job(folder, backbone, ScriptedLLM(step_by_step), settings=settings, fit=watched))
    assert all(fitted)
    return fitted


def outcomes_seen(targets: Sequence[PrefixTarget]) -> dict[tuple[str, str], int]:
    assert len({(each.question_id, each.prefix) for each in targets}) == len(targets)
    return {(each.question_id, each.prefix): each.weight for each in targets}


def test_prefixes_of_earlier_rounds_are_fitted_again_by_the_share_of_replay(tmp_path, tiny_backbone):
    for name in ("none", "all"):
        (tmp_path / name).mkdir()
    forgotten = fitted_prefixes(tmp_path / "none", tiny_backbone, 0.0)
    # A question has 4 draws a round, so that a heavier prefix is one of more rounds than this.
    assert all(max(outcomes_seen(each).values()) <= 4 for each in forgotten)
    remembered = [outcomes_seen(each) for each in fitted_prefixes(tmp_path / "all", tiny_backbone, 1.0)]
    assert remembered[0].items() <= outcomes_seen(forgotten[0]).items()
    assert set(remembered[0]) <= set(remembered[1]) <= set(remembered[2])
    assert sum(remembered[2].values()) > 2 * sum(remembered[0].values())


def test_a_question_all_right_in_one_round_and_all_wrong_in_the_next_is_learnt_from(tmp_path, tiny_backbone):
    def turns(prompt: Prompt, draw: int) -> str:
        asked = asked_in(prompt)
        if asked == QUESTIONS[0] or asked in HELD_OUT:
            return says(prompt, draw)
        return right(asked) if (asked.id, prompt) not in seen else wrong(asked)

    class Turning(ScriptedLLM):
        async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
            answer = await super().complete(prompt, sampling)
            seen.add((asked_in(prompt).id, prompt))
            return answer

    seen: set[tuple[str, Prompt]] = set()
    settings = replace(SETTINGS, rounds=1, replay=0.0)
    given = job(tmp_path, tiny_backbone, Turning(turns), settings=settings)
    with given.store:
        first = next(adapt(given))
    # Another process takes up the finished round and does the next.
    rounds = run(job(tmp_path, tiny_backbone, Turning(turns), settings=settings))
    assert results(rounds[:1]) == results([first])
    assert rounds[0].contrasts == 1
    assert rounds[1].contrasts >= 7


def test_a_later_round_that_finds_nothing_new_leaves_the_adapter_as_it_is(tmp_path, tiny_backbone):
    llm = ScriptedLLM(lambda prompt, draw: says(prompt, draw) if llm.calls <= 14 else right(asked_in(prompt)))
    rounds = run(job(tmp_path, tiny_backbone, llm, settings=replace(SETTINGS, replay=0.0, rounds=1)))
    assert (rounds[1].contrasts, rounds[1].loss) == (0, None)
    assert len(set(weights(rounds))) == 1


def test_search_step_by_step_learns_from_prefixes(tmp_path, tiny_backbone):
    def step(prompt: Prompt, draw: int) -> str:
        return says(prompt, draw)

    draw = replace(SETTINGS.draw, search="beam", beam=replace(SETTINGS.draw.beam, width=2, samples=2))
    rounds = run(
        job(
            tmp_path,
            tiny_backbone,
            ScriptedLLM(step),
            settings=replace(SETTINGS, draw=draw, prefixes=4, rounds=1),
        )
    )
    assert 8 <= rounds[1].samples <= 16


# --------------------------------------------------------------------------- stopping, the best round


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_rounds_end_when_held_out_accuracy_has_not_risen_for_patience_rounds(
    tmp_path, tiny_backbone, patience
):
    settled = [recorded(each, has_wrong=False) for each in HELD_OUT]  # accuracy 1 from the start
    settings = replace(SETTINGS, rounds=5, patience=patience)
    rounds = run(job(tmp_path, tiny_backbone, ScriptedLLM(says), held_out=settled, settings=settings))
    assert [each.is_best for each in rounds] == [True] + [False] * patience
    assert best_round(rounds).index == 0


def test_without_held_out_questions_every_round_is_done_and_the_last_is_kept(tmp_path, tiny_backbone):
    settings = replace(SETTINGS, patience=1)
    rounds = run(job(tmp_path, tiny_backbone, ScriptedLLM(says), held_out=[], settings=settings))
    assert [each.is_best for each in rounds] == [True] * 3
    assert best_round(rounds).index == 2
    assert rounds[0].held_out.rule.name == "importance_vote"


def test_the_best_round_is_the_first_with_the_highest_merit(tmp_path, tiny_backbone):
    (done,) = run(job(tmp_path, tiny_backbone, recorded=[recorded(each) for each in QUESTIONS]))

    def reaching(index: int, chosen: float, best_of_n: float) -> Round:
        accuracy = {"chosen": chosen, "best_of_n": best_of_n}
        return replace(done, index=index, held_out=replace(done.held_out, accuracy=accuracy))

    assert best_round([reaching(0, 0.5, 0.5), reaching(1, 0.6, 0.1), reaching(2, 0.6, 0.1)]).index == 1
    assert best_round([reaching(0, 0.5, 0.5), reaching(1, 0.5, 0.6), reaching(2, 0.4, 0.9)]).index == 1


# --------------------------------------------------------------------------- failures


def test_a_failed_question_stays_in_what_is_counted(tmp_path, tiny_backbone):
    llm = ScriptedLLM(says, failures={2: DOWN, 3: DOWN})
    settings = replace(SETTINGS, rounds=0, draw=replace(SETTINGS.draw, concurrency=1))
    (done,) = run(job(tmp_path, tiny_backbone, llm, settings=settings))
    assert (done.questions, done.failed, done.samples) == (8, 2, 6 * 4)


def test_a_failed_held_out_question_stays_in_the_denominator(tmp_path, tiny_backbone):
    def all_right_there(prompt: Prompt, draw: int) -> str:
        asked = asked_in(prompt)
        return right(asked) if asked in HELD_OUT else says(prompt, draw)

    llm = ScriptedLLM(all_right_there, failures={9: DOWN, 10: DOWN})
    settings = replace(SETTINGS, rounds=0, draw=replace(SETTINGS.draw, concurrency=1))
    (done,) = run(job(tmp_path, tiny_backbone, llm, settings=settings))
    assert done.held_out.questions == 6
    assert done.held_out.accuracy["majority"] == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    ("failure", "calls"), [(DOWN, range(5, 9)), (RefusedError("wrong key", status=401), range(1, 4))]
)
def test_an_outage_or_a_wrong_key_ends_the_run_and_leaves_no_adapter(tmp_path, tiny_backbone, failure, calls):
    llm = ScriptedLLM(says, failures=dict.fromkeys(range(1, 100), failure))
    with pytest.raises(LLMError) as raised:
        run(job(tmp_path, tiny_backbone, llm))
    assert type(raised.value) is type(failure)
    assert llm.calls in calls
    assert not (tmp_path / "rounds" / "round-0").exists()


# --------------------------------------------------------------------------- a judge that fails


class JudgeFailing:
    """The judge below, which cannot be asked about some questions."""

    name = "one"

    def __init__(self, failures: Mapping[str, Exception]) -> None:
        self.failures = failures
        self.calls = 0

    async def judge(self, question: Question, candidates: Sequence[Candidate]) -> Judgement:
        self.calls += 1
        if question.id in self.failures:
            raise self.failures[question.id]
        return await OneOfThem().judge(question, candidates)


FILTERED = RefusedError("filtered", status=400)
ONE_AT_A_TIME = replace(SETTINGS, rounds=0, draw=replace(SETTINGS.draw, concurrency=1))


def kept_judgements(folder: Path, index: int = 0) -> set[str]:
    with Store.open(folder / "store.db") as store:
        return set(store.judgements(RUN, index))


def test_a_question_that_the_judge_refuses_is_a_failed_one_and_the_rounds_go_on(tmp_path, tiny_backbone):
    judge = JudgeFailing({"q3": FILTERED, "q21": FILTERED})  # one to learn from, one held out
    rounds = run(job(tmp_path, tiny_backbone, ScriptedLLM(says), judge=judge))
    assert [(each.questions, each.failed, each.held_out.questions) for each in rounds] == [(8, 1, 6)] * 3
    assert kept_judgements(tmp_path) == {q.id for q in QUESTIONS} - {"q3"}
    again = run(job(tmp_path, tiny_backbone, ScriptedLLM(says), judge=judge))
    assert results(again) == results(rounds)


@pytest.mark.parametrize("failing", ["q3", "q21"])
def test_a_judge_that_refused_is_asked_again_by_a_resumed_run(tmp_path, tiny_backbone, unbroken, failing):
    llm, how = ScriptedLLM(says), {"settings": RESUMED}
    broken = {"judge": JudgeFailing({failing: FILTERED}), "report": killed_at((0, "fit", 1))}
    with pytest.raises(KilledError):
        run(job(tmp_path, tiny_backbone, llm, **broken, **how))
    rounds = run(job(tmp_path, tiny_backbone, llm, judge=OneOfThem(), **how))
    assert (results(rounds), weights(rounds)) == unbroken[:2]


def test_the_one_question_that_is_refused_again_does_not_end_a_resumed_run(tmp_path, tiny_backbone):
    llm, judge = ScriptedLLM(says), JudgeFailing({"q3": FILTERED})
    with pytest.raises(KilledError):
        run(job(tmp_path, tiny_backbone, llm, judge=judge, report=killed_at((0, "fit", 1))))
    rounds = run(job(tmp_path, tiny_backbone, llm, judge=judge))
    assert [each.failed for each in rounds] == [1] * 3


@pytest.mark.parametrize(
    ("failure", "calls"), [(DOWN, 5), (RefusedError("wrong key", status=401), 1)], ids=["down", "refused"]
)
@pytest.mark.parametrize("asked", [QUESTIONS, HELD_OUT], ids=["learnt from", "held out"])
def test_a_judge_that_is_down_or_refuses_all_ends_the_run(tmp_path, tiny_backbone, failure, calls, asked):
    judge = JudgeFailing({each.id: failure for each in asked})
    with pytest.raises(type(failure)):
        run(job(tmp_path, tiny_backbone, ScriptedLLM(says), judge=judge, settings=ONE_AT_A_TIME))
    failed = judge.calls - (len(QUESTIONS) if asked is HELD_OUT else 0)
    assert failed <= calls
    assert not (tmp_path / "rounds" / "round-0").exists()


def test_what_was_judged_before_a_kill_is_kept_and_not_asked_for_again(tmp_path, tiny_backbone):
    llm = ScriptedLLM(says)
    judge = JudgeFailing({"q5": KilledError()})
    with pytest.raises(KilledError):
        run(job(tmp_path, tiny_backbone, llm, judge=judge, settings=ONE_AT_A_TIME))
    assert kept_judgements(tmp_path) == {"q0", "q1", "q2", "q3", "q4"}
    judge = JudgeFailing({})
    run(job(tmp_path, tiny_backbone, llm, judge=judge, settings=ONE_AT_A_TIME))
    assert judge.calls == 3 + len(HELD_OUT)


def test_the_judges_progress_is_reported_as_it_comes(tmp_path, tiny_backbone):
    stages: list[Stage] = []

    class Watching(OneOfThem):
        async def judge(self, question: Question, candidates: Sequence[Candidate]) -> Judgement:
            at_call.append(sum(stage.name.startswith("judge") for stage in stages))
            return await super().judge(question, candidates)

    at_call: list[int] = []
    how = {"judge": Watching(), "settings": ONE_AT_A_TIME, "report": stages.append}
    run(job(tmp_path, tiny_backbone, ScriptedLLM(says), **how))
    assert at_call == list(range(8 + 6))


# --------------------------------------------------------------------------- going on after a kill


class OneOfThem:
    """Ground truth that takes the first right draw alone and leaves the other right ones out."""

    name = "one"

    async def judge(self, question: Question, candidates: Sequence[Candidate]) -> Judgement:
        right_ones = [at for at, each in enumerate(candidates) if each.verdict is Verdict.RIGHT]
        wrong_ones = [at for at, each in enumerate(candidates) if each.verdict is Verdict.WRONG]
        return Judgement(question.id, tuple(right_ones[:1]), tuple(wrong_ones), self.name)


class KilledError(Exception):
    """Raised in the middle of a run."""


def killed_at(wanted: tuple[int, str, int]) -> Callable[[Stage], None]:
    def report(stage: Stage) -> None:
        if (stage.round, stage.name, stage.done) == wanted:
            raise KilledError

    return report


RESUMED = replace(SETTINGS, prefixes=2, replay=0.5)
POINTS = [
    *((index, "draw", done) for index in (0, 1, 2) for done in (1, 5, 8)),
    *((index, "judge", done) for index in (0, 2) for done in (1, 8)),
    *((0, "draw held-out", done) for done in (1, 6)),
    *((index, "fit", done) for index in (0, 1, 2) for done in (1, 3)),
    *((index, "score", done) for index in (0, 1, 2) for done in (0, 6)),
]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, tiny_backbone) -> tuple[list[Round], list[str | None], int]:
    llm = ScriptedLLM(says)
    folder = tmp_path_factory.mktemp("unbroken")
    rounds = run(job(folder, tiny_backbone, llm, judge=OneOfThem(), settings=RESUMED))
    assert [each.index for each in rounds] == [0, 1, 2]
    return results(rounds), weights(rounds), llm.calls


@pytest.mark.parametrize("point", POINTS, ids=lambda point: "-".join(map(str, point)).replace(" ", "_"))
def test_a_run_broken_anywhere_and_started_again_ends_the_same_to_the_bit(
    tmp_path, tiny_backbone, unbroken, point
):
    llm = ScriptedLLM(says)
    how = {"judge": OneOfThem(), "settings": RESUMED}
    with pytest.raises(KilledError):
        run(job(tmp_path, tiny_backbone, llm, report=killed_at(point), **how))
    rounds = run(job(tmp_path, tiny_backbone, llm, **how))
    assert results(rounds) == unbroken[0]
    assert weights(rounds) == unbroken[1]
    assert llm.calls == unbroken[2]


def test_a_finished_run_started_again_asks_and_fits_nothing(tmp_path, tiny_backbone):
    llm = ScriptedLLM(says)
    first = run(job(tmp_path, tiny_backbone, llm))
    calls, stages = llm.calls, []
    again = run(job(tmp_path, tiny_backbone, llm, report=stages.append))
    assert results(again) == results(first)
    assert (llm.calls, stages) == (calls, [])


def test_a_round_whose_adapter_was_removed_is_done_again(tmp_path, tiny_backbone):
    llm = ScriptedLLM(says)
    first = run(job(tmp_path, tiny_backbone, llm))
    calls, kept = llm.calls, weights(first)
    first[2].folder.rename(tmp_path / "elsewhere")
    again = run(job(tmp_path, tiny_backbone, llm))
    assert (llm.calls, weights(again)) == (calls, kept)


def test_a_caller_that_stops_early_can_go_on_later(tmp_path, tiny_backbone):
    llm = ScriptedLLM(says)
    whole = tmp_path / "whole"
    parts = tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    unbroken = run(job(whole, tiny_backbone, ScriptedLLM(says)))
    given = job(parts, tiny_backbone, llm)
    with given.store:
        assert next(adapt(given)).index == 0
    assert results(run(job(parts, tiny_backbone, llm))) == results(unbroken)


@pytest.mark.parametrize(("call", "index"), [(2, 0), (16, 1)])
def test_a_question_that_failed_before_a_kill_and_answers_later_is_learnt_from(
    tmp_path, tiny_backbone, unbroken, call, index
):
    llm = ScriptedLLM(says, failures={call: DOWN})
    one_at_a_time = replace(RESUMED, draw=replace(RESUMED.draw, concurrency=1))
    how = {"judge": OneOfThem(), "settings": one_at_a_time}
    with pytest.raises(KilledError):
        run(job(tmp_path, tiny_backbone, llm, report=killed_at((index, "fit", 1)), **how))
    rounds = run(job(tmp_path, tiny_backbone, llm, **how))
    assert (results(rounds), weights(rounds)) == unbroken[:2]


def test_a_judgement_of_other_candidates_is_never_used_again_also_when_killed_twice(
    tmp_path, tiny_backbone, unbroken
):
    llm, how = ScriptedLLM(says), {"settings": RESUMED}
    with pytest.raises(KilledError):
        run(job(tmp_path, tiny_backbone, llm, judge=OneOfThem(), report=killed_at((0, "judge", 8)), **how))
    _leave_other_candidates(tmp_path)
    judge = JudgeFailing({q.id: KilledError() for q in QUESTIONS})
    with pytest.raises(KilledError):
        run(job(tmp_path, tiny_backbone, llm, judge=judge, **how))
    rounds = run(job(tmp_path, tiny_backbone, llm, judge=OneOfThem(), **how))
    assert (results(rounds), weights(rounds)) == unbroken[:2]


def _leave_other_candidates(folder: Path) -> None:
    """What another resampling would leave: q0's answers turned round and judged so, and none of q1's."""
    with Store.open(folder / "store.db") as store:
        turned = store.candidates(RUN, 0)["q0"][::-1]
        store.put_candidates(RUN, 0, "q0", turned)
        store.put_judgement(RUN, 0, asyncio.run(OneOfThem().judge(QUESTIONS[0], turned)))
        store.put_candidates(RUN, 0, "q1", ())


# --------------------------------------------------------------------------- a limit is reached


class Limited:
    """A black box with money for so many calls; what it is asked beyond is refused, and not made."""

    def __init__(self, llm: ScriptedLLM, calls: int) -> None:
        self.llm, self.calls = llm, calls

    @property
    def name(self) -> str:
        return self.llm.name

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        if self.calls == 0:
            raise BudgetSpentError("budget spent: the limit of this run is reached")
        self.calls -= 1
        return await self.llm.complete(prompt, sampling)


@pytest.mark.parametrize("calls", [4, 8, 10, 14, 15, 19, 22, 27])
def test_a_spent_budget_ends_the_rounds_with_what_was_drawn_and_a_higher_one_goes_on(
    tmp_path, tiny_backbone, unbroken, calls
):
    given = {"judge": OneOfThem(), "settings": RESUMED}
    first = run(job(tmp_path, tiny_backbone, Limited(ScriptedLLM(says), calls), **given))
    # 8 questions and 6 held-out ones in round 0, 8 questions in each of the others
    assert [each.index for each in first] == list(range(1 + (calls > 14) + (calls > 22)))
    assert [bool(each.spent) for each in first] == [False] * (len(first) - 1) + [calls not in (14, 22)]
    assert all(verify_adapter(each.folder) for each in first)
    more = ScriptedLLM(says)
    second = run(job(tmp_path, tiny_backbone, more, **given))
    expected, its_weights, all_calls = unbroken
    assert results(second) == expected
    assert weights(second) == its_weights
    assert calls + more.calls == all_calls


def test_a_budget_that_is_spent_between_rounds_ends_with_the_rounds_that_are_done(tmp_path, tiny_backbone):
    rounds = run(job(tmp_path, tiny_backbone, Limited(ScriptedLLM(says), 14)))
    assert [(each.index, each.spent) for each in rounds] == [(0, "")]


def test_a_budget_that_is_spent_before_anything_can_be_learnt_is_said_as_such(tmp_path, tiny_backbone):
    with pytest.raises(BudgetSpentError, match="nothing could be learnt from what was drawn by then"):
        run(job(tmp_path, tiny_backbone, Limited(ScriptedLLM(says), 0)))
    assert not (tmp_path / "rounds" / "round-0").exists()
    assert len(run(job(tmp_path, tiny_backbone, ScriptedLLM(says)))) == 3


def test_a_judge_without_money_leaves_what_was_judged_by_then(tmp_path, tiny_backbone):
    spent = BudgetSpentError("budget spent: the limit of this run is reached")
    judge = JudgeFailing(dict.fromkeys(["q5", "q6", "q7", *(each.id for each in HELD_OUT)], spent))
    (done,) = run(job(tmp_path, tiny_backbone, ScriptedLLM(says), judge=judge))
    assert done.spent == str(spent)
    assert done.failed == 3
    assert done.held_out.calibration is None  # no held-out answer could be judged
