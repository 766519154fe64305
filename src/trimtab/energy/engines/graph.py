"""The network as another runtime takes it: token ids in, one score a text out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.energy.encoding import PairEncoder
from trimtab.energy.model import EnergyModel, quiet_transformers

EXAMPLE = [("Why?", "It is so."), ("How many of them are there?", "There are two of them.")]


class ScoreGraph(nn.Module):
    """An encoder's forward pass without what scoring does not ask for."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Float[Tensor, " texts"]:
        """The scores of padded inputs, each (texts, tokens)."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        logits: Tensor = self.network(input_ids=input_ids, attention_mask=attention_mask, **types).logits
        return logits[:, 0]


def example_inputs(encoder: PairEncoder) -> Mapping[str, Tensor]:
    """Padded inputs by their names, as an export wants to see them."""
    return encoder.collate(encoder.encode(EXAMPLE), torch.device("cpu"))


@contextmanager
def exportable(energy: EnergyModel) -> Iterator[ScoreGraph]:
    """The energy model's graph on the CPU, without dropout, inside this context."""
    network, device, was_training = energy.network, energy.device, energy.network.training
    try:
        with torch.no_grad(), quiet_transformers():
            yield ScoreGraph(network.to("cpu").eval())
    finally:
        network.to(device).train(was_training)
