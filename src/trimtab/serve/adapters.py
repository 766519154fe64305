"""What a model's name means: an adapter, one of its versions, or its fast form.

`NAME` is the version that is in service (a share of requests goes to a canary), `NAME@v3` always that one,
`NAME:fast` draws no more once it is sure. How folders become scorers is the caller's to say.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from trimtab.drawing import BeamSettings, Waves
from trimtab.errors import ConfigError
from trimtab.pools import Calibrate
from trimtab.stopping import DecisionRule
from trimtab.types import Sampling, Scorer, Task

NAMED = re.compile(r"(?P<name>[^@:]+)(?:@v(?P<version>\d{1,9}))?(?P<fast>:fast)?")
FRESH_S = 2.0  # how long the store's versions are believed
OLD_VERSIONS = 2  # kept in memory for each adapter beside those in service
SERVING, CANARY = "serving", "canary"


@dataclass(frozen=True, slots=True)
class Served:
    """An adapter's version, ready to answer."""

    name: str
    version: int
    task: Task
    scorer: Scorer
    rule: DecisionRule
    how: Sampling | Waves | BeamSettings
    sampling: Sampling  # of complete answers: the fast form's, and a search's spare
    calibrate: Calibrate | None = None
    abstain_below: float = 0.0
    deadline_s: float | None = None
    usual_confidence: float | None = None  # mean of single answers on held-out questions, where known
    score_deciles: Sequence[float] = ()  # of single answers there, where known
    facts: Mapping[str, object] = field(default_factory=dict)  # for `/v1/models`

    @property
    def fast(self) -> Served:
        """The same, drawing in waves until its decision is sure."""
        return replace(self, how=Waves(self.sampling))


class Version(Protocol):
    """One version of an adapter, as the store has it."""

    @property
    def version(self) -> int:
        """Its number, from 1."""
        ...

    @property
    def folder(self) -> str | Path:
        """Where it is."""
        ...

    @property
    def status(self) -> str:
        """candidate, canary, serving or retired."""
        ...

    @property
    def share(self) -> float:
        """Of requests, where it is a canary."""
        ...


@dataclass(frozen=True, slots=True)
class FirstVersion:
    """The folder that the server was started with, where the store knows of no version."""

    folder: Path
    version: int = 1
    status: str = SERVING
    share: float = 1.0


Load = Callable[[str, int, Path], Served]
Versions = Callable[[str], Sequence[Version]]


def no_versions(name: str) -> Sequence[Version]:
    """The versions of an adapter that never had another."""
    return ()


class Registry:
    """The adapters of a server, by name.

    Args:
        folders: where each adapter is.
        load: makes an adapter ready; slow, and called in a thread.
        versions: what the store knows of an adapter's versions.
        clock: seconds.

    Raises:
        ConfigError: a name that could not be told from a version or a fast form.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        load: Load,
        versions: Versions = no_versions,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folders, self._load, self._versions, self._clock = dict(folders), load, versions, clock
        self._known: dict[str, Sequence[Version]] = {}
        self._loaded: OrderedDict[tuple[str, int], Served] = OrderedDict()
        self._read_at: float | None = None
        self._changing = asyncio.Lock()
        for name in self._folders:
            if NAMED.fullmatch(name) is None or NAMED.fullmatch(name)["name"] != name:  # type: ignore[index]
                raise ConfigError(f"adapter name {name!r}: a name has neither '@' nor ':' in it")

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters' names."""
        return tuple(self._folders)

    async def warm(self) -> None:
        """Has every version in service ready, so that the first request waits for none."""
        await self._refresh()
        for name in self.names:
            for each in self._in_service(name):
                await self._ready(name, each)

    async def listed(self) -> list[str]:
        """Every model name there is."""
        await self._refresh()
        return [
            listed
            for name in self.names
            for listed in (name, f"{name}:fast", *(f"{name}@v{each.version}" for each in self._known[name]))
        ]

    async def find(self, model: str, lot: float) -> Served | None:
        """What a model's name means; None where it is no adapter of ours.

        Args:
            model: the name, as requests have it.
            lot: in [0, 1), drawn for the request: who draws less than a canary's share is answered by it.
        """
        named = NAMED.fullmatch(model)
        if named is None or named["name"] not in self._folders:
            return None
        await self._refresh()
        version = self._chosen(named["name"], named["version"], lot)
        if version is None:
            return None
        served = await self._ready(named["name"], version)
        return served.fast if named["fast"] else served

    def _chosen(self, name: str, number: str | None, lot: float) -> Version | None:
        if number is not None:
            return next((each for each in self._known[name] if each.version == int(number)), None)
        serving, *canaries = self._in_service(name)
        return next((each for each in canaries if lot < each.share), serving)

    def _in_service(self, name: str) -> list[Version]:
        """The version that serves, then its canaries; the newest version where none is said to serve."""
        known = self._known[name]
        serving = [each for each in known if each.status == SERVING] or list(known)
        canaries = [each for each in known if each.status == CANARY]
        return [max(serving, key=lambda each: each.version), *canaries]

    async def _ready(self, name: str, version: Version) -> Served:
        key = (name, version.version)
        if key not in self._loaded:
            async with self._changing:
                if key not in self._loaded:
                    made = await asyncio.to_thread(self._load, name, version.version, Path(version.folder))
                    self._loaded[key] = made
                    self._forget_old(name)
        self._loaded.move_to_end(key)
        return self._loaded[key]

    def _forget_old(self, name: str) -> None:
        in_service = {(name, each.version) for each in self._in_service(name)}
        old = [key for key in self._loaded if key[0] == name and key not in in_service]
        for key in old[: max(0, len(old) - OLD_VERSIONS)]:
            del self._loaded[key]

    async def _refresh(self) -> None:
        if self._read_at is not None and self._clock() - self._read_at <= FRESH_S:
            return
        asked_at = self._clock()
        found = await asyncio.to_thread(lambda: {name: self._versions(name) for name in self._folders})
        first = {name: [FirstVersion(folder)] for name, folder in self._folders.items()}
        self._known = {name: list(found[name]) or list(first[name]) for name in self._folders}
        self._read_at = asked_at
