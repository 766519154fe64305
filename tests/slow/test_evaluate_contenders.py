"""Laws of `--against`: what each item is, what it is called, and what is refused before anything is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trimtab.cli.contending import Contender, Field, contenders
from trimtab.cli.evaluating import run
from trimtab.cli.progress import Bars, bars
from trimtab.cli.settings import Settings, resolve
from trimtab.errors import ConfigError, InputError
from trimtab.evaluate import compare
from trimtab.evaluate.results import results_text
from trimtab.llm import ScriptedLLM
from trimtab.stopping import DecisionRule
from trimtab.tasks import by_name
from trimtab.types import Candidate, Pool, Question, Usage, Verdict

pytestmark = pytest.mark.slow

RULE = DecisionRule("majority")


def row(number: int, *answers: int, **more: object) -> dict[str, object]:
    samples = [{"text": f"The answer is {answer}."} for answer in answers]
    return {
        "id": f"q{number}",
        "question": f"How much is {number}?",
        "answer": "7",
        "samples": samples,
        **more,
    }


def written(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), "utf-8")
    return path


def pool(number: int, *answers: int) -> Pool:
    candidates = tuple(
        Candidate(
            f"The answer is {answer}.",
            str(answer),
            verdict=Verdict.RIGHT if answer == 7 else Verdict.WRONG,
        )
        for answer in answers
    )
    return Pool(Question(f"q{number}", f"How much is {number}?", "7"), candidates, Usage())


def field(pools: list[Pool], bar: Bars, judge: ScriptedLLM | None = None) -> Field:
    return Field(
        settings=resolve(None, {}, {}),
        task=by_name("numeric"),
        rule=RULE,
        decided_by="majority",
        pools=pools,
        scorer=lambda others: others,
        draw=lambda name: [pool(0, 7, 7), pool(1, 8, 8, 7)],
        model=lambda name: judge or ScriptedLLM([]),
        bar=bar,
    )


def test_each_sort_is_told_by_what_it_is(tmp_path: Path) -> None:
    answers = written(tmp_path / "weak.jsonl", row(0, 7))
    folder = tmp_path / "last-week"
    folder.mkdir()
    results = folder / "results.jsonl"
    results.write_text(results_text(compare([pool(0, 7)], RULE)), "utf-8")
    adapter = tmp_path / "my adapter"
    adapter.mkdir()
    (adapter / "trimtab.json").write_text("{}")
    text = f"{adapter}, {answers}, old={results},{results}, model:org/m-1, judge:gpt-4o"
    assert contenders(text) == (
        Contender("my-adapter", "adapter", str(adapter)),
        Contender("weak", "recorded", str(answers)),
        Contender("old", "results", str(results)),
        Contender("last-week", "results", str(results)),
        Contender("org-m-1", "model", "org/m-1"),
        Contender("gpt-4o", "judge", "gpt-4o"),
    )
    assert contenders(None) == ()


def test_what_is_nothing_of_these_and_two_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no adapter folder"):
        contenders(str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match="two are called 'm'"):
        contenders("model:m, m=judge:x")


def test_another_black_box_decides_as_this_one_does_on_its_own_draws() -> None:
    with bars() as bar:
        entry = field([pool(0, 8), pool(1, 7)], bar).entry(Contender("m", "model", "m"))
    assert (entry.method, entry.outcomes) == ("majority@m", [1.0, 0.0])
    assert entry.spent is not None
    assert entry.spent.draws == 5


def test_recorded_answers_are_found_by_question_and_may_not_lack_one(tmp_path: Path) -> None:
    full = written(tmp_path / "weak.jsonl", row(1, 7), row(0, 8, 8, 7))
    short = written(tmp_path / "short.jsonl", row(1, 7))
    with bars() as bar:
        here = field([pool(0, 7), pool(1, 7)], bar)
        assert here.entry(Contender("weak", "recorded", str(full))).outcomes == [0.0, 1.0]
        with pytest.raises(InputError, match="lacks 1 of the questions"):
            here.entry(Contender("short", "recorded", str(short)))


def test_the_judges_pick_counts_and_where_it_has_none_the_first_draw() -> None:
    judge = ScriptedLLM(lambda prompt, number: f"BEST: {_label_of(prompt.messages[-1].content, '7')}")
    pools = [pool(0, 8, 7), pool(1, 8, 8), pool(2, 7), pool(3)]
    with bars() as bar:
        entry = field(pools, bar, judge).entry(Contender("j", "judge", "j"))
    assert entry.method == "ai_judge@j"
    assert entry.outcomes == [1.0, 0.0, 1.0, 0.0]
    assert judge.calls == 1  # where all draws are alike there is nothing to ask


def _label_of(asked: str, answer: str) -> str:
    before = asked.split(f"The answer is {answer}.")[0]
    return before.rsplit("\n[", 1)[1].split(" ")[0]


def test_seeds_of_recorded_answers_and_unreadable_budgets_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "rows.jsonl", row(0, 7, 8))
    given: dict[str, object] = {"recorded": file, "work_dir": tmp_path / "work"}
    for wrong in ({"seeds": 2}, {"budgets": "1,many"}, {"against": "nowhere"}):
        with pytest.raises(ConfigError):
            run(settings(**given, **wrong), as_json=True)


def test_an_evaluation_is_compared_with_an_earlier_one_and_by_category(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = written(tmp_path / "before.jsonl", row(0, 8, category="easy"), row(1, 7, category="hard"))
    after = written(tmp_path / "after.jsonl", row(0, 7, category="easy"), row(1, 7, category="hard"))
    given: dict[str, object] = {"work_dir": tmp_path / "work"}
    assert run(settings(**given, recorded=before, out=tmp_path / "old"), as_json=True) == 0
    capsys.readouterr()
    against = str(tmp_path / "old" / "results.jsonl")
    code = run(
        settings(**given, recorded=after, against=against, require="majority_minus_majority@old>=0.5"),
        as_json=True,
    )
    found = json.loads(capsys.readouterr().out)
    assert code == 0
    assert found["majority_minus_majority@old"]["value"] == 0.5
    assert found["categories"]["easy"]["accuracy"]["majority@old"]["value"] == 0.0
    missed = settings(**given, recorded=after, against=against, require="majority@old>0.5")
    assert run(missed, as_json=True) == 3


def test_a_damaged_results_file_ends_the_evaluation_before_it_says_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "rows.jsonl", row(0, 7))
    given: dict[str, object] = {"recorded": file, "work_dir": tmp_path / "work"}
    run(settings(**given, out=tmp_path / "old"), as_json=True)
    capsys.readouterr()
    results = tmp_path / "old" / "results.jsonl"
    results.write_text(results.read_text("utf-8").replace("1.0", "0.0"), "utf-8")
    with pytest.raises(InputError, match="is damaged") as raised:
        run(settings(**given, against=str(results)), as_json=True)
    assert raised.value.exit_code == 2
    assert capsys.readouterr().out == ""


def settings(**given: object) -> Settings:
    return resolve(None, {"task": "numeric", **given}, {})
