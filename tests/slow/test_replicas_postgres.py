"""Serving and adapting processes on one PostgreSQL store while one after another is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def test_nothing_is_lost_or_doubled_however_often_a_process_is_killed(
    postgres, tiny_backbone, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from lab_replicas import run

    found = run(postgres, tmp_path, seconds=10, every=2.5, servers=2, adapters=1, backbone=str(tiny_backbone))
    assert found["kills"] >= 2
    assert set(found["exit_codes"]) == {0}
    assert min(found["answered"], found["feedback"], found["adaptations_compared"]) > 0
    names = ("answers", "feedback", "adaptations")
    faults = {
        key: count
        for key, count in found.items()
        if key.startswith(names) and key.endswith(("lost", "changed", "doubled", "otherwise", "unfinished"))
    }
    assert set(faults.values()) == {0}, faults
    assert found["deadlocks"] == 0
