"""Law: the key, and what secret headers hold, stand in nothing that a run writes or says.

Real commands run with secrets that exist nowhere else; then every byte they left is searched: store, log,
report, adapter, stdout, stderr, tracebacks.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from trimtab.llm.embedded import running
from trimtab.llm.embedded.world import questions as world_questions

pytestmark = pytest.mark.slow

TRIMTAB = Path(sys.executable).with_name("trimtab")
KEY = "sk-tt-9Zq4LeakCanaryKey7Wx2"
HEADER = "hdr-Vb83LeakCanaryHeader5Kp"
LOGIN = "pw-Rt61LeakCanaryLogin8Mn"
SECRETS = (KEY, HEADER, LOGIN)
SECRET_HEADERS = ("--headers", "X-Gateway-Token: $GATEWAY_TOKEN")
BOX = ("--model", "trimtab-blackbox", "--task", "house", "--max-tokens", "96")
QUICK = ("--max-length", "64", "--lr", "0.005", "--epochs", "1", "--draws", "3", "--concurrency", "4")


# --------------------------------------------------------------------------- the search


def spellings(secret: str) -> set[bytes]:
    """The secret as it may have been written: plain, quoted, in hex, or anywhere inside base64."""
    plain = secret.encode()
    found = {plain, urllib.parse.quote(secret, safe="").encode(), plain.hex().encode()}
    for before in range(3):  # base64 has three alignments; the characters at both ends hang on the neighbours
        coded = base64.b64encode(b"\0" * before + plain)
        inner = coded[4 if before else 0 : len(coded) - 4]
        found |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    return found


def leaks(written: dict[str, bytes]) -> list[str]:
    """Where a secret stands, by the name of what was written."""
    wanted = {spelt for secret in SECRETS for spelt in spellings(secret)}
    return [name for name, content in written.items() if any(spelt in content for spelt in wanted)]


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("before", [b"", b"x", b"Bearer ", b"user:"])
@pytest.mark.parametrize("secret", SECRETS)
def test_the_search_finds_a_secret_however_it_is_written(secret, before):
    plain = before + secret.encode()
    for coded in (plain, base64.b64encode(plain), base64.urlsafe_b64encode(plain), plain.hex().encode()):
        assert leaks({"a file": b"... " + coded + b" ..."}) == ["a file"]
    assert leaks({"a file": b"nothing of the kind"}) == []


# --------------------------------------------------------------------------- the runs


@dataclass
class Left:
    """What the commands left behind."""

    folder: Path
    said: dict[str, bytes] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)

    def run(self, name: str, *args: object, **more: str) -> None:
        """Runs the command with all secrets in the environment; what it says is kept."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("TRIMTAB_")}
        secrets = {"OPENAI_API_KEY": KEY, "GATEWAY_TOKEN": HEADER}
        done = subprocess.run(
            [str(arg) for arg in args],
            capture_output=True,
            env={**inherited, "OMP_NUM_THREADS": "1", **secrets, **more},
            timeout=300,
            cwd=self.folder,
        )
        self.said |= {f"stdout of {name}": done.stdout, f"stderr of {name}": done.stderr}
        self.codes[name] = done.returncode

    def everything(self) -> dict[str, bytes]:
        return {**everything_in(self.folder), **self.said}


@contextmanager
def echoing(status: int) -> Iterator[tuple[str, list[str]]]:
    """A server that says no and repeats every header it was sent, as some do; and all that it heard."""
    heard: list[str] = []

    class Echo(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            heard.append(str(self.headers))
            sent = dict(self.headers.items())
            bearer = (self.headers.get("authorization") or "").removeprefix("Bearer ")
            message = f"Incorrect API key provided: {bearer}. Headers: {json.dumps(sent)}"
            body = json.dumps({"error": {"message": message, "code": "invalid_api_key"}}).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("x-request-id", "req-1")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", heard
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    problems = [
        {"id": each.id, "question": each.text, "answer": each.answer}
        for each in world_questions(11, 16, "heldout")
    ]
    for name, some in (("train", problems[:8]), ("dev", problems[8:12]), ("test", problems[12:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some), "utf-8")
    return folder


@pytest.fixture(scope="module")
def worked(tmp_path_factory, rows, tiny_backbone) -> Left:
    """adapt, answer, evaluate and what shows their cost, against an endpoint that takes the key."""
    left = Left(tmp_path_factory.mktemp("worked"))
    with running(api_key=KEY) as url:
        usual = [*BOX, "--base-url", url, *SECRET_HEADERS, "--unpriced", "--work-dir", left.folder / "work"]
        usual += ["--log", left.folder / "calls.jsonl"]
        adapter = left.folder / "adapter"
        left.run(
            "adapt",
            *(TRIMTAB, "adapt", "--questions", rows / "train.jsonl", "--dev", rows / "dev.jsonl", *usual),
            *("--rounds", 1, "--backbone", tiny_backbone, *QUICK, "--out", adapter),
        )
        asked = ["--adapter", adapter, "--questions", rows / "test.jsonl", "--draws", 3]
        left.run("answer", TRIMTAB, "answer", *asked, *usual, "--out", left.folder / "answers.jsonl")
        left.run("evaluate", TRIMTAB, "evaluate", *asked, *usual, "--out", left.folder / "report")
        left.run("runs", TRIMTAB, "runs", "--work-dir", left.folder / "work")
    return left


def test_runs_that_go_well_leave_no_secret(worked):
    assert worked.codes == dict.fromkeys(worked.codes, 0), worked.said
    names = [Path(name).name for name in worked.everything()]
    for expected in ("store.db", "calls.jsonl", "answers.jsonl", "report.html", "trimtab.json"):
        assert any(expected in name for name in names), f"{expected} is not among {sorted(set(names))}"
    assert leaks(worked.everything()) == []


def test_the_log_has_a_line_for_every_call_of_these_runs(worked):
    lines = [json.loads(line) for line in (worked.folder / "calls.jsonl").read_text("utf-8").splitlines()]
    called = [line for line in lines if line["cache"] == "miss"]
    assert called
    assert {(line["outcome"], line["status"]) for line in called} == {("paid", 200)}


@pytest.mark.parametrize("status", [401, 400, 500])
@pytest.mark.parametrize("command", ["adapt", "evaluate", "doctor"])
def test_an_endpoint_that_repeats_what_it_was_sent_gets_it_into_no_message(
    tmp_path, rows, tiny_backbone, command, status
):
    left = Left(tmp_path)
    given = {
        "adapt": ["--questions", rows / "train.jsonl", "--backbone", tiny_backbone, *QUICK, "--out", "out"],
        "evaluate": ["--questions", rows / "test.jsonl", "--draws", 3, "--out", "out"],
        "doctor": [],
    }
    model = BOX[:2] if command == "doctor" else (*BOX, *SECRET_HEADERS, "--unpriced", "--log", "calls.jsonl")
    with echoing(status) as (url, heard):
        asked = [TRIMTAB, command, *model, "--base-url", url, "--work-dir", "work", *given[command]]
        left.run(command, *asked, "--json")
    assert left.codes[command] != 0
    assert any(KEY in headers for headers in heard)  # it was sent, and came back in the answer
    assert command == "doctor" or any(HEADER in headers for headers in heard)
    assert leaks(left.everything()) == []


def test_a_login_in_the_base_url_leaves_nothing_either(tmp_path, rows):
    left = Left(tmp_path)
    with echoing(401) as (url, heard):
        with_login = url.replace("http://", f"http://user:{LOGIN}@")
        asked = ["--questions", rows / "test.jsonl", "--draws", 2, "--unpriced", "--work-dir", "work"]
        left.run("evaluate", TRIMTAB, "evaluate", *BOX, "--base-url", with_login, *asked, OPENAI_API_KEY="")
    assert left.codes["evaluate"] != 0
    login = base64.b64encode(f"user:{LOGIN}".encode()).decode()
    assert any(login in headers for headers in heard)
    assert leaks(left.everything()) == []


UNCAUGHT = """
import asyncio, os, sys, traceback
from trimtab import ChatLLM
from trimtab.types import Message, Prompt, Sampling

llm = ChatLLM("m", base_url=sys.argv[1], api_key=os.environ["OPENAI_API_KEY"],
              headers={"X-Gateway-Token": os.environ["GATEWAY_TOKEN"]}, attempts=2, backoff_s=0.01)
print(repr(llm))
asking = llm.complete(Prompt((Message("user", "?"),)), Sampling())
if "locals" not in sys.argv:
    asyncio.run(asking)
try:
    asyncio.run(asking)
except Exception as error:
    while error is not None:  # the error and all that hangs on it, as a debugger or an error tracker shows it
        print(repr(error), vars(error))
        error = error.__cause__ or error.__context__
"""


@pytest.mark.parametrize("status", [401, 503])
@pytest.mark.parametrize("shown", ["traceback", "locals"])
def test_an_error_that_nobody_catches_shows_no_secret(tmp_path, status, shown):
    left = Left(tmp_path)
    with echoing(status) as (url, heard):
        left.run("python", sys.executable, "-c", UNCAUGHT, url, shown)
    assert any(KEY in headers and HEADER in headers for headers in heard)
    assert (b"Traceback" in left.said["stderr of python"]) == (shown == "traceback")
    assert leaks(left.everything()) == []
