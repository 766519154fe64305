"""Laws of estimates: the calls are those that the run makes, and what is known of lengths is used."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from trimtab import tasks
from trimtab.cli import estimating
from trimtab.cli.settings import Settings
from trimtab.drawing import draw_answers
from trimtab.errors import ConfigError
from trimtab.llm import Cached, ScriptedLLM
from trimtab.store import PaidCall, Past, Store
from trimtab.types import Call, Completion, Completions, Outcome, Prompt, Purpose, Question, Sampling, Usage

pytestmark = pytest.mark.slow

URL = "http://127.0.0.1:9/v1"  # nobody answers there
QUESTIONS = [Question(f"q{at}", f"What is {at} + 1?", str(at + 1)) for at in range(10)]
RIGHT = "It is one more.\nThe answer is 7."


@pytest.fixture
def given(tmp_path) -> dict[str, Any]:
    rows = [{"id": q.id, "question": q.text, "answer": q.answer} for q in QUESTIONS]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return {
        "questions": tmp_path / "questions.jsonl",
        "work_dir": tmp_path / "work",
        "task": "numeric",
        "model": "gpt-4o-mini",
        "base_url": URL,
        "for_command": "answer",
        "draws": 4,
        "max_tokens": 50,
        "usd_per_million_in": 1.0,
        "usd_per_million_out": 10.0,
    }


def held_out(given: dict[str, Any]) -> Path:
    """Three other questions."""
    path = given["questions"].with_name("dev.jsonl")
    rows = [{"id": f"d{at}", "question": f"What is {at} + 2?", "answer": str(at + 2)} for at in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def estimate(capsys: pytest.CaptureFixture[str], given: dict[str, Any], **changes: Any) -> dict[str, Any]:
    assert estimating.run(Settings(**{**given, **changes}), as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


class Costing:
    """A black box whose every call takes so many tokens."""

    name = "gpt-4o-mini"

    def __init__(self, tokens_in: int, tokens_out: int) -> None:
        self.tokens = (tokens_in, tokens_out)
        self.calls = 0

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        self.calls += 1
        tokens_in, tokens_out = self.tokens
        usage = Usage(tokens_in, tokens_out * sampling.n, 1, 0.0)
        call = Call(
            id=f"{prompt.question_id}-{sampling.seed}-{sampling.start}",
            purpose=prompt.purpose,
            model=self.name,
            endpoint=URL,
            payer="",
            outcome=Outcome.PAID,
            usage=usage,
            seconds=0.1,
            started_at=0.0,
            n=sampling.n,
        )
        return Completions((Completion(RIGHT),) * sampling.n, usage, self.name, (call,))


def paid_before(work: Path, questions: list[Question], *, seed: int = 0, tokens: tuple[int, int]) -> None:
    """Draws that an earlier run of the task has paid for."""
    work.mkdir(exist_ok=True)
    with Store.open(work / "store.db") as store:
        settings = {"task": "numeric", "search": "single", "max_tokens": 50}
        store.start_run("earlier", "answer", {"settings": settings})
        llm = Cached(Costing(*tokens), store.samples_of("earlier"), scope=URL)
        how = Sampling(n=4, max_tokens=50, seed=seed)
        for question in questions:
            asyncio.run(draw_answers(question, llm, tasks.numeric(), how))


# --------------------------------------------------------------------------- how many calls


def test_one_call_a_question_where_the_model_gives_all_draws_at_once(capsys, given):
    found = estimate(capsys, given)
    assert found["questions"] == 10
    assert found["expected"]["calls"] == found["worst"]["calls"] == 10


def test_one_call_a_draw_where_it_does_not_and_the_prompt_is_paid_for_each_time(capsys, given):
    at_once, one_by_one = estimate(capsys, given), estimate(capsys, given, capabilities="n=no")
    assert one_by_one["expected"]["calls"] == 40
    assert one_by_one["expected"]["input_tokens"] == 4 * at_once["expected"]["input_tokens"]
    assert one_by_one["expected"]["output_tokens"] == at_once["expected"]["output_tokens"]


def test_adapt_asks_each_question_in_each_round_and_the_held_out_ones_once(capsys, given):
    found = estimate(capsys, given, for_command="adapt", rounds=2, dev=held_out(given))
    assert found["expected"]["calls"] == found["worst"]["calls"] == 3 * 10 + 3
    assert set(found["by_purpose"]) == {"sampling"}


def test_an_ai_judge_is_one_more_call_a_question_and_three_at_worst(capsys, given):
    how = {"rounds": 1, "judge": "ai", "judge_model": "gpt-4o", "dev": held_out(given)}
    judging = estimate(capsys, given, for_command="adapt", **how)["by_purpose"]["judging"]
    assert judging["expected"]["calls"] == 2 * 10 + 3
    assert judging["worst"]["calls"] == 3 * judging["expected"]["calls"]
    found = estimate(capsys, given, for_command="adapt", **how)
    assert {(each["model"], each["purpose"]) for each in found["grounds"]} == {
        ("gpt-4o-mini", "sampling"),
        ("gpt-4o", "judging"),
    }


def test_a_search_is_foreseen_step_by_step_with_growing_prompts(capsys, given):
    found = estimate(capsys, given, search="beam", width=2, samples=3, max_steps=5)
    assert found["expected"]["calls"] > 10
    assert found["worst"]["calls"] == 10 * (1 + 4 * 2)  # one, then two beams at each further step


def test_evaluate_by_search_also_draws_complete_answers(capsys, given):
    plain = estimate(capsys, given, for_command="evaluate")
    searched = estimate(capsys, given, for_command="evaluate", search="beam")
    assert searched["expected"]["calls"] > plain["expected"]["calls"] == 10


def test_an_evaluation_draws_once_a_seed(capsys, given):
    once = estimate(capsys, given, for_command="evaluate")
    found = estimate(capsys, given, for_command="evaluate", seeds=3)
    assert found["expected"]["calls"] == 3 * once["expected"]["calls"] == 30


def test_another_black_box_and_a_judge_to_compare_with_are_asked_on_every_draw_of_every_seed(capsys, given):
    how = {"for_command": "evaluate", "seeds": 2, "against": "model:gpt-4o, judge:gpt-4.1"}
    found = estimate(capsys, given, **how)
    assert found["by_purpose"]["sampling"]["expected"]["calls"] == 2 * (10 + 10)
    assert found["by_purpose"]["judging"]["expected"]["calls"] == 2 * 10
    asked = {(each["model"], each["purpose"]) for each in found["grounds"]}
    assert asked == {("gpt-4o-mini", "sampling"), ("gpt-4o", "sampling"), ("gpt-4.1", "judging")}


def test_recorded_answers_cost_what_their_judge_does(capsys, given):
    rows = [{"id": q.id, "question": q.text, "answer": q.answer} for q in QUESTIONS]
    recorded = given["questions"].with_name("recorded.jsonl")
    samples = [{"text": RIGHT}, {"text": "The answer is 8."}]
    recorded.write_text("".join(json.dumps({**row, "samples": samples}) + "\n" for row in rows), "utf-8")
    how = {"for_command": "evaluate", "recorded": recorded, "questions": None, "model": None}
    found = estimate(capsys, given, **how, against="judge:gpt-4o")
    assert found["expected"]["calls"] == 10
    assert set(found["by_purpose"]) == {"judging"}


# --------------------------------------------------------------------------- tokens and dollars


@pytest.mark.parametrize("changes", [{}, {"search": "beam"}, {"for_command": "adapt", "judge": "ai"}])
def test_low_is_at_most_expected_at_most_high_at_most_worst(capsys, given, changes):
    found = estimate(capsys, given, **changes)
    for key in ("input_tokens", "output_tokens", "usd"):
        low, expected, high, worst = (found[name][key] for name in ("low", "expected", "high", "worst"))
        assert 0 < low <= expected <= high <= worst
    parts = found["by_purpose"].values()
    assert found["expected"]["usd"] == pytest.approx(sum(part["expected"]["usd"] for part in parts))


def test_dollars_are_tokens_at_their_price_and_half_by_batch(capsys, given):
    found, batch = estimate(capsys, given), estimate(capsys, given, batch=True)
    expected = found["expected"]
    assert expected["usd"] == pytest.approx(
        expected["input_tokens"] * 1e-6 + expected["output_tokens"] * 10e-6
    )
    assert batch["expected"]["usd"] == pytest.approx(expected["usd"] / 2)


def test_kept_draws_cost_nothing_more_and_measure_the_others(capsys, given):
    paid_before(given["work_dir"], QUESTIONS[:4], tokens=(30, 20))
    found = estimate(capsys, given)
    assert found["kept_draws"] == 16
    assert found["expected"]["calls"] == 6
    assert found["grounds"][0]["source"] == "measured"
    assert found["expected"]["input_tokens"] == pytest.approx(6 * 30, rel=0.05)
    assert found["expected"]["output_tokens"] == pytest.approx(6 * 4 * 20, rel=0.05)


def test_more_draws_than_are_kept_cost_the_difference(capsys, given):
    paid_before(given["work_dir"], QUESTIONS, tokens=(30, 20))
    assert estimate(capsys, given)["expected"]["calls"] == 0
    more = estimate(capsys, given, draws=5)
    assert more["expected"]["calls"] == 10
    assert more["expected"]["output_tokens"] == pytest.approx(10 * 20, rel=0.05)


def test_without_the_cache_all_is_paid_for(capsys, given):
    paid_before(given["work_dir"], QUESTIONS, tokens=(30, 20))
    found = estimate(capsys, given, cache=False)
    assert (found["expected"]["calls"], found["kept_draws"]) == (10, 0)


def test_other_questions_of_the_same_task_are_measured_by_earlier_runs(capsys, given):
    paid_before(given["work_dir"], QUESTIONS, seed=77, tokens=(30, 20))
    found = estimate(capsys, given)
    assert found["grounds"] == [
        {**found["grounds"][0], "source": "history", "calls": 10},
    ]
    assert found["expected"]["calls"] == 10
    assert found["expected"]["input_tokens"] == pytest.approx(300, rel=0.05)
    assert found["expected"]["output_tokens"] == pytest.approx(800, rel=0.05)


def test_an_estimate_keeps_nothing_and_takes_over_no_draw(capsys, given):
    paid_before(given["work_dir"], QUESTIONS[:4], tokens=(30, 20))
    estimate(capsys, given)
    with Store.open(given["work_dir"] / "store.db") as store:
        assert len(list(store.kept_draws())) == 16
        assert store.replays() == {}
        assert [run.id for run in store.runs()] == ["earlier"]


# --------------------------------------------------------------------------- what is refused and said


def test_an_unknown_price_is_refused_unless_unpriced(capsys, given):
    without = {**given, "usd_per_million_in": None, "usd_per_million_out": None}
    with pytest.raises(ConfigError, match="--unpriced"):
        estimate(capsys, without)
    found = estimate(capsys, without, unpriced=True)
    assert found["expected"]["usd"] is None
    assert found["expected"]["output_tokens"] > 0


def test_limits_that_the_run_will_reach_are_named(capsys, given):
    found = estimate(capsys, given, max_usd=1e-6, max_calls=9, max_total_tokens=10**9)
    assert found["limits"] == [
        "--max-usd 1e-06 will end the run before it is done",
        "--max-calls 9 will end the run before it is done",
    ]


@pytest.mark.parametrize("command", ["adapt", "answer", "evaluate"])
def test_questions_and_a_model_are_needed(capsys, given, command):
    for missing in ("questions", "model"):
        with pytest.raises(ConfigError):
            estimate(capsys, given, for_command=command, **{missing: None})


def test_the_table_shows_each_purpose_and_what_the_figures_stand_on(capsys, given):
    settings = Settings(**{**given, "for_command": "adapt", "judge": "ai"})
    assert estimating.run(settings, as_json=False) == 0
    shown = capsys.readouterr()
    assert [line.split()[0] for line in shown.out.splitlines()[1:]] == ["judging", "sampling", "all"]
    assert "assumed: nothing is known yet of its lengths" in shown.err
    assert "--probe 10" in shown.err


# --------------------------------------------------------------------------- what the store knows


def test_the_store_tells_what_paid_for_the_draws_of_a_request_and_what_runs_took(tmp_path):
    paid_before(tmp_path / "work", QUESTIONS[:2], tokens=(30, 20))
    with Store.open(tmp_path / "work" / "store.db") as store:
        keys = sorted({draw.key for draw in store.kept_draws()})
        assert store.paid_for(keys) == tuple(PaidCall(key, 30, 80, 4) for key in keys)
        assert store.paid_for([]) == store.paid_for(["another"]) == ()
        assert store.past("gpt-4o-mini", URL) == (Past("earlier", Purpose.SAMPLING, 2, 60, 160, 8),)
        assert store.past("gpt-4o-mini", "http://elsewhere/v1") == ()


def test_only_draws_that_a_call_of_the_ledger_brought_measure_anything(tmp_path):
    with Store.in_memory() as store:
        llm = Cached(ScriptedLLM(lambda prompt, draw: RIGHT), store.samples_of("run"))
        asyncio.run(draw_answers(QUESTIONS[0], llm, tasks.numeric(), Sampling(n=2)))
        keys = {draw.key for draw in store.kept_draws()}
        assert len(keys) == 1
        assert len(store.past("scripted", "")) == 1
        assert store.paid_for(["", *keys]) == tuple(
            PaidCall(key, call.input_tokens, call.output_tokens, 2)
            for key in keys
            for call in store.past("scripted", "")
        )
