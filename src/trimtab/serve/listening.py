"""The socket, and the processes that answer on it.

One process answers by itself. Several are looked after by the one that started them: they share its socket,
one that dies is started again, and all end together, each once its requests under way have ended.
"""

from __future__ import annotations

import gc
import ipaddress
import multiprocessing
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any, TypeAlias

import uvicorn
from fastapi import FastAPI

from trimtab.errors import ConfigError, RunError

KEEP_ALIVE_S = 75  # an idle connection; longer than the 60 s after which most proxies let go of it themselves
LOOK_S = 0.5  # how often it is looked whether a worker has died
QUICK_DEATH_S = 5.0  # a worker that dies sooner would only die again

Listener: TypeAlias = socket.socket
Work = Callable[[Listener], None]


def is_loopback(host: str) -> bool:
    """True when nobody but this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises ConfigError where it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; choose another port") from None


def answer(app: FastAPI, listener: socket.socket, *, grace_s: float) -> None:
    """Answers until told to end (SIGTERM, SIGINT); requests under way have `grace_s` to come to theirs."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(grace_s)),
        ws="none",
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _heard)
    gc.collect()
    gc.freeze()  # what was imported stays: looking through it again and again would hold answers up
    uvicorn.Server(config).run(sockets=[listener])


def _heard(*_: Any) -> None:
    """Nothing: uvicorn, when it has ended, raises again what ended it, and there are things left to close."""


class Workers:
    """Processes that do the same work on one socket.

    Args:
        work: what each does; it is pickled, and starts in a fresh interpreter.
        listener: the socket.
        count: how many.
        ended: told of each process that has ended, by its id.
    """

    def __init__(
        self, work: Work, listener: socket.socket, count: int, ended: Callable[[int], None] = lambda pid: None
    ) -> None:
        self._work, self._listener, self._count, self._ended = work, listener, count, ended
        self._context = multiprocessing.get_context("spawn")
        self._running: list[tuple[BaseProcess, float]] = []
        self._is_ending = False

    def run(self) -> None:
        """Returns when told to end and all have ended. Raises RunError where workers cannot start."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        self._running = [self._started() for _ in range(self._count)]
        try:
            while not self._is_ending:
                time.sleep(LOOK_S)
                self._replace_dead()
        finally:
            for process, _ in self._running:
                process.terminate()
            for process, _ in self._running:
                process.join()

    def _end(self, *_: Any) -> None:
        self._is_ending = True

    def _started(self) -> tuple[BaseProcess, float]:
        process = self._context.Process(target=self._work, args=(self._listener,))
        process.start()
        return process, time.monotonic()

    def _replace_dead(self) -> None:
        for at, (process, began) in enumerate(self._running):
            if process.is_alive() or self._is_ending:
                continue
            self._ended(process.pid or 0)
            if process.exitcode and time.monotonic() - began < QUICK_DEATH_S:
                raise RunError("a worker ended as soon as it was started; what it said stands above")
            self._running[at] = self._started()
