"""A store copied to another place is the same store there; with `--stores postgresql` that is a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from trimtab.cli.app import app
from trimtab.data import Feedback, FeedbackKind
from trimtab.errors import InputError
from trimtab.store import ApiKey, Inference, Scope, Store, key_digest, step_down
from trimtab.store.copying import PAGE, _in_utc
from trimtab.store.tables import metadata
from trimtab.types import Call, Candidate, Completion, Judgement, Outcome, Purpose, Reply, Usage

ODD = "NUL \0, half a pair \ud83d, é, 'quoted' \\ %s"


def filled(store: Store) -> None:
    """Rows in every table that a run and a server write, more than a page of draws among them."""
    store.start_run("r", "adapt", {"lr": 0.1})
    about = (Purpose.SAMPLING, "box", "http://box/v1", "KEY", Outcome.PAID, Usage(1, 2, 1, 0.1), 0.1, 1.0)
    drawn = tuple(Completion(ODD) for _ in range(PAGE + 7))
    store.samples_of("r").keep([Reply("key", 3, "box", drawn, (Call("c", *about),))])
    store.put_candidates("r", 0, "q", (Candidate(ODD, ODD, float("-inf"), 0.1), Candidate("", None)))
    store.put_judgement("r", 0, Judgement("q", (0,), (1,), "ai", (ODD,), 2, Usage(1, 2, 3, None)))
    store.put_round("r", 0, {"note": ODD}, Path("folder"))
    store.add_feedback([Feedback(f"{at}?", FeedbackKind.PREFERENCE, ODD, ODD, source="s") for at in range(3)])
    store.add_inferences(
        [
            Inference(
                "inf",
                1.5,
                "sums",
                1,
                ODD,
                text=ODD,
                answer="1",
                status="answered",
                messages=(),
                candidates=(Candidate(ODD, ODD, 0.5),),
            )
        ]
    )
    store.add_key(ApiKey("k", "ann", key_digest("tt-x"), (Scope.INFER,), 1.5))
    store.begin_versions("sums", Path("folder"))


def rows(store: Store) -> dict[str, list[dict[str, Any]]]:
    with store._read() as connection:
        return {
            table.name: [
                _in_utc(row)
                for row in connection.execute(select(table).order_by(*table.primary_key)).mappings()
            ]
            for table in metadata.sorted_tables
        }


def test_every_row_comes_to_the_other_place_and_back_as_it_was(tmp_path: Path, place: str) -> None:
    with Store.open(tmp_path / "a.db", survives_power_cut=False) as first, Store.open(place) as second:
        filled(first)
        told: list[tuple[int, int]] = []
        counts = first.copy_to(second, lambda done, total: told.append((done, total)))
        before = rows(first)
        assert rows(second) == before
        assert counts == {name: len(found) for name, found in before.items() if found}
        assert counts["samples"] > PAGE
        assert told[-1] == (sum(counts.values()), sum(counts.values()))
        with Store.open(tmp_path / "c.db", survives_power_cut=False) as third:
            second.copy_to(third)
            assert rows(third) == before


def test_feedback_is_numbered_on_after_a_copy(tmp_path: Path, place: str) -> None:
    with Store.open(tmp_path / "a.db", survives_power_cut=False) as first, Store.open(place) as second:
        filled(first)
        first.copy_to(second)
        assert second.add_feedback([Feedback("new?", FeedbackKind.VERDICT, "1", "right", source="s")]) == 1
        assert [row["number"] for row in rows(second)["feedback"]] == [1, 2, 3, 4]


def test_a_store_that_holds_rows_is_refused_and_stays_as_it_was(tmp_path: Path, place: str) -> None:
    with Store.open(tmp_path / "a.db", survives_power_cut=False) as first, Store.open(place) as second:
        filled(first)
        second.start_run("mine", "adapt", {})
        before = rows(second)
        with pytest.raises(InputError, match=r"holds rows already \(1 in runs\)"):
            first.copy_to(second)
        assert rows(second) == before


def test_a_copy_that_is_cut_short_leaves_nothing(tmp_path: Path, place: str) -> None:
    def cut(done: int, total: int) -> None:
        if done > PAGE:
            raise KeyboardInterrupt

    with Store.open(tmp_path / "a.db", survives_power_cut=False) as first, Store.open(place) as second:
        filled(first)
        with pytest.raises(KeyboardInterrupt):
            first.copy_to(second, cut)
        assert not any(rows(second).values())


def test_a_store_steps_down_and_up_again_and_to_older_versions_only(place: str) -> None:
    with Store.open(place) as store:
        store.start_run("r", "adapt", {})
    with pytest.raises(InputError, match=r"can go back to .*0004_versions, .*, not to 'nowhere'"):
        step_down(place, "nowhere")
    was, now = step_down(place, "0002_draws_and_calls")
    assert (was, now) == (was, "0002_draws_and_calls")
    with pytest.raises(InputError, match=r"can go back to 0001_first_tables, not to"):
        step_down(place, was)
    with Store.open(place) as store:
        assert [run.id for run in store.runs()] == ["r"]
        assert store.versions("sums") == ()


def test_the_command_copies_says_what_it_copied_and_refuses_what_is_not_there(tmp_path: Path) -> None:
    def said(*words: object) -> Any:
        return CliRunner().invoke(app, ["store", *map(str, words)])

    source, target = tmp_path / "a.db", tmp_path / "b.db"
    with Store.open(source, survives_power_cut=False) as store:
        filled(store)
    done = said("copy", source, target, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["rows"]["samples"] == PAGE + 7
    assert said("copy", source, target).exit_code != 0  # it holds rows now
    assert "there is no store to copy" in str(said("copy", tmp_path / "none.db", tmp_path / "c.db").exception)
    assert not (tmp_path / "none.db").exists()
    assert "say --yes" in str(said("step-down", source, "0004_versions").exception)
    assert said("step-down", source, "0004_versions", "--yes").exit_code == 0
