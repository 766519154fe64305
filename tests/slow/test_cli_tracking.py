"""Laws of tracked figures: what TensorBoard reads of our files, what is logged, and what is never sent."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from trimtab.adapt.held_out import HeldOut
from trimtab.adapt.rounds import Round
from trimtab.cli.event_file import EventFile, crc32c
from trimtab.cli.settings import Settings
from trimtab.cli.tracking import (
    TENSORBOARD,
    comparison_figures,
    round_figures,
    services_of,
    shown_settings,
    tracking,
)
from trimtab.errors import ConfigError, MissingExtraError
from trimtab.evaluate import compare
from trimtab.stopping import DecisionRule
from trimtab.types import Candidate, Pool, Question, Usage, Verdict

pytestmark = pytest.mark.slow

FIGURES = {"held_out/chosen": 0.75, "fit/loss": -1.5, "größe": 3.0}


def read(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """What TensorBoard itself reads, step by step."""
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    (path,) = folder.glob("events.out.tfevents.*")
    events = list(loading.LegacyEventFileLoader(str(path)).Load())
    assert events[0].file_version == "brain.Event:2"
    return [(each.step, {v.tag: v.simple_value for v in each.summary.value}) for each in events[1:]]


def pools(*right: bool) -> list[Pool]:
    verdicts = [Verdict.RIGHT if each else Verdict.WRONG for each in right]
    draws = [tuple(Candidate(text, text, verdict=each) for text in "ab") for each in verdicts]
    return [Pool(Question(str(at), f"{at}?"), each) for at, each in enumerate(draws)]


def a_round(loss: float | None) -> Round:
    held_out = HeldOut(10, {"chosen": 0.7, "single": 0.5}, DecisionRule("majority"), None)
    return Round(1, 8, 1, 64, 20, 44, 8, loss, held_out, Usage(), 3.5, Path())


def test_tensorboard_reads_what_is_written(tmp_path):
    with EventFile(tmp_path) as file:
        file.log(0, FIGURES)
        file.log(300, {"fit/loss": 2.0})
        assert read(tmp_path) == [(0, FIGURES), (300, {"fit/loss": 2.0})], "before the file is closed"


def test_an_earlier_try_of_a_run_is_written_over(tmp_path):
    (tmp_path / "events.out.tfevents.1.host").write_bytes(b"old")
    (tmp_path / "mine.txt").write_text("kept")
    with EventFile(tmp_path):
        assert len(list(tmp_path.glob("events.*"))) == 1
    assert (tmp_path / "mine.txt").exists()


def test_the_checksum_is_the_published_one():
    assert crc32c(b"123456789") == 0xE3069283, "the check value of CRC-32C"
    assert crc32c(bytes(32)) == 0x8A9136AA, "RFC 3720, B.4: 32 bytes of zeros"


def test_every_run_leaves_a_file_in_the_work_directory(tmp_path):
    with tracking(Settings(work_dir=tmp_path), "adapt-1") as tracker:
        tracker.log(2, {"a": 1.0})
    assert read(tmp_path / TENSORBOARD / "adapt-1") == [(2, {"a": 1.0})]


def test_a_rounds_figures_are_its_loss_its_accuracy_and_what_was_paid():
    figures = round_figures(a_round(0.3), Usage(100, 50, 4, 0.02))
    assert figures["fit/loss"] == 0.3
    assert figures["held_out/chosen"] == 0.7
    assert figures["round/failed"] == 1
    assert (figures["spend/usd"], figures["spend/calls"]) == (0.02, 4)


def test_what_is_not_known_is_not_logged():
    figures = round_figures(a_round(None), Usage(100, 50, 4, None))
    assert not {"fit/loss", "spend/usd"} & figures.keys()


def test_an_evaluations_figures_are_those_of_its_comparison_by_rising_steps():
    comparison = compare(pools(True, False, True), DecisionRule("majority"), budgets=[1, 2])
    steps = list(comparison_figures(comparison))
    assert [step for step, _ in steps] == [0, 1, 2]
    assert steps[0][1]["accuracy/majority"] == comparison.accuracy["majority"].value
    assert steps[2][1]["accuracy_by_draws/majority"] == comparison.accuracy["majority"].value


def test_no_secret_stands_among_the_settings_that_are_sent():
    settings = Settings(
        base_url="http://me:secret@box:1/v1?key=secret", headers="X: secret", model="m", api_key_env="SECRET"
    )
    shown = shown_settings(settings)
    assert "secret" not in str(shown).lower()
    assert shown["base_url"] == "http://box:1/v1"


def test_an_unknown_service_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="track: 'comet' is unknown; there are: mlflow, wandb"):
        services_of(Settings(track="mlflow, comet" if importlib.util.find_spec("mlflow") else "comet"))


def test_a_service_that_is_not_installed_names_its_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install 'trimtab\\[wandb\\]'"):
        services_of(Settings(track="wandb"))


def test_without_a_service_none_is_asked_for():
    assert services_of(Settings()) == ()
    assert services_of(Settings(track=" ")) == ()
