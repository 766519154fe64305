"""The documentation says what is so: names exist, defaults hold, examples run, the reference is current."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import trimtab
from trimtab.cli.settings import Settings, resolve
from trimtab.data import load_feedback, load_questions, load_recorded
from trimtab.types import Answer

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
PAPERS = (ROOT / "docs" / "papers.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")

NAMED = re.compile(r"`((?:\w+/)*\w+\.py)::([\w.]+)`")
DEFAULT = re.compile(r"`(\w+)\.(\w+) = ([^`]+)`")
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# a home, a temporary folder, a drive, a mount: places of one machine
MACHINE_PATH = re.compile(r"(?<![\w./])(?:/(?:home|root|Users|tmp|work|mnt|var)/|[A-Z]:\\)")
DEFAULTS_IN = {
    "AdaptSettings": "adapt/rounds.py",
    "AskSettings": "crosstune/asking.py",
    "AugmentSettings": "crosstune/augmentation.py",
    "BeamSettings": "drawing.py",
    "DrawSettings": "adapt/sampling.py",
    "FitSettings": "energy/fitting.py",
}


def fences(text: str, language: str) -> list[tuple[str, str]]:
    """(marker, content) of each fenced block in this language."""
    return [(marker.strip(), content) for found, marker, content in FENCE.findall(text) if found == language]


def place(path: str) -> Path:
    """Tests by their path below tests/, functions by theirs below src/trimtab/."""
    return ROOT / "tests" / path if path.startswith(("unit/", "slow/")) else ROOT / "src" / "trimtab" / path


@cache
def parsed(path: Path) -> ast.Module:
    """The module, read and not imported: so no torch is needed here."""
    return ast.parse(path.read_text("utf-8"))


def definitions(path: Path) -> set[str]:
    """Functions and classes of a module, and the methods of its classes as Class.method."""
    found = set()
    for node in parsed(path).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = (n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
            found |= {f"{node.name}.{each.name}" for each in inner}
    return found


def stated_default(path: Path, class_name: str, field: str) -> object:
    """The default written beside a field of a dataclass."""
    (owner,) = (n for n in parsed(path).body if isinstance(n, ast.ClassDef) and n.name == class_name)
    fields = {n.target.id: n.value for n in owner.body if isinstance(n, ast.AnnAssign)}
    return ast.literal_eval(fields[field])


@cache
def writer() -> ModuleType:
    """scripts/write_cli_docs.py as a module."""
    spec = importlib.util.spec_from_file_location("write_cli_docs", ROOT / "scripts" / "write_cli_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --------------------------------------------------------------------------- docs/papers.md


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMED.findall(PAPERS))))
def test_every_function_and_test_named_with_a_paper_exists(path, name):
    assert name in definitions(place(path))


def test_every_row_on_a_paper_names_a_function_and_a_test():
    rows = [line for line in PAPERS.splitlines() if line.startswith("| ") and "|---" not in line]
    rows = [line for line in rows if not line.startswith(("| paper |", "| method |"))]
    assert len(rows) > 25
    for row in rows:
        paths = [path for path, _ in NAMED.findall(row)]
        assert any(path.startswith(("unit/", "slow/")) for path in paths), row
        assert any(not path.startswith(("unit/", "slow/")) for path in paths), row


@pytest.mark.parametrize(("owner", "field", "value"), sorted(set(DEFAULT.findall(PAPERS))))
def test_every_default_stated_with_a_paper_is_the_one_in_the_code(owner, field, value):
    if owner == "Settings":
        assert Settings.model_fields[field].default == ast.literal_eval(value)
    else:
        stated = stated_default(place(DEFAULTS_IN[owner]), owner, field)
        assert stated == ast.literal_eval(value)


# --------------------------------------------------------------------------- docs/cli.md


def test_the_command_line_reference_is_what_the_commands_say_now():
    assert writer().PAGE.read_text("utf-8") == writer().reference(), "docs/cli.md is old: run `make docs`"


def test_every_command_and_every_flag_stands_in_the_reference():
    page = writer().PAGE.read_text("utf-8")
    sections = {part.splitlines()[0]: part for part in page.split("\n## ")}
    for name, command in writer().commands().items():
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert all(f"`{flag}`" in sections[name] for flag in parameter.opts), (name, parameter.opts)


def test_the_full_example_config_holds_every_setting_and_is_the_defaults(tmp_path):
    example = writer().example_config()
    stated = {re.match(r"(?:# )?(\w+) = ", line)[1] for line in example.splitlines() if " = " in line}
    assert stated == set(Settings.model_fields)
    file = tmp_path / "trimtab.toml"
    file.write_text(example, "utf-8")
    assert resolve(file, {}, {}) == Settings()


def test_the_commented_out_examples_are_values_that_are_taken(tmp_path):
    file = tmp_path / "trimtab.toml"
    file.write_text(re.sub(r"^# (?=\w+ = )", "", writer().example_config(), flags=re.MULTILINE), "utf-8")
    assert resolve(file, {}, {}).model_fields_set == set(Settings.model_fields)


# --------------------------------------------------------------------------- README.md, docs/data.md


@pytest.mark.parametrize(("marker", "block"), fences(README, "python"))
def test_every_python_block_of_the_readme_runs(marker, block):
    """One marked `needs=…` is compiled only, and its public names are looked up."""
    code = compile(block, "README.md", "exec")
    if marker.startswith("needs="):
        assert set(re.findall(r"trimtab\.(\w+)\(", block)) <= set(trimtab.__all__)
        return
    exec(code, {"__name__": "readme"})


def test_the_readme_shows_code_that_runs_offline():
    assert any(not marker for marker, _ in fences(README, "python"))


def test_the_readmes_commands_and_flags_exist():
    commands = writer().commands()
    shown = re.findall(r"trimtab (adapt|evaluate|answer|blackbox|doctor|demo)((?: [^`\n#]*)?)", README)
    assert {name for name, _ in shown} >= {"adapt", "evaluate", "answer", "blackbox"}
    for name, rest in shown:
        flags = {flag for parameter in commands[name].params for flag in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= flags, (name, rest)


def test_the_lead_finds_the_place_of_the_demo_figures():
    assert README.count("<!-- demo figures -->") == README.count("<!-- /demo figures -->") == 1


@pytest.mark.parametrize("page", ["README.md", "docs/data.md"])
def test_every_row_shown_is_one_that_is_read(page, tmp_path):
    for _, block in fences((ROOT / page).read_text("utf-8"), "json"):
        file = tmp_path / "rows.jsonl"
        file.write_text(block, "utf-8")
        row = json.loads(block.splitlines()[0])
        if "status" in row:
            assert list(row) == [each.name for each in dataclasses.fields(Answer)]
        elif "samples" in row or "messages" in row:
            assert load_recorded(file)
        elif "verdict" in row:
            assert len(load_feedback(file)) == len(block.splitlines())
        else:
            assert load_questions(file, need_answer=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_a_path_of_one_machine(page):
    assert not MACHINE_PATH.search(page.read_text("utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_that_a_page_names_is_there(page):
    named = re.findall(r"\b(?:docs|src/trimtab)/[\w/-]+\.(?:md|py)\b", page.read_text("utf-8"))
    missing = [each for each in named if not (ROOT / each).is_file() and each != "docs/lab.md"]
    assert not missing


def test_no_two_test_files_share_a_name_so_that_both_rings_run_in_one_call():
    names = [path.name for path in (ROOT / "tests").glob("*/test_*.py")]
    assert sorted(set(names)) == sorted(names)
