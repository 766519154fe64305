"""torch as an engine: in float32 as trained, or a copy of the weights in bfloat16."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from trimtab.energy.encoding import Pair, PairEncoder
from trimtab.energy.engines.names import EngineName
from trimtab.energy.lengths import STEP
from trimtab.energy.model import EnergyModel, scoring_alike, scoring_tokens


class TorchEngine:
    """A network and where it is; it may be the one that is being trained."""

    streams = 1  # torch shares out each product among its threads

    def __init__(self, name: EngineName, network: Any, encoder: PairEncoder) -> None:
        self.name = name
        self.network = network
        self.encoder = encoder

    @property
    def tokens(self) -> int:
        """Far more on a GPU than on a CPU."""
        return scoring_tokens(self.network.device)

    def scores(self, batch: Sequence[Pair]) -> list[float]:
        """One score an encoded pair, in order, in one pass; higher is better."""
        inputs = self.encoder.collate(batch, self.network.device, step=STEP)
        with scoring_alike(self.network):
            values: list[float] = self.network(**inputs).logits[:, 0].float().tolist()
        return values[: len(batch)]


def torch_engine(name: EngineName, energy: EnergyModel) -> TorchEngine:
    """The engine of that name: the energy model's own network, or a copy in bfloat16.

    A copy beats autocast, which converts the weights again in every pass: 1.4 times for MiniLM on a CPU.
    """
    if name == "torch_fp32":
        return TorchEngine(name, energy.network, energy.encoder)
    network = copy.deepcopy(energy.network).to(torch.bfloat16)
    return TorchEngine(name, network.to("cuda" if name == "cuda_bf16" else "cpu"), energy.encoder)
