"""Laws of `--engine ray` that need no cluster: what is refused and secret, and how many work."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.cli import answering, build
from trimtab.cli.scaling import Asking, refuse_unwritable, secrets_of
from trimtab.cli.settings import Settings
from trimtab.errors import ConfigError
from trimtab.scale.bounds import CALM_S, WAITING_EACH, Bounds, Calm, resized
from trimtab.scale.recipes import Figures, Secrets
from trimtab.types import Usage


def test_where_a_run_is_done_does_not_make_it_another_run():
    here = Settings(model="m")
    there = Settings(model="m", engine="ray", ray_address="auto", ray_samplers=7, ray_gpus=1.0)
    assert build.run_identity("answer", here) == build.run_identity("answer", there)


@pytest.mark.parametrize(
    ("more", "words"),
    [({"batch": True}, "--batch"), ({"ray_scorers": 5, "ray_scorers_most": 2}, "ray-scorers-most")],
)
def test_what_a_cluster_cannot_do_is_refused_before_one_is_joined(more, words, tmp_path):
    settings = Settings.model_validate(
        {"engine": "ray", "model": "m", "adapter": tmp_path, "questions": tmp_path / "q", **more}
    )
    pytest.importorskip("ray", reason="ray is not installed")
    with pytest.raises(ConfigError, match=words):
        answering.run(settings, False)


def test_an_output_beneath_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(ConfigError, match="cannot be written"):
        refuse_unwritable(tmp_path / "file" / "answers.jsonl")
    refuse_unwritable(tmp_path / "new" / "answers.jsonl")
    assert list((tmp_path / "new").iterdir()) == []


def test_secrets_are_those_that_the_settings_name_and_no_repr_shows_them(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-mine")
    monkeypatch.setenv("TEAM_TOKEN", "team-secret")
    monkeypatch.setenv("OTHER_API_KEY", "another")
    settings = Settings(api_key_env="MY_KEY", headers="X-Team: nlp, X-Token: $TEAM_TOKEN", model="m")
    secrets = secrets_of(settings)
    assert dict(secrets.values) == {"MY_KEY": "sk-mine", "TEAM_TOKEN": "team-secret"}
    assert "sk-mine" not in repr(secrets)
    assert pickle.loads(pickle.dumps(secrets)) == secrets
    assert "another" in secrets_of(Settings(provider="litellm", model="m")).values.values()


def test_what_an_actor_is_made_of_shows_no_password():
    settings = Settings(store="postgresql://me:hunter2@db/trimtab", model="m")
    assert "hunter2" not in repr(Asking(settings, "answer-1"))
    assert repr(Secrets({"KEY": "sk"})) == "Secrets()"


@given(size=st.integers(0, 20), waiting=st.integers(0, 10_000), calm_s=st.floats(0, 60))
def test_the_number_of_batch_actors_changes_by_one_and_stays_within_its_bounds(size, waiting, calm_s):
    bounds = Bounds(least=2, most=6)
    size = min(max(size, bounds.least), bounds.most)
    found = resized(size, waiting, calm_s, bounds)
    assert bounds.least <= found <= bounds.most
    assert abs(found - size) <= 1
    if waiting > size * WAITING_EACH and size < bounds.most:
        assert found == size + 1


def test_one_goes_only_after_one_fewer_was_enough_for_a_while():
    calm = Calm(since=0.0)
    assert calm.lasted_s(3, 2 * WAITING_EACH, 5.0) == 5.0
    assert calm.lasted_s(3, 2 * WAITING_EACH + 1, CALM_S) == 0.0
    assert resized(3, 0, calm.lasted_s(3, 0, 2 * CALM_S), Bounds(1, 4)) == 2


def test_figures_of_several_actors_add_up():
    one = Figures(Usage(10, 5, 1, 0.5), failed=1, in_flight=2, cache_hits=3, tokens_per_s=4.0)
    assert sum([one, one], Figures()) == Figures(Usage(20, 10, 2, 1.0), 2, 4, 6, 8.0)
