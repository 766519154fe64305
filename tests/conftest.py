"""What every ring shares: hypothesis without deadlines (the machine may be busy), measured data, a server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import certifi
import pytest
from hypothesis import settings

from databases import empty_databases
from loopback import Body, Reply, Server

settings.register_profile("trimtab", deadline=None, max_examples=30)
settings.load_profile("trimtab")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--stores", choices=("sqlite", "postgresql"), default="sqlite", help="where stores are")


@pytest.fixture(scope="session", autouse=True)
def new_address(request: pytest.FixtureRequest) -> Iterator[Callable[[], str] | None]:
    """With `--stores postgresql` every store in memory is a new database on a real server instead.

    Gives the address of another such database at each call; None for files.
    """
    if request.config.getoption("--stores") == "sqlite":
        yield None
        return
    from trimtab.store import Store

    with empty_databases() as another, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "in_memory", classmethod(lambda cls: cls.open(another())))
        yield another


@pytest.fixture
def place(new_address: Callable[[], str] | None, tmp_path: Path) -> str:
    """Where a store can be opened again and again: a file that is not there yet, or an empty database."""
    return str(tmp_path / "folder" / "trimtab.db") if new_address is None else new_address()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of recorded answers beside the checkout; the test is skipped where there is none."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no recorded answers at {folder}")
    return folder


@pytest.fixture(scope="module")
def one_certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each client reads the trusted certificates, 50 ms for all of them; nothing here speaks TLS."""
    end = "-----END CERTIFICATE-----\n"
    first = Path(certifi.where()).read_text("utf-8").partition(end)[0] + end
    file = tmp_path_factory.mktemp("tls") / "one.pem"
    file.write_text(first, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(file))
        yield


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers, and stops them after the test."""
    running: list[tuple[Server, threading.Thread]] = []

    def start(*replies: Callable[[Body], Reply]) -> Server:
        server = Server(*replies)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()
