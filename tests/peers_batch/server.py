"""A provider with files, batches and chat on OpenAI's wire format, in a process of its own.

It answers as told over POST /control, and says at GET /seen what it was asked and what it would bill. A batch
is worked on while it is looked at. Run as a script it prints its base URL and serves until its stdin closes.
"""

from __future__ import annotations

import asyncio
import email
import hashlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections import Counter
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

KEY = "sk-batch-peer-0123456789"
INPUT_TOKENS, OUTPUT_TOKENS = 20, 10  # of a request, and of each of its completions


class Provider:
    """All that it holds; one instance a process."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}  # in the order made
        self.control: dict[str, Any] = {}
        self.seen: Counter[str] = Counter()
        self.executed: Counter[str] = Counter()  # how often each request body was answered and billed
        self.billed: Counter[str] = Counter()

    def new_batch(self, file_id: str, metadata: dict[str, str]) -> dict[str, Any]:
        lines = [json.loads(line) for line in self.files[file_id].splitlines()]
        batch = {
            "id": f"batch_{uuid.uuid4().hex}",
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "input_file_id": file_id,
            "metadata": metadata,
            "status": "validating",
            "created_at": int(time.time()),
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
            "lines": lines,
            "answers": [],
            "errors_": [],
            "looks": 0,
        }
        self.batches[batch["id"]] = batch
        return batch

    def look(self, batch: dict[str, Any]) -> None:
        """One step of work: the first look finds it begun, each later one some requests further."""
        if batch["status"] in ("completed", "failed", "expired", "cancelled"):
            return None
        batch["looks"] += 1
        if self.control.get("refuse_batch"):
            batch["errors"] = {
                "object": "list",
                "data": [{"code": "bad", "message": self.control["refuse_batch"]}],
            }
            return self.end(batch, "failed")
        batch["status"] = "in_progress"
        done = len(batch["answers"]) + len(batch["errors_"])
        for line in batch["lines"][done : done + self.control.get("lines_a_look", 1000)]:
            self.execute(batch, line)
        batch["request_counts"]["completed"] = len(batch["answers"])
        batch["request_counts"]["failed"] = len(batch["errors_"])
        done = len(batch["answers"]) + len(batch["errors_"])
        expire_after = self.control.get("expire_after")
        if expire_after is not None and done >= expire_after:
            for line in batch["lines"][done:]:
                error = {"code": "batch_expired", "message": "This request could not be executed in time."}
                batch["errors_"].append({"custom_id": line["custom_id"], "response": None, "error": error})
            return self.end(batch, self.control.get("expire_as", "expired"))
        if done == len(batch["lines"]):
            return self.end(batch, "completed")
        return None

    def execute(self, batch: dict[str, Any], line: dict[str, Any]) -> None:
        said = line["body"]["messages"][-1]["content"]
        status, body = 200, None
        if any(word in said for word in self.control.get("fail", ())):
            status, body = 400, {"error": {"message": "the content was refused", "code": "content_policy"}}
        else:
            body = self.answer(line["body"])
        if any(word in said for word in self.control.get("lose", ())):
            batch["answers"].append(None)
            return
        response = {"status_code": status, "request_id": f"req_{uuid.uuid4().hex}", "body": body}
        result = {"id": f"r_{uuid.uuid4().hex}", "custom_id": line["custom_id"], "response": response}
        batch["answers" if status == 200 else "errors_"].append({**result, "error": None})

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        asked = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        self.executed[asked] += 1
        n = min(body.get("n") or 1, self.control.get("most_n", 128))
        usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS * n}
        self.billed.update(usage)
        self.billed["requests"] += 1
        choices = [
            {
                "index": at,
                "message": {"role": "assistant", "content": f"draw {asked[:8]}/{at}"},
                "finish_reason": "stop",
            }
            for at in range(n)
        ]
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body["model"],
            "choices": choices,
            "usage": {**usage, "total_tokens": sum(usage.values())},
        }

    def end(self, batch: dict[str, Any], status: str) -> None:
        batch["status"] = status
        batch[f"{status}_at"] = int(time.time())
        for key, lines in (("output_file_id", batch["answers"]), ("error_file_id", batch["errors_"])):
            if lines:
                batch[key] = f"file-{uuid.uuid4().hex}"
                written = (json.dumps(line, ensure_ascii=False) for line in lines if line is not None)
                self.files[batch[key]] = "".join(f"{line}\n" for line in written).encode()


def shown(batch: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in batch.items() if key not in ("lines", "answers", "errors_", "looks")}


def refusal(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "invalid_request_error"}}, status_code=status)


def parts_of(content_type: str, body: bytes) -> dict[str, bytes]:
    """The fields of a form with files."""
    message = email.message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    return {
        str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True)
        for part in message.get_payload()
    }


def app_of(provider: Provider) -> FastAPI:  # noqa: C901 - a route a step, each a few lines
    app = FastAPI(openapi_url=None)

    async def troubled(step: str) -> JSONResponse | None:
        """What this step was told to do before it answers: wait, or fail so many times."""
        provider.seen[step] += 1
        await asyncio.sleep(provider.control.get(f"hold_{step}_s", 0))
        failing = provider.control.get(f"fail_{step}", [])
        return refusal(failing.pop(0), f"{step} fails as told") if failing else None

    @app.middleware("http")
    async def keyed(request: Request, call_next: Any) -> Any:
        if request.url.path.startswith("/v1/") and request.headers.get("authorization") != f"Bearer {KEY}":
            return refusal(401, f"Incorrect API key provided: {request.headers.get('authorization')}")
        return await call_next(request)

    @app.post("/v1/files")
    async def upload(request: Request) -> Any:
        parts = parts_of(request.headers["content-type"], await request.body())
        if parts["purpose"] != b"batch":
            return refusal(400, "purpose must be batch")
        file_id = f"file-{uuid.uuid4().hex}"
        provider.files[file_id] = parts["file"]
        if trouble := await troubled("upload"):
            return trouble
        size = len(parts["file"])
        return {
            "id": file_id,
            "object": "file",
            "bytes": size,
            "created_at": int(time.time()),
            "filename": "batch.jsonl",
            "purpose": "batch",
            "status": "processed",
        }

    @app.delete("/v1/files/{file_id}")
    async def delete(file_id: str) -> Any:
        if trouble := await troubled("delete"):
            return trouble
        if provider.files.pop(file_id, None) is None:
            return refusal(404, "no such file")
        return {"id": file_id, "object": "file", "deleted": True}

    @app.get("/v1/files/{file_id}/content")
    async def content(file_id: str) -> Any:
        if trouble := await troubled("content"):
            return trouble
        return Response(provider.files[file_id], media_type="application/octet-stream")

    @app.post("/v1/batches")
    async def create(request: Request) -> Any:
        asked = await request.json()
        provider.seen["create_asked"] += 1
        await asyncio.sleep(provider.control.get("late_create_s", 0))  # accepted late: after a client's death
        if asked["input_file_id"] not in provider.files:
            provider.seen["create_without_file"] += 1
            return refusal(400, "no such file")
        refused = provider.control.get("refuse_create", [])
        if refused:
            return refusal(refused.pop(0), "create is refused as told")
        batch = provider.new_batch(asked["input_file_id"], asked.get("metadata") or {})
        return await troubled("create") or shown(batch)

    @app.get("/v1/batches")
    async def listed(after: str | None = None, limit: int = 20) -> Any:
        if trouble := await troubled("list"):
            return trouble
        newest_first = [shown(batch) for batch in reversed(provider.batches.values())]
        ids = [batch["id"] for batch in newest_first]
        begin = ids.index(after) + 1 if after else 0
        page = newest_first[begin : begin + limit]
        return {"object": "list", "data": page, "has_more": begin + limit < len(ids)}

    @app.get("/v1/batches/{batch_id}")
    async def look(batch_id: str) -> Any:
        if trouble := await troubled("look"):
            return trouble
        provider.look(provider.batches[batch_id])
        return shown(provider.batches[batch_id])

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Any:
        provider.seen["chat"] += 1
        return provider.answer(await request.json())

    @app.post("/control")
    async def controlled(request: Request) -> Any:
        provider.control = await request.json()
        return {}

    @app.get("/seen")
    async def seen() -> Any:
        return {
            **provider.seen,
            "batches": len(provider.batches),
            "executed": sum(provider.executed.values()),
            "twice": sum(count > 1 for count in provider.executed.values()),
            "billed": dict(provider.billed),
        }

    return app


def main() -> None:
    server = uvicorn.Server(uvicorn.Config(app_of(Provider()), log_level="error", access_log=False))
    listener = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}/v1\n")
    sys.stdout.flush()
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
