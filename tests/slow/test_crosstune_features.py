"""Laws of readings, their stores, and black boxes behind HTTP, against a real local server."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from trimtab.crosstune import (
    CrossTuneClassifier,
    EmbeddingsEndpoint,
    FolderFeatures,
    KeptFeatures,
    MemoryFeatures,
    Reading,
    TokenEmbeddingsEndpoint,
)
from trimtab.crosstune.readings import reading_bytes, reading_from, reading_key
from trimtab.errors import ConfigError, EndpointError, InputError, RefusedError

pytestmark = pytest.mark.slow

KEY = "secret-key-123"


def drawn(seed: int, tokens: int = 3) -> Reading:
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(2, tokens, 4)).astype(np.float16)
    return Reading(states, states[:, 1], 1, 1, bool(seed % 2))


def equal(one: Reading, other: Reading) -> bool:
    same = (one.before, one.after, one.is_truncated) == (other.before, other.after, other.is_truncated)
    return same and (one.states == other.states).all() and (one.slot == other.slot).all()


class Counting:
    """Features that count what they read."""

    name, layers = "counting", (0, 1)

    def __init__(self) -> None:
        self.asked: list[str] = []

    def read(self, texts, progress=None):
        self.asked += texts
        return [drawn(len(text)) for text in texts]


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_a_text_is_read_once_and_found_again(kind, tmp_path):
    store = MemoryFeatures() if kind == "memory" else FolderFeatures(tmp_path)
    box, seen = Counting(), []
    kept = KeptFeatures(box, store)
    first = kept.read(["a", "bb", "a"], lambda done, of: seen.append((done, of)))
    again = KeptFeatures(box, FolderFeatures(tmp_path) if kind == "folder" else store).read(
        ["bb", "ccc", "a"]
    )
    assert sorted(box.asked) == ["a", "bb", "ccc"]
    assert equal(first[0], first[2])
    assert equal(first[1], again[0])
    assert equal(first[0], again[2])
    assert seen == [(2, 2)]


def test_a_key_depends_on_the_features_and_on_the_text():
    assert len({reading_key("a", "b"), reading_key("a", "c"), reading_key("c", "b")}) == 3


def test_a_reading_survives_its_bytes_and_damage_is_refused():
    reading = drawn(3)
    data = reading_bytes(reading)
    assert equal(reading_from(data), reading)
    with pytest.raises(InputError, match="damaged"):
        reading_from(data[:-4])


def test_a_damaged_file_of_a_store_is_named(tmp_path):
    FolderFeatures(tmp_path).put_many({"key": drawn(1)})
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(InputError, match=path.name):
        FolderFeatures(tmp_path)


def test_content_is_without_special_tokens_unless_nothing_else_is_there():
    assert drawn(1).content.shape == (2, 1, 4)
    assert drawn(1, tokens=2).content.shape == (2, 2, 4)


# --------------------------------------------------------------------------- over HTTP


class Server(ThreadingHTTPServer):
    """Vectors by the text's length; misbehaves as told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, dict, str | None]] = []
        self.failures = 0  # answers with 503 to come
        self.status = 200
        self.dimensions = [3]  # of the requests, the last one for all further ones
        self.reply: bytes | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server = self.server
        server.requests.append((self.path, body, self.headers.get("authorization")))
        if server.failures:
            server.failures -= 1
            return self.answer(503, b"busy")
        if server.status != 200:
            return self.answer(server.status, f"no, {self.headers.get('authorization')}".encode())
        dimension = server.dimensions.pop(0) if len(server.dimensions) > 1 else server.dimensions[0]
        return self.answer(200, server.reply or self.vectors(body, dimension))

    def vectors(self, body, dimension):
        if self.path.endswith("/embed_all"):
            said = [[[float(len(text) + at)] * dimension for at in range(4)] for text in body["inputs"]]
            return json.dumps(said).encode()
        rows = [
            {"index": at, "embedding": [float(len(text))] * dimension}
            for at, text in enumerate(body["input"])
        ]
        return json.dumps({"data": rows[::-1], "usage": {"prompt_tokens": 5}}).encode()

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def test_embeddings_come_back_in_the_order_of_texts_and_are_counted(server):
    box = EmbeddingsEndpoint("model", f"{server.url}/v1", api_key=KEY, batch=2)
    readings = box.read(["a", "bbb", "cc"])
    assert [float(each.states[0, 0, 0]) for each in readings] == [1, 3, 2]
    assert {(path, key) for path, _, key in server.requests} == {("/v1/embeddings", f"Bearer {KEY}")}
    assert (box.usage.calls, box.usage.input_tokens) == (2, 10)
    assert box.dimension == 3


def test_token_embeddings_keep_special_tokens_apart(server):
    (reading,) = TokenEmbeddingsEndpoint(server.url).read(["a"])
    assert reading.states.shape == (1, 4, 3)
    assert reading.content[0, :, 0].tolist() == [2, 3]


async def test_an_endpoint_can_be_read_where_an_event_loop_runs(server):
    box = EmbeddingsEndpoint("model", server.url)
    assert len(box.read(["a"])) == len(await box.read_async(["a"])) == 1


def test_another_dimension_is_an_input_error(server):
    server.dimensions = [3, 4]
    box = EmbeddingsEndpoint("model", server.url)
    box.read(["a"])
    with pytest.raises(InputError, match="dimension 4, but 3 is needed"):
        box.read(["a"])
    with pytest.raises(InputError, match="but 8 is needed"):
        EmbeddingsEndpoint("model", server.url, dimension=8).read(["a"])


def test_a_busy_server_is_asked_again_and_a_refusal_is_not(server):
    server.failures = 2
    assert EmbeddingsEndpoint("model", server.url, backoff_s=0.001).read(["a"])
    server.status = 401
    before = len(server.requests)
    with pytest.raises(RefusedError) as caught:
        EmbeddingsEndpoint("model", server.url, api_key=KEY, backoff_s=0.001).read(["a"])
    assert caught.value.status == 401
    assert KEY not in str(caught.value)
    assert len(server.requests) == before + 1


@pytest.mark.parametrize(
    "reply",
    [
        b"[]",
        b'{"data": [{"index": 0}]}',
        b"<html>",
        b'{"data": []}',
        b'{"data":[{"index":0,"embedding":[NaN]}]}',
    ],
)
def test_a_reply_without_vectors_is_an_endpoint_error(server, reply):
    server.reply = reply
    with pytest.raises(EndpointError):
        EmbeddingsEndpoint("model", server.url, attempts=1).read(["a"])


def test_a_server_that_is_not_there_is_an_endpoint_error(server):
    with pytest.raises(EndpointError, match="could not be reached"):
        EmbeddingsEndpoint("model", "http://127.0.0.1:9", attempts=1).read(["a"])
    with pytest.raises(ConfigError):
        EmbeddingsEndpoint("model", "127.0.0.1:9")


def test_a_classifier_learns_from_an_endpoint_and_names_no_secret(server, tmp_path):
    url = server.url.replace("http://", f"http://user:{KEY}@")
    box = EmbeddingsEndpoint("model", url, api_key=KEY)
    model = CrossTuneClassifier({"a": "x", "b": "yyyyyyyy"}, features=box)
    model.fit(["a", "bb", "c" * 8, "d" * 9], ["a", "a", "b", "b"]).save(tmp_path / "model")
    assert KEY not in (tmp_path / "model" / "crosstune.json").read_text("utf-8")
    again = CrossTuneClassifier.load(tmp_path / "model", features=EmbeddingsEndpoint("model", url))
    assert (again.predict_proba(["e"]) == model.predict_proba(["e"])).all()
