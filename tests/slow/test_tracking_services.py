"""MLflow and Weights & Biases take a run's figures; both without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SCRIPT = """
import sys
from pathlib import Path
from trimtab.cli.settings import Settings
from trimtab.cli.tracking import tracking
settings = Settings(track=sys.argv[1], work_dir=Path(sys.argv[2]), model="m", draws=3)
for steps in ([0, 1], [2]):
    with tracking(settings, "adapt-1") as tracker:
        for step in steps:
            tracker.log(step, {"held_out/majority@old": 0.5 + step})
"""


def tracked(service: str, folder: Path, **environment: str) -> None:
    """Logs a run that is taken up once, in a process of its own: both libraries leave threads behind."""
    pytest.importorskip(service)
    subprocess.run(
        [sys.executable, "-c", SCRIPT, service, str(folder)],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        timeout=120,
    )


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # of MLflow's own store
def test_mlflow_has_one_run_whose_figures_go_on_where_it_was_taken_up(tmp_path):
    address = f"sqlite:///{tmp_path}/mlflow.db"
    tracked("mlflow", tmp_path, MLFLOW_TRACKING_URI=address)
    from mlflow import MlflowClient

    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("trimtab")
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "held_out/majority_of_old")
    assert [(each.step, each.value) for each in history] == [(0, 0.5), (1, 1.5), (2, 2.5)]
    assert (run.data.params["model"], run.data.params["draws"]) == ("m", "3")
    assert run.info.status == "FINISHED"


def test_wandb_has_the_figures_offline(tmp_path):
    tracked("wandb", tmp_path, WANDB_MODE="offline", WANDB_SILENT="true")
    kept = [json.dumps(path.name) for path in (tmp_path / "wandb").rglob("*adapt-1.wandb")]
    assert len(kept) == 2, "offline, each process's part is a file of its own until it is synchronised"


def test_a_service_that_fails_is_named_with_how_to_go_on(tmp_path):
    pytest.importorskip("wandb")
    rows = [{"id": "a", "question": "1+1?", "answer": "2", "samples": [{"text": "The answer is 2."}]}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "trimtab", "evaluate", "--recorded", str(tmp_path / "rows.jsonl")]
    environment = {**os.environ, "WANDB_MODE": "online", "WANDB_API_KEY": "short", "WANDB_SILENT": "true"}
    done = subprocess.run(
        [*command, "--track", "wandb", "--work-dir", str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert "Weights & Biases: " in done.stderr
    assert "goes on without --track" in " ".join(done.stderr.split())
