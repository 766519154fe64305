"""Laws of object stores' addresses: what passes for one, what is written there, and what an error says."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimtab.cli.scaling import refuse_unwritable, write_lines
from trimtab.errors import ConfigError, RunError
from trimtab.scale import addresses

pytest.importorskip("pyarrow", reason="pyarrow is not installed")


@pytest.mark.parametrize("given", ["s3://bucket/questions", "gs://bucket/q.parquet", "file:///tmp/q.jsonl"])
def test_an_address_survives_being_taken_for_a_path(given):
    assert addresses.is_address(Path(given))
    assert addresses.address(Path(given)) == given


@pytest.mark.parametrize("given", ["/data/q.parquet", "q.jsonl", "C:/q.jsonl", "a:b/q.jsonl"])
def test_a_path_is_no_address(given):
    assert not addresses.is_address(Path(given))
    assert addresses.address(Path(given)) == given


def test_lines_are_all_there_or_none(tmp_path):
    place = Path(f"file://{tmp_path}/new/answers.jsonl")
    refuse_unwritable(place, is_local=False)
    assert [path.name for path in (tmp_path / "new").iterdir()] == []
    assert write_lines(place, ["one", "two"]) == 2

    def broken():
        yield "three"
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError):
        write_lines(place, broken())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["answers.jsonl"]
    assert (tmp_path / "new" / "answers.jsonl").read_text("utf-8") == "one\ntwo\n"


def test_an_object_store_is_written_to_with_ray_only():
    with pytest.raises(ConfigError, match="--engine ray"):
        refuse_unwritable(Path("s3://bucket/answers.jsonl"))


def test_what_cannot_be_written_is_named_before_and_after_the_work(tmp_path):
    (tmp_path / "file").write_text("", "utf-8")
    place = f"file://{tmp_path}/file/answers.jsonl"
    with pytest.raises(ConfigError, match="cannot be written"):
        addresses.refuse_unwritable(place)
    with pytest.raises(RunError, match="cannot be written"):
        addresses.write_lines(place, ["one"])


def test_credentials_in_an_address_are_refused_and_not_repeated():
    with pytest.raises(ConfigError, match="no credentials in an address") as refused:
        addresses.refuse_unwritable("s3://KEY:hunter2@bucket/answers.jsonl")
    assert "hunter2" not in str(refused.value)


def test_a_store_that_refuses_or_needs_a_package_says_where_credentials_and_packages_come_from():
    denied = OSError("When getting information for key 'q': AWS Error ACCESS_DENIED during HeadObject")
    assert "ACCESS_DENIED" in addresses.why("s3://bucket/q", denied)
    assert "AWS_ACCESS_KEY_ID" in addresses.why("s3://bucket/q", denied)
    missing = ImportError("Install adlfs to access Azure Datalake Gen2")
    assert "adlfs" in addresses.why("az://bucket/q", missing)
    assert "install it here and on the cluster's nodes" in addresses.why("az://bucket/q", missing)
    assert addresses.why("/data/q.jsonl", OSError("no leave")) == "no leave"
