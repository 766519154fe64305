"""Laws of a run on a Ray cluster: a real one, of two nodes on this machine, against a server that counts."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from clusters import NODE, started
from counting import CountingBox, counting
from trimtab.cli.scaling import ClusterClient
from trimtab.cli.settings import Settings
from trimtab.scale.recipes import Answering
from trimtab.scale.shards import Shards
from trimtab.stopping import DecisionRule
from trimtab.store import Store
from trimtab.types import Answer, AnswerStatus, Question, Sampling

ray = pytest.importorskip("ray", reason="ray is not installed")

pytestmark = pytest.mark.slow

KEY = "sk-of-the-cluster-0123456789"
IN, OUT = 100.0, 1000.0  # dollars a million tokens
USD = (10 * IN + 5 * OUT) / 1e6  # of one call to the counting box


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with started() as both:
        both.second = both.add_node(**NODE)
        yield both


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def settings_of(folder: Path, box: CountingBox, cluster: Any, **more: Any) -> Settings:
    known = {"usd_per_million_in": IN, "usd_per_million_out": OUT, "draws": 1, "concurrency": 40}
    place = {"engine": "ray", "ray_address": cluster.address, "work_dir": folder / "work"}
    return Settings.model_validate({"model": "m", "base_url": box.url, **known, **place, **more})


def questions(count: int) -> list[Question]:
    return [Question(str(at), f"What is {at} plus 1?", answer="2") for at in range(count)]


def by_length() -> Callable[[], Any]:
    """A recipe that travels by value: the actors cannot import this module."""
    return lambda: lambda pairs: [len(text) / 10 for _, text in pairs]


@contextmanager
def run_on(settings: Settings, run_id: str = "answer-1") -> Iterator[tuple[ClusterClient, Store]]:
    from trimtab.cli import build
    from trimtab.scale.bounds import Bounds
    from trimtab.scale.pool import Batches

    with closing(build.store_of(settings)) as store:
        store.start_run(run_id, "answer", {})
        with ClusterClient(settings, store, run_id) as client:
            client.scored_by(Batches(by_length(), Bounds(cpus=0.5)))
            yield client, store


def answered(client: ClusterClient, folder: Path, asked: list[Question], report: Any = None) -> list[Answer]:
    from trimtab.scale import remote

    shards = Shards(folder / "shards", of="answer-1", rows=len(asked), size=50)
    answering = Answering("numeric", DecisionRule("majority"), Sampling(n=1, seed=0))
    report = report or (lambda done, total: None)
    asyncio.run(remote.answered(client.samplers, shards, asked, answering, report))
    return [remote.answer_of(row) for row in shards.lines()]


def test_a_node_killed_in_the_middle_costs_no_answer_no_second_bill_and_no_cent(cluster, tmp_path):
    asked = questions(2000)
    killed = threading.Event()

    def kill_at_a_third(done: int, total: int) -> None:
        if done > total // 3 and not killed.is_set():
            killed.set()
            gone = cluster.second.node_id
            for standing in client.samplers.standing.values():
                if standing.node == gone:
                    os.kill(standing.pid, signal.SIGKILL)  # as a machine goes that loses its power
            cluster.remove_node(cluster.second, allow_graceful=False)

    with counting(CountingBox(latency_s=0.05)) as box:
        settings = settings_of(tmp_path, box, cluster, max_usd=2.5 * 2000 * USD, ray_samplers=4)
        with run_on(settings) as (client, store):
            answers = answered(client, tmp_path, asked, kill_at_a_third)
            spent = store.usage_of("answer-1")
        deaths, refusal = client.samplers.deaths, client.is_spent
    cluster.second = cluster.add_node(**NODE)
    assert [answer.id for answer in answers] == [question.id for question in asked]
    assert {answer.status for answer in answers} == {AnswerStatus.ANSWERED}
    assert deaths > 0
    assert refusal is None
    assert box.billed == spent.calls == 2000
    assert spent.usd == pytest.approx(2000 * USD, abs=1e-9)
    assert box.most_in_flight <= 40 + 20  # those of a dead actor are still on the server's side


def test_a_limit_holds_for_all_actors_together_and_a_higher_one_goes_on_without_repeating_a_call(
    cluster, tmp_path
):
    asked = questions(300)
    with counting(CountingBox(latency_s=0.01)) as box:
        with run_on(settings_of(tmp_path, box, cluster, max_calls=100)) as (client, _):
            first = answered(client, tmp_path, asked)
        assert client.is_spent is not None
        assert box.billed == box.requests == 100
        with run_on(settings_of(tmp_path, box, cluster, max_usd=300 * USD + 1.0)) as (client, store):
            second = answered(client, tmp_path, asked)
            spent = store.usage_of("answer-1")
        assert client.is_spent is None
    assert sum(answer.status is AnswerStatus.ANSWERED for answer in first) == 100
    assert {answer.status for answer in second} == {AnswerStatus.ANSWERED}
    assert box.billed == box.requests == spent.calls == 300
    assert spent.usd == pytest.approx(300 * USD, abs=1e-9)


def test_a_ceiling_on_requests_a_minute_holds_for_all_actors_together(cluster, tmp_path):
    asked = questions(40)
    with counting(CountingBox()) as box:
        settings = settings_of(tmp_path, box, cluster, requests_per_minute=600, ray_samplers=2)
        with run_on(settings) as (client, _):
            answered(client, tmp_path, asked)
    box.arrivals.sort()
    assert box.requests == 40
    assert box.arrivals[-1] - box.arrivals[0] >= 0.8 * 39 / 10


def test_a_box_that_is_asked_on_the_cluster_says_what_it_says_here(cluster, tmp_path):
    from trimtab.types import Message, Prompt

    asked = [(Prompt((Message("user", f"{at}?"),)), Sampling(n=3, seed=at)) for at in range(20)]

    async def all_of(llm: Any) -> list[Any]:
        return await asyncio.gather(*(llm.complete(*request) for request in asked))

    with (
        counting(CountingBox()) as box,
        run_on(settings_of(tmp_path, box, cluster, ray_samplers=1)) as (client, store),
    ):
        there = asyncio.run(all_of(client.model()))
        again = asyncio.run(all_of(client.model()))
        spent = store.usage_of("answer-1")
    assert [len(each.completions) for each in there] == [3] * 20
    assert [each.completions for each in again] == [each.completions for each in there]
    assert sum(each.usage.calls for each in there) == spent.calls
    assert sum(each.usage.calls for each in again) == 0


def test_a_refused_key_ends_the_run_with_the_black_boxes_own_words(cluster, tmp_path, serve):
    from loopback import failed
    from trimtab.errors import RefusedError

    server = serve(failed(401, "no such key"))
    box = CountingBox()
    box.url = server.url
    settings = settings_of(tmp_path, box, cluster, ray_samplers=1)
    with (
        run_on(settings) as (client, _),
        pytest.raises(RefusedError, match="no such key") as refused,
    ):
        answered(client, tmp_path, questions(5))
    assert refused.value.exit_code == 2
    assert KEY not in str(refused.value)


def test_batch_actors_grow_with_the_work_and_give_it_back_in_order_when_one_dies(cluster, tmp_path):
    from trimtab.cli.scaling import on_cluster
    from trimtab.scale.bounds import Bounds
    from trimtab.scale.pool import Batches

    folder = str(tmp_path)

    def doubled() -> Any:
        Path(folder, f"{os.getpid()}.here").touch()

        def work(items: Sequence[int]) -> list[int]:
            waits_until = time.monotonic() + 60
            while len(list(Path(folder).glob("*.here"))) < 2 and time.monotonic() < waits_until:
                time.sleep(0.02)
            if 300 in items and not Path(folder, "died").exists():
                Path(folder, "died").touch()
                os._exit(1)
            return [2 * item for item in items]

        return work

    with on_cluster(Settings(engine="ray", ray_address=cluster.address)):
        pool = Batches(doubled, Bounds(least=1, most=3, cpus=0.5))
        assert pool.map(list(range(1000)), 50) == [2 * item for item in range(1000)]
    assert (tmp_path / "died").exists()
    assert 2 <= len(list(tmp_path.glob("*.here"))) <= 4


def test_files_that_are_gone_here_are_found_there_as_they_were_sent_and_a_damaged_one_is_sent_again(
    cluster, tmp_path
):
    from trimtab.cli.scaling import on_cluster
    from trimtab.scale.bounds import Bounds
    from trimtab.scale.parcels import own_folder, parcel
    from trimtab.scale.pool import Batches

    sent = tmp_path / "sent"
    (sent / "deep").mkdir(parents=True)
    (sent / "deep" / "weights").write_bytes(os.urandom(100_000))
    (sent / "facts").write_text(str(tmp_path), "utf-8")
    before = {path.name: path.read_bytes() for path in sent.rglob("*") if path.is_file()}
    with on_cluster(Settings(engine="ray", ray_address=cluster.address)):
        folder, file = parcel(sent), parcel(sent / "facts")
        shutil.rmtree(sent)

        def read() -> Any:
            places = folder.here(), file.here()
            return lambda items: [[(str(place), place.is_dir()) for place in places] for _ in items]

        def read_by_four() -> list[Any]:
            pool = Batches(read, Bounds(least=4, most=4, cpus=0.5))
            pool.wait()
            return pool.map([0], 1)[0]

        ((there, is_folder), (one, is_one_folder)) = read_by_four()
        kept = own_folder("parcels") / folder.key
        assert (Path(there), is_folder, is_one_folder) == (kept, True, False)
        assert {path.name: path.read_bytes() for path in kept.rglob("*") if path.is_file()} == before
        assert Path(one).read_bytes() == before["facts"]
        (kept / "facts").write_text("damaged", "utf-8")
        read_by_four()
        assert (kept / "facts").read_bytes() == before["facts"]
    for made in (kept, Path(one).parent):
        shutil.rmtree(made)


def test_the_key_is_in_no_log_and_no_record_of_the_cluster(cluster, tmp_path):
    """After all of the above: what Ray has written down of these runs does not hold the key."""
    folder = Path(cluster.head_node.get_session_dir_path())
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert not [path for path in written if KEY.encode() in path.read_bytes()]
