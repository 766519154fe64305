"""What an optimiser may change in an encoder, and how it is run while it is trained.

What is trained on, and when to stop, is `fit`'s affair.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

BETAS = (0.9, 0.999)  # AdamW's own


def give_freed_memory_back() -> None:
    """Has glibc give the gaps in its heap back to the system; elsewhere it does nothing.

    Activations of ever other lengths leave gaps, and a long fit would grow to several times what it holds
    at once. Between updates that costs nothing to speak of; after each freed block, it doubles their time.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not in every libc
        if trim is not None:
            trim(0)


def optimizer(parameters: dict[str, nn.Parameter], lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over `parameters`; biases and norms do not decay."""
    matrices = [p for p in parameters.values() if p.ndim >= 2]
    others = [p for p in parameters.values() if p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=BETAS, weight_decay=weight_decay, fused=True)


@contextmanager
def quick_attention(network: Any) -> Iterator[None]:
    """Attention written as plain matrix products inside this context, on a CPU and where the model has it.

    torch's fused attention saves memory, not time, on a CPU: of short texts its backward pass alone took
    a quarter of a training step.
    """
    before = getattr(network.config, "_attn_implementation", None)
    if before != "sdpa" or next(network.parameters()).device.type != "cpu":
        yield
        return
    network.set_attn_implementation("eager")
    try:
        yield
    finally:
        network.set_attn_implementation(before)


@contextmanager
def recomputing(network: Any, wanted: bool) -> Iterator[None]:
    """Inside this context, if wanted, each layer's activations are worked out again when gradients need them.

    That is gradient checkpointing (Chen et al. 2016): memory of one layer in place of all, a further forward
    pass in time, the same gradients to the last bit.

    Raises:
        ValueError: the network cannot.
    """
    if not wanted:
        yield
        return
    if not network.supports_gradient_checkpointing:
        raise ValueError(f"recompute: a {type(network).__name__} keeps all its activations; leave it out")
    # Early versions 5 of transformers have the names of old alone, later ones warn of them.
    kind = "activation" if hasattr(network, "activation_checkpointing_enable") else "gradient"
    getattr(network, f"{kind}_checkpointing_enable")({"use_reentrant": False})
    try:
        yield
    finally:
        getattr(network, f"{kind}_checkpointing_disable")()


@contextmanager
def trainable(network: Any, frozen_layers: int) -> Iterator[dict[str, nn.Parameter]]:
    """The parameters to train, by name; the frozen ones need no gradient inside this context."""
    frozen = [p for module in _lower_modules(network, frozen_layers) for p in module.parameters()]
    frozen = [parameter for parameter in frozen if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield {name: p for name, p in network.named_parameters() if p.requires_grad}
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def _lower_modules(network: Any, layers: int) -> list[nn.Module]:
    """The embeddings and the `layers` lowest encoder layers; nothing for 0."""
    if not layers:
        return []
    base = network.base_model
    for path in (
        "encoder.layer",
        "transformer.layer",
        "layers",
        "encoder.layers",
        "h",
        "blocks",
        "decoder.layers",
    ):
        above, _, name = path.rpartition(".")
        parent = next((module for at, module in base.named_modules() if at == above), None)
        stack = getattr(parent, name, None)
        if isinstance(stack, nn.ModuleList):
            if layers > len(stack):
                raise ValueError(f"frozen_layers is {layers}, but the encoder has {len(stack)} layers")
            return [*_embeddings(base, parent), *list(stack)[:layers]]
    raise ValueError(f"frozen_layers: no stack of layers was found in a {type(network).__name__}")


def _embeddings(base: nn.Module, parent: Any) -> list[nn.Module]:
    """An encoder's own module for them; a decoder has its tables of tokens and places beside its layers."""
    if own := getattr(base, "embeddings", None):
        return [own]
    return [each for each in parent.children() if isinstance(each, nn.Embedding)]
