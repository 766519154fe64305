"""A chat endpoint on OpenAI's wire format that misbehaves as told, and counts what it did; its own process.

It is told by POST /control (which also begins the counts anew), and tells at GET /stats and GET /bodies. Run
as a script it prints its base URL and serves until its stdin closes. HTTP/1.1 is read by hand: one core
serves more than 2,500 calls a second, so that what is measured against it is the client.

A request is known by its last message. Billed is each one that is not refused with a status of 4xx or 5xx,
whether or not its answer arrives: a provider has done its work by then.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import socket
import struct
import sys
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from typing import Any

STATUS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}
STATUS |= {500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable"}
INPUT_TOKENS, OUTPUT_TOKENS = 20, 10  # of a request, and of each of its completions
RECENT_S = 0.5  # an answer that was sent so shortly before its connection broke may not have been kept


@dataclass
class Control:
    """What the server is told."""

    seed: int = 0
    latency: str = "constant"  # or exponential, lognormal
    latency_s: float = 0.0  # its mean
    faults: dict[str, float] = field(default_factory=dict)  # share of requests that meet each fault,
    every_time: bool = False  # each time they come, and not only the first
    hang_s: float = 3600.0
    retry_after: float | None = None  # what the 429s of an overload ask for
    rate: float | None = None  # requests admitted in any second
    in_flight: int | None = None  # requests admitted at a time
    refused_parameter: str | None = None  # 400 while a request has it
    key: str | None = None  # 401 for any other
    idempotent: bool = False  # what comes again under its Idempotency-Key is answered again, and billed once


@dataclass
class Body:
    """What became of one request, by its last message."""

    received: int = 0
    billed: int = 0


@dataclass
class Exchange:
    """One request on its connection."""

    headers: bytes
    document: dict[str, Any]
    text: str  # its last message

    @property
    def n(self) -> int:
        return self.document.get("n") or 1

    @property
    def idempotency_key(self) -> str | None:
        return header(self.headers, b"idempotency-key")


class Service:
    """What is counted, and how requests are answered; one instance a process."""

    def __init__(self) -> None:
        self.begin(Control())

    def begin(self, control: Control) -> None:
        self.control = control
        self.rng = random.Random(control.seed)
        self.bodies: dict[str, Body] = {}
        self.seen: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.admitted: deque[float] = deque()  # when, in the last second
        self.seconds: dict[int, list[int]] = {}  # since the first request: admitted, refused
        self.began: float | None = None
        self.cpu_began = time.process_time()
        self.in_flight = 0
        self.peak = 0
        self.keys: set[str] = set()  # Idempotency-Keys that came

    def stats(self) -> dict[str, Any]:
        return {
            "received": sum(body.received for body in self.bodies.values()),
            "billed": sum(body.billed for body in self.bodies.values()),
            "billed_twice": sum(body.billed > 1 for body in self.bodies.values()),
            "kinds": self.kinds,
            "peak_in_flight": self.peak,
            "cpu_s": time.process_time() - self.cpu_began,
            **self.seen,
            "seconds": [self.seconds.get(at, [0, 0]) for at in range(max(self.seconds, default=-1) + 1)],
        }

    def body_of(self, text: str) -> Body:
        if text not in self.bodies:
            self.bodies[text] = Body()
        return self.bodies[text]

    def kind_of(self, exchange: Exchange) -> str:
        """What this request meets: a fault, or `ok`."""
        control, document = self.control, exchange.document
        if control.key is not None and header(exchange.headers, b"authorization") != f"Bearer {control.key}":
            return "401"
        if control.refused_parameter is not None and control.refused_parameter in document:
            return "400"
        if not self.admits():
            return "overload"
        return self.fault(exchange.text)

    def admits(self) -> bool:
        now, control = time.monotonic(), self.control
        while self.admitted and self.admitted[0] <= now - 1.0:
            self.admitted.popleft()
        has_room = control.in_flight is None or self.in_flight < control.in_flight
        is_admitted = has_room and (control.rate is None or len(self.admitted) < control.rate)
        if is_admitted and control.rate is not None:
            self.admitted.append(now)
        self.began = now if self.began is None else self.began
        self.seconds.setdefault(int(now - self.began), [0, 0])[not is_admitted] += 1
        return is_admitted

    def fault(self, text: str) -> str:
        control = self.control
        if not control.faults or (self.body_of(text).received > 1 and not control.every_time):
            return "ok"
        chance = share(f"{control.seed}:{text}")
        for name, of_all in control.faults.items():
            if chance < of_all:
                return name
            chance -= of_all
        return "ok"

    def bill(self, exchange: Exchange) -> None:
        """It is billed when it comes: whoever hangs up while it is worked on pays all the same."""
        key = exchange.idempotency_key if self.control.idempotent else None
        if key is None or key not in self.keys:
            self.body_of(exchange.text).billed += 1
        if key is not None:
            self.keys.add(key)

    def wait_s(self) -> float:
        mean = self.control.latency_s
        if self.control.latency == "exponential":
            return self.rng.expovariate(1 / mean)
        if self.control.latency == "lognormal":
            return mean * math.exp(self.rng.gauss(0.0, 0.5) - 0.125)
        return mean


class Connection(asyncio.Protocol):
    """One client's connection: requests one after another."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.buffer = b""
        self.waiting: asyncio.TimerHandle | None = None
        self.answered: deque[float] = deque(maxlen=64)  # when

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self.waiting is not None:
            self.waiting.cancel()
            self.service.in_flight -= 1
            self.service.seen["broken_before_answer"] += 1
        recent = time.monotonic() - RECENT_S
        self.service.seen["broken_after_answer"] += sum(at > recent for at in self.answered)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(header(head, b"content-length") or 0)
        if len(rest) < length:
            return
        self.buffer = rest[length:]
        method, path, _ = head.split(b" ", 2)
        if path.endswith(b"/chat/completions"):
            self.chat(head, json.loads(rest[:length]))
        else:
            self.told(method + b" " + path, rest[:length])

    # ------------------------------------------------------------------ what tests say and ask

    def told(self, asked: bytes, body: bytes) -> None:
        service = self.service
        if asked == b"POST /control":
            service.begin(Control(**json.loads(body)))
            self.send(200, {"control": asdict(service.control)})
        elif asked == b"GET /stats":
            self.send(200, service.stats())
        elif asked == b"GET /bodies":
            self.send(200, {text: asdict(body) for text, body in service.bodies.items()})
        else:
            self.send(404, {"error": {"message": f"{asked.decode()} is not known here"}})

    # ------------------------------------------------------------------ chat completions

    def chat(self, head: bytes, document: dict[str, Any]) -> None:
        service = self.service
        exchange = Exchange(head, document, document["messages"][-1]["content"])
        service.body_of(exchange.text).received += 1
        kind = service.kind_of(exchange)
        service.kinds[kind] += 1
        if refusal := REFUSALS.get(kind):
            status, message, headers = refusal
            asked = service.control.retry_after
            overloaded = {"retry-after": f"{asked:g}"} if kind == "overload" and asked is not None else {}
            self.send(status, error(message, service.control.refused_parameter), {**headers, **overloaded})
            return
        service.bill(exchange)
        service.in_flight += 1
        service.peak = max(service.peak, service.in_flight)
        wait_s = service.control.hang_s if kind == "hang" else service.wait_s()
        self.waiting = asyncio.get_running_loop().call_later(wait_s, self.answer, exchange, kind)

    def answer(self, exchange: Exchange, kind: str) -> None:
        self.waiting = None
        self.service.in_flight -= 1
        self.answered.append(time.monotonic())
        payload = completion(exchange, 1 if kind == "one_of_n" else exchange.n, kind)
        if kind == "reset":
            self.transport.write(response(200, payload)[: -len(payload) // 2])
            at_once = struct.pack("ii", 1, 0)  # a reset instead of a farewell
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            self.transport.abort()
        elif kind == "truncated":
            self.transport.write(response(200, payload[: len(payload) // 2]))
        elif kind == "content_type":
            page = b"<html><body>Welcome to the gateway</body></html>"
            self.transport.write(response(200, page, {"content-type": "text/html"}))
        else:
            self.transport.write(response(200, payload))

    def send(self, status: int, document: Any, headers: dict[str, str] | None = None) -> None:
        self.transport.write(response(status, json.dumps(document).encode(), headers))


BUSY = "Rate limit reached, please slow down"
REFUSALS: dict[str, tuple[int, str, dict[str, str]]] = {
    "overload": (429, BUSY, {}),
    "429": (429, BUSY, {}),
    "429_retry_after": (429, BUSY, {"retry-after": "0.2"}),
    "500": (500, "The server had an error", {}),
    "502": (502, "Bad gateway", {}),
    "503": (503, "The engine is overloaded", {}),
    "400": (400, "Unsupported parameter", {}),
    "401": (401, "Incorrect API key provided", {}),
}


def error(message: str, parameter: str | None) -> dict[str, Any]:
    named = f"{message}: '{parameter}' is not supported with this model" if parameter else message
    return {"error": {"message": named, "type": "invalid_request_error", "param": parameter, "code": None}}


def completion(exchange: Exchange, n: int, kind: str) -> bytes:
    """The body of an answer; what it says is decided by the request alone."""
    if kind == "malformed":
        return b'{"choices": [{"message": {"content": "42"]}'
    said = f"answer {share(exchange.text):.6f} to {exchange.text}"
    message = {"role": "assistant", "content": said}
    choices = [{"index": at, "message": message, "finish_reason": "stop"} for at in range(n)]
    usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS * n}
    document = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": exchange.document["model"],
        "choices": [] if kind == "empty" else choices,
        "usage": {**usage, "total_tokens": sum(usage.values())},
    }
    if kind in ("no_usage", "empty"):
        del document["usage"]
    return json.dumps(document).encode()


def response(status: int, payload: bytes, headers: dict[str, str] | None = None) -> bytes:
    all_headers = {"content-type": "application/json", **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in all_headers.items())
    head = f"HTTP/1.1 {status} {STATUS[status]}\r\n{lines}content-length: {len(payload)}\r\n\r\n"
    return head.encode() + payload


def header(head: bytes, name: bytes) -> str | None:
    at = head.lower().find(b"\r\n" + name + b":")
    if at < 0:
        return None
    start = at + len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].decode().strip()


def share(text: str) -> float:
    """A number in [0, 1) that the text decides."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


async def serve() -> None:
    loop = asyncio.get_running_loop()
    service = Service()
    server = await loop.create_server(lambda: Connection(service), "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    print(f"http://127.0.0.1:{port}/v1", flush=True)  # noqa: T201
    ended = loop.create_future()
    loop.add_reader(sys.stdin.fileno(), lambda: sys.stdin.read(1) or ended.done() or ended.set_result(None))
    await ended


if __name__ == "__main__":
    asyncio.run(serve())
