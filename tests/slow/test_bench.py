"""Laws of the benches: each part is a script that can be called, and what it lifts is what the run shows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def test_every_part_is_a_script_that_writes_where_it_is_told():
    from bench import PARTS

    for part in PARTS.values():
        written = (SCRIPTS / part.script).read_text("utf-8")
        flags = [*part.small, *part.whole, "--json", *["--repeats"] * part.repeats]
        flags += ["--recorded"] if part.recorded else []
        missing = [flag for flag in flags if flag.startswith("--") and f'"{flag}"' not in written]
        assert not missing, part.script


def test_recorded_sets_are_named_to_the_parts_that_read_them_alone():
    from bench import PARTS

    given = SimpleNamespace(small=True, repeats=2, recorded=Path("sets"))
    commands = {name: part.command(given, Path("out.json")) for name, part in PARTS.items()}
    assert {name for name, command in commands.items() if "--recorded" in command} == {
        *("scoring", "training", "samples")
    }
    assert "sets/gsm8k_weak/dev.jsonl" in commands["scoring"]


def test_a_figure_is_shown_with_the_spread_of_its_repeats(capsys):
    from bench import tell

    part = {"figures": {"speed": 2.0, "rows": {"sizes": [1, 10]}}}
    tell(
        {
            "machine": {"processor": "p", "cores": 2, "load_average": [0.0]},
            "parts": {"one": part, "two": None},
            **part["figures"],
            "spread": {"speed": [1.5, 2.5]},
            "seconds": {"one": 1.0},
            "failed": ["two"],
        }
    )
    said = capsys.readouterr().out
    assert "speed                    2   (1.5 to 2.5)" in said
    assert "sizes 1 10" in said
    assert "failed: two" in said


def test_a_part_that_fails_is_told_and_the_others_count(tmp_path, monkeypatch):
    import bench

    (tmp_path / "good.py").write_text(
        "import sys, json; open(sys.argv[2], 'w').write(json.dumps({'figures': {'speed': 3}}))"
    )
    (tmp_path / "bad.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(bench, "HERE", tmp_path)
    monkeypatch.setattr(bench, "PARTS", {"bad": bench.Part("bad.py"), "good": bench.Part("good.py")})
    found = bench.document(["bad", "good"], SimpleNamespace(small=False, repeats=1, recorded=None))
    assert (found["failed"], found["speed"]) == (["bad"], 3)


def test_simulated_draws_are_the_same_again_and_stopping_pays_for_fewer():
    from bench_samples import document, sets_of

    found = document(sets_of(None, 60))
    assert found == document(sets_of(None, 60))
    assert 0 < found["figures"]["samples_ratio"] < 1
    assert found["figures"]["samples_of"] == "simulated"


def test_the_rows_of_the_scaling_bench_are_rows_that_evaluate_reads(tmp_path):
    from bench_scaling import DRAWS, row
    from trimtab.data import load_recorded

    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row(number)) + "\n" for number in range(5)), "utf-8")
    assert [len(each.samples) for each in load_recorded(path)] == [DRAWS] * 5


def test_the_samples_part_writes_its_figures(tmp_path):
    out = tmp_path / "samples.json"
    command = [sys.executable, str(SCRIPTS / "bench_samples.py"), "--questions", "20", "--json", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    assert set(json.loads(out.read_text())["figures"]) == {
        *("samples_ratio", "samples_difference", "samples_of")
    }
