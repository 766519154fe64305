"""`trimtab cache`: what is shown is what is kept, what is exported can be read again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from trimtab import tasks
from trimtab.cli import caching
from trimtab.cli.settings import Settings
from trimtab.data import load_questions, load_recorded
from trimtab.drawing import draw_answers
from trimtab.errors import InputError
from trimtab.llm.cached import Cached
from trimtab.store import Store
from trimtab.types import Call, Completion, Completions, Outcome, Prompt, Purpose, Sampling, Usage

QUESTIONS = [
    {"id": "q1", "question": "What is 3 * 4?", "answer": "12"},
    {"id": "q2", "question": "What is 2 * 4?", "answer": "8", "rationale": "2 * 4 = 8. The answer is 8."},
]


class Box:
    """Answers by the number of the draw, at a tenth of a dollar each."""

    name = "box"

    async def complete(self, asked: Prompt, sampling: Sampling) -> Completions:
        usage = Usage(5, sampling.n, 1, 0.1 * sampling.n)
        call = Call(
            f"{asked.question_id} {sampling.start}",
            Purpose.SAMPLING,
            self.name,
            "http://box/v1",
            "KEY",
            Outcome.PAID,
            usage,
            0.1,
            1.0,
        )
        numbers = range(sampling.start, sampling.start + sampling.n)
        drawn = tuple(Completion(f"The answer is {number}. \ud83d") for number in numbers)
        return Completions(drawn, usage, self.name, (call,))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Those of a finished run that drew three answers to the first question."""
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    settings = Settings(questions=file, task="numeric", draws=3, seed=5, work_dir=tmp_path / "work")
    settings.work_dir.mkdir()
    sampling = Sampling(n=3, max_tokens=settings.max_tokens, seed=5)
    with Store.open(settings.work_dir / "store.db") as store:
        store.start_run("r", "answer", {})
        llm = Cached(Box(), store.samples_of("r"), scope="http://box/v1")
        question = load_questions(file)[0]
        asyncio.run(draw_answers(question, llm, tasks.by_name("numeric"), sampling))
        store.finish_run("r")
    return settings


def document(capsys: pytest.CaptureFixture[str]) -> object:
    return json.loads(capsys.readouterr().out)


def test_the_kept_draws_are_shown_by_model(settings, capsys):
    caching.show(settings, True)
    shown = document(capsys)
    (line,) = shown["models"]
    assert (line["model"], line["requests"], line["draws"]) == ("box", 1, 3)
    assert line["usd"] == pytest.approx(0.3)
    assert shown["bytes"] == line["bytes"] > 900
    assert shown["replayed"] == {"draws": 0, "usd": 0.0}
    caching.show(settings, False)
    assert "box" in capsys.readouterr().out


def test_what_a_later_run_was_spared_is_shown(settings, capsys):
    with Store.open(settings.work_dir / "store.db") as store:
        llm = Cached(Box(), store.samples_of("later"), scope="http://box/v1")
        sampling = Sampling(n=2, max_tokens=settings.max_tokens, seed=5)
        question = load_questions(settings.questions)[0]
        asyncio.run(draw_answers(question, llm, tasks.by_name("numeric"), sampling))
    caching.show(settings, True)
    assert document(capsys)["replayed"] == {"draws": 2, "usd": pytest.approx(0.2)}


def test_exported_answers_are_recorded_answers(settings, tmp_path, capsys):
    out = tmp_path / "deep" / "recorded.jsonl"
    caching.export(settings.model_copy(update={"out": out}), True)
    assert document(capsys) == {"rows": 1, "out": str(out)}
    (recorded,) = load_recorded(out)
    assert recorded.question == load_questions(settings.questions)[0]
    assert [sample.text for sample in recorded.samples] == [f"The answer is {at}. ?" for at in range(3)]
    assert {sample.model for sample in recorded.samples} == {"box"}
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("other", [{"seed": 6}, {"model": "another"}, {"max_tokens": 7}])
def test_settings_under_which_nothing_was_asked_are_refused_and_write_nothing(settings, tmp_path, other):
    out = tmp_path / "recorded.jsonl"
    with pytest.raises(InputError, match="no whole answer"):
        caching.export(settings.model_copy(update={"out": out, **other}), False)
    assert not out.exists()


def test_without_questions_every_draw_is_exported_by_its_key_and_number(settings, capsys):
    caching.export(settings.model_copy(update={"questions": None}), False)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["number"], row["text"]) for row in rows] == [
        (at, f"The answer is {at}. \ud83d") for at in range(3)
    ]
    assert len({row["key"] for row in rows}) == 1


def test_a_dry_prune_says_what_would_go_and_keeps_it(settings, capsys):
    small = settings.model_copy(update={"cache_max_mb": 0.0004, "dry_run": True})
    caching.prune(small, True)
    told = document(capsys)
    assert (told["draws"], told["dry_run"]) == (2, True)
    caching.show(settings, True)
    assert document(capsys)["draws"] == 3
    caching.prune(small.model_copy(update={"dry_run": False}), True)
    assert document(capsys) == {**told, "dry_run": False}
    caching.show(settings, True)
    assert document(capsys)["draws"] == 1


def test_draws_of_an_unfinished_run_go_only_when_told(settings, capsys):
    with Store.open(settings.work_dir / "store.db") as store:
        store.start_run("r", "answer", {})
        caching.keep_bounded(store, settings.model_copy(update={"cache_max_mb": 0.0001}))
        assert store.cache_bytes() > 0
    caching.prune(settings, True, keep_days=0, unfinished=True)
    assert document(capsys)["draws"] == 3


def test_a_store_that_outgrew_its_bound_is_cut_at_the_end_of_a_run(settings):
    with Store.open(settings.work_dir / "store.db") as store:
        assert caching.keep_bounded(store, settings).draws == 0
        assert caching.keep_bounded(store, settings.model_copy(update={"cache_max_mb": 0.0004})).draws == 2
