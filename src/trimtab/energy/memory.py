"""How much memory a training's activations will take, and how much is free: whether to work them out again.

What recomputing is stands in `parameters`; what a pass holds, in `fit`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trimtab.energy.encoding import Pair
from trimtab.energy.lengths import in_batches, rounded

LOGGER = logging.getLogger("trimtab.energy")
SHARE = 0.5  # of what is free that activations may take: weights' moments and others want memory too
# What one layer keeps of one token for the backward pass. Korthikanti et al. 2022 ("Reducing activation
# recomputation", eq. 1) count 34 bytes a unit of the hidden size, and 5 a head for each token attended to, in
# 16 bits; these are as measured in 32 (docs/lab.md).
BYTES_A_UNIT = 74
BYTES_A_HEAD = 4
_MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def must_recompute(network: Any, lengths: Sequence[int], layers: int, *, sharing: int = 1) -> bool:
    """True when the activations of texts so long would not fit in half of what is free; the log says so.

    Args:
        network: on the device in question.
        lengths: padded tokens of each text whose activations are held at once.
        layers: that are trained.
        sharing: processes that share a machine's memory; a GPU's is one process's own.
    """
    device = network.device
    free = free_bytes(device)
    if free is None or not network.supports_gradient_checkpointing:
        return False
    needed = activation_bytes(network.config, lengths, layers)
    room = SHARE * free / (sharing if device.type == "cpu" else 1)
    if needed > room:
        LOGGER.warning(
            "activations of some %.1f GB are too many for %.1f GB of memory: they are computed twice, "
            "which takes a third longer (--no-recompute)",
            *(needed / 1e9, room / 1e9),
        )
    return needed > room


def activation_bytes(config: Any, lengths: Sequence[int], layers: int) -> int:
    """About how many bytes so many layers keep of texts of these lengths for the backward pass."""
    unit = BYTES_A_UNIT * getattr(config, "hidden_size", 0)
    head = BYTES_A_HEAD * getattr(config, "num_attention_heads", 0)
    return layers * sum(length * (unit + head * length) for length in lengths)


def padded_lengths(pairs: Sequence[Pair], tokens: int, step: int) -> list[int]:
    """The length of each pair, padded as in forward passes of at most so many tokens."""
    lengths = [len(pair) for pair in pairs]
    return [rounded(lengths[batch[0]], step) for batch in in_batches(lengths, tokens) for _ in batch]


def free_bytes(device: torch.device) -> int | None:
    """What is free on the device; None where nothing tells."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    known = [each for each in (_available(), left_to_container(CGROUP)) if each is not None]
    return min(known, default=None)


def left_to_container(cgroup: Path) -> int | None:
    """What a container's limit leaves, where it has one: both stand in files of the group's folder."""
    try:
        most = (cgroup / "memory.max").read_text("ascii").strip()
        used = (cgroup / "memory.current").read_text("ascii").strip()
    except OSError:
        return None
    return None if most == "max" else max(0, int(most) - int(used))


def _available() -> int | None:
    """Linux's own estimate of what can be had without swapping."""
    if not _MEMINFO.is_file():
        return None
    lines = (line.split() for line in _MEMINFO.read_text("ascii").splitlines())
    return next((int(fields[1]) * 1024 for fields in lines if fields[0] == "MemAvailable:"), None)
