"""A real HTTP server on the loopback that speaks OpenAI's wire format and plays replies, faults included."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]
Reply = tuple[int, dict[str, str], str | bytes]


def said(
    *texts: str | None, finish: str = "stop", tokens: tuple[int, int] = (10, 5)
) -> Callable[[Body], Reply]:
    """A reply with these choices."""

    def reply(body: Body) -> Reply:
        choices = [
            {"index": at, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
            for at, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
        whole = {
            "id": "x",
            "object": "chat.completion",
            "model": "served",
            "choices": choices,
            "usage": usage,
        }
        return 200, {}, json.dumps(whole)

    return reply


def failed(
    status: int, message: str = "no", headers: dict[str, str] | None = None, **error: str
) -> Callable[[Body], Reply]:
    """A reply with an error in it."""
    return lambda body: (status, headers or {}, json.dumps({"error": {"message": message, **error}}))


def dropped(body: Body) -> Reply:
    """No reply: the connection is closed."""
    raise ConnectionAbortedError


class Server(ThreadingHTTPServer):
    """Plays the given replies in order; the last one again and again. Remembers what came."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *replies: Callable[[Body], Reply]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies = list(replies)
        self.bodies: list[Body] = []
        self.keys: list[str | None] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def next(self, body: Body, headers: Mapping[str, str], path: str) -> Callable[[Body], Reply]:
        with self.lock:
            self.bodies.append(body)
            self.keys.append(headers.get("authorization"))
            self.headers.append({name.lower(): value for name, value in headers.items()})
            self.paths.append(path)
            return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        try:
            status, headers, text = self.server.next(body, self.headers, self.path)(body)
        except ConnectionAbortedError:
            self.close_connection = True
            return
        payload = text if isinstance(text, bytes) else text.encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *args: object) -> None:
        """Nothing: the tests look at what was asked."""
