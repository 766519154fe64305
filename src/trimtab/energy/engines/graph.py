"""The network as another runtime takes it: token ids in, one score a text out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from trimtab.energy.encoding import PairEncoder
from trimtab.energy.model import EnergyModel, quiet_transformers

# Networks of BERT's build whose heads read the first token alone.
READ_THE_FIRST_TOKEN = frozenset(
    f"{family}ForSequenceClassification" for family in ("Bert", "Electra", "Roberta", "XLMRoberta")
)
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


class FirstTokenLayer(nn.Module):
    """A network's last layer, worked out for the first token alone, as the head reads no other.

    Scores are the same. Of the layer's matrix products only keys and values are left: for MiniLM's six
    layers that is an eighth of all work.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(
        self, hidden: Float[Tensor, "texts tokens width"], mask: Tensor | None = None, *_: Any, **__: Any
    ) -> Float[Tensor, "texts 1 width"]:
        """What the layer makes of the first token."""
        attention, own = self.layer.attention, self.layer.attention.self
        first = hidden[:, :1]
        context = scaled_dot_product_attention(
            _in_heads(own.query(first), own),
            _in_heads(own.key(hidden), own),
            _in_heads(own.value(hidden), own),
            attn_mask=None if mask is None else mask[:, :, :1],
            scale=own.scaling,
        )
        attended = attention.output(context.transpose(1, 2).reshape(first.shape), first)
        made: Tensor = self.layer.feed_forward_chunk(attended)
        return made


def _in_heads(rows: Tensor, attention: Any) -> Float[Tensor, "texts heads tokens size"]:
    size = attention.attention_head_size
    return rows.view(rows.shape[0], rows.shape[1], -1, size).transpose(1, 2)


@contextmanager
def to_the_first_token(network: Any) -> Iterator[None]:
    """The network without what its head does not read, inside this context; whole where that is not known."""
    if type(network).__name__ not in READ_THE_FIRST_TOKEN:
        yield
        return
    layers = network.base_model.encoder.layer
    last = layers[-1]
    layers[-1] = FirstTokenLayer(last)
    try:
        yield
    finally:
        layers[-1] = last


def example_inputs(encoder: PairEncoder) -> Mapping[str, Tensor]:
    """Padded inputs by their names, as an export wants to see them."""
    return encoder.collate(encoder.encode(EXAMPLE), torch.device("cpu"))


@contextmanager
def exportable(energy: EnergyModel) -> Iterator[ScoreGraph]:
    """The energy model's graph on the CPU, without dropout, inside this context."""
    network, device, was_training = energy.network, energy.device, energy.network.training
    try:
        with torch.no_grad(), quiet_transformers(), to_the_first_token(network.to("cpu").eval()):
            yield ScoreGraph(network)
    finally:
        network.to(device).train(was_training)
