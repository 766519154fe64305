"""The embedded black box: a small language model of our own that can only be called.

It lets everything be tried without a network or a key. `serve` and `running` speak the OpenAI wire format;
they need the extra `serve`. `world` holds its problems, README.md its card. No torch in here: numpy draws.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module, util

from trimtab.errors import MissingExtraError, RunError

__all__ = ["running", "serve"]


def serve(
    port: int,
    host: str = "127.0.0.1",
    *,
    api_key: str | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the embedded models until interrupted.

    Args:
        port: 0 takes a free one.
        host: The address to listen on.
        api_key: When given, what every call under /v1 must bring.
        on_ready: Called with the base URL (ending in /v1) once calls are accepted.

    Raises:
        MissingExtraError: The extra `serve` is not installed.
        ConfigError: The port cannot be listened on.
    """
    _need_extra()
    import_module("trimtab.llm.embedded.server").listen(port, host, api_key=api_key, on_ready=on_ready)


@contextmanager
def running(port: int = 0, *, api_key: str | None = None) -> Iterator[str]:
    """The base URL (ending in /v1) of a server in a process of its own, which ends with the block.

    Raises:
        MissingExtraError: The extra `serve` is not installed.
        RunError: The server did not start.
    """
    _need_extra()
    command = [sys.executable, "-m", "trimtab.llm.embedded", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018
        process.stdin.write(json.dumps({"api_key": api_key}) + "\n")
        process.stdin.flush()
        base_url = process.stdout.readline().strip()
        if not base_url:
            raise RunError(
                f"the embedded black box did not start on port {port} (exit code {process.wait()})"
            )
        try:
            yield base_url
        finally:
            process.terminate()
            process.communicate()


def _need_extra() -> None:
    if not all(util.find_spec(name) for name in ("fastapi", "uvicorn")):
        raise MissingExtraError("serve", "the embedded black box")
