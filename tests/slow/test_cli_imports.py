"""Laws of starting: quick, and nothing heavy is loaded before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

import trimtab

pytestmark = pytest.mark.slow

HEAVY = {
    "torch",
    "transformers",
    "sqlalchemy",
    "openai",
    "alembic",
    "scipy",
    "matplotlib",
    "fastapi",
    "numpy",
}
LIST = "import sys; print(' '.join(sys.modules))"


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{LIST}"], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.splitlines()[-1].split())


def test_importing_trimtab_loads_nothing_heavy():
    assert not loaded_by("import trimtab") & HEAVY


@pytest.mark.parametrize(
    ("rooms", "unloaded"),
    [
        ("trimtab.llm, trimtab.judge", {"openai", "torch"}),
        ("trimtab.evaluate", {"matplotlib", "scipy", "torch"}),
        ("trimtab.cli.answering, trimtab.cli.evaluating", {"ray"}),
    ],
)
def test_a_room_does_not_load_what_only_some_of_its_work_needs(rooms, unloaded):
    assert not loaded_by(f"import {rooms}") & unloaded


def test_help_loads_nothing_heavy():
    code = "import sys\nsys.argv = ['trimtab', '--help']\nfrom trimtab.cli.app import main\n"
    assert not loaded_by(code + "try:\n    main()\nexcept SystemExit:\n    pass") & HEAVY


def test_the_help_of_a_command_loads_nothing_heavy():
    code = "import sys\nsys.argv = ['trimtab', 'adapt', '--help']\nfrom trimtab.cli.app import main\n"
    assert not loaded_by(code + "try:\n    main()\nexcept SystemExit:\n    pass") & HEAVY


@pytest.mark.parametrize(
    "name", ["AIJudge", "ChatLLM", "GroundTruth", "Question", "Sampling", "Store", "tasks"]
)
def test_a_public_name_is_loaded_on_first_use(name):
    assert getattr(trimtab, name) is not None
    assert name in trimtab.__all__


def test_a_name_that_is_not_public_is_no_attribute():
    with pytest.raises(AttributeError, match="nonsense"):
        _ = trimtab.nonsense
