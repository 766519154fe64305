"""Laws of several processes that train as one: their sums, their parts, what the first tells the others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ranked import together
from trimtab.energy.checkpoint import Checkpoint
from trimtab.energy.ranks import ALONE, Ranks, of_first, part, sum_gradients

pytestmark = pytest.mark.slow

SIZES = (2, 3)


@pytest.mark.parametrize("size", SIZES)
def test_every_item_is_one_ranks_and_no_others(size):
    parts = together(size, lambda ranks: list(part(range(10), ranks)))
    assert sorted(item for each in parts for item in each) == list(range(10))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("size", SIZES)
def test_gradients_and_losses_add_up_over_the_ranks(size):
    def work(ranks: Ranks) -> tuple[list[torch.Tensor | None], float]:
        parameters = [
            nn.Parameter(torch.zeros(2, 3)),
            nn.Parameter(torch.zeros(4)),
            nn.Parameter(torch.zeros(1)),
        ]
        parameters[0].grad = torch.full((2, 3), float(ranks.rank + 1))
        if ranks.rank == 0:  # the other ranks' passes do not touch it
            parameters[1].grad = torch.arange(4.0)
        loss = sum_gradients(parameters, 0.5 * (ranks.rank + 1), ranks)
        return [each.grad for each in parameters], loss

    total = sum(range(1, size + 1))
    for (first, second, third), loss in together(size, work):
        assert torch.equal(first, torch.full((2, 3), float(total)))
        assert torch.equal(second, torch.arange(4.0))
        assert third is None, "an optimiser would let weights decay that nothing uses"
        assert loss == 0.5 * total


def test_alone_nothing_is_added_and_nothing_is_copied():
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = given = torch.tensor([0.1, 0.2])
    assert sum_gradients([parameter], 0.3, ALONE) == 0.3
    assert parameter.grad is given
    found = Checkpoint("f", 3, {}, {})
    assert of_first(found, ALONE) is found


@pytest.mark.parametrize("size", SIZES)
def test_all_ranks_go_on_from_the_first_ones_checkpoint(size):
    counters = {"losses": [0.25, 1 / 3], "history": [{"step": 1, "note": "é"}]}
    tensors = {"weight.a": torch.randn(2, 3), "mean.b": torch.randn(1)}
    kept = Checkpoint("print", 7, counters, tensors)
    for found in together(size, lambda ranks: of_first(None if ranks.rank else kept, ranks)):
        assert (found.fingerprint, found.step, found.counters) == ("print", 7, counters)
        assert found.tensors.keys() == tensors.keys()
        assert all(torch.equal(found.tensors[name], tensors[name]) for name in tensors)


def test_where_the_first_has_no_checkpoint_none_has():
    assert together(2, lambda ranks: of_first(None, ranks)) == [None, None]
