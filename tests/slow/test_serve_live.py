"""The server as its users have it: real processes, real clients, a kill in the middle, two databases."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import httpx
import openai
import pytest
import uvicorn

from loopback import said
from serving import parts_of
from trimtab import tasks
from trimtab.llm.embedded import running as running_box
from trimtab.serve import create_app
from trimtab.serve.listening import listening
from trimtab.store import Store
from trimtab.types import Question, Verdict

pytestmark = pytest.mark.slow

BOX = "trimtab-blackbox"
SHORT = {"model": BOX, "messages": [{"role": "user", "content": "Ann has 2 pens.\n"}], "max_tokens": 4}
INSPECT = Path(__file__).resolve().parents[2] / ".venv-inspect" / "bin" / "python"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OPENAI_API_KEY": "sk-upstream-never-shown"}


@dataclass
class Served:
    """A server's process and where it is."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    @property
    def root(self) -> str:
        return self.url.removesuffix("/v1")


def trimtab(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "trimtab", *map(str, arguments)]


def start(folder: Path, *arguments: object) -> Served:
    log = folder / f"server-{time.monotonic_ns()}.log"
    command = trimtab("serve", "--port", 0, "--work-dir", folder / "work", "--threads", 1, *arguments)
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stderr=stderr, env={**ENVIRONMENT, "COLUMNS": "500"}, text=True)
    for _ in range(600):
        found = re.search(r"at (http://\S+/v1)", log.read_text())
        if found and is_up(found[1]):
            return Served(process, found[1], log)
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url.removesuffix('/v1')}/ready", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def serving(folder: Path, *arguments: object) -> Iterator[Served]:
    server = start(folder, *arguments)
    try:
        yield server
    finally:
        server.process.terminate()
        assert server.process.wait(30) == 0, server.log.read_text()


@pytest.fixture(scope="module")
def box() -> Iterator[str]:
    with running_box() as url:
        yield url


@pytest.fixture(scope="module")
def adapter(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of random weights: what it likes does not matter here, only that it is always the same."""
    from trimtab.energy import EnergyModel, Manifest, save_adapter

    folder = tmp_path_factory.mktemp("adapter") / "tiny"
    energy = EnergyModel.pretrained(tiny_backbone, max_length=96)
    save_adapter(folder, energy, Manifest(task="house", backbone="tiny", loss="none", max_length=96))
    return folder


@pytest.fixture(scope="module")
def served(box: str, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    with serving(folder, *in_front_of(box), "--adapter", f"house={adapter}", *DRAWN) as server:
        yield server


DRAWN = ("--draws", 4, "--max-tokens", 48)


def in_front_of(box: str) -> tuple[str, ...]:
    return ("--model", BOX, "--base-url", box)


@pytest.fixture(scope="module")
def problems() -> list[dict[str, str]]:
    command = trimtab("blackbox", "--problems", 6, "--problem-seed", 7)
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [json.loads(line) for line in lines]


def question_of(problem: dict[str, str]) -> dict[str, str]:
    return {"id": problem["id"], "text": problem["question"], "answer": problem["answer"]}


def asked(problem: dict[str, str]) -> dict[str, object]:
    return {"model": "house", "messages": [{"role": "user", "content": problem["question"]}]}


# --------------------------------------------------------------------------- clients


def test_the_official_client_gets_the_answers_of_trimtab_answer(served, box, adapter, problems, tmp_path):
    rows, out = tmp_path / "questions.jsonl", tmp_path / "answers.jsonl"
    rows.write_text("\n".join(map(json.dumps, problems)))
    command = trimtab(
        *("answer", "--adapter", adapter, "--questions", rows, "--out", out, "--threads", 1),
        *(*in_front_of(box), *DRAWN, "--work-dir", tmp_path / "work"),
    )
    subprocess.run(command, check=True, env=ENVIRONMENT, capture_output=True)
    wanted = {row["id"]: row for row in map(json.loads, out.read_text().splitlines())}
    client = openai.OpenAI(base_url=served.url, api_key="none")
    for problem in problems:
        own = {"trimtab": {"question_id": problem["id"]}}
        reply = client.chat.completions.create(**asked(problem), extra_body=own)
        row = wanted[problem["id"]]
        assert reply.choices[0].message.content == row["text"]
        assert (reply.trimtab["answer"], reply.trimtab["score"]) == (row["answer"], row["score"])


def test_the_official_client_streams_and_lists(served, problems):
    client = openai.OpenAI(base_url=served.url, api_key="none")
    whole = client.chat.completions.create(**asked(problems[0]))
    chunks = list(
        client.chat.completions.create(
            **asked(problems[0]), stream=True, stream_options={"include_usage": True}
        )
    )
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert {"house", "house:fast", "house@v1", BOX} <= {model.id for model in client.models.list()}
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**{**asked(problems[0]), "model": "nothing"})


def test_litellm_needs_the_base_url_alone(served, problems):
    script = (
        "import sys, json, litellm; litellm.suppress_debug_info = True\n"
        "call = json.loads(sys.argv[2])\n"
        "r = litellm.completion(api_base=sys.argv[1], api_key='none', **call)\n"
        "s = litellm.completion(api_base=sys.argv[1], api_key='none', stream=True, **call)\n"
        "said = ''.join(c.choices[0].delta.content or '' for c in s)\n"
        "print(json.dumps([r.choices[0].message.content, said]))"
    )
    call = json.dumps({**asked(problems[0]), "model": "openai/house"})
    command = [sys.executable, "-c", script, served.url, call]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    whole, streamed = json.loads(done.stdout.splitlines()[-1])
    assert whole
    assert whole == streamed


def test_langchain_needs_the_base_url_alone(served, problems):
    script = (
        "import sys, json; from langchain_openai import ChatOpenAI\n"
        "chat = ChatOpenAI(model='house', base_url=sys.argv[1], api_key='none')\n"
        "streamed = ''.join(chunk.content for chunk in chat.stream(sys.argv[2]))\n"
        "print(json.dumps([chat.invoke(sys.argv[2]).content, streamed]))"
    )
    command = [sys.executable, "-c", script, served.url, problems[0]["question"]]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    whole, streamed = json.loads(done.stdout.splitlines()[-1])
    assert whole
    assert whole == streamed


def test_inspect_measures_the_adapted_model_as_we_do(served, problems, tmp_path):
    if not INSPECT.exists():  # it needs a newer openai than litellm takes, so an environment of its own
        pytest.skip(f"no Inspect at {INSPECT}: `make inspect` installs it there")
    script = (
        "import sys, json; from inspect_ai import Task, eval; from inspect_ai.dataset import Sample\n"
        "from inspect_ai.model import get_model; from inspect_ai.scorer import match\n"
        "rows = json.loads(sys.argv[2])\n"
        "samples = [Sample(input=row['question'], target=row['answer'], id=row['id']) for row in rows]\n"
        "model = get_model('openai-api/adapted/house', base_url=sys.argv[1], api_key='none')\n"
        "task = Task(samples, scorer=match(numeric=True))\n"
        "(log,) = eval(task, model=model, display='none', log_dir=sys.argv[3], score_display=False)\n"
        "said = {sample.id: sample.output.completion for sample in log.samples}\n"
        "print(json.dumps([log.status, said, log.results.scores[0].metrics['accuracy'].value]))"
    )
    command = [INSPECT, "-c", script, served.url, json.dumps(problems), tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    status, said, accuracy = json.loads(done.stdout.splitlines()[-1])
    client = openai.OpenAI(base_url=served.url, api_key="none")
    for problem in problems:
        own = client.chat.completions.create(**asked(problem)).choices[0].message.content
        assert said[problem["id"]].strip() == own.strip()
    house = tasks.by_name("house")
    verdicts = [house.verdict(Question(**question_of(row)), said[row["id"]]) for row in problems]
    assert status == "success"
    assert accuracy == verdicts.count(Verdict.RIGHT) / len(problems)


# --------------------------------------------------------------------------- made to break it


@pytest.fixture
def scripted_server(serve) -> Iterator[str]:
    """A server on a real socket, in front of black boxes that answer at once: time is for examples."""
    parts = parts_of(url=serve(said("hello")).url, keyed=True)
    server = uvicorn.Server(uvicorn.Config(create_app(parts), log_config=None, ws="none"))
    with listening("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()
    parts.store.close()


def test_schemathesis_finds_no_server_error(scripted_server, tmp_path):
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{scripted_server}/openapi.json"),
        *("--checks", "not_a_server_error", "--max-examples", "30", "--phases", "examples,coverage,fuzzing"),
        *("--generation-database", "none", "--no-color", "--request-timeout", "20"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:]


def test_no_key_is_in_any_log_store_or_answer(box, adapter, problems, tmp_path):
    made = subprocess.run(
        trimtab("keys", "create", "--name", "me", "--work-dir", tmp_path / "work", "--json"),
        *(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    key = json.loads(made.stdout)["key"]
    with serving(tmp_path, *in_front_of(box), "--adapter", adapter, *DRAWN) as server:
        for headers, status in (({}, 401), ({"Authorization": f"Bearer {key}"}, 200)):
            call = {**asked(problems[0]), "model": "tiny"}
            response = httpx.post(f"{server.url}/chat/completions", json=call, headers=headers, timeout=60)
            assert response.status_code == status
            assert "sk-upstream" not in response.text
        revoke = trimtab("keys", "revoke", json.loads(made.stdout)["id"], "--work-dir", tmp_path / "work")
        subprocess.run(revoke, check=True, capture_output=True)
        time.sleep(1.5)
        late = httpx.get(f"{server.url}/models", headers={"Authorization": f"Bearer {key}"})
        assert late.status_code == 401
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        assert key.encode() not in content, path
        assert b"sk-upstream-never-shown" not in content, path


def test_another_address_without_a_key_is_refused(box, tmp_path):
    command = trimtab("serve", *in_front_of(box), "--host", "0.0.0.0", "--work-dir", tmp_path)
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 2
    assert "trimtab keys create" in done.stderr


def test_what_is_under_way_is_finished_when_the_server_is_told_to_end(box, adapter, problems, tmp_path):
    server = start(tmp_path, *in_front_of(box), "--adapter", adapter, *DRAWN)

    async def ask() -> int:
        async with aiohttp.ClientSession() as session:
            call = {**asked(problems[1]), "model": "tiny"}
            request = asyncio.create_task(session.post(f"{server.url}/chat/completions", json=call))
            await asyncio.sleep(0.15)
            server.process.send_signal(signal.SIGTERM)
            async with await request as response:
                return response.status

    assert asyncio.run(ask()) == 200
    assert server.process.wait(30) == 0


# --------------------------------------------------------------------------- killed


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "serving.db") if request.param == "sqlite" else request.getfixturevalue("postgres")


def test_after_a_kill_under_load_every_answer_that_was_given_takes_feedback(box, address, tmp_path):
    arguments = (*in_front_of(box), "--store", address)
    server = start(tmp_path, *arguments)
    answered = asyncio.run(until_killed(server, lambda: os.kill(server.process.pid, signal.SIGKILL)))
    server.process.wait()
    assert len(answered) > 10
    with closing(Store.open(address)) as store:
        assert all(store.inference(each) is not None for each in answered)
    with serving(tmp_path, *arguments) as again:
        for number, each in enumerate(answered):
            words = {"inference_id": each, "right": True, "id": str(number)}
            assert httpx.post(f"{again.root}/v1/feedback", json=words).status_code == 200


async def until_killed(server: Served, kill: Callable[[], None]) -> list[str]:
    """The ids of all answers that came whole before the server was gone."""
    answered: list[str] = []

    async def ask(session: aiohttp.ClientSession) -> None:
        while True:
            try:
                async with session.post(f"{server.url}/chat/completions", json=SHORT) as response:
                    answered.append((await response.json())["trimtab"]["inference_id"])
            except aiohttp.ClientError:
                return

    async with aiohttp.ClientSession() as session:
        asking = [asyncio.create_task(ask(session)) for _ in range(8)]
        while len(answered) <= 30:
            await asyncio.sleep(0.05)
        kill()
        await asyncio.gather(*asking)
    return answered


def test_several_workers_share_store_keys_and_figures(box, tmp_path):
    with serving(tmp_path, *in_front_of(box), "--workers", 2) as server:
        call = {"model": BOX, "messages": [{"role": "user", "content": "Ann has 2 pens.\n"}], "max_tokens": 4}
        ids = [
            httpx.post(f"{server.url}/chat/completions", json=call, timeout=60).json()["trimtab"][
                "inference_id"
            ]
            for _ in range(8)
        ]
        time.sleep(0.2)
        figures = httpx.get(f"{server.root}/metrics").text
        for each in ids:
            words = {"inference_id": each, "right": True}
            assert httpx.post(f"{server.root}/v1/feedback", json=words).status_code == 200
    counted = re.search(r'trimtab_answers_total\{adapter="none",status="answered"\} (\S+)', figures)
    assert counted is not None
    assert float(counted[1]) == 8
