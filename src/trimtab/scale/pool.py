"""Pools of actors: how many there are, which one does the next piece of work, and what happens when one dies.

A sampling actor that dies is fenced off, forgotten at the gate and replaced; its piece of work is done again
by another, which finds in the store what was paid for. Batch actors come and go between two bounds.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from trimtab.errors import ClusterError, RunError
from trimtab.scale.actors import LOST, BatchActor, LongActor, Sampler, Standing, own_error
from trimtab.scale.bounds import Bounds, Calm, resized
from trimtab.scale.cluster import begun, refuse_too_large
from trimtab.scale.recipes import BatchRecipe, BoxRecipe, Figures, LongWork, Secrets

ATTEMPTS = 4  # at one piece of work; what kills that many actors is not tried again
AHEAD = 2  # pieces of a map that one actor has at once
ASKED_S = 5.0  # how long an actor may take to say how it is doing
END_S = 30.0


# --------------------------------------------------------------------------- those that ask


@dataclass(frozen=True, slots=True)
class Crew:
    """What sampling actors are made of, and how many there are."""

    gate: Any
    recipe: BoxRecipe
    secrets: Secrets
    size: int
    in_flight: int  # questions that one of them works on at once


class Samplers:
    """The sampling actors of a run.

    Args:
        crew: what they are made of.

    Raises:
        ClusterError: the cluster has no room for them, or runs another trimtab.
        TrimtabError: the black box cannot be asked as the recipe has it.
    """

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self.deaths = 0
        self._numbers = count()
        self._lock = threading.RLock()
        self._names: dict[Any, str] = {}
        self._under_way: dict[Any, int] = {}
        self.standing: dict[Any, Standing] = {}
        self._scorers: Sequence[Any] = ()
        beginning = [self._created() for _ in range(crew.size)]
        for actor, reference in beginning:
            self._join(actor, reference)

    async def call(self, method: str, *arguments: Any) -> Any:
        """What one of them gives; when it dies another does the work.

        Raises:
            TrimtabError: what the method raises.
            RunError: it has killed every actor that tried.
        """
        for _ in range(ATTEMPTS):
            actor = self._idlest()
            try:
                return await getattr(actor, method).remote(*arguments)
            except RayTaskError as error:
                raise own_error(error) from None
            except LOST:
                self._replace(actor)
            finally:
                self._less(actor)
        raise RunError(f"{ATTEMPTS} sampling actors have died at the same piece of work; see Ray's logs")

    def scored_by(self, scorers: Sequence[Any]) -> None:
        """From now on these actors score for them."""
        with self._lock:
            self._scorers = list(scorers)
            references = [actor.scored_by.remote(self._scorers) for actor in self._names]
        _settled(references)

    def figures(self) -> Figures:
        """What their calls come to; one that does not answer in time is left out."""
        with self._lock:
            references = [actor.figures.remote() for actor in self._names]
        return sum(_settled(references), Figures())

    def end(self) -> int:
        """They tell the gate what they have to tell, and go; returns how many bundles they had sent to it."""
        with self._lock:
            actors, self._names = list(self._names), {}
        bundles: int = sum(_settled([actor.end.remote() for actor in actors], END_S))
        for actor in actors:
            ray.kill(actor)
        return bundles

    # ------------------------------------------------------------------ coming and going

    def _created(self) -> tuple[Any, Any]:
        name = f"sampler-{next(self._numbers)}"
        made: Any = ray.remote(Sampler)
        actor = made.options(num_cpus=0, scheduling_strategy="SPREAD", max_restarts=0).remote()
        crew = self.crew
        with self._lock:
            self._names[actor] = name
        return actor, actor.begin.remote(name, crew.gate, crew.recipe, crew.secrets, crew.in_flight)

    def _join(self, actor: Any, reference: Any) -> None:
        try:
            standing = begun(reference, "a sampling actor")
        except BaseException:
            with self._lock:
                self._names.pop(actor, None)
            raise
        with self._lock:
            self._under_way[actor] = 0
            self.standing[actor] = standing
            _settled([actor.scored_by.remote(list(self._scorers))])

    def _replace(self, actor: Any) -> None:
        """Another in its place; whether it is dead or only cut off, it asks for nothing more."""
        with self._lock:
            name = self._names.pop(actor, None)
            self._under_way.pop(actor, None)
            self.standing.pop(actor, None)
            if name is None:
                return
            self.deaths += 1
            ray.kill(actor)
            ray.get(self.crew.gate.forget.remote(name))
            try:
                self._join(*self._created())
            except ClusterError:
                if not self._under_way:
                    raise

    def _idlest(self) -> Any:
        with self._lock:
            actor = min(self._under_way, key=lambda each: self._under_way[each])
            self._under_way[actor] += 1
            return actor

    def _less(self, actor: Any) -> None:
        with self._lock:
            if actor in self._under_way:
                self._under_way[actor] -= 1


# --------------------------------------------------------------------------- one that works for long


def done_there(
    work: LongWork, bounds: Bounds, hear: Callable[[str, str], None], what: str = "a training actor"
) -> Any:
    """What a long piece of work gives, done by an actor; when it dies another begins it again.

    The work must find what it has done before: it is handed nothing.

    Args:
        work: called with what it may say things by.
        bounds: what the actor needs.
        hear: told what it says.
        what: what the actor is called in errors.

    Raises:
        ClusterError: the cluster has no room for it.
        TrimtabError: what the work raises.
        RunError: it has killed every actor that tried.
    """
    refuse_too_large(what, cpus=bounds.cpus, gpus=bounds.gpus)
    for _ in range(ATTEMPTS):
        made: Any = ray.remote(LongActor)
        actor = made.options(num_cpus=bounds.cpus, num_gpus=bounds.gpus, max_restarts=0).remote()
        begun(actor.begin.remote(), what)
        try:
            for reference in actor.work.options(num_returns="streaming").remote(work):
                channel, said = ray.get(reference)
                if channel == "result":
                    return said
                hear(channel, said)
        except RayTaskError as error:
            raise own_error(error) from None
        except LOST:
            hear("err", f"{what} has died; another goes on from what is kept\n")
    raise RunError(f"{ATTEMPTS} times {what} has died at the same work; see Ray's logs")


# --------------------------------------------------------------------------- those that work in batches


class Batches:
    """Batch actors of one kind, as many as the work wants.

    Args:
        recipe: what they do.
        bounds: how many there may be.
        what: what they are called in errors.

    They load what they need while this process does other things, until `wait`.

    Raises:
        ClusterError: the cluster has no room for one of them.
    """

    def __init__(self, recipe: BatchRecipe, bounds: Bounds, what: str = "a scoring actor") -> None:
        self._recipe, self.bounds, self._what = recipe, bounds, what
        self._live: list[Any] = []
        self._beginning: dict[Any, Any] = {}  # reference of its begin -> actor
        self._leaving: list[Any] = []
        self._calm = Calm()
        refuse_too_large(what, cpus=bounds.cpus, gpus=bounds.gpus)
        for _ in range(bounds.least):
            self._start()

    def wait(self) -> None:
        """Returns once the least of them have begun.

        Raises:
            ClusterError: the cluster has no room for them.
            TrimtabError: what the recipe raises.
        """
        for reference in list(self._beginning):
            begun(reference, self._what)
            self._live.append(self._beginning.pop(reference))

    @property
    def actors(self) -> list[Any]:
        """Those that may be given work."""
        return list(self._live)

    def tick(self) -> bool:
        """Looks after them: who has begun, who has died, and whether there are too few; True on a change."""
        before = list(self._live)
        self._welcome()
        waiting = self._waiting()
        size = len(self._live) + len(self._beginning)
        calm_s = self._calm.lasted_s(size, waiting, time.monotonic())
        self._to_size(resized(size, waiting, calm_s, self.bounds))
        self._dismiss()
        return before != self._live

    def map(
        self,
        items: Sequence[Any],
        at_once: int,
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Any]:
        """A result an item, in order, worked out in pieces of so many.

        Raises:
            TrimtabError: what the work raises.
            RunError: a piece has killed every actor that tried it.
        """
        if not self._live:
            self.wait()
        job = _Pieces(items, at_once)
        while not job.is_done:
            self._give_out(job)
            finished, _ = ray.wait(list(job.under_way), num_returns=1, timeout=1.0)
            for reference in finished:
                self._take_in(job, reference)
            report(job.done, len(items))
        return job.results()

    # ------------------------------------------------------------------ pieces of a map

    def _give_out(self, job: _Pieces) -> None:
        """Two pieces an actor, so that none waits for its next; more actors where pieces are left over."""
        self._welcome()
        for actor in [*self._live, *self._live]:
            if job.waiting and job.count(actor) < AHEAD:
                start, items = job.next()
                job.under_way[actor.work.remote(items)] = (actor, start)
        waiting = len(job.waiting) * job.at_once
        self._to_size(resized(len(self._live) + len(self._beginning), waiting, 0.0, self.bounds))

    def _take_in(self, job: _Pieces, reference: Any) -> None:
        actor, start = job.under_way.pop(reference)
        try:
            job.found[start] = ray.get(reference)
        except RayTaskError as error:
            raise own_error(error) from None
        except LOST:
            job.again(start, self._what)
            self._lost(actor)
            self._to_size(max(self.bounds.least, len(self._live) + len(self._beginning)))

    # ------------------------------------------------------------------ coming and going

    def _start(self) -> None:
        made: Any = ray.remote(BatchActor)
        needs = {"num_cpus": self.bounds.cpus, "num_gpus": self.bounds.gpus}
        actor = made.options(scheduling_strategy="SPREAD", max_restarts=0, **needs).remote()
        self._beginning[actor.begin.remote(self._recipe)] = actor

    def _welcome(self) -> None:
        """Those that have begun are given work from now on; without any, the first is waited for."""
        if not self._beginning:
            return
        wait_s = 0.0 if self._live else ASKED_S
        ready, _ = ray.wait(list(self._beginning), num_returns=1, timeout=wait_s)
        for reference in ready:
            actor = self._beginning.pop(reference)
            begun(reference, self._what)
            self._live.append(actor)

    def _waiting(self) -> int:
        """Items that wait for those that live; the dead are found out."""
        references = {actor.waiting.remote(): actor for actor in self._live}
        found = 0
        for reference, actor in references.items():
            try:
                found += ray.get(reference, timeout=ASKED_S)
            except RayActorError:
                self._lost(actor)
            except GetTimeoutError:
                continue  # busy, or its node is: Ray says when it is dead
        return found

    def _lost(self, actor: Any) -> None:
        if actor in self._live:
            self._live.remove(actor)
            ray.kill(actor)

    def _to_size(self, size: int) -> None:
        for _ in range(size - len(self._live) - len(self._beginning)):
            self._start()
        if size < len(self._live) and not self._beginning:
            self._leaving.append(self._live.pop())

    def _dismiss(self) -> None:
        """Those that leave go once they have nothing to do: who gave them work has heard of it by then."""
        for actor in list(self._leaving):
            if not any(_settled([actor.waiting.remote()])):
                self._leaving.remove(actor)
                ray.kill(actor)


class _Pieces:
    """Items in pieces: those that wait, those under way, those that are done."""

    def __init__(self, items: Sequence[Any], at_once: int) -> None:
        self.items, self.at_once = items, at_once
        self.waiting = deque(range(0, len(items), at_once))
        self.under_way: dict[Any, tuple[Any, int]] = {}
        self.found: dict[int, list[Any]] = {}
        self._tried: dict[int, int] = {}

    @property
    def is_done(self) -> bool:
        return not self.waiting and not self.under_way

    @property
    def done(self) -> int:
        return sum(map(len, self.found.values()))

    def count(self, actor: Any) -> int:
        return sum(each is actor for each, _ in self.under_way.values())

    def next(self) -> tuple[int, list[Any]]:
        start = self.waiting.popleft()
        return start, list(self.items[start : start + self.at_once])

    def again(self, start: int, what: str) -> None:
        self._tried[start] = self._tried.get(start, 0) + 1
        if self._tried[start] >= ATTEMPTS:
            raise RunError(f"{what} has died {ATTEMPTS} times at the same piece of work; see Ray's logs")
        self.waiting.appendleft(start)

    def results(self) -> list[Any]:
        return [each for start in sorted(self.found) for each in self.found[start]]


def _settled(references: Sequence[Any], timeout_s: float = ASKED_S) -> Iterator[Any]:
    """What those give that answer in time and are alive."""
    found = []
    for reference in references:
        with suppress(RayError):
            found.append(ray.get(reference, timeout=timeout_s))
    return iter(found)
