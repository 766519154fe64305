"""What every ring shares: hypothesis without deadlines (the machine may be busy), measured data, a server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import certifi
import pytest
from hypothesis import settings

from loopback import Body, Reply, Server

settings.register_profile("trimtab", deadline=None, max_examples=30)
settings.load_profile("trimtab")


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
