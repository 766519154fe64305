"""Laws of the recipes: every file is a config that resolves, every script is sound and names what exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from trimtab.cli.settings import Settings, resolve

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "experiments").glob("*.toml"))
SCRIPTS = sorted((ROOT / "runs").glob("*.sh"))
FLAG = re.compile(r"(?<= )--([a-z][a-z0-9-]+)")
NOT_SETTINGS = {
    *("silent", "fail", "port", "problems", "problem-seed"),  # curl and `trimtab blackbox`
    *("learn", "test", "judges", "seeds", "table", "on"),  # of scripts/
}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_experiment_is_a_config_without_unknown_keys(config: Path) -> None:
    settings = resolve(config, {}, {})
    assert (settings.questions is None) != (settings.recorded is None)
    assert settings.model is not None or settings.recorded is not None


@pytest.mark.parametrize(
    "config", [c for c in CONFIGS if c.stem.endswith("-small")], ids=lambda path: path.stem
)
def test_a_small_experiment_needs_neither_key_nor_hub(config: Path) -> None:
    settings = resolve(config, {}, {})
    assert settings.backbone == "offline"
    assert settings.model is None or (settings.base_url or "").startswith("http://127.0.0.1")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_is_sound_and_names_what_exists(script: Path) -> None:
    text = script.read_text("utf-8")
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert script.stat().st_mode & 0o100
    for named in re.findall(r"(?:runs|scripts)/\w+\.(?:sh|py)|experiments/[\w-]+\.toml", text):
        assert (ROOT / named).is_file(), named
    flags = {flag.replace("-", "_") for flag in FLAG.findall(text)} - {
        flag.replace("-", "_") for flag in NOT_SETTINGS
    }
    assert flags <= set(Settings.model_fields)


def test_the_page_of_experiments_names_every_script() -> None:
    page = (ROOT / "experiments" / "README.md").read_text("utf-8")
    assert {path.name for path in SCRIPTS} - {"experiment.sh"} <= set(re.findall(r"runs/(\w+\.sh)", page))
