"""Writes docs/cli.md from the commands and settings themselves, so that it cannot say anything else.

    python scripts/write_cli_docs.py        (make docs)

`reference()` is the text of the page; a test holds the file against it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import typer.main

from trimtab.cli.app import app
from trimtab.cli.settings import PREFIX, Settings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"

OPENING = """# The command line

Written by `make docs` from the commands themselves; do not edit.

Every flag of a command that runs something is also a key of its config file (`trimtab adapt trimtab.toml`)
and an environment variable: `--max-tokens 256`, `max_tokens = 256` and `TRIMTAB_MAX_TOKENS=256` say the same.
A flag counts over the environment, the environment over the file, the file over the default. An unknown key
is refused, with the nearest known one. With `--json`, stdout is one JSON document; progress and narration go
to stderr.

## Exit codes

| code | meaning |
|---|---|
| 0 | fine |
| 1 | the run failed: the endpoint cannot be reached, nothing to learn from, a disk is full |
| 2 | bad input or configuration: a row, a flag, a key, an adapter folder, an extra that is not installed |
| 3 | a target stated with `--require` was missed |
| 4 | a limit on dollars, tokens, calls or time is reached; what was paid for is kept and reported |
| 130 | stopped with Ctrl-C; the same command goes on from there |
"""

# What an example of a setting without a default may look like.
EXAMPLES: Mapping[str, Any] = {
    "certainty": 0.98,
    "ray_address": "10.0.0.1:6379",
    "task": "numeric",
    "questions": "questions.jsonl",
    "recorded": "recorded.jsonl",
    "dev": "dev.jsonl",
    "model": "gpt-4o-mini",
    "base_url": "http://127.0.0.1:8765/v1",
    "adapter": "adapters/mine",
    "lr": 1e-4,
    "threads": 1,
    "recompute": True,
    "judge_model": "gpt-4o",
    "api_version": "2024-10-21",
    "headers": "X-Team: nlp, X-Token: $TEAM_TOKEN",
    "capabilities": "temperature=no, n=yes",
    "call_deadline_s": 300.0,
    "question_deadline_s": 600.0,
    "requests_per_minute": 500.0,
    "tokens_per_minute": 200000.0,
    "max_usd": 5.0,
    "max_total_tokens": 10000000,
    "max_calls": 20000,
    "max_wall_s": 3600.0,
    "key_max_usd": 50.0,
    "key_max_tokens": 100000000,
    "key_max_calls": 200000,
    "usd_per_million_in": 0.15,
    "usd_per_million_out": 0.6,
    "log": "calls.jsonl",
    "trace": "otlp",
    "track": "mlflow, wandb",
    "against": "adapters/last-week, judge:gpt-4o",
    "budgets": "1,4,16",
    "require": "weighted_vote>=0.8, weighted_vote_minus_majority.low>0",
    "keep_days": 90.0,
    "out": "adapters/mine",
    "store": "postgresql://trimtab@db/trimtab",
}
CONFIG_HEADER = """# trimtab.toml: every key there is. Keys with a default stand with it; the others are
# commented out. A command reads the keys that are flags of its own."""


def reference() -> str:
    """The text of docs/cli.md."""
    sections = [
        OPENING,
        *(_section(name, command) for name, command in commands().items()),
        _config_section(),
    ]
    return "\n".join(sections)


def commands() -> dict[str, Any]:
    """Every command by what is typed after `trimtab`, groups opened up."""
    return dict(_opened("", typer.main.get_command(app)))


def _opened(prefix: str, group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _opened(f"{prefix}{name} ", command)
        else:
            yield f"{prefix}{name}", command


def _section(name: str, command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    usage = " ".join(["trimtab", name, *map(_argument, arguments), *(["[FLAGS]"] if options else [])])
    has_file = any(each.name == "config" for each in arguments)
    rows = [_row(option, has_file=has_file) for option in options]
    about = [f"{_argument(each)}: {each.help}\n" for each in arguments]
    header = ["| flag | values | key of the file | environment | |", "|---|---|---|---|---|"]
    return "\n".join([f"## {name}\n", command.help, "", f"    {usage}", "", *about, *header, *rows, ""])


def _argument(argument: Any) -> str:
    shown = argument.metavar or argument.name.upper()
    return str(shown) if argument.required else f"[{shown}]"


def _row(option: Any, *, has_file: bool) -> str:
    name = option.name
    help_text = _cell(option.help)
    flag = " / ".join(f"`{each}`" for each in (*option.opts, *option.secondary_opts))
    # What belongs to one command alone has short forms; a setting of the same name never does.
    if name not in Settings.model_fields or len(option.opts) > 1:
        default = "" if option.default in (None, False) else f" [default: {option.default}]"
        return f"| {flag} | | | | {help_text}{default} |"
    key = f"`{name}`" if has_file else ""
    return f"| {flag} | {_values(name)} | {key} | `{PREFIX}{name.upper()}` | {help_text} |"


def _values(name: str) -> str:
    """What a setting may be, read off its schema."""
    schema = _schema()[name]
    kinds = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    kind = kinds[0]
    if "enum" in kind:
        return ", ".join(kind["enum"])
    words = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}
    word = "path" if kind.get("format") == "path" else words[kind["type"]]
    return " ".join([word, *_bounds(kind)])


@cache
def _schema() -> dict[str, Any]:
    """Every setting's schema; working it out takes 10 ms, and the page asks several hundred times."""
    return dict(Settings.model_json_schema()["properties"])


def _bounds(kind: Mapping[str, Any]) -> Iterator[str]:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {kind[key]:g}" for key, sign in signs.items() if key in kind]
    if found:
        yield ", ".join(found)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _config_section() -> str:
    return "\n".join(["## trimtab.toml in full\n", "```toml", example_config(), "```", ""])


def example_config() -> str:
    """A config file with every key and what it means; what it sets are the defaults."""
    return "\n".join([CONFIG_HEADER, *(line for name in Settings.model_fields for line in _setting(name))])


def _setting(name: str) -> tuple[str, ...]:
    field = Settings.model_fields[name]
    given = _toml(EXAMPLES[name] if field.default is None else field.default)
    mark = "# " if field.default is None else ""
    return "", f"# {field.description}", f"{mark}{name} = {given}"


def _toml(value: Any) -> str:
    """The value in TOML, which for numbers, Booleans and plain strings is as in JSON."""
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)


if __name__ == "__main__":
    PAGE.write_text(reference(), "utf-8")
    print(f"wrote docs/{PAGE.name}")
