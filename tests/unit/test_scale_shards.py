"""Laws of shards: what was put is found again, and what is not whole is done again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import ConfigError, RunError
from trimtab.scale.shards import MANIFEST, Shards


def shards(folder: Path, *, of: str = "run", rows: int = 10, size: int = 4) -> Shards:
    return Shards(folder / "shards", of=of, rows=rows, size=size)


def filled(folder: Path) -> Shards:
    made = shards(folder)
    for shard in made.all():
        made.put(shard, [f"row {at}" for at in range(shard.start, shard.stop)])
    return made


@given(rows=st.integers(0, 60), size=st.integers(1, 20))
def test_shards_hold_every_row_once_and_in_order(tmp_path_factory, rows, size):
    made = shards(tmp_path_factory.mktemp("s"), rows=rows, size=size)
    covered = [at for shard in made.all() for at in range(shard.start, shard.stop)]
    assert covered == list(range(rows))
    for shard in reversed(made.missing()):
        made.put(shard, [f"row {at}" for at in range(shard.start, shard.stop)])
    assert list(made.lines()) == [f"row {at}" for at in range(rows)]


def test_another_process_finds_what_was_put_and_does_only_the_rest(tmp_path):
    made = shards(tmp_path)
    made.put(made.all()[1], ["a", "b", "c", "d"])
    again = shards(tmp_path)
    assert [shard.index for shard in again.missing()] == [0, 2]


def test_a_shard_in_which_a_row_failed_is_done_again_when_the_run_goes_on(tmp_path):
    made = filled(tmp_path)
    made.put(made.all()[0], ["failed"] * 4, is_final=False)
    assert next(made.lines()) == "failed"
    assert [shard.index for shard in shards(tmp_path).missing()] == [0]


@pytest.mark.parametrize("cut", [0, 1, 12])
def test_a_half_written_shard_is_found_and_done_again(tmp_path, cut):
    filled(tmp_path)
    path = tmp_path / "shards" / "000001.jsonl"
    path.write_bytes(path.read_bytes()[:cut])
    again = shards(tmp_path)
    assert [shard.index for shard in again.missing()] == [1]
    with pytest.raises(RunError, match="not whole"):
        list(again.lines())


def test_a_manifest_cut_short_loses_its_last_line_and_takes_further_ones(tmp_path):
    filled(tmp_path)
    manifest = tmp_path / "shards" / MANIFEST
    manifest.write_bytes(manifest.read_bytes()[:-20])
    again = shards(tmp_path)
    assert [shard.index for shard in again.missing()] == [2]
    again.put(again.missing()[0], ["row 8", "row 9"])
    assert shards(tmp_path).missing() == []


def test_what_was_being_written_when_the_run_was_killed_is_removed(tmp_path):
    filled(tmp_path)
    partial = tmp_path / "shards" / "000001.partial"
    partial.write_text("half a r", "utf-8")
    shards(tmp_path)
    assert not partial.exists()


@pytest.mark.parametrize("other", [{"of": "another"}, {"rows": 11}, {"size": 5}])
def test_shards_of_another_run_are_not_taken_for_ones_own(tmp_path, other):
    filled(tmp_path)
    again = shards(tmp_path, **other)
    assert again.missing() == again.all()


def test_lines_that_hold_unusual_line_ends_stay_one_line(tmp_path):
    made = shards(tmp_path, rows=2, size=2)
    lines = ['{"text": "a\u2028b"}', '{"text": "a\x85b"}']
    made.put(made.all()[0], lines)
    assert list(made.lines()) == lines


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_done(tmp_path):
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(ConfigError, match="cannot be written"):
        shards(tmp_path / "file")


def test_a_disk_that_refuses_a_shard_loses_none_of_those_before(tmp_path):
    made = shards(tmp_path)
    made.put(made.all()[0], ["a", "b", "c", "d"])
    (tmp_path / "shards" / "000001.partial").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        made.put(made.all()[1], ["a", "b", "c", "d"])
    (tmp_path / "shards" / "000001.partial").rmdir()
    assert [shard.index for shard in shards(tmp_path).missing()] == [1, 2]
