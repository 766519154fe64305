"""Laws of how `trimtab serve` reads its settings."""

from __future__ import annotations

import pytest

from serving import parts_of, running
from trimtab.cli.serving import _with_model
from trimtab.cli.settings import Settings
from trimtab.energy import Manifest
from trimtab.errors import ConfigError

pytestmark = pytest.mark.slow


def made_with(*black_boxes: str | None) -> list[Manifest]:
    return [
        Manifest(task="numeric", backbone="b", loss="bce", max_length=64, black_box=each)
        for each in black_boxes
    ]


def test_without_a_model_the_server_stands_before_the_one_that_its_adapters_were_made_with():
    assert _with_model(Settings(), made_with("box", "box")).model == "box"
    assert _with_model(Settings(model="other"), made_with("box")).model == "other"


@pytest.mark.parametrize("black_boxes", [(), (None,), ("box", "other"), ("box", None)])
def test_where_no_one_model_is_meant_it_must_be_named(black_boxes):
    with pytest.raises(ConfigError, match="--model is needed"):
        _with_model(Settings(), made_with(*black_boxes))


async def test_who_looks_in_at_the_wrong_address_is_told_the_right_ones():
    async with running(parts_of()) as server:
        response = await server.http.get("/")
    assert response.status_code == 404
    assert all(each in response.json()["error"]["message"] for each in ("/v1/models", "/review"))
