"""The command line: `trimtab COMMAND`. One function a command; what each does lives in its own module.

Exit codes: 0 fine, 1 the run failed, 2 bad input or configuration, 3 a target was missed, 4 budget spent.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from trimtab.cli.console import err
from trimtab.cli.settings import Settings, flag, resolve
from trimtab.errors import TrimtabError

app = typer.Typer(
    name="trimtab",
    help="Adapt language models you can only call.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
feedback = typer.Typer(help="What people said about answers.", no_args_is_help=True)
app.add_typer(feedback, name="feedback")
cache = typer.Typer(help="Draws that were paid for, so that none is twice.", no_args_is_help=True)
app.add_typer(cache, name="cache")
stores = typer.Typer(help="A store as a whole: moved, or for an older trimtab.", no_args_is_help=True)
app.add_typer(stores, name="store")
classify = typer.Typer(help="Few-shot classification of texts.", no_args_is_help=True)
app.add_typer(classify, name="classify")
keys = typer.Typer(help="Who may ask a server.", no_args_is_help=True)
app.add_typer(keys, name="keys")

Config = Annotated[Path | None, typer.Argument(help="A TOML file of settings.", metavar="CONFIG")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]

INTERRUPTED = 130
ENDPOINT_FLAGS = ["model", "base_url", "api_key_env", "provider", "api_version", "headers", "capabilities"]
PACE_FLAGS = [
    *("timeout_s", "call_deadline_s", "question_deadline_s", "concurrency"),
    *("requests_per_minute", "tokens_per_minute"),
]
MONEY_FLAGS = [
    *("max_usd", "max_total_tokens", "max_calls", "max_wall_s"),
    *("key_max_usd", "key_max_tokens", "key_max_calls"),
    *("usd_per_million_in", "usd_per_million_out", "unpriced"),
    *("cache", "cache_max_mb", "batch", "batch_poll_s"),
]
LLM_FLAGS = [
    *("task", *ENDPOINT_FLAGS, "temperature", "max_tokens"),
    *(*PACE_FLAGS, *MONEY_FLAGS, "log", "trace", "trace_content"),
]
# What asks an LLM for labels: no batches, and `model` there is the classifier's folder.
ASK_FLAGS = [
    *(each for each in ENDPOINT_FLAGS if each != "model"),
    *("timeout_s", "call_deadline_s", "concurrency", "requests_per_minute", "tokens_per_minute"),
    *(each for each in MONEY_FLAGS if not each.startswith("batch")),
    *("log", "trace", "trace_content"),
]
SEARCH_FLAGS = ["search", "draws", "width", "samples", "max_steps", "rule", "abstain_below"]
STOPPING_FLAGS = ["stop_when_sure", "certainty", "wave"]
RAY_FLAGS = [
    *("engine", "ray_address", "ray_samplers"),
    *("ray_scorers", "ray_scorers_most", "ray_cpus", "ray_gpus"),
]
RUN_FLAGS = ["seed", "threads", "bf16", "work_dir"]
SERVER_FLAGS = [
    *("in_flight", "waiting", "grace_s", "keep_days"),
    *("max_body_kb", "max_messages", "max_n", "max_answer_tokens"),
]
FIT_FLAGS = [
    "backbone",
    "loss",
    "lr",
    "epochs",
    "max_length",
    "max_positives",
    "max_negatives",
    "frozen_layers",
    "recompute",
    "training_workers",
]


def command(
    group: typer.Typer,
    name: str,
    settings: Sequence[str],
    module: str,
    *,
    config: bool = True,
    function: str = "run",
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a command whose flags are the named settings.

    The decorated function is only its help text, and what its parameters say of flags that are no settings;
    `function(settings, as_json)` of the module does the work, given those flags by name, and is imported when
    the command runs, so that `--help` is quick.
    """

    def register(described: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(described, eval_str=True).parameters

        def body(**given: Any) -> None:
            file, as_json = given.pop("config", None), given.pop("json", False)
            others = {key: given.pop(key) for key in own}
            work = getattr(import_module(f"trimtab.cli.{module}"), function)
            code = work(resolve(file, given), as_json, **others)
            raise typer.Exit(code or 0)

        parameters = [_parameter("config", Config, None)] if config else []
        parameters += [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own.values()]
        parameters += [_parameter(key, flag(key), None) for key in settings]
        parameters.append(_parameter("json", Json, False))
        body.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        body.__doc__ = described.__doc__
        group.command(name)(body)
        return described

    return register


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Adapt language models you can only call."""
    if version:
        print(importlib.metadata.version("trimtab"))
        raise typer.Exit


@command(
    app,
    "adapt",
    [
        *LLM_FLAGS,
        *("recorded", "questions", "dev"),
        *FIT_FLAGS,
        *("adapter", "rounds", "replay", "judge", "judge_model"),
        *("trim", "source_share", "margin"),
        *SEARCH_FLAGS,
        *RUN_FLAGS,
        *RAY_FLAGS,
        *("store", "track", "out", "force", "dry_run"),
    ],
    "learning",
    function="adapt",
)
def adapt(
    from_feedback: Annotated[
        bool, typer.Option("--from-feedback", help="A new version, from what was said of served answers.")
    ] = False,
    promote: Annotated[
        bool, typer.Option("--promote", help="Promote it where its trial rules a loss out.")
    ] = False,
    share: Annotated[
        float, typer.Option(help="Of requests that it then answers; below 1 as a canary.", min=0.001, max=1)
    ] = 1.0,
    every: Annotated[str | None, typer.Option(help="Again and again: 30m, 6h, 1d.", metavar="TIME")] = None,
) -> None:
    """Train an adapter: from recorded answers, from a black box online, or both; or from feedback."""


@command(
    app,
    "evaluate",
    [
        *(*LLM_FLAGS, "adapter", "recorded", "questions", *SEARCH_FLAGS, "certainty"),
        *("against", "budgets", "seeds", "prefix_cache", *RUN_FLAGS, *RAY_FLAGS),
        *("store", "track", "out", "require", "dry_run"),
    ],
    "evaluating",
)
def evaluate() -> None:
    """Compare single sample, votes, best-of-n, beam search, other adapters, models and judges, paired."""


@command(
    app,
    "answer",
    [
        *(*LLM_FLAGS, "adapter", "questions", *SEARCH_FLAGS, *STOPPING_FLAGS),
        *("prefix_cache", *RUN_FLAGS, *RAY_FLAGS, "store", "out", "dry_run"),
    ],
    "answering",
)
def answer() -> None:
    """Answer questions with the adapted model; one JSON row a question."""


@command(
    app,
    "estimate",
    [
        *("for_command", "probe", *LLM_FLAGS, "adapter", "questions", "recorded", "dev"),
        *("rounds", "judge", "judge_model", *SEARCH_FLAGS, "against", "seeds", "seed", "work_dir"),
    ],
    "estimating",
)
def estimate() -> None:
    """What a run will cost, before it is made: calls, tokens and dollars, expected and at worst."""


@command(app, "demo", ["out", "work_dir", "seed", "force"], "demo", config=False)
def demo() -> None:
    """The whole story offline: an embedded black box, adapted on this machine, before and after."""


@command(
    app,
    "doctor",
    [*ENDPOINT_FLAGS, "timeout_s", "adapter", "backbone", "task", "recorded", "threads", "work_dir"],
    "doctor",
)
def doctor(
    bench: Annotated[
        bool,
        typer.Option(
            "--bench",
            help="Measure what can score the adapter here, on the recorded answers, else on made-up ones, "
            "and make the fastest that ranks them alike its default.",
        ),
    ] = False,
) -> None:
    """Check this installation, and the endpoint and adapter you name."""


@app.command()
def blackbox(
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8765,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    problems: Annotated[
        int, typer.Option(help="Instead of serving, print so many problems of its world as JSONL.", min=0)
    ] = 0,
    problem_seed: Annotated[int, typer.Option(help="Seed of those problems.")] = 0,
) -> None:
    """Serve the embedded black box with the OpenAI wire format; --task house is its task."""
    from trimtab.llm.embedded import serve

    if problems:
        from trimtab.cli.worldly import print_questions

        return print_questions(problems, problem_seed)
    serve(port, host, on_ready=lambda url: err.print(f"serving at {url} (stop with Ctrl-C)"))
    return None


@app.command("import-logs")
def import_logs(
    files: Annotated[list[Path], typer.Argument(help="Logged completions, JSON or JSONL.")],
    form: Annotated[str, typer.Option("--format", help="openai or langfuse.")] = "openai",
    out: Annotated[Path | None, typer.Option(help="JSONL to write. [default: stdout]")] = None,
    questions: Annotated[
        Path | None, typer.Option(help="JSONL of questions: only answers to these, with their references.")
    ] = None,
    json: Json = False,
) -> None:
    """Read completions that others logged into rows of recorded answers, which --recorded reads."""
    from trimtab.cli.importing import import_logs

    import_logs(files, out, json, form=form, questions=questions)


Form = Annotated[str, typer.Option("--format", help="jsonl, label-studio or preferences.")]


@feedback.command("import")
def feedback_import(
    file: Annotated[Path, typer.Argument(help="What was said, in the format named.")],
    form: Form = "jsonl",
    work_dir: Annotated[Path | None, typer.Option(help="Where the store is. [default: .trimtab]")] = None,
    store: Annotated[str | None, typer.Option(help="The store, if it is elsewhere: a file or a URL.")] = None,
    json: Json = False,
) -> None:
    """Put verdicts, ratings, preferences, rankings and corrections into the store; twice is harmless."""
    from trimtab.cli.feedback import import_feedback

    import_feedback(file, resolve(None, {"work_dir": work_dir, "store": store}), json, form=form)


@feedback.command("export")
def feedback_export(
    file: Annotated[Path | None, typer.Argument(help="The file to write; stdout if left out.")] = None,
    form: Form = "jsonl",
    work_dir: Annotated[Path | None, typer.Option(help="Where the store is. [default: .trimtab]")] = None,
    store: Annotated[str | None, typer.Option(help="The store, if it is elsewhere: a file or a URL.")] = None,
) -> None:
    """Write everything that was said; as preference pairs for other trainers, too."""
    from trimtab.cli.feedback import export_feedback

    export_feedback(file, resolve(None, {"work_dir": work_dir, "store": store}), form=form)


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="NAME, or NAME@v2; without a number the one that waits.")],
    share: Annotated[
        float, typer.Option(help="Of requests that it answers; below 1 as a canary.", min=0.001, max=1)
    ] = 1.0,
    work_dir: Annotated[Path | None, typer.Option(help="Where the store is. [default: .trimtab]")] = None,
    store: Annotated[str | None, typer.Option(help="The store, if it is elsewhere: a file or a URL.")] = None,
    json: Json = False,
) -> None:
    """Put an adapter's version in service, whole or for a share of requests."""
    from trimtab.cli.promoting import promote

    promote(resolve(None, {"work_dir": work_dir, "store": store}), version, json, share=share)


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="The adapter's name.")],
    work_dir: Annotated[Path | None, typer.Option(help="Where the store is. [default: .trimtab]")] = None,
    store: Annotated[str | None, typer.Option(help="The store, if it is elsewhere: a file or a URL.")] = None,
    json: Json = False,
) -> None:
    """Take back what was promoted last: a canary, else the version that serves."""
    from trimtab.cli.promoting import rollback

    rollback(resolve(None, {"work_dir": work_dir, "store": store}), name, json)


@app.command()
def versions(
    name: Annotated[str | None, typer.Argument(help="One adapter, by its name.")] = None,
    work_dir: Annotated[Path | None, typer.Option(help="Where the store is. [default: .trimtab]")] = None,
    store: Annotated[str | None, typer.Option(help="The store, if it is elsewhere: a file or a URL.")] = None,
    json: Json = False,
) -> None:
    """The versions of adapters: which serves, which waits, and what its trial showed."""
    from trimtab.cli.promoting import versions

    versions(resolve(None, {"work_dir": work_dir, "store": store}), name, json)


@command(cache, "show", ["work_dir", "cache_max_mb"], "caching", config=False, function="show")
def cache_show() -> None:
    """The kept draws by model, their size, and what replaying them has spared."""


@cache.command("prune")
def cache_prune(
    keep_days: Annotated[float | None, typer.Option(help="Drop what is older, in days.", min=0)] = None,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Of unfinished runs too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and keep it.")] = False,
    cache_max_mb: Annotated[float | None, typer.Option(help="Drop the oldest above this size.")] = None,
    work_dir: Annotated[Path | None, typer.Option(help="Where the store is. [default: .trimtab]")] = None,
    json: Json = False,
) -> None:
    """Drop the oldest draws; the ledger of what they cost stays whole."""
    from trimtab.cli.caching import prune

    given = {"dry_run": dry_run or None, "cache_max_mb": cache_max_mb, "work_dir": work_dir}
    prune(resolve(None, given), json, keep_days=keep_days, unfinished=unfinished)


@command(
    cache,
    "export",
    ["questions", "task", "model", "temperature", "max_tokens", "seed", "out", "work_dir"],
    "caching",
    config=False,
    function="export",
)
def cache_export() -> None:
    """Kept draws as JSONL; with --questions as rows of recorded answers, which --recorded reads."""


@stores.command("copy")
def store_copy(
    source: Annotated[str, typer.Argument(help="A file or a postgresql:// URL.")],
    target: Annotated[str, typer.Argument(help="A file or a URL, without a row; made if missing.")],
    json: Json = False,
) -> None:
    """Copy a whole store into an empty one: from a file to a server, and back."""
    from trimtab.cli.moving import copy

    copy(source, target, json)


@stores.command("step-down")
def store_step_down(
    place: Annotated[str, typer.Argument(help="A file or a postgresql:// URL.")],
    to: Annotated[str, typer.Argument(help="The schema's older version, e.g. 0002_draws_and_calls.")],
    yes: Annotated[bool, typer.Option("--yes", help="What only newer versions keep may be deleted.")] = False,
    json: Json = False,
) -> None:
    """Take a store's schema back, for an older trimtab; opening it with this one brings it up again."""
    from trimtab.cli.moving import back

    back(place, to, yes, json)


@classify.command("fit")
def classify_fit(
    train: Annotated[Path, typer.Option(help="JSONL of labelled texts to learn from.")],
    labels: Annotated[Path, typer.Option(help="JSON of the labels' names, or names and descriptions.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the classifier.")],
    dev: Annotated[Path | None, typer.Option(help="JSONL that decides stopping and calibration.")] = None,
    augmented: Annotated[Path | None, typer.Option(help="JSONL of `classify augment`.")] = None,
    encoder: Annotated[str, typer.Option(help="'offline', a Hugging Face name, or a folder.")] = "offline",
    seed: Annotated[int | None, typer.Option(help="Seed of every random choice.", min=0)] = None,
    work_dir: Annotated[Path | None, typer.Option(help="Where features are kept.")] = None,
    json: Json = False,
) -> None:
    """Learn a classifier from a few labelled texts and what each label means."""
    from trimtab.cli.classifying import fit

    settings = resolve(None, {"seed": seed, "work_dir": work_dir})
    fit(settings, json, train=train, dev=dev, labels=labels, augmented=augmented, encoder=encoder, out=out)


@command(
    classify,
    "augment",
    [
        *ENDPOINT_FLAGS,
        *("temperature", "max_tokens", "timeout_s", "call_deadline_s", "concurrency"),
        *("requests_per_minute", "tokens_per_minute"),
        *(each for each in MONEY_FLAGS if not each.startswith("batch")),
        *("log", "trace", "trace_content", "seed", "work_dir", "out", "force", "dry_run"),
    ],
    "augmenting",
)
def classify_augment(
    train: Annotated[Path, typer.Option(help="JSONL of labelled texts to write from.")],
    labels: Annotated[Path, typer.Option(help="JSON of the labels' names, or names and descriptions.")],
    per_label: Annotated[int, typer.Option(help="New texts wanted of each label.", min=0)] = 64,
    unlabelled: Annotated[Path | None, typer.Option(help="JSONL of your texts; the LLM labels them.")] = None,
    check: Annotated[bool, typer.Option("--check", help="The LLM must find the label again.")] = False,
) -> None:
    """Have an LLM write more labelled texts, from yours; label unlabelled ones."""


@command(
    classify,
    "predict",
    [*ASK_FLAGS, "abstain_below", "seed", "work_dir", *RAY_FLAGS, "store", "force", "dry_run"],
    "applying",
    function="predict",
)
def classify_predict(
    model: Annotated[Path, typer.Option(help="Folder of the classifier.")],
    data: Annotated[Path, typer.Option("-i", "--input", help="JSONL of texts.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="JSONL of labels and probabilities.")],
    route: Annotated[bool, typer.Option("--route", help="Ask the LLM where it abstains.")] = False,
    train: Annotated[Path | None, typer.Option(help="JSONL of shots to show the LLM.")] = None,
    llm: Annotated[str | None, typer.Option(help="Name of the LLM; else `model` of CONFIG.")] = None,
    shots: Annotated[int, typer.Option(help="Shots of each label shown to the LLM.", min=0)] = 4,
) -> None:
    """Label texts; one JSON row a text."""


@command(
    classify,
    "evaluate",
    [*ASK_FLAGS, "abstain_below", "seed", "work_dir", "force", "dry_run"],
    "applying",
    function="evaluate",
)
def classify_evaluate(
    model: Annotated[Path, typer.Option(help="Folder of the classifier.")],
    data: Annotated[Path, typer.Option(help="JSONL of labelled texts.")],
    compare: Annotated[bool, typer.Option("--compare", help="Beside its baselines and the LLM.")] = False,
    route: Annotated[bool, typer.Option("--route", help="Ask the LLM where it abstains.")] = False,
    train: Annotated[Path | None, typer.Option(help="JSONL of shots, for baselines and the LLM.")] = None,
    llm: Annotated[str | None, typer.Option(help="Name of the LLM; else `model` of CONFIG.")] = None,
    shots: Annotated[int, typer.Option(help="Shots of each label shown to the LLM.", min=0)] = 4,
) -> None:
    """What a classifier is worth on labelled texts."""


@command(
    app,
    "serve",
    [
        *(each for each in LLM_FLAGS if not each.startswith("batch")),
        *(*SEARCH_FLAGS, *STOPPING_FLAGS, "prefix_cache", *RUN_FLAGS, "store", *SERVER_FLAGS),
    ],
    "serving",
)
def serve(
    adapter: Annotated[
        list[str] | None,
        typer.Option("--adapter", help="Adapter folder. NAME=DIR names it; may be repeated.", metavar="DIR"),
    ] = None,
    classifier: Annotated[
        list[str] | None, typer.Option("--classifier", help="Folder of a classifier, or NAME=DIR.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8000,
    host: Annotated[str, typer.Option(help="Address; any but the loopback needs keys.")] = "127.0.0.1",
    workers: Annotated[int, typer.Option(help="Processes that answer.", min=1, max=256)] = 1,
) -> None:
    """Serve the adapted model with OpenAI's wire format."""


@keys.command("create")
def keys_create(
    name: Annotated[str, typer.Option(help="Whose key it is.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="infer, feedback, review or admin. [default: infer, feedback]")
    ] = None,
    adapter: Annotated[list[str] | None, typer.Option(help="A model it may ask. [default: all]")] = None,
    max_usd: Annotated[float | None, typer.Option(help="Most dollars it may spend.", min=0)] = None,
    rpm: Annotated[int | None, typer.Option(help="Most requests a minute.", min=1)] = None,
    concurrency: Annotated[int | None, typer.Option(help="Most requests at once.", min=1)] = None,
    work_dir: Annotated[Path | None, typer.Option(help="Where the store is. [default: .trimtab]")] = None,
    store: Annotated[str | None, typer.Option(help="The store, if it is elsewhere: a file or a URL.")] = None,
    json: Json = False,
) -> None:
    """Make a key; it is printed this once."""
    from trimtab.cli.keys import create

    create(
        resolve(None, {"work_dir": work_dir, "store": store}),
        json,
        name=name,
        scopes=scope or ["infer", "feedback"],
        adapters=adapter or [],
        max_usd=max_usd,
        rpm=rpm,
        concurrency=concurrency,
    )


@keys.command("list")
def keys_list(
    work_dir: Annotated[Path | None, typer.Option(help="Where the store is. [default: .trimtab]")] = None,
    store: Annotated[str | None, typer.Option(help="The store, if it is elsewhere: a file or a URL.")] = None,
    json: Json = False,
) -> None:
    """The keys, what each may do, and what it has spent."""
    from trimtab.cli.keys import show

    show(resolve(None, {"work_dir": work_dir, "store": store}), json)


@keys.command("revoke")
def keys_revoke(
    key: Annotated[str, typer.Argument(help="The key's id, as `trimtab keys list` shows it.")],
    work_dir: Annotated[Path | None, typer.Option(help="Where the store is. [default: .trimtab]")] = None,
    store: Annotated[str | None, typer.Option(help="The store, if it is elsewhere: a file or a URL.")] = None,
    json: Json = False,
) -> None:
    """Make a key useless; servers that run know it within seconds."""
    from trimtab.cli.keys import revoke

    revoke(resolve(None, {"work_dir": work_dir, "store": store}), key, json)


@app.command()
def runs(
    run: Annotated[str | None, typer.Argument(help="One run, by its id.")] = None,
    work_dir: Annotated[Path | None, typer.Option(help="Where the store is. [default: .trimtab]")] = None,
    json: Json = False,
) -> None:
    """What runs have cost: all of them, or one by purpose, with its dollars per 1,000 questions."""
    from trimtab.cli.ledger import list_runs, show_run

    settings = resolve(None, {"work_dir": work_dir})
    return show_run(settings, run, json) if run else list_runs(settings, json)


def main() -> None:
    """The console entry point: one paragraph on stderr and the right exit code for every error of ours."""
    try:
        app()
    except TrimtabError as error:
        err.print(f"[bold red]error:[/] {_plain(str(error))}", soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a folder that may not be written: named by the system itself
        err.print(f"[bold red]error:[/] {_plain(str(error))}", soft_wrap=True)
        sys.exit(1)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # typer's own answer to Ctrl-C
            err.print("stopped; the same command goes on from here")
        raise


def _plain(text: str) -> str:
    """The text with nothing in it read as markup."""
    from rich.markup import escape

    return escape(text)


__all__ = ["Settings", "app", "main"]
