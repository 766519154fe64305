"""A whole server in the test's own process: scripted black box, plain scorer, store in memory."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from trimtab import tasks
from trimtab.cli.keys import PREFIX
from trimtab.llm import ScriptedLLM
from trimtab.llm.relay import Relay
from trimtab.llm.transport import OpenAITransport
from trimtab.serve import Parts, create_app
from trimtab.serve.adapters import FirstVersion, Registry, Served
from trimtab.serve.limits import Caps
from trimtab.serve.upstream import Upstream
from trimtab.stopping import DecisionRule
from trimtab.store import ApiKey, Scope, Store, key_digest
from trimtab.types import LLM, Sampling

UPSTREAM_KEY = "sk-upstream-0123456789abcdef"
LINES = ("It is 1 + 1 = 2.\nThe answer is 2.", "The answer is 3.", "Two.\nThe answer is 2.", "no idea")
QUESTION = "What is 1 + 1?"


class ByLength:
    """A scorer that likes long answers."""

    def score(self, question: str, texts: Sequence[str]) -> list[float]:
        return [len(text) / 10 for text in texts]

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [len(text) / 10 for _, text in pairs]


class Sorter:
    """A classifier that looks for a word."""

    classes_ = ("bad", "good")

    def predict_proba(self, X: Sequence[Any]) -> list[list[float]]:  # noqa: N803  (as scikit-learn has it)
        return [[0.1, 0.9] if "good" in str(row) else [0.7, 0.3] for row in X]


def draw(prompt: Any, number: int) -> str:
    return LINES[number % len(LINES)]


def scripted() -> ScriptedLLM:
    return ScriptedLLM(draw, name="box")


def load(name: str, version: int, folder: Path) -> Served:
    sampling = Sampling(n=4, seed=None)
    return Served(
        name,
        version,
        tasks.by_name("numeric"),
        ByLength(),
        DecisionRule("weighted_vote"),
        sampling,
        sampling,
        calibrate=lambda scores: [0.5 for _ in scores],
        usual_confidence=0.25,
    )


@dataclass
class Running:
    """A server that runs: its parts, and who asks it."""

    parts: Parts
    app: Any
    http: httpx.AsyncClient

    async def chat(self, key: str | None = None, **body: Any) -> httpx.Response:
        given = {"model": "sums", "messages": [{"role": "user", "content": QUESTION}], **body}
        return await self.http.post("/v1/chat/completions", json=given, headers=bearer(key))


def bearer(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def new_key(store: Store, *scopes: Scope, **limits: Any) -> str:
    """A key in the store; its name is its id."""
    number = len(store.keys())
    key = f"{PREFIX}test-{number}"
    store.add_key(ApiKey(f"key-{number}", "tester", key_digest(key), scopes or (Scope.INFER,), 1.0, **limits))
    return key


@cache
def open_store() -> Store:
    """One store for every server that needs no key: making one takes longer than most tests."""
    return Store.in_memory()


def parts_of(
    llm: LLM | None = None,
    *,
    url: str | None = None,
    caps: Caps | None = None,
    keyed: bool = False,
    **given: Any,
) -> Parts:
    """Parts of a server in front of a scripted black box, passing on to this address.

    Keys need a store of their own: `keyed`.
    """
    store = Store.in_memory() if keyed else open_store()
    relay = Relay(OpenAITransport(url, api_key=UPSTREAM_KEY), timeout_s=2.0) if url else None
    upstream = Upstream("box", llm or scripted(), relay=relay)
    registry = Registry({"sums": Path("sums")}, load, given.pop("versions", lambda name: ()))
    parts = Parts(store, store, "run", upstream, registry, {"sorter": Sorter()}, caps or Caps())
    return replace(parts, **given)


@asynccontextmanager
async def running(parts: Parts) -> AsyncIterator[Running]:
    """The server while it runs."""
    app = create_app(parts)
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as http,
    ):
        yield Running(parts, app, http)
    if parts.store is not open_store():
        parts.store.close()


def told(body: str) -> list[Any]:
    """The documents of a stream's events; comments left out, and the end as it is written."""
    lines = [line[6:] for line in body.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def versioned(*rows: tuple[int, str, float]) -> Callable[[str], list[FirstVersion]]:
    """Versions of an adapter, as the store gives them: number, status, share."""
    return lambda name: [FirstVersion(Path(f"v{number}"), number, *rest) for number, *rest in rows]  # type: ignore[arg-type]
