"""`--engine ray`: the run's client, scorers and questions on a Ray cluster.

What happens there is `scale`'s; here it is put together from the settings. Ray is imported only where it is
asked for, its telemetry switched off and its logs kept to itself.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import IO, TYPE_CHECKING, Any, Self, TypeAlias, cast

from trimtab.cli import build, console
from trimtab.cli.client import Client
from trimtab.cli.settings import Settings
from trimtab.energy.manifest import MANIFEST_NAME, read_manifest
from trimtab.energy.placing import put_in_place
from trimtab.errors import ConfigError, MissingExtraError, TrimtabError
from trimtab.llm.observed import Meter
from trimtab.scale import addresses
from trimtab.scale.bounds import Bounds
from trimtab.store import Store
from trimtab.types import LLM

Work: TypeAlias = Callable[[Settings, Settings], int]  # with paths as they are there, and as they were given

if TYPE_CHECKING:
    from trimtab.scale.cluster import Cluster
    from trimtab.scale.leases import LeasedBudget, LeasedLimiter
    from trimtab.scale.parcels import Parcel
    from trimtab.scale.pool import Batches, Samplers
    from trimtab.scale.recipes import BatchRecipe, Figures, Secrets

WATCH_S = 1.0  # how often the actors are looked after, and their figures asked for
STORE_IS_HERE = (
    "the store is a file on the machine of the command: give --store postgresql://… so that all share draws "
    "and ledger"
)
TEXTS_AT_ONCE = 128  # that one actor classifies or scores in one piece
PATHS = ("work_dir", "log", "adapter")
READ = ("questions", "recorded", "dev")  # files that an adaptation reads
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_agent_register_timeout_ms": "120000",  # a busy machine takes longer than Ray's own limit
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


# --------------------------------------------------------------------------- joining


@contextmanager
def on_cluster(settings: Settings) -> Iterator[Cluster | None]:
    """The cluster of the settings, joined; None where all is done in this process.

    Raises:
        MissingExtraError: Ray is not installed.
        ClusterError: the cluster cannot be joined.
        ConfigError: what the settings ask for cannot be done there.
    """
    if settings.engine == "local":
        yield None
        return
    _check(settings)
    os.environ.update(QUIET)
    from trimtab.scale.cluster import joined

    with joined(settings.ray_address) as cluster:
        if settings.store is None and not cluster.is_one_machine:
            raise ConfigError(f"the cluster has several machines; {STORE_IS_HERE}")
        yield cluster


def _check(settings: Settings) -> None:
    if find_spec("ray") is None:
        raise MissingExtraError("ray", "--engine ray")
    if settings.batch:
        raise ConfigError("--batch and --engine ray do not go together: a batch is one request, from here")
    if settings.ray_scorers > settings.ray_scorers_most:
        raise ConfigError(
            f"ray_scorers: at least {settings.ray_scorers} and at most {settings.ray_scorers_most} "
            "(--ray-scorers-most)"
        )


def bounds_of(settings: Settings) -> Bounds:
    """How many actors score, and what each needs."""
    return Bounds(settings.ray_scorers, settings.ray_scorers_most, settings.ray_cpus, settings.ray_gpus)


def _there(settings: Settings) -> Settings:
    """The settings as another process of the cluster reads them: no path hangs on where it was started."""
    paths = {name: getattr(settings, name) for name in PATHS}
    absolute: dict[str, object] = {name: path.absolute() for name, path in paths.items() if path is not None}
    if settings.store is not None and "://" not in settings.store:
        absolute["store"] = str(Path(settings.store).absolute())
    return settings.model_copy(update=absolute)


def secrets_of(settings: Settings) -> Secrets:
    """The environment variables that the settings name, and their values, for the memory of the actors."""
    from trimtab.scale.recipes import Secrets

    named = {piece.partition("$")[2].strip() for piece in (settings.headers or "").split(",")}
    named |= {settings.api_key_env}
    if settings.provider == "litellm":
        named |= {name for name in os.environ if name.endswith("_API_KEY")}
    return Secrets({name: os.environ[name] for name in named if name in os.environ})


def refuse_unwritable(out: Path | None, *, is_local: bool = True) -> None:
    """Raises ConfigError where the result could not be written: better now than when all is paid for."""
    if out is None:
        return
    if addresses.is_address(out):
        if is_local:
            raise ConfigError("out: an object store is written to with --engine ray only")
        addresses.refuse_unwritable(addresses.address(out))
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=out.parent, prefix=f".{out.name}."):
            pass
    except OSError as error:
        raise ConfigError(f"out: {out} cannot be written: {error.strerror}") from None


def write_lines(out: Path | None, lines: Iterable[str]) -> int:
    """`console.write_lines`, to an object store too."""
    if out is not None and addresses.is_address(out):
        return addresses.write_lines(addresses.address(out), lines)
    return console.write_lines(out, lines)


def read_there(settings: Settings, *names: str) -> Settings:
    """The settings with JSONL files of this machine in the place of what only a cluster reads.

    Folders, Parquet files and addresses of object stores are read by Ray; a JSONL file stays what it is.
    """
    if settings.engine == "local":
        return settings
    given = {name: getattr(settings, name) for name in names}
    return settings.model_copy(
        update={name: read_rows(settings, path) for name, path in given.items() if path is not None}
    )


def read_rows(settings: Settings, path: Path) -> Path:
    """The rows of a folder, Parquet files or an object store's address as a JSONL file; a file as it is."""
    if settings.engine == "local" or (path.is_file() and path.suffix != ".parquet"):
        return path
    with on_cluster(settings):
        from trimtab.scale.reading import read_rows

        return read_rows(path, settings.work_dir / "read")


# --------------------------------------------------------------------------- what actors are made of


@dataclass(frozen=True, slots=True)
class ActorBox:
    """A client and its store, in an actor."""

    client: Client
    store: Store

    @property
    def meter(self) -> Meter:
        """What its calls come to."""
        return self.client.meter

    def model(self, name: str | None = None) -> LLM:
        """The black box, or another model at its endpoint."""
        return self.client.model(name)

    def close(self) -> None:
        """Lets go of log and store."""
        self.client.__exit__()
        self.store.close()


@dataclass(frozen=True, slots=True)
class Asking:
    """Makes the black boxes of a run in an actor; its settings may hold a password, and are not shown."""

    settings: Settings
    run_id: str

    def __repr__(self) -> str:
        return f"Asking({self.run_id!r})"

    def __call__(self, limiter: LeasedLimiter, budget: LeasedBudget, secrets: Secrets) -> ActorBox:
        """The boxes, under this limiter and this budget."""
        os.environ.update(secrets.values)  # of this actor's process alone
        store = build.store_of(self.settings)
        return ActorBox(Client(self.settings, store, self.run_id, (limiter, budget)), store)


@dataclass(frozen=True, slots=True)
class Scoring:
    """Loads the adapter of the settings in an actor, to score pairs."""

    settings: Settings
    adapter: Parcel

    def __repr__(self) -> str:
        return f"Scoring({str(self.adapter.origin)!r})"

    def __call__(self) -> Callable[[Sequence[tuple[str, str]]], list[float]]:
        """What scores."""
        _threads(self.settings)
        there = self.settings.model_copy(update={"adapter": self.adapter.here()})
        return build.scorer_of(there)[0].score_pairs


@dataclass(frozen=True, slots=True)
class Classifying:
    """Loads a classifier in an actor, to label texts."""

    settings: Settings
    classifier: Parcel

    def __call__(self) -> Callable[[Sequence[Any]], Any]:
        """What classifies."""
        from trimtab.cli.classifying import loaded

        _threads(self.settings)
        return loaded(self.settings, self.classifier.here()).predict_proba


def _threads(settings: Settings) -> None:
    """As many as the actor has CPUs: others work beside it."""
    build.limit_threads(
        settings.model_copy(update={"threads": settings.threads or max(1, int(settings.ray_cpus))})
    )


# --------------------------------------------------------------------------- files that actors read


def sent(settings: Settings, path: Path, names: Iterable[str] | None = None) -> Parcel:
    """A file or folder as actors find it; where they are all on this machine, it stays where it is."""
    from trimtab.scale.parcels import Parcel, parcel

    return parcel(path, names) if settings.ray_address else Parcel(path.absolute())


def adapter_sent(settings: Settings) -> Parcel:
    """The adapter of the settings as actors find it; what else is in its folder stays here."""
    assert settings.adapter is not None
    return sent(settings, settings.adapter, [MANIFEST_NAME, *read_manifest(settings.adapter).files])


# --------------------------------------------------------------------------- scoring from here


def scorers(settings: Settings) -> Batches:
    """Actors that load the adapter of the settings to score with it, while this process does other things."""
    return batches(Scoring(_there(settings), adapter_sent(settings)), settings)


class ScorerOnCluster:
    """The adapter of the settings as a scorer, worked out by batch actors; they go with the cluster.

    Args:
        settings: of the run.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._batches: Batches | None = None

    def score(self, question: str, texts: Sequence[str]) -> list[float]:
        """One score a text, in order."""
        return self.score_pairs([(question, text) for text in texts])

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """One score a pair, in order."""
        if self._batches is None:
            self._batches = scorers(self._settings)
        return self._batches.map(pairs, TEXTS_AT_ONCE)


def batches(recipe: BatchRecipe, settings: Settings) -> Batches:
    """Batch actors as the settings have them."""
    from trimtab.scale.pool import Batches

    return Batches(recipe, bounds_of(settings))


def classified(
    settings: Settings, folder: Path, texts: Sequence[Any], report: Callable[[int, int], None] | None
) -> list[Any]:
    """The probabilities of each text's labels, worked out on the cluster."""
    with on_cluster(settings):
        pool = batches(Classifying(_there(settings), sent(settings, folder)), settings)
        return pool.map(texts, TEXTS_AT_ONCE, report or (lambda done, total: None))


# --------------------------------------------------------------------------- a command's work, done there


@dataclass(frozen=True, slots=True)
class Working:
    """A command's own work, done in an actor: what it prints is said here, what it makes is put here."""

    work: Work
    given: Settings
    settings: Settings  # the same, with paths that hang on no folder
    secrets: Secrets
    parcels: Mapping[str, Parcel]  # of what the settings of these names say is to be read
    token: str  # a file in the work directory: who sees it shares the disk

    def __repr__(self) -> str:
        return "Working()"

    def __call__(self, say: Callable[[str, str], None]) -> tuple[int, dict[str, bytes]]:
        """The command's exit code, and the files of the folder that it has made."""
        from trimtab.scale.parcels import files_in

        os.environ.update(self.secrets.values)  # of this actor's process alone
        out, err = (cast("IO[str]", _Said(say, channel)) for channel in ("out", "err"))
        console.out.file, console.err.file = out, err
        with redirect_stdout(out), TemporaryDirectory() as made:
            folder = Path(made) / "out"
            code = self.work(self._there(folder), self.given)
            return code, files_in(folder)

    def _there(self, out: Path) -> Settings:
        """The settings with paths as they are on this machine."""
        read = {name: each.here() for name, each in self.parcels.items()}
        found: dict[str, object] = {**read, "out": out, "work_dir": self._work_dir()}
        if "backbone" in read:
            found["backbone"] = str(read["backbone"])
        return self.settings.model_copy(update=found)

    def _work_dir(self) -> Path:
        """The work directory, where its disk is shared; else one of this machine that stands for it."""
        from trimtab.scale.parcels import own_folder

        if (self.settings.work_dir / self.token).is_file():
            return self.settings.work_dir
        if "://" not in (self.settings.store or ""):
            raise ConfigError(f"{STORE_IS_HERE}, and an actor on {os.uname().nodename} does not see it")
        return own_folder("work") / hashlib.sha256(str(self.settings.work_dir).encode()).hexdigest()[:16]


class _Said(io.TextIOBase):
    """A file whose text is said elsewhere."""

    def __init__(self, say: Callable[[str, str], None], channel: str) -> None:
        self._say, self._channel = say, channel

    def write(self, text: str) -> int:
        self._say(self._channel, text)
        return len(text)


def worked_there(work: Work, settings: Settings) -> int:
    """The exit code of a command's work, done by one actor with the CPUs and GPUs of the settings.

    What it makes is put in the place of an adapter, here; what it keeps while it works is on a disk that both
    machines share, or else on the actor's own.
    """

    def hear(channel: str, text: str) -> None:
        (sys.stdout if channel == "out" else sys.stderr).write(text)

    settings.work_dir.mkdir(parents=True, exist_ok=True)
    with on_cluster(settings), NamedTemporaryFile(dir=settings.work_dir, prefix=".shared-") as token:
        from trimtab.scale.parcels import write_files
        from trimtab.scale.pool import done_there

        name, read = Path(token.name).name, _read_there(settings)
        there = Working(work, settings, _there(settings), secrets_of(settings), read, name)
        code, files = done_there(there, bounds_of(settings), hear)
        if files and settings.out is not None:
            put_in_place(settings.out, lambda folder: write_files(folder, files))
        return int(code)


def _read_there(settings: Settings) -> dict[str, Parcel]:
    """What an adaptation reads, by the settings that name it."""
    named = {name: getattr(settings, name) for name in READ}
    if Path(settings.backbone).is_dir():
        named["backbone"] = Path(settings.backbone)
    found = {name: sent(settings, path) for name, path in named.items() if path is not None}
    return found | ({"adapter": adapter_sent(settings)} if settings.adapter else {})


# --------------------------------------------------------------------------- asking from here


class ClusterClient:
    """What `Client` is to a run, on a cluster: its black boxes are asked by actors.

    One limiter and one budget are over all of them. As a context manager, they are gone when it is left.

    Args:
        settings: the run's.
        store: where draws and the ledger are kept; the actors open it themselves.
        run_id: on whose account.

    Raises:
        ConfigError, ClusterError: see `Client` and `on_cluster`.
    """

    def __init__(self, settings: Settings, store: Store, run_id: str) -> None:
        self._settings = settings
        self._here = Client(settings, store, run_id)  # its prices, limits and complaints; it asks nothing
        if settings.model is not None:
            self._here.box()
        self.prices = self._here.prices
        self.meter = _Sum()
        self.budget = self  # asked whether it is spent
        self.bundles = 0
        self.scorers: Batches | None = None
        self._asking = Asking(_there(settings), run_id)
        self._over = threading.Event()
        self._refusal: str | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        from trimtab.scale.cluster import begun

        with ExitStack() as opened:
            cluster = opened.enter_context(on_cluster(self._settings))
            assert cluster is not None, "this is for a cluster"
            self._gate = cluster.gate(self._here.limiter, self._here.budget)
            self.samplers = self._crew()
            begun(self._gate.begin.remote(), "the gate")
            opened.callback(self._here.__exit__)
            opened.callback(self._end)
            self._open = opened.pop_all()
        self._looking = threading.Thread(target=self._look_after, daemon=True)
        self._looking.start()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._open.close()

    @property
    def is_spent(self) -> str | None:
        """Why a call was refused, once one has been."""
        if not self._over.is_set():
            self._ask_the_gate()
        return self._refusal

    def model(self, name: str | None = None) -> LLM:
        """The black box, or another model at its endpoint, asked by the actors."""
        from trimtab.scale.remote import RemoteLLM

        return RemoteLLM(self.samplers, self._here.box(name).name)

    def scored_by(self, scorers: Batches) -> None:
        """From now on these score for the sampling actors; returns once they have begun."""
        scorers.wait()
        self.scorers = scorers
        self.samplers.scored_by(scorers.actors)

    def hear(self) -> None:
        """Asks the actors what their calls come to by now."""
        self.meter.now = self.samplers.figures()

    def _crew(self) -> Samplers:
        from trimtab.scale.pool import Crew, Samplers

        settings = self._settings
        share = max(1, -(-settings.concurrency // settings.ray_samplers))
        return Samplers(Crew(self._gate, self._asking, secrets_of(settings), settings.ray_samplers, share))

    def _look_after(self) -> None:
        """Hears the figures, and keeps as many actors scoring as the work wants."""
        while not self._over.wait(WATCH_S):
            self.hear()
            try:
                if self.scorers is not None and self.scorers.tick():
                    self.samplers.scored_by(self.scorers.actors)
            except TrimtabError as error:
                console.say(f"scoring goes on with fewer actors: {error}")

    def _end(self) -> None:
        self._ask_the_gate()
        self._over.set()
        self._looking.join()
        self.hear()
        self.bundles = self.samplers.end()

    def _ask_the_gate(self) -> None:
        from trimtab.scale.actors import told_apart

        self._refusal = told_apart(self._gate.figures.remote())[0]


class _Sum:
    """What the calls of all actors come to, as far as it was last heard."""

    def __init__(self) -> None:
        self.now: Figures | None = None

    def __getattr__(self, name: str) -> Any:
        from trimtab.scale.recipes import Figures

        return getattr(self.now or Figures(), name)
