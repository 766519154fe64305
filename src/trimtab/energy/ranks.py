"""The processes that train one model together, as `fit` sees them: which of them this is, and sums over all.

Data parallelism (Li et al. 2020, "PyTorch Distributed"): every rank has the whole model and takes its part of
an update's passes; gradients are summed over all, so that all make the same update. How the processes come to
be is `processes`' affair, or a cluster's.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch
from torch import Tensor, distributed, nn

from trimtab.energy.checkpoint import Checkpoint
from trimtab.errors import MissingExtraError

T = TypeVar("T")


class Ranks(Protocol):
    """Which of the processes this is (`rank`, from 0), of how many (`size`)."""

    @property
    def rank(self) -> int:
        """The number of this process."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def sum_(self, tensor: Tensor) -> None:
        """The tensor becomes the sum of all ranks' tensors in its place; all call it, or none goes on."""
        ...

    def broadcast_(self, tensor: Tensor) -> None:
        """The tensor becomes the first rank's."""
        ...


class Alone:
    """One process: its sums are what it has itself."""

    rank = 0
    size = 1

    def sum_(self, tensor: Tensor) -> None:
        """Nothing is added."""

    def broadcast_(self, tensor: Tensor) -> None:
        """It is the first rank's already."""


class Group:
    """The processes of a group of torch's.

    Args:
        group: to which this process belongs.
        device: where its tensors have to be: NCCL knows those of GPUs alone.
    """

    def __init__(self, group: distributed.ProcessGroup, device: torch.device) -> None:
        self._group, self.device = group, device
        self.rank, self.size = group.rank(), group.size()

    def sum_(self, tensor: Tensor) -> None:
        """The tensor becomes the sum of all ranks' tensors in its place."""
        there = tensor.to(self.device)
        self._group.allreduce([there]).wait()
        tensor.copy_(there)

    def broadcast_(self, tensor: Tensor) -> None:
        """The tensor becomes the first rank's."""
        there = tensor.to(self.device)
        self._group.broadcast(there, 0).wait()
        tensor.copy_(there)


ALONE = Alone()


@contextmanager
def joined(*, cpu: bool) -> Iterator[Group]:
    """The group that whoever started this process has described in its environment; left with this context.

    accelerate finds the device of this process and the backend: NCCL on GPUs, gloo on CPUs.

    Raises:
        MissingExtraError: accelerate is not installed.
    """
    try:
        from accelerate import PartialState
    except ModuleNotFoundError:
        raise MissingExtraError("distributed", "training in several processes") from None
    state = PartialState(cpu=cpu)
    world = distributed.group.WORLD
    assert world is not None, "the launcher has described no group"
    try:
        yield Group(world, state.device)
    finally:
        state.destroy_process_group()


def part(items: Sequence[T], ranks: Ranks) -> Sequence[T]:
    """The items that are this rank's: every `size`-th."""
    return items[ranks.rank :: ranks.size]


def sum_gradients(parameters: Collection[nn.Parameter], loss: float, ranks: Ranks) -> float:
    """The loss of all ranks; each parameter's gradient becomes that of all ranks together.

    All is one flat buffer: one message. A parameter that no rank has a gradient for keeps none, so
    that an optimiser leaves it alone.
    """
    if ranks.size == 1:
        return loss
    given = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
    facts = [*(each.grad is not None for each in parameters), loss]
    flat = torch.cat([*(each.reshape(-1) for each in given), given[0].new_tensor(facts)])
    ranks.sum_(flat)
    *parts, found = torch.split(flat, [*(each.numel() for each in given), len(facts)])
    *counts, total = found.tolist()
    for parameter, summed, count in zip(parameters, parts, counts, strict=True):
        parameter.grad = summed.view_as(parameter) if count else None
    return float(total)


def of_first(found: Checkpoint | None, ranks: Ranks) -> Checkpoint | None:
    """The first rank's checkpoint, on every rank: the others need no disk that they share with it."""
    if ranks.size == 1:
        return found
    facts = _said_by_first(json.dumps(_facts(found)), ranks)
    known = json.loads(facts)
    if known is None:
        return None
    shapes = known.pop("shapes")
    tensors = found.tensors if found else {name: torch.empty(shape) for name, shape in shapes.items()}
    for name in shapes:
        ranks.broadcast_(tensors[name])
    return Checkpoint(**known, tensors=tensors)


def _facts(found: Checkpoint | None) -> dict[str, object] | None:
    if found is None:
        return None
    shapes = {name: list(tensor.shape) for name, tensor in found.tensors.items()}
    return {
        "fingerprint": found.fingerprint,
        "step": found.step,
        "counters": found.counters,
        "shapes": shapes,
    }


def _said_by_first(text: str, ranks: Ranks) -> str:
    content = torch.frombuffer(bytearray(text, "utf-8"), dtype=torch.uint8)
    length = torch.tensor([len(content)])
    ranks.broadcast_(length)
    said = content if ranks.rank == 0 else torch.zeros(int(length), dtype=torch.uint8)
    ranks.broadcast_(said)
    return bytes(said.tolist()).decode("utf-8")
