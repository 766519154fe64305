"""`trimtab serve`: the adapted model behind OpenAI's wire format."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab import tasks
from trimtab.cli import build
from trimtab.cli.client import Client, transport_of
from trimtab.cli.console import say
from trimtab.cli.settings import Settings
from trimtab.energy import verify_adapter
from trimtab.errors import ConfigError, MissingExtraError
from trimtab.llm.relay import Relay
from trimtab.llm.transport import OpenAITransport
from trimtab.store import Store

if TYPE_CHECKING:
    from trimtab.energy import Manifest
    from trimtab.serve.adapters import Served
    from trimtab.serve.app import Parts
    from trimtab.serve.classifying import Classifier
    from trimtab.serve.listening import Listener

PARTS = ("fastapi", "uvicorn", "prometheus_client", "jinja2")
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client as it is imported


@dataclass(frozen=True, slots=True)
class Plan:
    """What each worker is told."""

    settings: Settings
    run_id: str
    adapters: Mapping[str, Path]
    classifiers: Mapping[str, Path]
    workers: int
    metrics: Path | None  # the folder in which workers count together


def run(
    settings: Settings,
    as_json: bool,
    *,
    adapter: list[str] | None,
    classifier: list[str] | None,
    port: int,
    host: str,
    workers: int,
) -> int:
    """Serves until it is told to end; returns the exit code."""
    _need_parts()
    from trimtab.serve.listening import is_loopback, listening

    adapters = _named_folders(adapter or ([str(settings.adapter)] if settings.adapter else []))
    classifiers = _named_folders(classifier or [])
    manifests = [verify_adapter(folder) for folder in adapters.values()]
    settings = _with_model(settings, manifests)
    _refuse_same_names([*adapters, *classifiers, settings.model or ""])
    run_id, config = build.run_identity("serve", settings, *map(str, adapters.values()))
    with closing(build.store_of(settings)) as store:
        if not is_loopback(host) and not _has_key(store):
            raise ConfigError(
                f"{host} can be reached from elsewhere, and there is no key yet: make one with "
                "`trimtab keys create`, or listen on 127.0.0.1"
            )
        store.start_run(run_id, "serve", config)
    with ExitStack() as held:
        listener = held.enter_context(listening(host, port))
        shared = Path(held.enter_context(tempfile.TemporaryDirectory())) if workers > 1 else None
        say(f"serving {', '.join(adapters) or settings.model} at {_url(listener)} (stop with Ctrl-C)")
        say(f"people review its answers at {_url(listener).removesuffix('/v1')}/review")
        _serve(Plan(settings, run_id, adapters, classifiers, workers, shared), listener)
    with closing(build.store_of(settings)) as store:
        store.finish_run(run_id)
    return 0


def _with_model(settings: Settings, manifests: Sequence[Manifest]) -> Settings:
    """The settings with a black box: where none is named, the one that all adapters were made with."""
    known = {manifest.black_box for manifest in manifests}
    if settings.model is None and len(known) == 1 and (black_box := known.pop()):
        say(f"in front of {black_box}, which the adapter was made with; --model names another")
        return settings.model_copy(update={"model": black_box})
    build.named(settings, "model")
    return settings


def _has_key(store: Store) -> bool:
    known = store.keys()
    return any(key.revoked_at is None for key in known)


def _serve(plan: Plan, listener: Listener) -> None:
    from trimtab.serve.listening import Workers

    if plan.metrics is None:
        return answer(plan, listener)
    os.environ[METRICS_FOLDER] = str(plan.metrics)
    from prometheus_client.multiprocess import mark_process_dead

    return Workers(partial(answer, plan), listener, plan.workers, mark_process_dead).run()


def answer(plan: Plan, listener: Listener) -> None:
    """One worker's work: puts the server together and answers on the socket."""
    from trimtab.serve import create_app
    from trimtab.serve.listening import answer as answer_on
    from trimtab.serve.logs import log_as_json

    log_as_json()
    settings = plan.settings
    if plan.workers > 1 and settings.threads is None:
        settings = settings.model_copy(update={"threads": 1})
    if plan.adapters or plan.classifiers:
        build.limit_threads(settings)
    with ExitStack() as held:
        store = held.enter_context(build.store_of(settings))
        client = held.enter_context(Client(settings, store, plan.run_id))
        records = held.enter_context(_quick_store(settings))
        app = create_app(_parts(plan, store, records, client))
        answer_on(app, listener, grace_s=settings.grace_s)


def _quick_store(settings: Settings) -> Store:
    """The same store for answers that were given: a killed process loses none, a power cut may."""
    return Store.open(settings.store or settings.work_dir / "store.db", survives_power_cut=False)


def _parts(plan: Plan, store: Store, records: Store, client: Client) -> Parts:
    from trimtab.serve.adapters import Registry
    from trimtab.serve.app import Parts
    from trimtab.serve.limits import Caps
    from trimtab.serve.upstream import Upstream

    settings, box = plan.settings, client.box()
    transport = transport_of(settings)
    relay = None
    if isinstance(transport, OpenAITransport):
        relay = Relay(transport, connections=settings.concurrency, timeout_s=settings.timeout_s)
    upstream = Upstream(
        name=box.name,
        llm=client.model(),
        relay=relay,
        prices=client.prices,
        limiter=client.limiter,
        budget=client.budget,
        payer=settings.api_key_env,
        observers=client.observers,
        length=box.capabilities.row.length,
    )
    caps = Caps(
        body_bytes=settings.max_body_kb * 1000,
        messages=settings.max_messages,
        n=settings.max_n,
        tokens=settings.max_answer_tokens,
        texts=settings.max_messages,
        in_flight=settings.in_flight,
        waiting=settings.waiting,
    )
    return Parts(
        store=store,
        records=records,
        run_id=plan.run_id,
        upstream=upstream,
        registry=Registry(plan.adapters, partial(served, settings), store.versions),
        classifiers=_classifiers(plan),
        caps=caps,
        shared_metrics=plan.metrics,
        keep_days=settings.keep_days,
        spans=client.spans,
    )


def served(settings: Settings, name: str, version: int, folder: Path) -> Served:
    """The adapter in a folder, ready to answer as `trimtab answer` does with the same settings."""
    # Here, as they bring torch: a server that only passes on goes without.
    from trimtab.cli.answering import how_of
    from trimtab.cli.evaluating import rule_of, with_task
    from trimtab.serve.adapters import Served

    scorer, manifest = build.scorer_of(settings.model_copy(update={"adapter": folder}))
    settings = with_task(settings, manifest)
    return Served(
        name=name,
        version=version,
        task=tasks.by_name(settings.task or manifest.task),
        scorer=scorer,
        rule=rule_of(settings, manifest),
        how=how_of(settings),
        sampling=build.sampling_of(settings),
        calibrate=manifest.calibration.confidences if manifest.calibration else None,
        abstain_below=settings.abstain_below,
        deadline_s=settings.question_deadline_s,
        usual_confidence=_usual_confidence(manifest),
        score_deciles=manifest.score_deciles,
    )


def _usual_confidence(manifest: Manifest) -> float | None:
    """How often a single answer was right on held-out questions, where confidences were fitted to that."""
    found = manifest.metrics.get("dev_single")
    return float(found) if manifest.calibration and isinstance(found, int | float) else None


def _classifiers(plan: Plan) -> dict[str, Classifier]:
    if not plan.classifiers:
        return {}
    from trimtab.cli.classifying import loaded

    return {name: loaded(plan.settings, folder) for name, folder in plan.classifiers.items()}


def _named_folders(given: Sequence[str]) -> dict[str, Path]:
    """Folders by name: NAME=DIR, or DIR, whose own name it then is."""
    found: dict[str, Path] = {}
    for each in given:
        name, mark, folder = each.partition("=")
        path = Path(folder if mark else each)
        name = name if mark else path.resolve().name
        if name in found:
            raise ConfigError(f"--adapter: two are named '{name}'; name one of them: OTHER={path}")
        found[name] = path
    return found


def _refuse_same_names(names: Sequence[str]) -> None:
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ConfigError(f"{', '.join(sorted(twice))}: names two models; name adapters: NAME=DIR")


def _url(listener: Listener) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def _need_parts() -> None:
    if not all(find_spec(name) for name in PARTS):
        raise MissingExtraError("serve", "a server")
