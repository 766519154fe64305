"""Every setting: one flat, frozen value; each field is a flag, a key of trimtab.toml and TRIMTAB_<KEY>.

Order of precedence: flag, environment, config file, default. This is the only place that reads the
environment. What a setting means stands in its description, which is also its `--help` text.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trimtab.errors import ConfigError

PREFIX = "TRIMTAB_"

Loss = Literal["ranking_nce", "pooled", "bce", "bradley_terry", "mlm"]
Provider = Literal["openai", "azure", "litellm"]
Rule = Literal["auto", "argmax", "majority", "weighted_vote", "importance_vote"]


def _field(default: Any, description: str, **limits: Any) -> Any:
    return Field(default, description=description, **limits)


class Settings(BaseModel):
    """All settings of all commands; a command reads the ones it names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # the task and its data
    task: str | None = _field(
        None,
        "What a question means: numeric, boolean, choice, date, exact, free_text, "
        "gsm8k, strategyqa, truthfulqa, scienceqa, house; inferred from the answers if left out.",
    )
    questions: Path | None = _field(None, "JSONL of questions to adapt on or evaluate with.")
    recorded: Path | None = _field(
        None, "JSONL of questions with recorded answers (or chat logs); no call is made for them."
    )
    dev: Path | None = _field(
        None, "JSONL for early stopping, calibration and the decision rule; else a fifth of the data."
    )
    # the black box
    model: str | None = _field(None, "Name of the black box, as its endpoint knows it.")
    base_url: str | None = _field(
        None, "OpenAI-compatible endpoint, e.g. http://127.0.0.1:8000/v1; OpenAI's own if left out."
    )
    api_key_env: str = _field("OPENAI_API_KEY", "Name of the environment variable that holds the key.")
    temperature: float | None = _field(1.0, "Sampling temperature.", ge=0, le=2)
    max_tokens: int = _field(512, "Longest answer, in tokens.", ge=1)
    provider: Provider = _field(
        "openai", "How the black box is called: openai (any compatible endpoint), azure, litellm."
    )
    api_version: str | None = _field(None, "Azure's API version, e.g. 2024-10-21.")
    headers: str | None = _field(
        None, "Extra headers: 'Name: value, Name: $VARIABLE'; secrets only as names of environment variables."
    )
    capabilities: str | None = _field(
        None,
        "What the model takes, where we know it wrongly: 'temperature=no, n=no, stop=yes, seed=no, "
        "system=no, prefill=no, length=max_completion_tokens'.",
    )
    timeout_s: float = _field(60.0, "Longest wait for one HTTP request, in seconds.", gt=0)
    call_deadline_s: float | None = _field(
        None, "Longest time for one call with all its attempts, in seconds.", gt=0
    )
    question_deadline_s: float | None = _field(None, "Longest time for one question, in seconds.", gt=0)
    concurrency: int = _field(
        200,
        "Most calls in flight at once; begins at 20 and adapts to what the endpoint admits.",
        ge=1,
        le=10_000,
    )
    requests_per_minute: float | None = _field(None, "Ceiling on requests a minute.", gt=0)
    tokens_per_minute: float | None = _field(None, "Ceiling on tokens a minute.", gt=0)
    # money
    max_usd: float | None = _field(None, "Most dollars this run may spend.", ge=0)
    max_total_tokens: int | None = _field(None, "Most tokens this run may use, in and out.", ge=0)
    max_calls: int | None = _field(None, "Most calls this run may pay for.", ge=0)
    max_wall_s: float | None = _field(None, "Longest time this run may go on asking, in seconds.", gt=0)
    key_max_usd: float | None = _field(
        None, "Most dollars that all runs in this work directory may spend with this key.", ge=0
    )
    key_max_tokens: int | None = _field(None, "Most tokens that all runs may use with this key.", ge=0)
    key_max_calls: int | None = _field(None, "Most calls that all runs may pay for with this key.", ge=0)
    usd_per_million_in: float | None = _field(
        None, "Price of a million input tokens, where ours is unknown or wrong.", ge=0
    )
    usd_per_million_out: float | None = _field(None, "Price of a million output tokens.", ge=0)
    unpriced: bool = _field(False, "Go on without a known price; limits in dollars are refused then.")
    cache: bool = _field(True, "Use draws that were paid for before; --no-cache pays for new ones.")
    cache_max_mb: float = _field(2000.0, "The cache drops its oldest finished draws above this size.", gt=0)
    batch: bool = _field(False, "Draw complete answers through the provider's batch API, at batch prices.")
    batch_poll_s: float = _field(30.0, "How often a batch is asked after, in seconds.", gt=0)
    for_command: Literal["adapt", "answer", "evaluate"] = _field("adapt", "What the estimate is of.")
    probe: int = _field(
        0, "Pay for so many questions to measure their length; they are kept for the run itself.", ge=0
    )
    log: Path | None = _field(None, "A JSONL file that gets one line a call.")
    trace: str | None = _field(
        None, "Name of an OpenTelemetry exporter, e.g. otlp: one span a call, by the gen_ai conventions."
    )
    track: str | None = _field(
        None,
        "Where the run's figures go beside TensorBoard's files in the work directory: mlflow, wandb, or both "
        "with a comma between.",
    )
    trace_content: bool = _field(False, "Prompts and answers in the spans too.")
    # the energy model
    adapter: Path | None = _field(None, "Adapter folder.")
    backbone: str = _field(
        "microsoft/deberta-v3-base",
        "Encoder or causal language model: a Hugging Face name, a folder, or 'offline' (MiniLM).",
    )
    loss: Loss = _field("ranking_nce", "Training loss.")
    lr: float | None = _field(
        None,
        "Learning rate; 1e-4 for encoders of under 50 million weights, 2e-5 for others if left out.",
        gt=0,
        le=1,
    )
    epochs: int = _field(3, "Passes over the contrasts in each fit.", ge=1, le=100)
    max_length: int = _field(
        256, "Longest question plus answer the encoder reads, in tokens.", ge=16, le=8192
    )
    max_positives: int = _field(2, "Positives of one question used in one pass.", ge=1)
    max_negatives: int = _field(6, "Negatives of one question used in one pass.", ge=1)
    frozen_layers: int = _field(0, "Lower encoder layers left as they are.", ge=0)
    recompute: bool | None = _field(
        None,
        "Train in less memory: compute activations twice, slower by a third; if left out, where they would "
        "not fit in half of what is free.",
    )
    training_workers: int = _field(
        1, "Processes that train together, each on a GPU of its own or on a part of --threads.", ge=1, le=1024
    )
    bf16: bool = _field(
        False,
        "Score in bfloat16: about twice as fast where the hardware has it, equal to two or three digits.",
    )
    threads: int | None = _field(None, "Threads that compute; the quickest number if left out.", ge=1)
    prefix_cache: int = _field(
        0,
        "Mebibytes in which a causal backbone keeps what it made of questions and chains so far: scoring "
        "then runs only what is new in a text. 0: none. Encoders have no use for it.",
        ge=0,
    )
    # online adaptation
    rounds: int = _field(
        2, "Rounds of online adaptation after the warm start; none with recorded answers alone.", ge=0, le=100
    )
    draws: int = _field(8, "Complete answers drawn for a question in a round.", ge=1, le=256)
    replay: float = _field(
        0.5, "Share of earlier rounds' contrasts trained on again; 0 is the paper.", ge=0, le=1
    )
    trim: float = _field(
        0.1, "Most lessons of feedback left out, as a share: those the others contradict most.", ge=0, le=0.5
    )
    source_share: float = _field(
        0.25,
        "Most that one source may give of the feedback that counts; an even part where that is more.",
        gt=0,
        le=1,
    )
    margin: float = _field(
        0.02,
        "The loss, as a share of held-out questions, that a new version's trial must rule out.",
        ge=0,
        le=1,
    )
    judge: Literal["truth", "ai", "human", "combined"] = _field(
        "truth", "Who says which answers are positives."
    )
    judge_model: str | None = _field(
        None, "The LLM that judges, at the same endpoint; the black box itself if left out."
    )
    # search and decision
    search: Literal["single", "beam"] = _field(
        "single", "Draw complete answers, or search sentence by sentence."
    )
    width: int = _field(3, "Beams kept at each step (k).", ge=1, le=64)
    samples: int = _field(3, "Continuations drawn for each beam at each step (n).", ge=1, le=64)
    max_steps: int = _field(12, "Longest chain, in steps (L).", ge=1, le=100)
    rule: Rule = _field(
        "auto", "How candidates become one answer; auto: weighted vote where answers compare, else argmax."
    )
    stop_when_sure: bool = _field(
        False, "Draw wave by wave, and no more once the leading answer will most likely stay ahead."
    )
    certainty: float | None = _field(
        None,
        "How likely that must be; left out: as chosen with the adapter on held-out questions.",
        gt=0,
        le=1,
    )
    wave: int = _field(2, "Answers drawn at once when stopping when sure; 1 spares most.", ge=1, le=64)
    # what an evaluation compares
    against: str | None = _field(
        None,
        "What else to compare, commas between several: an adapter folder, recorded answers of another black "
        "box (JSONL), an earlier evaluation's results.jsonl, model:NAME (another black box at the same "
        "endpoint) or judge:NAME (best of n as that model judges). NAME=… names it in the report.",
    )
    budgets: str | None = _field(
        None, "Numbers of draws to compare at, e.g. '1,4,16'; 1, 2, 4 and so on if left out."
    )
    seeds: int = _field(1, "Draw so many times, with seeds from --seed on.", ge=1, le=100)
    abstain_below: float = _field(0.0, "Abstain when the answer's confidence is below this.", ge=0, le=1)
    require: str | None = _field(None, "A target, e.g. 'weighted_vote>=0.8'; exit code 3 when it is missed.")
    # the server
    in_flight: int = _field(256, "Requests that one worker of the server answers at once.", ge=1)
    waiting: int = _field(256, "Requests that may wait there for a place; further ones get a 429.", ge=0)
    max_body_kb: int = _field(1024, "Longest body of a request, in kilobytes.", ge=1, le=1_000_000)
    max_messages: int = _field(256, "Most messages, or texts to score, in one request.", ge=1)
    max_n: int = _field(16, "Most answers that one request may ask for.", ge=1, le=256)
    max_answer_tokens: int = _field(4096, "Most tokens of an answer that a request may ask for.", ge=1)
    keep_days: float | None = _field(
        None,
        "Days after which the words of served answers and of feedback are deleted; counts stay. "
        "Kept for good if left out.",
        gt=0,
    )
    grace_s: float = _field(30.0, "How long requests under way may go on as the server ends, in s.", gt=0)
    # a Ray cluster
    engine: Literal["local", "ray"] = _field("local", "Where the work is done: in this process, or on Ray.")
    ray_address: str | None = _field(
        None, "The cluster's head, host:port, or auto; a cluster on this machine is started if left out."
    )
    ray_samplers: int = _field(2, "Actors that ask the black box, under one limiter and one budget.", ge=1)
    ray_scorers: int = _field(1, "Actors that score or classify, at least.", ge=1)
    ray_scorers_most: int = _field(4, "As many at most, while more waits than they can take.", ge=1)
    ray_cpus: float = _field(1.0, "CPUs that each of these needs.", ge=0)
    ray_gpus: float = _field(0.0, "GPUs that each of these needs; a part of one is possible.", ge=0)
    # the run
    seed: int = _field(0, "Seed of every random choice.", ge=0)
    out: Path | None = _field(None, "Where the result goes.")
    work_dir: Path = _field(Path(".trimtab"), "Store and checkpoints; what makes a killed run resume.")
    store: str | None = _field(
        None, "The store: a file, or a postgresql:// URL; store.db in the work directory if left out."
    )
    force: bool = _field(False, "Start over even if this very run is finished or half done.")
    dry_run: bool = _field(False, "Say what would be asked of the black box, and stop before the first call.")


def _file_settings(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not readable as TOML: {error}") from None


def _environment_settings(environ: Mapping[str, str]) -> dict[str, str]:
    return {key[len(PREFIX) :].lower(): value for key, value in environ.items() if key.startswith(PREFIX)}


def _refuse_unknown(source: str, given: Mapping[str, Any]) -> None:
    known = list(Settings.model_fields)
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(sorted(known))}"
            raise ConfigError(f"{source}: unknown key '{key}'; {hint}")


def resolve(
    config: Path | None, flags: Mapping[str, Any], environ: Mapping[str, str] | None = None
) -> Settings:
    """The settings of one run: flag over environment over file over default.

    Raises:
        ConfigError: an unknown key, or a value that does not fit; names the source and the key.
    """
    layers = [
        (str(config), _file_settings(config)),
        ("environment", _environment_settings(os.environ if environ is None else environ)),
        ("flags", {key: value for key, value in flags.items() if value is not None}),
    ]
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for source, given in layers:
        _refuse_unknown(source, given)
        merged.update(given)
        origin.update(dict.fromkeys(given, source))
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(e, origin) for e in error.errors())) from None


def _explain(error: Any, origin: Mapping[str, str]) -> str:
    key = str(error["loc"][0])
    said = str(error["msg"]).replace("Input should be", "should be").replace("Value error, ", "")
    return f"{_spelt(key, origin.get(key, ''))}: {said}, but it is {error['input']!r}"


def _spelt(key: str, source: str) -> str:
    """The setting as its source spells it, so that the user finds it again."""
    if source == "flags":
        return f"--{key.replace('_', '-')}"
    return f"{PREFIX}{key.upper()}" if source == "environment" else f"{source or 'settings'}: {key}"


def api_key(settings: Settings) -> str | None:
    """The key for the black box, from the variable the settings name; None if it is not set."""
    return os.environ.get(settings.api_key_env)


def headers_of(settings: Settings) -> dict[str, str]:
    """The extra headers, the variables that they name read.

    Raises:
        ConfigError: a header that cannot be read, or a variable that is not set; no value is shown.
    """
    pieces = [piece.strip() for piece in (settings.headers or "").split(",") if piece.strip()]
    return dict(_header(piece) for piece in pieces)


def _header(piece: str) -> tuple[str, str]:
    name, mark, value = (part.strip() for part in piece.partition(":"))
    if not mark or not name or not value:
        raise ConfigError("headers: write 'Name: value, Name: $VARIABLE'; one of them is not of this form")
    if value.startswith("$"):
        found = os.environ.get(value[1:])
        if found is None:
            raise ConfigError(f"headers: {name}: the environment variable {value[1:]} is not set")
        return name, found
    return name, value


def flag(name: str) -> Any:
    """The annotation of one setting as a command-line option: absent means 'not given'."""
    import typer

    field = Settings.model_fields[name]
    kind: Any = field.annotation
    spelt = name.replace("_", "-")
    # What may be on without being asked for needs a way to be turned off.
    may_be_on = field.default is True or kind == bool | None
    flags = [f"--{spelt}/--no-{spelt}"] if may_be_on else [f"--{spelt}"]
    text = " ".join([field.description or "", *_choices(kind), *_default(field.default)])
    return Annotated[_simple(kind) | None, typer.Option(*flags, help=text, show_default=False)]


def _choices(kind: Any) -> list[str]:
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    return [f"[{' | '.join(choices)}]"] if choices else []


def _default(value: Any) -> list[str]:
    return [] if value is None or isinstance(value, bool) else [f"[default: {value}]"]


def _simple(kind: Any) -> Any:
    """The type that the command line reads: literals are checked later, with all else, by pydantic."""
    for plain in (bool, int, float, Path):
        if kind in (plain, plain | None):
            return plain
    return str
