"""Starts the misbehaving endpoint in a process of its own, and talks to it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SERVER = Path(__file__).resolve().with_name("misbehaving.py")
MIX = {  # of first attempts; 30 % in all
    "429": 0.04,
    "429_retry_after": 0.02,
    "500": 0.04,
    "502": 0.03,
    "503": 0.03,
    "hang": 0.02,
    "reset": 0.03,
    "truncated": 0.03,
    "malformed": 0.02,
    "content_type": 0.02,
    "empty": 0.02,
}


class Peer:
    """The endpoint, as a test sees it."""

    def __init__(self, url: str) -> None:
        self.url = url  # with its /v1
        self._root = url.removesuffix("/v1")

    def told(self, **control: Any) -> None:
        """Behave like this from now on, and count from nought."""
        asked = urllib.request.Request(f"{self._root}/control", json.dumps(control).encode(), method="POST")
        urllib.request.urlopen(asked, timeout=10).close()

    @property
    def stats(self) -> dict[str, Any]:
        return self._asked("stats")

    @property
    def bodies(self) -> dict[str, dict[str, int]]:
        """How often each request, by its last message, was received and billed."""
        return self._asked("bodies")

    def _asked(self, what: str) -> Any:
        with urllib.request.urlopen(f"{self._root}/{what}", timeout=10) as reply:
            return json.load(reply)


@contextmanager
def running() -> Iterator[Peer]:
    """An endpoint that ends with the block, or with this process."""
    command = [sys.executable, str(SERVER)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Peer(process.stdout.readline().strip())
        finally:
            process.kill()
            process.communicate()
