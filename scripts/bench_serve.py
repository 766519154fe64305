"""What the server adds to the black box behind it: time at a given rate, its highest rate, its memory.

    python scripts/bench_serve.py [--requests 100000] [--rate 100] [--seconds 20] [--json FILE]

A canned upstream, `trimtab serve` and the client run on this machine, each in a process of its own. Every
request is passed through to the upstream; the same is asked of the bare upstream, side by side.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import aiohttp

CHOICE = {"index": 0, "message": {"role": "assistant", "content": "Two. " * 20}, "finish_reason": "stop"}
USAGE = {"prompt_tokens": 20, "completion_tokens": 40, "total_tokens": 60}
ANSWER = json.dumps(
    {"id": "c", "object": "chat.completion", "model": "box", "choices": [CHOICE], "usage": USAGE}
)
CALL = json.dumps({"model": "box", "messages": [{"role": "user", "content": "What is 1 + 1? " * 5}]}).encode()
HEADERS = {"content-type": "application/json"}
RATES = (100, 150, 200, 250, 300, 350, 400, 500, 600, 800, 1000)
SETTLED = 0.1  # of the requests, after which memory is looked at first


# --------------------------------------------------------------------------- the upstream


class Canned(asyncio.Protocol):
    """Answers every request with the same completion, at once."""

    reply = (
        f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(ANSWER)}\r\n\r\n{ANSWER}"
    ).encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self.transport = transport
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        """Answers each whole request in what came."""
        self.rest += data
        while (end := self.rest.find(b"\r\n\r\n")) >= 0:
            head = self.rest[:end].lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or b"0")
            if len(self.rest) < end + 4 + length:
                return
            self.rest = self.rest[end + 4 + length :]
            self.transport.write(self.reply)  # type: ignore[attr-defined]


def upstream(port: int) -> None:
    """Serves until killed."""

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Canned, "127.0.0.1", port)
        await server.serve_forever()

    asyncio.run(serve())


# --------------------------------------------------------------------------- the client


async def asked(session: aiohttp.ClientSession, url: str) -> float | None:
    """Seconds that one request took; None where it failed."""
    began = time.perf_counter()
    try:
        async with session.post(url, data=CALL, headers=HEADERS) as response:
            await response.read()
            return time.perf_counter() - began if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError):
        return None


async def at_rate(
    session: aiohttp.ClientSession, url: str, rate: float, seconds: float
) -> list[float | None]:
    """What requests took that came at this rate, whether those before had been answered or not."""
    loop = asyncio.get_running_loop()
    began, tasks = loop.time(), []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
        tasks.append(asyncio.create_task(asked(session, url)))
    return await asyncio.gather(*tasks)


async def many(session: aiohttp.ClientSession, url: str, count: int, at_once: int) -> int:
    """How many of so many requests failed, so many of them under way at any time."""
    left, failed = iter(range(count)), 0

    async def one_after_another() -> None:
        nonlocal failed
        for _ in left:
            failed += await asked(session, url) is None

    await asyncio.gather(*(one_after_another() for _ in range(at_once)))
    return failed


def percentile(taken: Sequence[float], share: float) -> float:
    """In milliseconds."""
    return 1000 * sorted(taken)[min(len(taken) - 1, int(share * len(taken)))]


def summary(taken: Sequence[float | None]) -> dict[str, float]:
    """Percentiles in milliseconds, and failures."""
    good = [each for each in taken if each is not None]
    figures = {"p50_ms": percentile(good, 0.5), "p99_ms": percentile(good, 0.99)} if good else {}
    return {**figures, "failed": len(taken) - len(good)}


def cpu_s(pid: int) -> float:
    """Processor time of a process so far: unlike latency, what else the machine does hardly changes it."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


# --------------------------------------------------------------------------- the measurements


async def measured(bare: str, served: str, pid: int, options: argparse.Namespace) -> dict[str, object]:
    """All figures."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(30)) as session:
        for url in (bare, served):
            await many(session, url, 300, 8)  # warm
        side_by_side = await _added(session, bare, served, options)
        highest = await _highest(session, served)
        memory = await _memory(lambda count: many(session, served, count, 16), pid, options.requests)
    return {**side_by_side, "highest_rate_without_failure": highest, **memory}


async def _added(
    session: aiohttp.ClientSession, bare: str, served: str, options: argparse.Namespace
) -> dict[str, object]:
    """Both in turns, so that what else the machine does meets both."""
    taken: dict[str, list[float | None]] = {"bare": [], "served": []}
    for _ in range(4):
        for name, url in (("bare", bare), ("served", served)):
            taken[name] += await at_rate(session, url, options.rate, options.seconds / 4)
    found = {name: summary(each) for name, each in taken.items()}
    added = {f"added_{key}": found["served"][key] - found["bare"][key] for key in ("p50_ms", "p99_ms")}
    return {"rate": options.rate, **found, **added}


async def _highest(session: aiohttp.ClientSession, url: str) -> float:
    """The highest of the rates that is kept up for some seconds, without failure or falling behind."""
    best = 0.0
    for rate in RATES:
        began = time.perf_counter()
        taken = await at_rate(session, url, rate, 3)
        if None in taken or time.perf_counter() - began > 3.6:
            break
        best = rate
    return best


async def _memory(ask: Callable[[int], Awaitable[int]], pid: int, count: int) -> dict[str, float]:
    settled = int(SETTLED * count)
    began = time.perf_counter()
    failed = await ask(settled)
    before, cpu = rss_mb(pid), cpu_s(pid)
    failed += await ask(count - settled)
    seconds = time.perf_counter() - began
    after = rss_mb(pid)
    used = 1000 * (cpu_s(pid) - cpu) / (count - settled)
    growth = {
        "cpu_ms_a_request": used,
        "rss_mb_settled": before,
        "rss_mb_end": after,
        "rss_growth": after / before - 1,
    }
    return {"requests": count, "failed": failed, "closed_loop_rate": count / seconds, **growth}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def wait_for(port: int) -> None:
    """Returns once somebody listens there."""
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"nobody listens on port {port}")


def run(options: argparse.Namespace) -> dict[str, object]:
    """Starts the processes, and measures."""
    box_port, port = free_port(), free_port()
    box = multiprocessing.get_context("spawn").Process(target=upstream, args=(box_port,), daemon=True)
    box.start()
    wait_for(box_port)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "trimtab", "serve", "--model", "box", "--unpriced", "--threads", "1"]
        address = ["--base-url", f"http://127.0.0.1:{box_port}/v1", "--port", str(port), "--work-dir", folder]
        with subprocess.Popen([*command, *address], stderr=subprocess.DEVNULL) as server:
            try:
                wait_for(port)
                path = "v1/chat/completions"
                bare, served = (f"http://127.0.0.1:{each}/{path}" for each in (box_port, port))
                return asyncio.run(measured(bare, served, server.pid, options))
            finally:
                server.terminate()
                box.terminate()


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=100_000, help="over which memory is looked at")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="at that rate, each")
    parser.add_argument("--json", type=Path, help="where the figures go too")
    options = parser.parse_args()
    text = json.dumps(run(options), indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
