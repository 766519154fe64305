"""Laws of `trimtab promote`, `rollback` and `versions`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trimtab.cli.promoting import promote, rollback, versions
from trimtab.cli.settings import Settings, resolve
from trimtab.energy.manifest import MANIFEST_NAME, Manifest, manifest_text
from trimtab.errors import AdapterError, ConfigError, InputError
from trimtab.store import Store

pytestmark = pytest.mark.slow

TRIAL = {"trial": {"holdout": {"new": 0.75, "difference": {"value": 0.05}}}}


def folder(root: Path, number: int) -> Path:
    made = root / f"v{number}"
    made.mkdir()
    (made / MANIFEST_NAME).write_text(
        manifest_text(Manifest(task="numeric", backbone="tiny", loss="none", max_length=48)), "utf-8"
    )
    return made


@pytest.fixture
def settings(tmp_path) -> Settings:
    with Store.open(tmp_path / "store.db") as store:
        store.begin_versions("demo", folder(tmp_path, 1))
        for number in (2, 3):
            store.add_version("demo", folder(tmp_path, number), parent=1, metrics=TRIAL, reason="new")
    return resolve(None, {"work_dir": tmp_path}, {})


def said(capsys: Any) -> Any:
    return json.loads(capsys.readouterr().out)


def test_without_a_number_the_newest_that_waits_is_promoted(settings, capsys):
    promote(settings, "demo", True, share=1.0)
    assert (said(capsys)["version"], _statuses(settings, capsys)) == (3, ["retired", "candidate", "serving"])


def test_a_canary_comes_before_candidates_when_the_next_is_promoted(settings, capsys):
    promote(settings, "demo@v2", True, share=0.1)
    assert said(capsys)["share"] == 0.1
    promote(settings, "demo", False, share=1.0)
    capsys.readouterr()
    assert _statuses(settings, capsys) == ["retired", "serving", "candidate"]


def test_a_rollback_says_what_was_taken_back_and_what_serves(settings, capsys):
    promote(settings, "demo@v2", False, share=1.0)
    rollback(settings, "demo", True)
    found = said(capsys)
    assert (found["taken_back"]["version"], found["serving"]["version"]) == (2, 1)


def test_the_table_shows_what_each_trial_showed(settings, capsys):
    versions(settings, None, False)
    table = capsys.readouterr().out
    assert "demo@v3" in table
    assert "+5.0" in table


def test_a_damaged_version_is_not_promoted(settings, capsys, tmp_path):
    (tmp_path / "v2" / MANIFEST_NAME).unlink()
    with pytest.raises(AdapterError, match="not an adapter folder"):
        promote(settings, "demo@v2", False, share=1.0)
    assert _statuses(settings, capsys) == ["serving", "candidate", "candidate"]


@pytest.mark.parametrize(
    ("named", "said"), [("demo@2", "NAME@v2"), ("demo@v9", "no version 9"), ("nobody", "no version waits")]
)
def test_what_there_is_not_is_refused(settings, named, said):
    with pytest.raises((ConfigError, InputError), match=said):
        promote(settings, named, False, share=1.0)


def _statuses(settings: Settings, capsys: Any) -> list[str]:
    versions(settings, "demo", True)
    return [each["status"] for each in said(capsys)["versions"]]
