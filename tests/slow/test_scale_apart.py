"""Laws of a cluster whose machines share no disk, with the store on a real PostgreSQL server.

The command runs on one machine; all actors that score and train are on another, which has its own name and
sees nothing of the command's folders (where the tests have leave to hide them).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clusters import can_be_apart, machine_apart, started
from counting import CountingBox, counting
from databases import empty_databases
from trimtab.cli import adapting, answering
from trimtab.cli.settings import Settings

ray = pytest.importorskip("ray", reason="ray is not installed")

pytestmark = pytest.mark.slow

TRIMTAB = Path(sys.executable).with_name("trimtab")
KNOWN = {"model": "m", "unpriced": True, "draws": 3, "threads": 1, "concurrency": 10}
KNOWN |= {"capabilities": "n=yes, seed=yes", "ray_samplers": 1}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the command's machine: what is in it is on no other."""
    return tmp_path_factory.mktemp("desk")


@pytest.fixture(scope="module")
def database() -> Iterator[Callable[[], str]]:
    with empty_databases() as another:
        yield another


@pytest.fixture(scope="module")
def cluster(desk: Path) -> Iterator[Any]:
    with started(num_cpus=0) as both, machine_apart(both, desk) as both.apart:
        yield both


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-apart")


@pytest.fixture(scope="module")
def backbone(desk: Path, tiny_backbone: Path) -> Path:
    return Path(shutil.copytree(tiny_backbone, desk / "backbone"))


@pytest.fixture(scope="module")
def adapter(desk: Path, backbone: Path) -> Path:
    from trimtab.energy import EnergyModel, Manifest, save_adapter

    energy = EnergyModel.pretrained(str(backbone), max_length=64, seed=0)
    manifest = Manifest(task="numeric", backbone=energy.backbone, loss="ranking_nce", max_length=64)
    save_adapter(desk / "adapter", energy, manifest)
    return desk / "adapter"


@pytest.fixture(scope="module")
def questions(desk: Path) -> Path:
    rows = [{"id": f"q{at}", "question": f"What is {at} plus 1?", "answer": "2"} for at in range(96)]
    (desk / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return desk / "q.jsonl"


def by_seed(body: dict[str, Any], at: int) -> str:
    """Right or wrong, long or short, as the request's seed has it."""
    number = int(hashlib.sha256(f"{body['messages']} {body.get('seed')} {at}".encode()).hexdigest()[:6], 16)
    return f"{'The blue way. ' * (number % 3)}The answer is {2 + number % 2}."


def killed_at(calls: int, box: CountingBox, command: str, settings: dict[str, Any]) -> None:
    """Runs the command in a process of its own, and kills it once so many calls are billed."""
    flags = [
        part
        for name, value in settings.items()
        for part in ([f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)]))
    ]
    driver = subprocess.Popen(
        [TRIMTAB, command, *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    until = time.monotonic() + 120
    while box.billed < calls and time.monotonic() < until:
        time.sleep(0.02)
        assert driver.poll() is None, driver.communicate()
    driver.send_signal(signal.SIGKILL)
    driver.communicate()


def said(path: Path) -> list[dict[str, Any]]:
    """The rows without what they cost: draws that are there already cost nothing."""
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [{key: value for key, value in row.items() if key != "usage"} for row in found]


def test_a_killed_answer_goes_on_and_has_the_rows_and_the_price_of_one_machine_and_its_file(
    desk, cluster, database, adapter, questions
):
    known = {**KNOWN, "questions": questions, "adapter": adapter}
    with counting(CountingBox(say=by_seed)) as box:
        here = {"base_url": box.url, "work_dir": desk / "here", "out": desk / "here.jsonl"}
        assert answering.run(Settings.model_validate({**known, **here}), False) == 0
    price = box.billed
    with counting(CountingBox(latency_s=0.1, say=by_seed)) as box:
        place = {"engine": "ray", "ray_address": cluster.address, "store": database()}
        files = {"base_url": box.url, "work_dir": desk / "there", "out": desk / "there.jsonl"}
        there = {**known, **place, **files}
        killed_at(price // 3, box, "answer", there)
        assert box.billed < price
        assert answering.run(Settings.model_validate(there), False) == 0
    assert said(desk / "there.jsonl") == said(desk / "here.jsonl")
    assert box.billed == price
    if not can_be_apart():
        return
    kept = [path.read_bytes() for path in cluster.apart.glob("trimtab-*/parcels/*/model.safetensors")]
    assert (adapter / "model.safetensors").read_bytes() in kept


def test_an_adapter_that_is_trained_on_another_machine_comes_back_whole_however_often_it_is_killed(
    desk, cluster, database, backbone, questions, capfd
):
    from trimtab.energy import verify_adapter

    fit = {"backbone": str(backbone), "max_length": 64, "epochs": 1, "lr": 0.005, "rounds": 1}
    known = {**KNOWN, **fit, "questions": questions}
    with counting(CountingBox(say=by_seed)) as box:
        here = {"base_url": box.url, "work_dir": desk / "trained-here", "out": desk / "adapter-here"}
        assert adapting.run(Settings.model_validate({**known, **here}), True) == 0
    price = box.billed
    with counting(CountingBox(latency_s=0.05, say=by_seed)) as box:
        place = {"engine": "ray", "ray_address": cluster.address, "store": database()}
        files = {"base_url": box.url, "work_dir": desk / "trained-there", "out": desk / "adapter-there"}
        there = {**known, **place, **files}
        killed_at(price // 2, box, "adapt", there)
        assert box.billed < price
        capfd.readouterr()
        assert adapting.run(Settings.model_validate(there), True) == 0
        told = json.loads(capfd.readouterr().out)
    one, other = verify_adapter(desk / "adapter-here"), verify_adapter(desk / "adapter-there")
    assert other.files == one.files
    assert other.weights_sha256 == told["weights_sha256"]
    assert other.metrics["rounds"] == one.metrics["rounds"]
    assert (other.backbone, told["adapter"]) == (str(backbone), str(desk / "adapter-there"))
    assert other.settings.items() >= {"questions": str(questions), "backbone": str(backbone)}.items()
    assert box.billed == told["usage"]["calls"] == price
    if can_be_apart():
        assert not (desk / "trained-there" / "runs").exists()
        assert list(cluster.apart.glob("trimtab-*/work/*/runs/*"))
