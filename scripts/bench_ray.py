"""What a Ray cluster costs and gives: start-up, throughput, overhead beside the plain engine, a lost node.

    python scripts/bench_ray.py [--questions 10000] [--lost 2000] [--json FILE]

Server, cluster and driver share this machine's cores. Whole commands are timed from outside, and their CPU
is that of the command and of all that it has started.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from benching import machine, write
from trimtab.cli import build
from trimtab.cli.scaling import QUIET, ClusterClient, on_cluster
from trimtab.cli.settings import Settings
from trimtab.scale.recipes import Answering
from trimtab.scale.shards import Shards
from trimtab.stopping import DecisionRule
from trimtab.types import Question, Sampling

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from counting import CountingBox, counting

LATENCY_S, IN_FLIGHT = 0.5, 8  # of the latency-bound server; questions that one actor works on
RUNS_S = 10.0  # how long each number of actors is measured
NODE = {"num_cpus": 4, "object_store_memory": 80_000_000}
TRIMTAB = Path(sys.executable).with_name("trimtab")


def settings_of(folder: Path, box: CountingBox, **more: Any) -> Settings:
    known = {"model": "m", "base_url": box.url, "unpriced": True, "engine": "ray", "threads": 1}
    return Settings.model_validate({**known, "work_dir": folder, **more})


def questions(count: int) -> list[Question]:
    return [Question(f"q{at}", f"What is {at} plus 1?", answer="2") for at in range(count)]


def memory_mb(of: Callable[[str], bool]) -> float:
    """Resident memory of the processes whose command line is meant, shared pages counted once each (PSS)."""
    total = 0
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and of((folder / "cmdline").read_text("utf-8", "replace")):
                rollup = (folder / "smaps_rollup").read_text("utf-8")
                total += int(rollup.split("\nPss:")[1].split()[0])
        except (OSError, IndexError):
            continue  # it has ended meanwhile
    return total / 1024


def is_rays(command: str) -> bool:
    return command.startswith("ray::") or "/ray/" in command


# --------------------------------------------------------------------------- the parts


@contextmanager
def asking(settings: Settings, name: str = "answer-bench") -> Iterator[ClusterClient]:
    """Sampling actors under one gate, and scorers that cost nothing."""
    from trimtab.scale.bounds import Bounds
    from trimtab.scale.pool import Batches

    with closing(build.store_of(settings)) as store:
        store.start_run(name, "answer", {})
        with ClusterClient(settings, store, name) as client:
            nothing = lambda: lambda pairs: [0.0 for _ in pairs]  # noqa: E731  (travels by value)
            client.scored_by(Batches(nothing, Bounds(cpus=0.5)))
            yield client


def answered(client: ClusterClient, folder: Path, asked: Sequence[Question], report: Any) -> int:
    """How many were answered."""
    from trimtab.scale import remote

    size = max(1, min(IN_FLIGHT, len(asked)))
    shards = Shards(folder / "shards", of="bench", rows=len(asked), size=size)
    answering = Answering("numeric", DecisionRule("majority"), Sampling(n=1, seed=0))
    asyncio.run(remote.answered(client.samplers, shards, asked, answering, report))
    return sum(remote.answer_of(row).answer is not None for row in shards.lines())


def start_up(folder: Path) -> dict[str, float]:
    """Seconds and memory of a cluster on this machine, then of two sampling actors on it."""
    with counting(CountingBox()) as box:
        settings = settings_of(folder, box)
        began = time.monotonic()
        with on_cluster(settings):
            joined_s = time.monotonic() - began
            alone_mb = memory_mb(is_rays)
            with asking(settings):
                ready_s = time.monotonic() - began
                return {
                    "cluster_s": joined_s,
                    "with_actors_s": ready_s,
                    "cluster_mb": alone_mb,
                    "with_actors_mb": memory_mb(is_rays),
                }


def throughput(folder: Path, actors: int) -> dict[str, float]:
    """Questions a second against the latency-bound server; linear is what the latency allows."""
    count = int(actors * IN_FLIGHT / LATENCY_S * RUNS_S)
    with counting(CountingBox(latency_s=LATENCY_S)) as box:
        more = {"ray_samplers": actors, "concurrency": actors * IN_FLIGHT}
        settings = settings_of(folder / f"actors-{actors}", box, **more)
        with asking(settings) as client:
            warm = [Question(f"w{at}", f"Warm {at}?") for at in range(2 * actors * IN_FLIGHT)]
            answered(client, folder / f"warm-{actors}", warm, lambda done, total: None)
            began = time.monotonic()
            done = answered(client, folder / f"actors-{actors}", questions(count), lambda done, total: None)
            seconds = time.monotonic() - began
        linear = actors * IN_FLIGHT / LATENCY_S
        return {
            "actors": actors,
            "questions": done,
            "per_s": done / seconds,
            "of_linear": done / seconds / linear,
            "bundles_per_question": client.bundles / done,
        }


def lost_node(folder: Path, count: int) -> dict[str, float]:
    """A two-node cluster loses one with all its processes in the middle."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    second = cluster.add_node(**NODE)
    with counting(CountingBox(latency_s=0.1)) as box:
        more = {"ray_address": cluster.address, "ray_samplers": 4, "concurrency": 64}
        settings = settings_of(folder, box, **more)
        killed: list[float] = []
        with asking(settings) as client:

            def kill(done: int, total: int) -> None:
                if done < total // 2 or killed:
                    return
                killed.append(time.monotonic())
                for standing in client.samplers.standing.values():
                    if standing.node == second.node_id:
                        os.kill(standing.pid, signal.SIGKILL)
                cluster.remove_node(second, allow_graceful=False)

            began = time.monotonic()
            done = answered(client, folder, questions(count), kill)
            seconds = time.monotonic() - began
    cluster.shutdown()
    figures = {"questions": count, "answered": done, "requests": box.requests, "billed": box.billed}
    return {**figures, "deaths": client.samplers.deaths, "wall_s": seconds}


def overhead(folder: Path, count: int, repeats: int) -> dict[str, Any]:
    """`trimtab answer` on recorded draws, the plain engine and the cluster in turn, so many times each."""
    from trimtab.energy import EnergyModel, Manifest, save_adapter

    energy = EnergyModel.pretrained("offline", max_length=64, seed=0)
    save_adapter(
        folder / "adapter",
        energy,
        Manifest(task="numeric", backbone=energy.backbone, loss="ranking_nce", max_length=64),
    )
    rows = [{"id": each.id, "question": each.text, "answer": each.answer} for each in questions(count)]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    with counting(CountingBox()) as box:
        timed(folder, box, "local")  # the draws are in the store from now on
        asked = box.requests
        found = {engine: [] for engine in ("local", "ray")}
        for _ in range(repeats):
            for engine, runs in found.items():
                runs.append(timed(folder, box, engine))
        assert box.requests == asked, "a recorded draw was asked for again"
    pairs = zip(found["ray"], found["local"], strict=True)
    ratios = [there["wall_s"] / here["wall_s"] for there, here in pairs]
    return {"questions": count, "runs": found, "ray_over_plain": statistics.median(ratios)}


def timed(folder: Path, box: CountingBox, engine: str) -> dict[str, float]:
    command = [
        *(TRIMTAB, "answer", "--adapter", folder / "adapter", "--questions", folder / "q.jsonl"),
        *("--model", "m", "--base-url", box.url, "--unpriced", "--draws", 1, "--threads", 1),
        *("--work-dir", folder / "work", "--out", folder / f"{engine}.jsonl", "--engine", engine),
        *("--ray-samplers", 1, "--ray-scorers-most", 1),
    ]
    shutil.rmtree(folder / "work" / "runs", ignore_errors=True)  # shards of the time before
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENAI_API_KEY": "none"}
    began, used = time.monotonic(), os.times()
    subprocess.run([str(part) for part in command], env=environment, check=True, capture_output=True)
    seconds, after = time.monotonic() - began, os.times()
    cpu_s = after.children_user - used.children_user + after.children_system - used.children_system
    return {"wall_s": seconds, "cpu_s": cpu_s, "load": os.getloadavg()[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--questions", type=int, default=10_000, help="of the overhead; 0 leaves it out")
    parser.add_argument("--repeats", type=int, default=3, help="of the overhead")
    parser.add_argument("--lost", type=int, default=2000, help="of the lost node; 0 leaves it out")
    parser.add_argument("--actors", default="1,2,4", help="numbers of sampling actors")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    os.environ.update({**QUIET, "OPENAI_API_KEY": "none", "OMP_NUM_THREADS": "1"})
    document: dict[str, Any] = {"machine": machine(), "latency_s": LATENCY_S, "in_flight": IN_FLIGHT}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        document["start_up"] = start_up(folder / "start")
        numbers = [int(part) for part in given.actors.split(",") if part]
        with on_cluster(Settings(engine="ray")):
            document["throughput"] = [throughput(folder, actors) for actors in numbers]
        if given.lost:
            document["lost_node"] = lost_node(folder / "lost", given.lost)
        if given.questions:
            document["overhead"] = overhead(folder, given.questions, given.repeats)
    if given.json:
        write(given.json, document)
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
