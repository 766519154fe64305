"""How fast, how cheap and how well-behaved the black-box client is, against a real HTTP server.

    python scripts/bench_client.py [--calls 10000] [--storm-s 30] [--questions 1000] [--json FILE]

The server (tests/peers/misbehaving.py) runs in a process of its own, on this machine: the two share its
cores. CPU figures are of the client's process alone, the store's writing included.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benching import machine, write
from trimtab.errors import LLMError
from trimtab.llm import Cached, ChatLLM, Filled
from trimtab.store import Store
from trimtab.types import LLM, Message, Prompt, Sampling

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from peers.running import MIX, Peer, running

LATENCY_S, AT_ONCE = 0.1, 200
CEILING = AT_ONCE / LATENCY_S  # calls a second
ADMITTED = 50  # a second, in the storm
SETTLING_S = 10
SAMPLING = Sampling(n=1, max_tokens=64)


@dataclass(frozen=True)
class Spent:
    """What some calls took."""

    calls: int
    failed: int
    wall_s: float
    cpu_s: float

    @property
    def figures(self) -> dict[str, float]:
        """As they are written down."""
        return {
            "calls": self.calls,
            "failed": self.failed,
            "wall_s": self.wall_s,
            "calls_per_s": self.calls / self.wall_s,
            "cpu_ms_per_call": 1000 * self.cpu_s / self.calls,
            "cpu_share": self.cpu_s / self.wall_s,
        }


def prompt_of(number: int) -> Prompt:
    return Prompt((Message("user", f"question {number}: what is 2 + {number}?"),), f"q{number}")


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def asked(llm: LLM, count: int, first: int = 0) -> int:
    """How many of these questions failed."""
    questions = (llm.complete(prompt_of(number), SAMPLING) for number in range(first, first + count))
    given = await asyncio.gather(*questions, return_exceptions=True)
    failed = [reply for reply in given if isinstance(reply, BaseException)]
    for error in failed:
        if not isinstance(error, LLMError):
            raise error
    return len(failed)


async def measured(llm: LLM, count: int, warm: int) -> Spent:
    if warm:
        await asked(llm, warm, first=10**6)
    began, cpu = time.perf_counter(), cpu_s()
    failed = await asked(llm, count)
    return Spent(count, failed, time.perf_counter() - began, cpu_s() - cpu)


def run(peer: Peer, count: int, *, store: Path | None = None, warm: int = 0, **options: Any) -> Spent:
    """Asks so many questions, all at once, as the program does: with draws kept, or without."""
    chat = ChatLLM("peer-model", base_url=peer.url, api_key="sk-bench-0123456789", **options)

    async def work(llm: LLM) -> Spent:
        try:
            return await measured(llm, count, warm)
        finally:
            await chat.close()

    if store is None:
        return asyncio.run(work(Filled(chat, capabilities=chat.capabilities)))
    with closing(Store.open(store)) as opened:
        kept = Cached(chat, opened.samples_of("bench"), scope=peer.url)
        return asyncio.run(work(Filled(kept, capabilities=chat.capabilities)))


def throughput(peer: Peer, calls: int, store: Path | None) -> dict[str, Any]:
    """Against a server that answers after 100 ms and works on 200 requests at once."""
    peer.told(latency_s=LATENCY_S, in_flight=AT_ONCE)
    spent = run(peer, calls, store=store, warm=1000, concurrency=AT_ONCE)
    stats = peer.stats
    return {
        **spent.figures,
        "share_of_ceiling": spent.calls / spent.wall_s / CEILING,
        "server_cpu_ms_per_call": 1000 * stats["cpu_s"] / stats["received"],
        "refused": stats["kinds"].get("overload", 0),
        "peak_in_flight": stats["peak_in_flight"],
    }


def storm(peer: Peer, seconds: int, retry_after: float | None) -> dict[str, Any]:
    """Against a server that admits 50 requests in any second, with far more to ask."""
    peer.told(latency_s=LATENCY_S, rate=ADMITTED, retry_after=retry_after)

    async def work() -> None:
        chat = ChatLLM("peer-model", base_url=peer.url, api_key="sk-bench-0123456789")
        asking = [asyncio.create_task(asked(chat, 1, number)) for number in range(ADMITTED * seconds * 2)]
        await asyncio.wait(asking, timeout=seconds)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await chat.close()

    asyncio.run(work())
    settled = peer.stats["seconds"][SETTLING_S:seconds]
    admitted, refused = (sum(second[at] for second in settled) for at in (0, 1))
    return {
        "retry_after_s": retry_after,
        "throughput_share": admitted / len(settled) / ADMITTED,
        "refused_share": refused / (admitted + refused),
    }


def mixed(peer: Peer, questions: int, folder: Path, latency_s: float) -> dict[str, Any]:
    """30 % of first attempts fail; beside it the same questions without a fault."""
    walls = {}
    for name, faults in (("fault_free", {}), ("mixed", MIX)):
        peer.told(latency="lognormal", latency_s=latency_s, faults=faults, seed=1)
        walls[name] = run(peer, questions, store=folder / f"{name}-{latency_s}.db", timeout_s=4 * latency_s)
    kinds = peer.stats["kinds"]
    return {
        "latency_s": latency_s,
        "fault_free_s": walls["fault_free"].wall_s,
        "mixed_s": walls["mixed"].wall_s,
        "times": walls["mixed"].wall_s / walls["fault_free"].wall_s,
        "failed": walls["mixed"].failed,
        "faults": sum(count for kind, count in kinds.items() if kind != "ok"),
    }


def figures(document: dict[str, Any]) -> dict[str, Any]:
    """What stands for the whole: calls and their cost with every draw kept, and the manners."""
    kept = document["throughput"]["with store"]
    return {
        "client_calls_per_s": kept["calls_per_s"],
        "client_cpu_ms_per_call": kept["cpu_ms_per_call"],
        "client_storm_share": min(storm["throughput_share"] for storm in document["storm"]),
        "client_faults_times": max(line["times"] for line in document["mixed"]),
    }


def tell(document: dict[str, Any]) -> None:
    about = document["machine"]
    print(f"{about['cores']} cores, load before: {about['load_average']}")
    for name in ("without store", "with store"):
        line = document["throughput"][name]
        print(
            f"{name:14} {line['calls_per_s']:8.0f} calls/s  {line['share_of_ceiling']:6.1%} of {CEILING:.0f}"
            f"  {line['cpu_ms_per_call']:.2f} ms CPU a call, {line['cpu_share']:.0%} of a core"
            f" (server: {line['server_cpu_ms_per_call']:.2f} ms)"
        )
    for line in document["storm"]:
        asked_for = "without Retry-After" if line["retry_after_s"] is None else "with Retry-After"
        print(
            f"429 storm {asked_for:20} {line['throughput_share']:6.1%} of {ADMITTED} requests/s, "
            f"{line['refused_share']:.1%} refused, after the first {SETTLING_S} s"
        )
    for line in document["mixed"]:
        print(
            f"30 % faults at {line['latency_s']:g} s latency: {line['mixed_s']:.1f} s, {line['times']:.2f} "
            f"times the {line['fault_free_s']:.1f} s without; {line['faults']} faults, "
            f"{line['failed']} questions failed"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed, cost and manners of the black-box client, here.")
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--storm-s", type=int, default=30)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--json", type=Path, default=Path("bench-client.json"))
    given = parser.parse_args()
    if given.storm_s <= SETTLING_S:
        parser.error(f"a storm is measured after {SETTLING_S} s: --storm-s must be longer")
    about = machine()
    with running() as peer, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        document = {
            "machine": about,
            "throughput": {
                "without store": throughput(peer, given.calls, None),
                "with store": throughput(peer, given.calls, folder / "throughput.db"),
            },
            "storm": [storm(peer, given.storm_s, asked_for) for asked_for in (None, 1.0)],
            "mixed": [mixed(peer, given.questions, folder, latency_s) for latency_s in (0.5, 2.0)],
        }
    document["figures"] = figures(document)
    write(given.json, document)
    tell(document)


if __name__ == "__main__":
    main()
