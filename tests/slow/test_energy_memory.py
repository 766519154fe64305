"""Laws of when activations are worked out twice: where they would not fit in half of what is free."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch

from trimtab.energy.encoding import Pair
from trimtab.energy.memory import (
    SHARE,
    activation_bytes,
    free_bytes,
    left_to_container,
    must_recompute,
    padded_lengths,
)

pytestmark = pytest.mark.slow

MINILM = SimpleNamespace(hidden_size=384, num_attention_heads=12)


def network(*, can: bool = True) -> SimpleNamespace:
    return SimpleNamespace(device=torch.device("cpu"), supports_gradient_checkpointing=can, config=MINILM)


def test_activations_grow_with_layers_and_texts_and_faster_than_the_length():
    one = activation_bytes(MINILM, [100], 6)
    assert activation_bytes(MINILM, [100], 12) == 2 * one
    assert activation_bytes(MINILM, [100, 100], 6) == 2 * one
    assert 2 * one < activation_bytes(MINILM, [200], 6) < 4 * one


def test_lengths_are_counted_as_they_are_padded():
    pairs = [Pair((0,) * length, (), 0, 0) for length in (5, 40, 33, 5)]
    assert padded_lengths(pairs, 96, 16) == [48, 48, 16, 16]


def test_this_machine_says_what_is_free():
    free = free_bytes(torch.device("cpu"))
    assert free is None or 0 < free < 2**50


def test_what_fits_is_kept_and_what_does_not_is_worked_out_twice_and_said_once(caplog):
    with caplog.at_level(logging.WARNING, "trimtab.energy"):
        assert not must_recompute(network(), [100], 6)
        assert not caplog.records
        assert must_recompute(network(), [100_000_000], 6)
        assert not must_recompute(network(can=False), [100_000_000], 6)
    (said,) = caplog.records
    assert "computed twice" in said.getMessage()


def test_processes_share_one_machines_memory():
    free = free_bytes(torch.device("cpu")) or 0
    length = 1000
    texts = int(free * SHARE * 0.6 / activation_bytes(MINILM, [length], 6))
    assert not must_recompute(network(), [length] * texts, 6)
    assert must_recompute(network(), [length] * texts, 6, sharing=2)


def test_a_containers_limit_leaves_what_is_not_used_yet(tmp_path):
    assert left_to_container(tmp_path) is None
    (tmp_path / "memory.current").write_text("1000\n", "ascii")
    (tmp_path / "memory.max").write_text("max\n", "ascii")
    assert left_to_container(tmp_path) is None
    (tmp_path / "memory.max").write_text("4000\n", "ascii")
    assert left_to_container(tmp_path) == 3000
