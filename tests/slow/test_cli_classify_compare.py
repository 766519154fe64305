"""`classify evaluate --compare` and `--route` on the offline encoder, with an LLM over HTTP."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from loopback import Body, Reply, Server, failed, said
from trimtab.cli.app import main
from weather import DESCRIPTIONS, TRAIN

pytestmark = pytest.mark.slow

PRICES = ("--usd-per-million-in", 100, "--usd-per-million-out", 1000)
TEST = {
    "weather": ["clouds and thunder tonight", "a warm and dry morning", "hail on the roof"],
    "food": ["too much pepper in the stew", "fresh bread with butter", "grilled fish"],
}
UNREADABLE = "hail on the roof"
BASELINES = {
    "crosstune",
    "label_similarity",
    "nearest_mean",
    "logistic_regression",
    "logistic_regression_layers",
    "dect",
}
LLM = {"llm_zero_shot", "llm_in_context"}


def labeller(body: Body) -> Reply:
    """An LLM that knows the labels, but for one text."""
    text = body["messages"][-1]["content"].rsplit("The text to label:\n", 1)[1].removesuffix("\nLabel:")
    label = next(name for name, texts in TEST.items() if text in texts)
    return said("who knows" if text == UNREADABLE else label.title())(body)


def environment() -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("TRIMTAB_")}
    inherited.pop("OPENAI_API_KEY", None)
    return {**inherited, "OMP_NUM_THREADS": "1"}


def trimtab(*args: object) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    command = [str(Path(sys.executable).parent / "trimtab"), *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env=environment()
    )


def here(*args: object) -> subprocess.CompletedProcess[str]:
    """The command in this process, where torch is loaded already."""
    command, out, err = ["trimtab", *map(str, args)], io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name in os.environ.keys() - environment().keys():
            patch.delenv(name)
        patch.setattr("sys.argv", command)
        with pytest.raises(SystemExit) as stop:
            main()
    return subprocess.CompletedProcess(command, int(stop.value.code or 0), out.getvalue(), err.getvalue())


def told(done: subprocess.CompletedProcess[str], code: int = 0) -> Any:
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def written(path: Path, texts: dict[str, list[str]]) -> Path:
    rows = [{"text": text, "label": label} for label, each in texts.items() for text in each]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    (folder / "labels.json").write_text(json.dumps(DESCRIPTIONS), "utf-8")
    train, test = written(folder / "train.jsonl", TRAIN), written(folder / "test.jsonl", TEST)
    assert test.is_file()
    place = ("--labels", folder / "labels.json", "--out", folder / "mine", "--work-dir", folder / "work")
    done = trimtab("classify", "fit", "--train", train, *place)
    assert done.returncode == 0, done.stderr
    return folder


def evaluating(folder: Path, work: Path, *more: object) -> list[object]:
    place = ("--model", folder / "mine", "--data", folder / "test.jsonl", "--work-dir", work)
    return ["classify", "evaluate", *place, *more]


def asking(folder: Path, server: Server, *more: object) -> list[object]:
    return ["--train", folder / "train.jsonl", "--llm", "one", "--base-url", server.url, *PRICES, *more]


def test_without_shots_and_without_an_llm_the_methods_that_need_them_are_named(fitted, tmp_path):
    report = told(here(*evaluating(fitted, tmp_path, "--compare", "--json")))
    compared = report["compared"]
    assert set(compared["methods"]) == {"crosstune", "label_similarity"}
    assert set(compared["methods"]) | set(compared["left_out"]) == BASELINES | LLM
    assert not (tmp_path / "store.db").exists()


def test_every_method_stands_side_by_side_on_the_same_rows_and_nothing_is_paid_twice(fitted, tmp_path, serve):
    server = serve(labeller)
    command = evaluating(fitted, tmp_path, "--compare", *asking(fitted, server), "--json")
    done = here(*command)
    report = told(done)
    methods = report["compared"]["methods"]
    assert set(methods) == BASELINES | LLM
    assert report["compared"]["left_out"] == {}
    assert methods["crosstune"]["accuracy"] == report["accuracy"]
    for name, each in methods.items():
        assert set(each["accuracy"]) == set(each["macro_f1"]) == {"value", "low", "high"}
        assert each["seconds"] >= 0
        if name != "crosstune":
            difference = each["accuracy"]["value"] - report["accuracy"]["value"]
            assert each["minus_crosstune"]["value"] == pytest.approx(difference)
    for name in LLM:
        assert methods[name]["accuracy"]["value"] == pytest.approx(5 / 6)
        assert methods[name]["llm"]["unreadable"] == 1
        assert methods[name]["usd"] == pytest.approx(6 * (10 * 100 + 5 * 1000) / 1e6)
    assert done.stderr.index("asking one: about 12 calls") < done.stderr.index("calls paid")
    assert len(server.bodies) == 12
    assert sum("Examples" in body["messages"][-1]["content"] for body in server.bodies) == 6
    assert {body["temperature"] for body in server.bodies} == {0.0}
    again = told(here(*command))
    assert len(server.bodies) == 12
    assert again["estimate"]["kept_replies"] == 12
    assert again["compared"]["methods"]["llm_in_context"]["accuracy"]["value"] == pytest.approx(5 / 6)


def test_the_table_names_every_method(fitted, tmp_path, serve):
    done = here(*evaluating(fitted, tmp_path, "--compare", *asking(fitted, serve(labeller))))
    assert done.returncode == 0, done.stderr
    assert all(each in done.stdout for each in ("CrossTune", "DecT-style head", "the LLM, in-context"))
    assert "features" not in done.stderr  # no bar where nobody watches


def test_a_dry_run_says_the_cost_and_asks_nothing(fitted, tmp_path, serve):
    server = serve(labeller)
    found = told(
        here(*evaluating(fitted, tmp_path, "--compare", *asking(fitted, server), "--dry-run", "--json"))
    )
    assert found["expected"]["calls"] == 12
    assert 0 < found["expected"]["usd"] < found["worst"]["usd"]
    assert server.bodies == []


def test_a_spent_budget_leaves_the_rest_standing_and_a_higher_one_goes_on(fitted, tmp_path, serve):
    server = serve(labeller)
    command = evaluating(fitted, tmp_path, "--compare", *asking(fitted, server), "--json")
    report = told(here(*command, "--max-calls", 4, "--concurrency", 2), 4)
    assert set(report["compared"]["methods"]) == BASELINES
    assert set(report["compared"]["left_out"]) == LLM
    assert len(server.bodies) == 4
    whole = told(here(*command, "--concurrency", 2))
    assert set(whole["compared"]["methods"]) == BASELINES | LLM
    assert len(server.bodies) == 12


def test_evaluation_says_what_routing_is_worth(fitted, tmp_path, serve):
    server = serve(labeller)
    command = evaluating(fitted, tmp_path, "--abstain-below", 1.0, "--route", *asking(fitted, server))
    found = told(here(*command, "--json"))["abstention"]
    assert (found["answered"], found["abstained"], found["llm"]["calls"]) == (0, 6, 6)
    assert found["accuracy_on_answered"] is None
    assert found["accuracy_after_routing"]["value"] == pytest.approx(5 / 6)
    alone = told(here(*evaluating(fitted, tmp_path, "--abstain-below", 0.01, "--json")))["abstention"]
    assert alone["coverage"]["value"] == 1
    assert "accuracy_after_routing" not in alone
    assert len(server.bodies) == 6


def test_routed_rows_say_whose_label_they_have_and_a_limit_keeps_what_there_is(fitted, tmp_path, serve):
    server, out = serve(labeller), tmp_path / "out.jsonl"
    command = [
        *("classify", "predict", "--model", fitted / "mine", "-i", fitted / "test.jsonl", "-o", out),
        *("--work-dir", tmp_path / "work", "--abstain-below", 1.0, "--route"),
        *asking(fitted, server, "--concurrency", 1, "--json"),
    ]
    cut = told(trimtab(*command, "--max-calls", 2), 4)
    assert (cut["llm"]["calls"], cut["llm"]["unasked"], cut["abstained"]) == (2, 4, 4)
    assert len(out.read_text("utf-8").splitlines()) == 6
    whole = told(trimtab(*command))
    rows = {row["text"]: row for row in map(json.loads, out.read_text("utf-8").splitlines())}
    assert whole["abstained"] == 1
    assert len(server.bodies) == 6
    assert rows[UNREADABLE]["label"] is None
    assert rows[UNREADABLE]["status"] == "unreadable"
    assert rows["grilled fish"]["label"] == "food"
    assert {row["by"] for row in rows.values()} == {"llm"}
    runs = told(here("runs", "--work-dir", tmp_path / "work", "--json"))
    assert [(run["kind"], run["calls"]) for run in runs] == [("classify", 6)]


def test_a_refused_key_ends_it_with_exit_code_two(fitted, tmp_path, serve):
    done = here(*evaluating(fitted, tmp_path, "--compare", *asking(fitted, serve(failed(401, "bad key")))))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--route", "--llm", "one"], "--abstain-below"),
        (["--route", "--abstain-below", "0.5"], "--llm"),
        (["--compare", "--llm", "one", "--base-url", "http://127.0.0.1:9/v1"], "price"),
    ],
)
def test_what_is_wanting_is_said_before_anything_is_asked(fitted, tmp_path, more, said):
    done = here(*evaluating(fitted, tmp_path, *more))
    assert done.returncode == 2, done.stderr
    assert said in done.stderr


TEXT, PAIR = {"text": "rain", "label": "weather"}, {"text": "rain", "text_pair": "sun", "label": "weather"}


@pytest.mark.parametrize(
    ("command", "rows", "shots", "wrong"),
    [
        ("predict", [TEXT, {"text": " "}], None, "rows.jsonl:2: text: is empty"),
        ("predict", [PAIR], None, "reads single texts"),
        ("evaluate", [TEXT, {"text": "sun"}], None, "rows.jsonl:2: label: missing"),
        ("evaluate", [{"text": "a goal", "label": "sport"}], None, "'sport' is not among the labels"),
        ("evaluate", [TEXT], [{"text": "a goal", "label": "sport"}], "'sport' is not among the labels"),
        ("evaluate", [TEXT], [PAIR], "one holds pairs"),
    ],
)
def test_bad_rows_are_named_with_exit_code_two_and_nothing_is_written(
    fitted, tmp_path, monkeypatch, capsys, command, rows, shots, wrong
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIMTAB_WORK_DIR", str(fitted / "work"))
    line = ["trimtab", "classify", command, "--model", str(fitted / "mine")]
    line += ["-i", "rows.jsonl", "-o", "out.jsonl"] if command == "predict" else ["--data", "rows.jsonl"]
    for name, given in (("rows.jsonl", rows), ("shots.jsonl", shots)):
        if given:
            Path(name).write_text("".join(json.dumps(row) + "\n" for row in given), "utf-8")
    monkeypatch.setattr("sys.argv", [*line, *(["--train", "shots.jsonl"] if shots else [])])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert wrong in capsys.readouterr().err
    assert not Path("out.jsonl").exists()
