"""Laws of settings: where a value comes from, and what is said when it does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from trimtab.cli.app import app
from trimtab.cli.settings import Settings, resolve
from trimtab.errors import ConfigError

OF_THE_COMMAND_LINE = {
    "bench",
    "config",
    "json",
    "help",
    "file",
    "files",
    "run",
    "keep_days",
    "unfinished",
    "source",
    "target",
    "place",
    "to",
    "yes",
    "port",
    "host",
    "problems",
    "problem_seed",
    "from_feedback",
    "promote",
    "share",
    "every",
    "form",
    "version",
    "name",
    "classifier",
    "workers",
}
WITH_WORDS_OF_THEIR_OWN = {
    "cache prune",
    "feedback export",
    "feedback import",
    "import-logs",
    "promote",
    "rollback",
    "runs",
    "versions",
}


def written(folder: Path, text: str) -> Path:
    path = folder / "trimtab.toml"
    path.write_text(text, "utf-8")
    return path


def commands() -> dict[str, Any]:
    found = dict(typer.main.get_command(app).commands)
    nested = found.pop("feedback").commands
    return {**found, **{f"feedback {name}": each for name, each in nested.items()}}


def test_a_flag_counts_over_the_environment_over_the_file_over_the_default(tmp_path):
    file = written(tmp_path, "draws = 2\nseed = 3\nwidth = 4\n")
    environ = {"TRIMTAB_DRAWS": "5", "TRIMTAB_SEED": "6"}
    found = resolve(file, {"draws": 7, "seed": None}, environ)
    assert (found.draws, found.seed, found.width) == (7, 6, 4)
    assert found.samples == Settings.model_fields["samples"].default


def test_a_flag_that_is_off_still_counts_over_the_environment():
    assert resolve(None, {"force": False}, {"TRIMTAB_FORCE": "true"}).force is False
    assert resolve(None, {"force": None}, {"TRIMTAB_FORCE": "true"}).force is True


def test_other_programs_environment_is_not_looked_at():
    assert resolve(None, {}, {"DRAWS": "3", "OTHER_SEED": "4"}) == Settings()


def test_the_environment_gives_text_for_every_kind_of_value():
    environ = {
        "TRIMTAB_LR": "0.001",
        "TRIMTAB_OUT": "somewhere",
        "TRIMTAB_DRY_RUN": "1",
        "TRIMTAB_RULE": "argmax",
    }
    found = resolve(None, {}, environ)
    assert (found.lr, found.out, found.dry_run, found.rule) == (0.001, Path("somewhere"), True, "argmax")


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("drawz", "did you mean 'draws'"),
        ("temprature", "did you mean 'temperature'"),
        ("base-url", "did you mean 'base_url'"),
        ("zzz", "known keys: abstain_below, adapter"),
    ],
)
def test_an_unknown_key_in_the_file_is_refused_with_what_may_be_meant(tmp_path, key, hint):
    file = written(tmp_path, f"{key} = 1\n")
    with pytest.raises(ConfigError) as raised:
        resolve(file, {}, {})
    assert f"{file}: unknown key '{key}'; {hint}" in str(raised.value)
    assert raised.value.exit_code == 2


def test_an_unknown_key_in_the_environment_is_refused_with_what_may_be_meant():
    with pytest.raises(ConfigError, match=r"environment: unknown key 'drawz'; did you mean 'draws'\?"):
        resolve(None, {}, {"TRIMTAB_DRAWZ": "1"})


@pytest.mark.parametrize(
    ("text", "key", "came"),
    [
        ('draws = "many"', "draws", "'many'"),
        ("draws = 0", "draws", "0"),
        ("draws = 2.5", "draws", "2.5"),
        ("loss = 'hinge'", "loss", "'hinge'"),
        ("questions = 3", "questions", "3"),
        ("lr = [1]", "lr", "[1]"),
        ("replay = 1.5", "replay", "1.5"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_source_and_key(tmp_path, text, key, came):
    file = written(tmp_path, text + "\n")
    with pytest.raises(ConfigError) as raised:
        resolve(file, {}, {})
    message = str(raised.value)
    assert message.startswith(f"{file}: {key}: ")
    assert message.endswith(f"but it is {came}")


def test_a_value_that_does_not_fit_is_laid_to_the_source_it_came_from(tmp_path):
    file = written(tmp_path, "draws = 4\n")
    with pytest.raises(ConfigError, match=r"^TRIMTAB_DRAWS: .*'four'$"):
        resolve(file, {}, {"TRIMTAB_DRAWS": "four"})
    with pytest.raises(ConfigError, match=r"^--rule: .*'best'$"):
        resolve(file, {"rule": "best"}, {"TRIMTAB_RULE": "argmax"})


def test_every_value_that_does_not_fit_is_reported_at_once(tmp_path):
    file = written(tmp_path, "draws = 0\nseed = -1\n")
    with pytest.raises(ConfigError) as raised:
        resolve(file, {"width": 0}, {})
    named = [line.partition(" should")[0] for line in str(raised.value).splitlines()]
    assert named == [f"{file}: draws:", "--width:", f"{file}: seed:"]


@pytest.mark.parametrize("text", ["draws = ", "[table]\ndraws = 1\n", b"\xff\xfe".decode("latin-1")])
def test_a_file_that_is_no_flat_toml_is_refused_by_name(tmp_path, text):
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        resolve(file, {}, {})
    assert str(raised.value).startswith(f"{file}: ")


def test_a_config_file_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"missing.toml: no such config file"):
        resolve(tmp_path / "missing.toml", {}, {})
    with pytest.raises(ConfigError, match=r"not readable as TOML"):
        resolve(tmp_path, {}, {})


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Settings().draws = 3  # type: ignore[misc]


@pytest.mark.parametrize("key", list(Settings.model_fields))
def test_every_setting_says_what_it_means(key):
    description = Settings.model_fields[key].description
    assert description
    assert description[0].isupper()
    assert description.endswith(".")


@pytest.mark.parametrize("name", list(commands()))
def test_every_flag_of_every_command_is_a_setting_that_its_help_explains(name):
    for parameter in commands()[name].params:
        if parameter.name in OF_THE_COMMAND_LINE:
            continue
        assert parameter.name in Settings.model_fields
        assert parameter.opts == [f"--{parameter.name.replace('_', '-')}"]
        assert parameter.default is None, "a flag that is not given must not hide the other sources"
        if name not in WITH_WORDS_OF_THEIR_OWN:
            assert parameter.help.startswith(Settings.model_fields[parameter.name].description)


def test_every_setting_is_a_flag_of_some_command():
    offered = {parameter.name for each in commands().values() for parameter in each.params}
    assert set(Settings.model_fields) <= offered


@pytest.mark.parametrize("name", list(commands()))
def test_every_command_says_what_it_does(name):
    assert commands()[name].help
