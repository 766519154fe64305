"""Laws of a cluster that runs other versions than the command: real ones, whose processes say so."""

from __future__ import annotations

import platform
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import pytest

from clusters import started
from trimtab.cli.scaling import on_cluster
from trimtab.cli.settings import Settings
from trimtab.errors import ClusterError

ray = pytest.importorskip("ray", reason="ray is not installed")

pytestmark = pytest.mark.slow


def another_trimtab(folder: Path, found: str, *, is_old: bool) -> str:
    """A folder for PYTHONPATH in which another trimtab is installed; an old one has no `scale`."""
    facts = folder / f"trimtab-{found}.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: trimtab\nVersion: {found}\n", "utf-8")
    if is_old:
        (folder / "trimtab").mkdir()
        (folder / "trimtab" / "__init__.py").write_text("", "utf-8")
    return str(folder)


def test_a_cluster_of_another_ray_is_refused_with_both_versions(monkeypatch):
    ours = ray.__version__
    with ExitStack() as cluster:
        with monkeypatch.context() as patch:
            patch.setattr(ray, "__version__", "2.9.0")  # written down by the head as it starts
            address = cluster.enter_context(started()).address
        with (
            pytest.raises(ClusterError, match="runs other versions") as refused,
            on_cluster(Settings(engine="ray", ray_address=address)),
        ):
            pass
    message = str(refused.value)
    assert refused.value.exit_code == 2
    assert {"2.9.0", ours, platform.python_version()} <= set(message.replace(":", "").split())


@pytest.mark.parametrize("is_old", [False, True], ids=["newer", "without-scale"])
def test_a_node_with_another_trimtab_is_refused_with_both_versions(tmp_path, monkeypatch, is_old):
    from trimtab.scale.bounds import Bounds
    from trimtab.scale.pool import Batches

    found = "0.0.1" if is_old else "9.9.9"
    with ExitStack() as cluster:
        with monkeypatch.context() as patch:
            patch.setenv("PYTHONPATH", another_trimtab(tmp_path, found, is_old=is_old))
            address = cluster.enter_context(started()).address
        with on_cluster(Settings(engine="ray", ray_address=address)):
            loading = Batches(lambda: list, Bounds(cpus=0.5))
            with pytest.raises(ClusterError, match="install the same on every node") as refused:
                loading.wait()
    assert refused.value.exit_code == 2
    assert f"trimtab {found}, and this is {version('trimtab')}" in str(refused.value)
